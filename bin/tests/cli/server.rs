//! A server of its own for each test.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running `lance`; killed when dropped.
pub struct Server {
    process: Child,
    pub address: String,
    data: TempDir,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Server {
    pub fn start() -> Server {
        Self::start_with(&[])
    }

    pub fn start_with(settings: &[&str]) -> Server {
        let data = tempfile::tempdir().unwrap();
        let (client, admin) = (free_address(), free_address());
        let mut command = Command::new(env!("CARGO_BIN_EXE_lance"));
        command.current_dir(data.path()).stdout(Stdio::null()).stderr(Stdio::null());
        for setting in [&format!("network.bind={client}")[..], &format!("admin.bind={admin}")].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        command.args(["--set", &format!("node.data_dir={}", data.path().join("data").display())]);
        let mut process = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&client).is_err() {
            assert!(process.try_wait().unwrap().is_none(), "the server ended");
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::yield_now();
        }
        Server { process, address: client, data }
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// Runs `lnc` with these arguments.
    pub fn lnc(&self, arguments: &[&str]) -> Ran {
        self.lnc_with_input(arguments, "")
    }

    pub fn lnc_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        run(env!("CARGO_BIN_EXE_lnc"), arguments, Some(&self.address), input)
    }

    pub fn bench(&self, arguments: &[&str]) -> Ran {
        run(env!("CARGO_BIN_EXE_lnc-bench"), arguments, Some(&self.address), "")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str], server: Option<&str>, input: &str) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("LNC_SERVER").env_remove("RUST_LOG");
    if let Some(server) = server {
        command.env("LNC_SERVER", server);
    }
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}

impl Ran {
    /// The output of a command that should have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The JSON objects of the output.
    pub fn json(self) -> Vec<serde_json::Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// An address nobody listens on at the moment.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

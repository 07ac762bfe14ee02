//! What the kernel says about a process, and what a program answers.

use super::programs::program;
use std::io::Write as _;
use std::process::{Command, ExitStatus, Stdio};

/// Bytes of memory a process has resident now.
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// Most bytes of memory a process had resident so far.
pub fn peak_resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a program that succeeded; fails otherwise.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        String::from_utf8(self.stdout).unwrap()
    }

    /// Exit code and standard error of a program that failed.
    pub fn failure(self) -> (i32, String) {
        assert!(!self.status.success(), "it succeeded: {}", String::from_utf8_lossy(&self.stdout));
        (self.status.code().unwrap_or(-1), self.stderr)
    }
}

/// Runs a command of ours to its end, with `input` on its standard input.
pub fn run(name: &str, arguments: &[&str], input: &[u8]) -> Finished {
    let mut command = Command::new(program(name));
    command.args(arguments);
    run_command(command, input)
}

/// Runs `lnc` against a server, with environment variables.
pub fn lnc_with(variables: &[(&str, &str)], server: &str, arguments: &[&str], input: &[u8]) -> Finished {
    let mut command = Command::new(program("lnc"));
    command.args(arguments).args(["--server", server]);
    without_settings(&mut command);
    command.envs(variables.iter().copied());
    feed(command, input)
}

/// Runs `lnc` against a server.
pub fn lnc(server: &str, arguments: &[&str], input: &[u8]) -> Finished {
    let mut all = arguments.to_vec();
    all.extend(["--server", server]);
    run("lnc", &all, input)
}

/// Runs any command to its end.
pub fn run_command(mut command: Command, input: &[u8]) -> Finished {
    without_settings(&mut command);
    feed(command, input)
}

fn feed(mut command: Command, input: &[u8]) -> Finished {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A program may end without reading all of it.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    Finished {
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Takes away what the environment of the tests would tell our programs.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars() {
        if ["LANCE_", "LNC_", "OTEL_", "RUST_LOG", "RUST_BACKTRACE"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

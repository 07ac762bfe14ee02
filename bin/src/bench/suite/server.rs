//! A server process of a scenario: free ports, a folder of its own, an end in any case.

use super::super::usage::{ProcessUsage, process_usage};
use super::Bench;
use super::scratch::Scratch;
use crate::cli::args::{Common, OutputFormat};
use crate::cli::failure::Failure;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for a server to serve.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a drained server to end; its own time-out is 25 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server<'a> {
    scratch: &'a Scratch,
    command: ServerCommand,
    process: Child,
    /// Address of clients.
    pub address: String,
    /// Address of the admin interface.
    pub admin: String,
    /// Disk implementation in use.
    pub disk: String,
    /// When the process was started.
    pub started: Instant,
}

/// How a server is started, and started again.
struct ServerCommand {
    program: PathBuf,
    folder: PathBuf,
    settings: Vec<String>,
}

/// What a server prints when it serves.
#[derive(Debug, Default, PartialEq)]
struct Welcome {
    address: Option<String>,
    admin: Option<String>,
    disk: Option<String>,
}

impl Welcome {
    /// Takes a line; says whether all is known.
    fn take(&mut self, line: &str) -> bool {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["clients", address] => self.address = Some(address.to_owned()),
            ["admin", "HTTP", url] => self.admin = url.strip_prefix("http://").map(str::to_owned),
            ["disk", backend, ..] => self.disk = Some(backend.to_owned()),
            _ => {}
        }
        self.address.is_some() && self.disk.is_some()
    }
}

impl ServerCommand {
    fn build(&self) -> io::Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("LANCE_")) {
            command.env_remove(key);
        }
        let own = ["network.bind=127.0.0.1:0", "admin.bind=127.0.0.1:0"].map(str::to_owned);
        let data = format!("node.data_dir={}", self.data().display());
        for setting in own.iter().chain([&data]).chain(&self.settings) {
            command.args(["--set", setting]);
        }
        // SAFETY: prctl is async-signal-safe, and asks only that the server ends when this program was killed.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        Ok(command)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Starts the process and waits until it serves.
    fn run(&self, scratch: &Scratch) -> Result<(Child, Welcome, Instant), Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot start {}: {error}", self.program.display()));
        let mut command = self.build().map_err(failed)?;
        let started = Instant::now();
        let mut process = scratch.spawn(&mut command).map_err(failed)?;
        let welcome = process.stdout.take().and_then(|stdout| read_welcome(stdout).recv_timeout(START_TIMEOUT).ok());
        match welcome {
            Some(welcome) => Ok((process, welcome, started)),
            None => {
                end(scratch, &mut process);
                let said = last_line(&self.log()).unwrap_or_else(|| "it said nothing".to_owned());
                Err(Failure::failed(format!("{} does not serve: {said}", self.program.display())))
            }
        }
    }
}

impl<'a> Server<'a> {
    /// Starts one with these settings in the folder of the suite.
    pub fn start(bench: &'a Bench<'_>, settings: &[String]) -> Result<Self, Failure> {
        let command = ServerCommand {
            program: bench.lance.clone(),
            folder: bench.scratch.path().to_owned(),
            settings: settings.to_vec(),
        };
        let (process, welcome, started) = command.run(&bench.scratch)?;
        let (address, admin) = (welcome.address.unwrap_or_default(), welcome.admin.unwrap_or_default());
        let disk = welcome.disk.unwrap_or_default();
        Ok(Self { scratch: &bench.scratch, command, process, address, admin, disk, started })
    }

    /// Starts it again over the same data; it must have ended.
    pub fn start_again(&mut self) -> Result<(), Failure> {
        let (process, welcome, started) = self.command.run(self.scratch)?;
        self.process = process;
        self.address = welcome.address.unwrap_or_default();
        self.admin = welcome.admin.unwrap_or_default();
        self.started = started;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where its data are.
    pub fn data(&self) -> PathBuf {
        self.command.data()
    }

    /// How to connect.
    pub fn common(&self) -> Common {
        Common {
            server: self.address.clone(),
            output: OutputFormat::Text,
            token: None,
            token_file: None,
            user: None,
            password_file: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
        }
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<ProcessUsage, Failure> {
        process_usage(self.pid()).ok_or_else(|| Failure::failed("the server ended while it was measured"))
    }

    /// Asks it to end and waits for that.
    pub fn stop(&mut self) -> Result<(), Failure> {
        if let Ok(Some(status)) = self.scratch.ended(&mut self.process) {
            let said = last_line(&self.command.log()).unwrap_or_default();
            return Err(Failure::failed(format!("the server had ended by itself, {status}: {said}")));
        }
        // SAFETY: plain integers; the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(self.pid() as libc::pid_t, libc::SIGTERM) };
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match self.scratch.ended(&mut self.process) {
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(Failure::failed(format!("the server stopped with {status}"))),
                Err(error) => return Err(Failure::failed(format!("the server cannot be waited for: {error}"))),
            }
        }
        self.kill();
        Err(Failure::failed(format!("the server did not stop within {} s and was killed", STOP_TIMEOUT.as_secs())))
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        end(self.scratch, &mut self.process);
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills a process unless it has ended, and waits for its end.
fn end(scratch: &Scratch, process: &mut Child) {
    while let Ok(None) = scratch.ended(process) {
        _ = process.kill();
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads on to the end of the output, so that the server never waits for us.
fn read_welcome(stdout: ChildStdout) -> mpsc::Receiver<Welcome> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut welcome = Some(Welcome::default());
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if welcome.as_mut().is_some_and(|welcome| welcome.take(&line)) {
                _ = welcome.take().map(|welcome| sender.send(welcome));
            }
        }
    });
    receiver
}

fn last_line(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_names_address_and_disk() {
        let text = "LANCE 0.1.0 serves.\n\n  clients     127.0.0.1:34845\n  admin HTTP  http://127.0.0.1:1\n  \
                    data        ./disk x\n  disk        io_uring";
        let mut welcome = Welcome::default();
        let known: Vec<bool> = text.lines().map(|line| welcome.take(line)).collect();
        assert_eq!(known, [false, false, false, false, false, true]);
        assert_eq!(welcome.address.as_deref(), Some("127.0.0.1:34845"));
        assert_eq!(welcome.disk.as_deref(), Some("io_uring"));
    }
}

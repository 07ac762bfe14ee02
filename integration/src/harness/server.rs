//! A server process: started on ports of its own and a folder of its own, killed, stopped, started again, always reaped.

use super::process::without_settings;
use super::programs::program;
use super::{PATIENCE, Raw, eventually, is_without_io_uring, seccomp};
use std::io::{BufRead as _, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;
use tempfile::TempDir;

/// What a server is started with.
#[derive(Clone, Debug, Default)]
pub struct ServerSpec {
    sets: Vec<String>,
    variables: Vec<(String, String)>,
    without_io_uring: bool,
}

/// A running (or killed) server. Dropping it ends the process and removes its folder.
pub struct Server {
    spec: ServerSpec,
    folder: TempDir,
    port: u16,
    admin_port: u16,
    child: Option<Child>,
    stdout: Lines,
    stderr: Lines,
    followers: Vec<JoinHandle<()>>,
}

/// What a process printed so far.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<String>>);

impl Lines {
    fn follow(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let text = Arc::clone(&self.0);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let mut text = text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        })
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl ServerSpec {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one key of the configuration, as in `storage.segment_bytes=1MiB`.
    #[must_use]
    pub fn set(mut self, setting: impl Into<String>) -> Self {
        self.sets.push(setting.into());
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// In a process whose kernel refuses io_uring.
    #[must_use]
    pub fn without_io_uring(mut self) -> Self {
        self.without_io_uring = true;
        self
    }

    /// Starts a server and waits until it serves.
    pub fn start(self) -> Server {
        let mut server = self.prepare();
        server.start_again();
        server
    }

    /// A server with folder and ports, whose process was not started yet.
    pub fn prepare(self) -> Server {
        Server {
            spec: self,
            folder: TempDir::with_prefix("lance-test-").unwrap(),
            port: free_port(),
            admin_port: free_port(),
            child: None,
            stdout: Lines::default(),
            stderr: Lines::default(),
            followers: Vec::new(),
        }
    }
}

/// A port nobody listens on, below those the kernel gives to outgoing connections: one of these could take the port of
/// a server between its death and its next start.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(131).wrapping_add(number) % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// Address for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Address of the HTTP interface.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Folder of a partition's log.
    pub fn log_dir(&self, topic: u32, partition: u16) -> PathBuf {
        self.data_dir().join("logs").join(format!("{topic}-{partition}"))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server was started").id()
    }

    /// A connection that speaks LWP 1.0.
    pub fn connect(&self) -> Raw {
        Raw::connect(&self.address())
    }

    /// What it wrote to standard error, since its first start.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// What it wrote to standard output since its last start.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Changes one key for the next start.
    pub fn set(&mut self, setting: impl Into<String>) {
        self.spec.sets.push(setting.into());
    }

    /// Changes one environment variable for the next start.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.spec.variables.retain(|(known, _)| known != name);
        self.spec.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process and waits until it serves.
    pub fn start_again(&mut self) {
        // The first of all builds the programs, which takes its time.
        self.spawn();
        self.await_serving();
    }

    /// Waits until a process that was started serves.
    pub fn await_serving(&mut self) {
        let started = Instant::now();
        let deadline = started + PATIENCE;
        // The screen is printed once the node serves; its last line names the way out.
        while !self.stdout.text().contains("Ctrl-C") {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the server ended with {ended:?}:\n{}", self.stderr());
            assert!(Instant::now() < deadline, "the server does not serve:\n{}", self.stderr());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // Shown when the test fails.
        println!("the server serves after {:?}", started.elapsed());
    }

    /// Starts the process without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server runs");
        let mut command = Command::new(program("lance"));
        without_settings(&mut command);
        let settings = [
            format!("node.data_dir={}", self.data_dir().display()),
            format!("network.bind={}", self.address()),
            format!("admin.bind={}", self.admin()),
        ];
        for setting in settings.iter().chain(&self.spec.sets) {
            command.arg("--set").arg(setting);
        }
        command.envs(self.spec.variables.iter().map(|(name, value)| (name, value)));
        seccomp::die_with_parent(&mut command);
        if self.spec.without_io_uring || is_without_io_uring() {
            seccomp::refuse_io_uring(&mut command);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");
        self.stdout = Lines::default();
        self.followers =
            vec![self.stdout.follow(child.stdout.take().unwrap()), self.stderr.follow(child.stderr.take().unwrap())];
        self.child = Some(child);
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
        self.read_the_rest();
    }

    /// Everything that a process printed before its end.
    fn read_the_rest(&mut self) {
        self.followers.drain(..).for_each(|follower| follower.join().unwrap());
    }

    /// kill -9 and a new start on the same folder and ports.
    pub fn kill_and_start(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Sends SIGTERM and does not wait.
    pub fn send_sigterm(&self) {
        self.send_signal(libc::SIGTERM);
    }

    fn send_signal(&self, signal: libc::c_int) {
        // SAFETY: a system call without memory; the child is not reaped yet, so its id is still its own.
        let sent = unsafe { libc::kill(self.pid() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "signal {signal}");
    }

    /// SIGSTOP: the process stays as it is, its connections too, and does nothing any more.
    pub fn pause(&self) {
        self.send_signal(libc::SIGSTOP);
    }

    /// SIGCONT: it goes on, unaware of the time between.
    pub fn resume(&self) {
        self.send_signal(libc::SIGCONT);
    }

    /// SIGTERM; how the process ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.send_sigterm();
        self.wait_for_end()
    }

    /// Waits until the process ends by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.read_the_rest();
                return status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the server did not end within {PATIENCE:?}:\n{}", self.stderr());
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Waits until a line of standard error contains all of `parts`; the line.
    pub fn await_log(&self, parts: &[&str]) -> String {
        eventually(&format!("a line of the log with {parts:?}\n{}", self.stderr()), || {
            let text = self.stderr();
            let found = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            found.map(str::to_owned)
        })
    }

    /// Files below the data folder with this extension, sorted.
    pub fn files(&self, folder: &Path, extension: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|found| found == extension));
        files.sort();
        files
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; reaping is what matters.
            let _ = child.kill();
            let _ = child.wait();
            self.read_the_rest();
        }
        if std::thread::panicking() {
            eprintln!("standard error of the server:\n{}", self.stderr());
        }
    }
}

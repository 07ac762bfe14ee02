//! A cluster of processes on one machine: each node with a folder, ports and a proxy of its own.

use super::http;
use super::proxy::Proxy;
use crate::cli::failure::Failure;
use serde_json::Value;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at something that is awaited.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A node and its process.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: u16,
    /// Where everybody reaches it: its proxy.
    pub address: String,
    /// Its HTTP.
    pub admin: String,
    /// What stands before it.
    pub proxy: Proxy,
    folder: PathBuf,
    program: PathBuf,
    child: Option<Child>,
}

/// Of one copy of a partition, what its node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Topic and partition.
    pub partition: (String, u64),
    /// Who leads, in the eyes of this node.
    pub leader: Option<u64>,
    /// In which epoch.
    pub epoch: Option<u64>,
    /// End of its log.
    pub log_end: Option<u64>,
    /// What it knows to be committed.
    pub high_watermark: Option<u64>,
    /// How it is.
    pub state: String,
}

/// All nodes.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of their numbers.
    pub nodes: Vec<Node>,
}

/// Ports nobody listens on, below those the kernel gives to outgoing connections.
fn free_ports(count: usize) -> Vec<u16> {
    let first = std::process::id().wrapping_mul(37) % 11_000;
    let candidates = (0..11_500).map(|number| (20_500 + (first + number) % 11_500) as u16);
    candidates.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

impl Cluster {
    /// Starts all nodes; ends when all are ready.
    pub async fn start(count: u16, program: &Path, folder: &Path, patience: Duration) -> Result<Self, Failure> {
        let ports = free_ports(3 * usize::from(count));
        let address = |port: Option<&u16>| format!("127.0.0.1:{}", port.copied().unwrap_or_default());
        let proxies: Vec<String> = ports.chunks(3).map(|ports| address(ports.first())).collect();
        let mut nodes = Vec::new();
        for (id, ports) in (1..).zip(ports.chunks(3)) {
            let (proxy, bind, admin) = (address(ports.first()), address(ports.get(1)), address(ports.get(2)));
            let failed = |error: io::Error| Failure::failed(format!("cannot set up node {id}: {error}"));
            let folder = folder.join(format!("node-{id}"));
            fs::create_dir_all(&folder).map_err(failed)?;
            let config = config_of(id, &folder, &bind, &admin, &proxy, &proxies);
            fs::write(folder.join("lance.toml"), config).map_err(failed)?;
            let program = program.to_owned();
            let started = Proxy::start(proxy.clone(), bind).await.map_err(failed)?;
            nodes.push(Node { id, address: proxy, admin, proxy: started, folder, program, child: None });
        }
        let mut cluster = Self { nodes };
        for node in &mut cluster.nodes {
            node.start()?;
        }
        if !cluster.await_ready(patience).await {
            return Err(Failure::failed(format!("the cluster is not ready after {patience:?}"))
                .with_hint(format!("see the logs in {}", folder.display())));
        }
        Ok(cluster)
    }

    /// Addresses for clients.
    pub fn servers(&self) -> String {
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        addresses.join(",")
    }

    /// Waits until all nodes are ready; whether they are.
    pub async fn await_ready(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        for node in &self.nodes {
            while !node.is_ready().await {
                if Instant::now() > deadline {
                    return false;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        true
    }

    /// Waits until all copies of all partitions end at one place and all of it is committed; else what each
    /// node says.
    pub async fn await_agreement(&self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let mut copies = Vec::new();
            for node in &self.nodes {
                copies.push((node.id, node.copies().await));
            }
            if agree(&copies) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{copies:?}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn agree(copies: &[(u16, Option<Vec<CopyState>>)]) -> bool {
    let known: Option<Vec<&Vec<CopyState>>> = copies.iter().map(|(_, copies)| copies.as_ref()).collect();
    let Some(known) = known else { return false };
    let Some(first) = known.first().filter(|first| !first.is_empty()) else { return false };
    let end = |copy: &CopyState| (copy.partition.clone(), copy.log_end, copy.epoch);
    let ends = |copies: &[CopyState]| copies.iter().map(end).collect::<Vec<_>>();
    let serves = |copy: &CopyState| ["serving", "following"].contains(&copy.state.as_str());
    let settled = |copy: &CopyState| copy.leader.is_some() && copy.log_end.is_some() && serves(copy);
    let committed = |index: usize| {
        // The leader's word; others hear of it with the next append.
        known.iter().any(|copies| copies.get(index).is_some_and(|copy| copy.high_watermark == copy.log_end))
    };
    known.iter().all(|copies| ends(copies) == ends(first) && copies.iter().all(settled))
        && (0..first.len()).all(committed)
}

fn config_of(id: u16, folder: &Path, bind: &str, admin: &str, advertise: &str, peers: &[String]) -> String {
    let data = folder.join("data");
    let copies = peers.len();
    format!(
        "[node]\nid = {id}\ndata_dir = {:?}\n[network]\nbind = {bind:?}\nadvertise = {advertise:?}\n\
         [admin]\nbind = {admin:?}\nfault_injection = true\n[storage]\nsegment_bytes = \"1MiB\"\n\
         [replication]\nmode = \"L2\"\npeers = {peers:?}\n[topics]\ndefault_replication_factor = {copies}\n",
        data.display().to_string(),
    )
}

impl Node {
    /// Its data.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.folder.join("lance.log")
    }

    /// Starts the process, over whatever data there are.
    pub fn start(&mut self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot start {}: {error}", self.program.display()));
        let log = File::options().create(true).append(true).open(self.log()).map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.folder.join("lance.toml"));
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // What this program is told about its own log and traces is not meant for the nodes.
        let ours = |key: &str| ["LANCE_", "OTEL_", "RUST_LOG"].iter().any(|prefix| key.starts_with(prefix));
        for (key, _) in std::env::vars_os().filter(|(key, _)| ours(&key.to_string_lossy())) {
            command.env_remove(key);
        }
        // SAFETY: prctl is async-signal-safe, and asks only that the server ends when this program was killed.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        self.child = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// kill -9, and waits for the end; a process that has ended already stays ended.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that was reaped.
            _ = child.kill();
            _ = child.wait();
        }
    }

    /// Sends a signal to the process, if it runs.
    pub fn signal(&mut self, signal: libc::c_int) {
        let Some(child) = &mut self.child else { return };
        if matches!(child.try_wait(), Ok(None)) {
            // SAFETY: a system call without memory; the child is not reaped yet, so its id is still its own.
            _ = unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// SIGTERM, and waits for the end as long as a drain may take; whether it ended well by itself.
    pub async fn terminate(&mut self) -> bool {
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            match self.child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => tokio::time::sleep(LOOK_EVERY).await,
                Some(Ok(Some(status))) => {
                    self.child = None;
                    return status.success();
                }
                _ => return false,
            }
        }
        self.kill();
        false
    }

    /// Whether the process ended without being told to; how.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(status.to_string())
    }

    /// Empties the data folder of a killed node.
    pub fn wipe(&self) -> io::Result<()> {
        fs::remove_dir_all(self.data())
    }

    /// Whether it serves.
    pub async fn is_ready(&self) -> bool {
        matches!(http::get(&self.admin, "/health/ready").await, Ok((200, _)))
    }

    /// Orders a fault of its disk; whether it was taken.
    pub async fn inject(&self, fault: &str) -> bool {
        matches!(http::post(&self.admin, "/v1/faults", fault).await, Ok((200, _)))
    }

    /// What it says about its copies; `None` when it does not answer.
    pub async fn copies(&self) -> Option<Vec<CopyState>> {
        let cluster = http::json(&self.admin, "/v1/cluster").await?;
        let partitions = cluster.get("partitions")?.as_array()?;
        let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64);
        let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let copy = |of: &Value| CopyState {
            partition: (text(of, "topic"), number(of, "partition").unwrap_or_default()),
            leader: number(of, "leader"),
            epoch: number(of, "epoch"),
            log_end: number(of, "log_end"),
            high_watermark: number(of, "high_watermark"),
            state: text(of, "state"),
        };
        Some(partitions.iter().map(copy).collect())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

//! A cluster of processes on one machine: each node with a folder of its own, and a namespace or a proxy.

use super::args::ChaosCli;
use super::http;
use super::load::TOPIC;
use super::net::namespaces::Namespaces;
use super::net::plan::{ADMIN_PORT, NODE_PORT, Party};
use super::net::proxy::Proxy;
use super::net::{Network, NetworkKind};
use crate::cli::failure::Failure;
use serde_json::Value;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at something that is awaited.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A flipped bit is found within so much.
const SCRUB_SECONDS: u64 = 10;

/// A node and its process.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: u16,
    /// Where everybody reaches it.
    pub address: String,
    /// Its HTTP.
    pub admin: String,
    /// The network namespace its process gets.
    namespace: Option<String>,
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
    /// Who holds a copy.
    pub replicas: Vec<u64>,
    /// Whose acks count.
    pub in_quorum: Vec<u64>,
    /// Whose copy does not count yet.
    pub unadmitted: Vec<u64>,
}

impl CopyState {
    /// Whether it is of the topic of the run.
    pub fn is_of_run(&self) -> bool {
        self.partition.0 == TOPIC
    }

    /// Whether it leads or follows.
    pub fn serves(&self) -> bool {
        ["serving", "following"].contains(&self.state.as_str())
    }

    /// Whether the copy of a node counts, in the eyes of who answered.
    pub fn is_admitted(&self, node: u16) -> bool {
        !self.unadmitted.contains(&u64::from(node))
    }
}

/// All nodes.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of their numbers; they end before their network does.
    pub nodes: Vec<Node>,
    /// What connects them.
    pub network: Network,
}

/// Ports nobody listens on, below those the kernel gives to outgoing connections.
fn free_ports(count: usize) -> Vec<u16> {
    let first = std::process::id().wrapping_mul(37) % 11_000;
    let candidates = (0..11_500).map(|number| (20_500 + (first + number) % 11_500) as u16);
    candidates.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

/// Where a node is.
struct Place {
    bind: String,
    advertise: String,
    admin: String,
    namespace: Option<String>,
}

/// Makes the network, and says where each node is in it.
async fn lay_out(count: u16, wanted: NetworkKind) -> Result<(Network, Vec<Place>), Failure> {
    let nodes = usize::from(count);
    let refused = match wanted {
        NetworkKind::Proxy => "not wanted".to_owned(),
        _ => match Namespaces::make(nodes) {
            Ok(made) => {
                let place = |node| {
                    let address = made.plan().address(Party::Node(node));
                    let serves = format!("{address}:{NODE_PORT}");
                    let (bind, admin) = (serves.clone(), format!("{address}:{ADMIN_PORT}"));
                    Place { bind, advertise: serves, admin, namespace: Some(made.plan().namespace(node)) }
                };
                let places = (0..nodes).map(place).collect();
                return Ok((Network::Namespaces(made), places));
            }
            Err(problem) if wanted == NetworkKind::Namespaces => {
                return Err(Failure::failed(format!("no namespaces: {problem}")));
            }
            Err(problem) => problem,
        },
    };
    let ports = free_ports(3 * nodes);
    let address = |port: Option<&u16>| format!("127.0.0.1:{}", port.copied().unwrap_or_default());
    let (mut proxies, mut places) = (Vec::new(), Vec::new());
    for ports in ports.chunks(3) {
        let (advertise, bind, admin) = (address(ports.first()), address(ports.get(1)), address(ports.get(2)));
        let started = Proxy::start(advertise.clone(), bind.clone()).await;
        proxies.push(started.map_err(|error| Failure::failed(format!("no proxy on {advertise}: {error}")))?);
        places.push(Place { bind, advertise, admin, namespace: None });
    }
    Ok((Network::Proxies(proxies, refused), places))
}

impl Cluster {
    /// Starts all nodes; ends when all are ready.
    pub async fn start(args: &ChaosCli, program: &Path, folder: &Path) -> Result<Self, Failure> {
        let (network, places) = lay_out(args.nodes, args.network).await?;
        eprintln!("lnc-chaos: network: {}", network.describe());
        let mut cluster = Self { nodes: Vec::new(), network };
        // Nodes that are not on loopback must prove themselves to each other.
        let secret = format!("{:032x}", rand::random::<u128>());
        let (patience, peers) = (args.patience, places.iter().map(|place| place.advertise.clone()).collect::<Vec<_>>());
        for (id, place) in (1..).zip(places) {
            let failed = |error: io::Error| Failure::failed(format!("cannot set up node {id}: {error}"));
            let folder = folder.join(format!("node-{id}"));
            fs::create_dir_all(&folder).map_err(failed)?;
            fs::write(folder.join("lance.toml"), config_of(id, &folder, &place, (peers.as_slice(), secret.as_str())))
                .map_err(failed)?;
            let (program, Place { advertise, admin, namespace, .. }) = (program.to_owned(), place);
            cluster.nodes.push(Node { id, address: advertise, admin, namespace, folder, program, child: None });
        }
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

    /// Waits until all copies of all partitions end at one place, all of it is committed, and every copy counts; else
    /// what each node says.
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
    let counts = |copy: &CopyState| copy.in_quorum.len() == copy.replicas.len() && copy.unadmitted.is_empty();
    let settled = |copy: &CopyState| copy.leader.is_some() && copy.log_end.is_some() && copy.serves() && counts(copy);
    let committed = |index: usize| {
        // The leader's word; others hear of it with the next append.
        known.iter().any(|copies| copies.get(index).is_some_and(|copy| copy.high_watermark == copy.log_end))
    };
    known.iter().all(|copies| ends(copies) == ends(first) && copies.iter().all(settled))
        && (0..first.len()).all(committed)
}

fn config_of(id: u16, folder: &Path, place: &Place, (peers, secret): (&[String], &str)) -> String {
    let (data, copies) = (folder.join("data").display().to_string(), peers.len());
    let Place { bind, advertise, admin, .. } = place;
    format!(
        "[node]\nid = {id}\ndata_dir = {data:?}\n[network]\nbind = {bind:?}\nadvertise = {advertise:?}\n\
         [admin]\nbind = {admin:?}\nfault_injection = true\n\
         [storage]\nsegment_bytes = \"1MiB\"\nscrub_interval_secs = {SCRUB_SECONDS}\n\
         scrub_bytes_per_second = \"1GiB\"\n\
         [cluster]\nsecret = {secret:?}\n[replication]\nmode = \"L2\"\npeers = {peers:?}\n[topics]\ndefault_replication_factor = {copies}\n"
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
        if let Some(namespace) = &self.namespace {
            enter(&mut command, namespace).map_err(failed)?;
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

    /// Sends a signal to the process; whether it runs.
    pub fn signal(&mut self, signal: libc::c_int) -> bool {
        let Some(child) = &mut self.child else { return false };
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        // SAFETY: a system call without memory; the child is not reaped yet, so its id is still its own.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) == 0 }
    }

    /// Whether the process ended by itself; how.
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
        self.why_unready().await.is_none()
    }

    /// Why it does not serve, as it says itself; `None` when it does.
    pub async fn why_unready(&self) -> Option<String> {
        match http::get(&self.admin, "/health/ready").await {
            Ok((200, _)) => None,
            Ok((status, body)) => Some(format!("{status}: {}", body.trim())),
            Err(error) => Some(format!("no answer: {error}")),
        }
    }

    /// Orders a fault of its disk; whether it was taken.
    pub async fn inject(&self, fault: &str) -> bool {
        matches!(http::post(&self.admin, "/v1/faults", fault).await, Ok((200, _)))
    }

    /// The names of its actors; `None` when it does not answer.
    pub async fn actors(&self) -> Option<Vec<String>> {
        let root = http::json(&self.admin, "/v1/actors").await?;
        let (mut names, mut nodes) = (Vec::new(), vec![&root]);
        while let Some(node) = nodes.pop() {
            names.push(node.get("name")?.as_str()?.to_owned());
            nodes.extend(node.get("children").and_then(Value::as_array).into_iter().flatten());
        }
        Some(names)
    }

    /// Makes an actor panic; whether the order was taken.
    pub async fn panic(&self, actor: &str) -> bool {
        matches!(http::post(&self.admin, &format!("/v1/actors/{actor}/panic"), "").await, Ok((202, _)))
    }

    /// The ids of the topics it knows; `None` when it does not answer.
    pub async fn topic_ids(&self) -> Option<Vec<u64>> {
        let topics = http::json(&self.admin, "/v1/topics").await?;
        let topics = topics.get("topics")?.as_array()?;
        Some(topics.iter().filter_map(|topic| topic.get("id")?.as_u64()).collect())
    }

    /// What it says about its copies; `None` when it does not answer.
    pub async fn copies(&self) -> Option<Vec<CopyState>> {
        let cluster = http::json(&self.admin, "/v1/cluster").await?;
        let partitions = cluster.get("partitions")?.as_array()?;
        let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64);
        let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let nodes = |of: &Value, key: &str| {
            let nodes = of.get(key).and_then(Value::as_array);
            nodes.into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        let copy = |of: &Value| CopyState {
            partition: (text(of, "topic"), number(of, "partition").unwrap_or_default()),
            leader: number(of, "leader"),
            epoch: number(of, "epoch"),
            log_end: number(of, "log_end"),
            high_watermark: number(of, "high_watermark"),
            state: text(of, "state"),
            replicas: nodes(of, "replicas"),
            in_quorum: nodes(of, "in_quorum"),
            unadmitted: nodes(of, "unadmitted"),
        };
        Some(partitions.iter().map(copy).collect())
    }
}

/// The process of `command` begins in a network namespace.
fn enter(command: &mut Command, namespace: &str) -> io::Result<()> {
    let file = File::open(Path::new("/var/run/netns").join(namespace))?;
    // SAFETY: setns is async-signal-safe; the file lives as long as the closure, and is closed when the server begins.
    unsafe {
        command.pre_exec(move || match libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    Ok(())
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

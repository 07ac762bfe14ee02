//! Three server processes that form a cluster.

use super::{PATIENCE, Server, ServerSpec, eventually, http};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Nodes; killed and removed when dropped.
pub struct ThreeNodes {
    /// Node 1 is the first.
    pub nodes: Vec<Server>,
}

impl ThreeNodes {
    /// Three nodes that keep three copies, in small segments, and ack what a quorum has; all serve.
    pub fn start() -> ThreeNodes {
        Self::start_with(&|spec| spec)
    }

    /// As [`ThreeNodes::start`], each with further settings.
    pub fn start_with(settings: &dyn Fn(ServerSpec) -> ServerSpec) -> ThreeNodes {
        let mut cluster = Self::prepare_with(settings);
        cluster.spawn_all();
        cluster.nodes.iter_mut().for_each(Server::await_serving);
        cluster.await_ready();
        cluster
    }

    /// Three nodes that were not started yet.
    pub fn prepare() -> ThreeNodes {
        Self::prepare_with(&|spec| spec)
    }

    fn prepare_with(settings: &dyn Fn(ServerSpec) -> ServerSpec) -> ThreeNodes {
        let mut nodes: Vec<Server> = (1..=3).map(|id| settings(spec(id)).prepare()).collect();
        let peers: Vec<String> = nodes.iter().map(Server::address).collect();
        nodes.iter_mut().for_each(|node| node.set(format!("replication.peers={}", peers.join(","))));
        ThreeNodes { nodes }
    }

    /// One more node, which is told of the others, at the end of the list; it was not started yet.
    pub fn add(&mut self, id: u16) {
        let peers: Vec<String> = self.nodes.iter().map(Server::address).collect();
        let mut node = spec(id).prepare();
        node.set(format!("replication.peers={},{}", peers.join(","), node.address()));
        self.nodes.push(node);
    }

    /// Starts all processes at once and waits for nothing.
    pub fn spawn_all(&mut self) {
        self.nodes.iter_mut().for_each(Server::spawn);
    }

    /// The addresses of all, for clients.
    pub fn servers(&self) -> String {
        self.nodes.iter().map(Server::address).collect::<Vec<_>>().join(",")
    }

    /// Waits until all nodes are ready.
    pub fn await_ready(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            eventually(&format!("node {} is ready", index + 1), || is_ready(node).then_some(()));
        }
    }

    /// Which node leads a partition, in the eyes of those that answer; waits until there is one.
    pub fn leader(&self, topic: &str, partition: u64) -> usize {
        eventually(&format!("{topic}-{partition} has a leader"), || {
            let leaders = self.nodes.iter().filter_map(|node| copies(node)?.remove(&(topic.to_owned(), partition)));
            let newest = leaders.max_by_key(|copy| copy["epoch"].as_u64())?;
            Some(newest["leader"].as_u64()? as usize - 1)
        })
    }

    /// Who leads a partition, in the eyes of one node.
    pub fn leader_seen_by(&self, node: usize, topic: &str, partition: u64) -> Option<usize> {
        let leader = copies(&self.nodes[node])?.get(&(topic.to_owned(), partition))?["leader"].as_u64()?;
        Some(leader as usize - 1)
    }

    /// Where the log of a copy ends; `None` while its node does not say.
    pub fn log_end(&self, node: usize, topic: &str, partition: u64) -> Option<u64> {
        copies(&self.nodes[node])?.get(&(topic.to_owned(), partition))?["log_end"].as_u64()
    }

    /// The two other nodes.
    pub fn others(&self, node: usize) -> [usize; 2] {
        [(node + 1) % 3, (node + 2) % 3]
    }

    /// Waits until all copies of everything end at the same place, everything committed.
    pub fn await_agreement(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all: Vec<_> = self.nodes.iter().map(copies).collect();
            if agree(&all) {
                return;
            }
            if Instant::now() > deadline {
                let all: Vec<String> = all.iter().map(|copies| format!("{copies:?}")).collect();
                panic!("the copies do not agree after {PATIENCE:?}:\n{}", all.join("\n"));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Every closed segment of every log is the same on all nodes, and so is what the last ones hold.
    ///
    /// The last batches may still be on their way to the disk of a follower, which nobody waited for.
    pub fn expect_same_segments(&self) {
        let deadline = Instant::now() + PATIENCE;
        let all = || -> Vec<_> { self.nodes.iter().map(|node| segments(&node.data_dir())).collect() };
        let mut found = all();
        while found.iter().any(|of| *of != found[0]) && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(50));
            found = all();
        }
        let first = &found[0];
        assert!(!first.is_empty(), "there are logs");
        for (index, theirs) in found.iter().enumerate().skip(1) {
            let names = |of: &BTreeMap<String, Vec<u8>>| of.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(first), names(theirs), "segments of node 1 and node {}", index + 1);
            for (name, bytes) in first {
                let differs = bytes.iter().zip(&theirs[name]).position(|(one, other)| one != other);
                assert!(
                    *bytes == theirs[name],
                    "{name}: {} bytes on node 1, {} on node {}, different from {differs:?} on",
                    bytes.len(),
                    theirs[name].len(),
                    index + 1
                );
            }
        }
    }
}

fn spec(id: u16) -> ServerSpec {
    ServerSpec::new()
        .set(format!("node.id={id}"))
        .set("replication.mode=L2")
        .set("topics.default_replication_factor=3")
        .set("storage.segment_bytes=1MiB")
        .set("admin.fault_injection=true")
}

/// Whether a node serves.
pub fn is_ready(node: &Server) -> bool {
    matches!(http::try_request(&node.admin(), "GET", "/health/ready", ""), Ok(reply) if reply.status == 200)
}

type Copies = BTreeMap<(String, u64), Value>;

/// What a node says about every partition.
fn copies(node: &Server) -> Option<Copies> {
    let reply = http::try_request(&node.admin(), "GET", "/v1/cluster", "").ok()?;
    let listing: Value = serde_json::from_str(&reply.body).ok()?;
    let partitions = listing["partitions"].as_array()?;
    let named = |of: &Value| Some(((of["topic"].as_str()?.to_owned(), of["partition"].as_u64()?), of.clone()));
    partitions.iter().map(named).collect()
}

fn agree(all: &[Option<Copies>]) -> bool {
    let Some(all) = all.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return false };
    let first = all[0];
    let same = |copies: &Copies| {
        copies.len() == first.len()
            && first.iter().all(|(name, mine)| {
                let theirs = copies.get(name);
                let end = |of: &Value| (of["epoch"].as_u64(), of["leader"].as_u64(), of["log_end"].as_u64());
                theirs.is_some_and(|theirs| end(mine) == end(theirs) && mine["log_end"].is_u64())
            })
    };
    // Followers hear of the last mark with the next append; the leader knows it.
    let committed = |name| all.iter().any(|copies| copies[name]["high_watermark"] == copies[name]["log_end"]);
    all.iter().all(|copies| same(copies)) && first.keys().all(committed)
}

/// What is written of every segment, by log and name; the space that an open one keeps for what comes does not count.
fn segments(data_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let list = |folder: &Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut found = BTreeMap::new();
    for file in list(&data_dir.join("logs")).iter().flat_map(|log| list(log)) {
        if file.extension().is_some_and(|extension| extension == "lnc") {
            let name = file.strip_prefix(data_dir).unwrap().display().to_string();
            let mut bytes = std::fs::read(&file).unwrap();
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(end);
            found.insert(name, bytes);
        }
    }
    found
}

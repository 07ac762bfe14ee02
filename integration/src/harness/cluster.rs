//! A cluster of server processes on one machine, every one with a folder and ports of its own.

use super::process::lnc;
use super::{Server, ServerSpec, eventually};
use serde_json::Value;

/// Running servers that form one cluster: replication factor is their number, mode L2.
pub struct Cluster {
    /// The servers; node ids are one more than their places.
    pub servers: Vec<Server>,
}

impl Cluster {
    /// Starts `count` servers and waits until each serves.
    pub fn start(count: usize) -> Cluster {
        Cluster::start_with(count, |spec| spec)
    }

    /// As [`Cluster::start`], each with further settings.
    pub fn start_with(count: usize, settings: impl Fn(ServerSpec) -> ServerSpec) -> Cluster {
        let mut servers: Vec<Server> = (1..=count)
            .map(|node| {
                let spec = ServerSpec::new().set(format!("node.id={node}")).set("replication.mode=L2");
                settings(spec.set(format!("topics.default_replication_factor={count}"))).prepare()
            })
            .collect();
        let peers: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address())).collect();
        let peers = format!("replication.peers=[{}]", peers.join(","));
        for server in &mut servers {
            server.set(peers.clone());
            server.spawn();
        }
        servers.iter_mut().for_each(Server::await_serving);
        Cluster { servers }
    }

    /// The addresses of all servers, as `--server` takes them.
    pub fn addresses(&self) -> String {
        self.servers.iter().map(Server::address).collect::<Vec<_>>().join(",")
    }

    /// The server of a node.
    pub fn node(&mut self, id: u64) -> &mut Server {
        &mut self.servers[id as usize - 1]
    }

    /// `lnc cluster status`, asked through these addresses.
    pub fn status_through(&self, addresses: &str) -> Value {
        let printed = lnc(addresses, &["cluster", "status", "--output", "json"], b"").ok();
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// `lnc cluster status`, once it satisfies `is_so`.
    pub fn await_status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || Some(self.status_through(&self.addresses())).filter(|status| is_so(status)))
    }
}

/// How many partitions a node leads in a status.
pub fn led_by(status: &Value, node: u64) -> usize {
    let partitions = status["partitions"].as_array().expect("partitions");
    partitions.iter().filter(|partition| partition["leader"] == node).count()
}

/// The state of a node in a status.
pub fn state_of(status: &Value, node: u64) -> String {
    let nodes = status["nodes"].as_array().expect("nodes");
    let found = nodes.iter().find(|known| known["id"] == node).expect("the node is known");
    found["state"].as_str().expect("a state").to_owned()
}

//! Decides which CPUs every thread of the data path gets, and which memory node every shard's write buffers.

use super::{MemoryNode, Topology, cpu_list};
use crate::options;
use lance_config::model::Config;

/// What the configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Number of shards.
    pub shards: u16,
    /// Connections have threads of their own, one for each shard.
    pub own_network_threads: bool,
    /// `shards.cpus`: for shards and then for network threads, in turn.
    pub cpus: Vec<u32>,
    /// Place by memory node.
    pub enabled: bool,
    /// Why that is not done, when it is not.
    pub disabled_because: &'static str,
    /// `numa.nic_node`.
    pub nic_node: Option<u32>,
    /// `numa.nvme_node`.
    pub nvme_node: Option<u32>,
}

impl Wish {
    /// The wish of a configuration; `built` tells whether this build can place by memory node.
    pub fn of(config: &Config, built: bool) -> Self {
        let threads = options::thread_plan(config);
        Self {
            shards: threads.shards,
            own_network_threads: threads.own_network_threads,
            cpus: config.shards.cpus.clone(),
            enabled: config.numa.enabled && built,
            disabled_because: if config.numa.enabled {
                "this build has no `numa` feature"
            } else {
                "numa.enabled is false"
            },
            nic_node: config.numa.nic_node,
            nvme_node: config.numa.nvme_node,
        }
    }
}

/// Where one thread goes, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedThread {
    /// The thread's name.
    pub name: String,
    /// CPUs it may run on, ascending; empty leaves it to the kernel.
    pub cpus: Vec<u32>,
    /// Node of its write buffers; `None` leaves them to the kernel.
    pub memory_node: Option<u32>,
    /// Why there.
    pub reason: String,
}

/// Where everything goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Threads of shards: ingestion, poller and, when they have no own threads, connections.
    pub shards: Vec<PlacedThread>,
    /// Threads of connections alone; may be empty.
    pub network: Vec<PlacedThread>,
    /// Node of the network card, configured or found.
    pub nic_node: Option<u32>,
    /// What could not be had.
    pub warnings: Vec<String>,
}

/// A wanted node and the words for it.
type Target<'a> = Result<(&'a MemoryNode, String), String>;

/// Decides; pure.
pub fn plan(topology: &Topology, wish: &Wish) -> Plan {
    let mut warnings = Vec::new();
    let known = |id: Option<u32>| id.and_then(|id| topology.nodes.iter().find(|node| node.id == id));
    let nic = known(wish.nic_node).or(known(topology.nic.node));
    let disk = known(wish.nvme_node).or(known(topology.disk.node));
    let placing = wish.enabled && topology.nodes.len() > 1;
    let (near_disk, near_nic): (Target, Target) = match (placing, disk, nic) {
        (false, ..) => {
            let why = if wish.enabled { "one NUMA node" } else { wish.disabled_because };
            (Err(why.to_owned()), Err(why.to_owned()))
        }
        (true, None, None) => {
            let why = "neither the disk's nor the network card's node is known";
            warnings.push(format!("{why}: set numa.nvme_node and numa.nic_node"));
            (Err(why.to_owned()), Err(why.to_owned()))
        }
        (true, Some(disk), None) => {
            let why = format!("near the disk on node {}: the network card's node is not known", disk.id);
            (Ok((disk, format!("near the disk on node {}", disk.id))), Ok((disk, why)))
        }
        (true, None, Some(nic)) => {
            let why = format!("near the network card on node {}: the disk's node is not known", nic.id);
            (Ok((nic, why)), Ok((nic, format!("near the network card on node {}", nic.id))))
        }
        (true, Some(disk), Some(nic)) => {
            let near = |what: &str, node: &MemoryNode| format!("near the {what} on node {}", node.id);
            (Ok((disk, near("disk", disk))), Ok((nic, near("network card", nic))))
        }
    };
    let mut threads = wanted(wish, placing, &near_disk, &near_nic);
    let nodes = Nodes { topology, explicit: &threads.iter().filter_map(|thread| thread.cpu).collect::<Vec<_>>() };
    let places = nodes.assign(&mut threads, &mut warnings);
    let (shards, network): (Vec<_>, Vec<_>) = places.into_iter().partition(|place| place.name.starts_with("shard-"));
    if placing
        && network.is_empty()
        && let (Some(disk), Some(nic)) = (disk, nic)
        && disk.id != nic.id
    {
        let (disk, nic) = (disk.id, nic.id);
        warnings.push(format!(
            "connections share the shards' threads, near the disk on node {disk}; with shards.placement = \"dedicated\" they are near the network card on node {nic}"
        ));
    }
    Plan { shards, network, nic_node: nic.map(|node| node.id), warnings }
}

struct Wanted<'a> {
    name: String,
    /// Named by the configuration.
    cpu: Option<u32>,
    target: &'a Target<'a>,
    has_buffers: bool,
}

fn wanted<'a>(wish: &Wish, placing: bool, near_disk: &'a Target<'a>, near_nic: &'a Target<'a>) -> Vec<Wanted<'a>> {
    let in_turn = |thread: usize| wish.cpus.get(thread % wish.cpus.len().max(1)).copied();
    let shards = (0..usize::from(wish.shards)).map(|n| Wanted {
        name: format!("shard-{n}"),
        cpu: in_turn(n),
        target: near_disk,
        has_buffers: true,
    });
    let network = if wish.own_network_threads { usize::from(wish.shards) } else { 0 };
    let network = (0..network).map(|n| {
        let thread = usize::from(wish.shards) + n;
        // A CPU of a shard is shared only where nothing better is known.
        let cpu = if placing && near_nic.is_ok() { wish.cpus.get(thread).copied() } else { in_turn(thread) };
        Wanted { name: format!("network-{n}"), cpu, target: near_nic, has_buffers: false }
    });
    shards.chain(network).collect()
}

struct Nodes<'a> {
    topology: &'a Topology,
    /// CPUs the configuration gave away.
    explicit: &'a [u32],
}

impl Nodes<'_> {
    /// CPUs of a node for threads, best first: a core for each before hardware threads share one.
    fn free(&self, node: &MemoryNode) -> Vec<u32> {
        let depth = node.cores.iter().map(Vec::len).max().unwrap_or(0);
        let by_rank = (0..depth).flat_map(|rank| node.cores.iter().filter_map(move |core| core.get(rank).copied()));
        by_rank.filter(|cpu| self.topology.allowed.contains(cpu) && !self.explicit.contains(cpu)).collect()
    }

    fn allowed(&self, node: &MemoryNode) -> Vec<u32> {
        node.cpus().into_iter().filter(|cpu| self.topology.allowed.contains(cpu)).collect()
    }

    fn assign(&self, threads: &mut [Wanted<'_>], warnings: &mut Vec<String>) -> Vec<PlacedThread> {
        let mut taken: Vec<u32> = Vec::new();
        let demand = |id: u32| {
            let on_node = |thread: &&Wanted| matches!(thread.target, Ok((node, _)) if node.id == id);
            threads.iter().filter(|thread| thread.cpu.is_none()).filter(on_node).count()
        };
        let mut places = Vec::with_capacity(threads.len());
        for thread in threads.iter() {
            let (cpus, reason) = match (thread.cpu, thread.target) {
                (Some(cpu), _) => self.explicit_cpu(&thread.name, cpu, warnings),
                (None, Err(why)) => (Vec::new(), format!("not pinned: {why}")),
                (None, Ok((node, why))) => {
                    let free = self.free(node);
                    let demand = demand(node.id);
                    if let Some(cpu) = free.iter().find(|cpu| !taken.contains(cpu)).filter(|_| demand <= free.len()) {
                        taken.push(*cpu);
                        (vec![*cpu], why.clone())
                    } else {
                        self.whole_node(node, why, (demand, free), warnings)
                    }
                }
            };
            let memory_node = match thread.target {
                Ok(_) if thread.has_buffers => cpus.first().and_then(|cpu| self.node_of(*cpu)),
                _ => None,
            };
            places.push(PlacedThread { name: thread.name.clone(), cpus, memory_node, reason });
        }
        places
    }

    fn node_of(&self, cpu: u32) -> Option<u32> {
        let node = self.topology.nodes.iter().find(|node| node.cores.iter().any(|core| core.contains(&cpu)));
        node.map(|node| node.id)
    }

    fn explicit_cpu(&self, name: &str, cpu: u32, warnings: &mut Vec<String>) -> (Vec<u32>, String) {
        if self.topology.allowed.contains(&cpu) {
            return (vec![cpu], "named by shards.cpus".to_owned());
        }
        let allowed = cpu_list::format(&self.topology.allowed);
        warnings.push(format!("{name} is not pinned: shards.cpus names CPU {cpu}, this process may use {allowed}"));
        (Vec::new(), format!("not pinned: CPU {cpu} of shards.cpus is not among those this process may use"))
    }

    /// For more threads than CPUs: the kernel moves them among all CPUs of the node.
    fn whole_node(
        &self,
        node: &MemoryNode,
        why: &str,
        (demand, mut free): (usize, Vec<u32>),
        warnings: &mut Vec<String>,
    ) -> (Vec<u32>, String) {
        free.sort_unstable();
        let cpus = if free.is_empty() { self.allowed(node) } else { free };
        if cpus.is_empty() {
            let warning = format!("this process may use no CPU of node {}: threads stay unpinned", node.id);
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
            return (cpus, format!("not pinned: this process may use no CPU of node {}", node.id));
        }
        let (threads, count) = (demand, cpus.len());
        (cpus, format!("{why}; {threads} threads share {count} CPUs there"))
    }
}

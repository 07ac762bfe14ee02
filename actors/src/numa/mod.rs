//! Where threads and write buffers of a node live on a machine with several memory (NUMA) nodes.
//!
//! [`read`] asks the machine, [`plan::plan`] decides without touching anything, and the callers carry it out.

pub mod cpu_list;
#[cfg(feature = "numa")]
pub mod hwloc;
pub mod irq;
pub mod plan;
pub mod print;
pub mod sysfs;

use self::irq::Roots;
use self::plan::{Plan, Wish};
use lance_config::model::Config;
use std::path::Path;

/// Whether this build places threads and memory by NUMA node.
pub const BUILT: bool = cfg!(feature = "numa");

/// One memory node with processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryNode {
    /// The number the kernel gives it.
    pub id: u32,
    /// CPUs by physical core, ascending; the CPUs of one core are its hardware threads.
    pub cores: Vec<Vec<u32>>,
    /// Its memory, where that is known.
    pub memory_bytes: Option<u64>,
}

impl MemoryNode {
    /// All its CPUs, ascending.
    pub fn cpus(&self) -> Vec<u32> {
        let mut cpus: Vec<u32> = self.cores.iter().flatten().copied().collect();
        cpus.sort_unstable();
        cpus
    }
}

/// A device and the memory node it is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// What it is called, as far as it was found.
    pub name: Option<String>,
    /// Its node, where the machine tells.
    pub node: Option<u32>,
}

/// What matters for placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Nodes with processors, ascending by id.
    pub nodes: Vec<MemoryNode>,
    /// CPUs that this process may use, ascending.
    pub allowed: Vec<u32>,
    /// The network card of `network.nic_pci_addr`.
    pub nic: Device,
    /// The disk below `node.data_dir`.
    pub disk: Device,
}

/// Reads the machine; the second is what told the nodes: `hwloc` or `sysfs`.
pub fn read(config: &Config, sysfs: &Path) -> (Topology, &'static str) {
    let (nodes, source) = match nodes_by_hwloc() {
        Some(nodes) => (nodes, "hwloc"),
        None => (sysfs::nodes(sysfs), "sysfs"),
    };
    let nic = config.network.nic_pci_addr.as_deref().map(|address| sysfs::pci_device(sysfs, address));
    let disk = sysfs::block_device(sysfs, sysfs::device_number(&config.node.data_dir));
    (Topology { nodes, allowed: crate::threads::allowed_cpus(), nic: nic.unwrap_or_default(), disk }, source)
}

#[cfg(feature = "numa")]
fn nodes_by_hwloc() -> Option<Vec<MemoryNode>> {
    hwloc::nodes()
}

#[cfg(not(feature = "numa"))]
fn nodes_by_hwloc() -> Option<Vec<MemoryNode>> {
    None
}

/// The plan for a node that starts, said in the log; steers interrupts where that was asked for.
pub fn decide(config: &Config) -> Plan {
    let wish = Wish::of(config, BUILT);
    let topology = match wish.enabled {
        true => read(config, Path::new("/sys")).0,
        false => Topology { allowed: crate::threads::allowed_cpus(), ..Topology::default() },
    };
    let plan = plan::plan(&topology, &wish);
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    for thread in plan.shards.iter().chain(&plan.network).filter(|thread| wish.enabled || !thread.cpus.is_empty()) {
        let cpus = cpu_list::format(&thread.cpus);
        tracing::info!(thread = %thread.name, %cpus, memory_node = ?thread.memory_node, why = %thread.reason, "placed");
    }
    if wish.enabled && config.numa.steer_irqs {
        irq::steer_and_log(&Roots::default(), config.network.nic_pci_addr.as_deref(), &topology, plan.nic_node);
    }
    plan
}

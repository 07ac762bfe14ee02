//! Moves the interrupts of the network card to the CPUs of its memory node.

use super::{Topology, cpu_list};
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel's files are.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// Writes `cpus` as the affinity of every message-signalled interrupt of a PCI device; how each went, ascending by number.
/// Fails when the device's interrupts cannot be listed.
pub fn steer(roots: &Roots, address: &str, cpus: &str) -> io::Result<Vec<(u32, io::Result<()>)>> {
    let folder = roots.sys.join("bus/pci/devices").join(address).join("msi_irqs");
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|number| (number, write(&roots.proc, number, cpus))).collect())
}

fn write(proc: &Path, number: u32, cpus: &str) -> io::Result<()> {
    let file = proc.join(format!("irq/{number}/smp_affinity_list"));
    // Never created: it is the kernel's file or none.
    let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, cpus.as_bytes())
}

/// Steers the card's interrupts to its node, and says in the log what was done and what was not.
pub(super) fn steer_and_log(roots: &Roots, address: Option<&str>, topology: &Topology, node: Option<u32>) {
    let Some(address) = address else {
        return tracing::warn!("numa.steer_irqs needs network.nic_pci_addr: interrupts stay where they are");
    };
    let node = node.filter(|_| topology.nodes.len() > 1);
    let Some(node) = node.and_then(|id| topology.nodes.iter().find(|node| node.id == id)) else {
        return tracing::warn!(
            device = address,
            "the card has no memory node of its own: interrupts stay where they are"
        );
    };
    let cpus = cpu_list::format(&node.cpus());
    match steer(roots, address, &cpus) {
        Ok(steered) if steered.is_empty() => tracing::warn!(device = address, "the card has no interrupts to steer"),
        Ok(steered) => steered.into_iter().for_each(|(irq, result)| match result {
            Ok(()) => tracing::info!(irq, device = address, %cpus, "interrupt steered"),
            Err(error) => tracing::warn!(irq, device = address, %cpus, %error, "cannot steer an interrupt"),
        }),
        Err(error) => tracing::warn!(device = address, %error, "cannot list the card's interrupts"),
    }
}

//! Nodes and devices as the kernel shows them below `/sys`. Every function takes the folder that stands for it.

use super::{Device, MemoryNode, cpu_list};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How many disks below one another (RAID over LVM over …) are followed.
const MAX_STACK: usize = 8;

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The nodes that have CPUs, ascending; one node with everything where the kernel tells none.
pub fn nodes(sysfs: &Path) -> Vec<MemoryNode> {
    let folder = sysfs.join("devices/system/node");
    let ids = names(&folder).into_iter().filter_map(|name| name.strip_prefix("node")?.parse().ok());
    let mut nodes: Vec<MemoryNode> = ids
        .filter_map(|id: u32| {
            let own = folder.join(format!("node{id}"));
            let cpus = cpu_list::parse(&text(&own.join("cpulist"))?)?;
            let memory_bytes = text(&own.join("meminfo")).and_then(|meminfo| memory(&meminfo));
            (!cpus.is_empty()).then(|| MemoryNode { id, cores: cores(sysfs, &cpus), memory_bytes })
        })
        .collect();
    nodes.sort_unstable_by_key(|node| node.id);
    if nodes.is_empty() {
        let online = text(&sysfs.join("devices/system/cpu/online")).and_then(|list| cpu_list::parse(&list));
        nodes.push(MemoryNode { id: 0, cores: cores(sysfs, &online.unwrap_or_default()), memory_bytes: None });
    }
    nodes
}

/// Groups CPUs by physical core; a CPU whose core is not told is one of its own.
fn cores(sysfs: &Path, cpus: &[u32]) -> Vec<Vec<u32>> {
    let mut cores: Vec<Vec<u32>> = Vec::new();
    for cpu in cpus {
        let siblings = sysfs.join(format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        let mut core = text(&siblings).and_then(|list| cpu_list::parse(&list)).unwrap_or_default();
        core.retain(|sibling| cpus.contains(sibling));
        let core = if core.contains(cpu) { core } else { vec![*cpu] };
        if !cores.iter().any(|known| known.contains(cpu)) {
            cores.push(core);
        }
    }
    cores
}

/// From a line such as `Node 0 MemTotal:  16318404 kB`.
fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.contains("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().rev().nth(1)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The node written in a device's folder; the kernel writes -1 where it does not know.
fn node_of(device: &Path) -> Option<u32> {
    text(&device.join("numa_node"))?.parse().ok()
}

/// A PCI device by its address; without a name when there is none.
pub fn pci_device(sysfs: &Path, address: &str) -> Device {
    let folder = sysfs.join("bus/pci/devices").join(address);
    Device { name: folder.exists().then(|| address.to_owned()), node: node_of(&folder) }
}

/// Major and minor number of the disk below a path that need not exist yet.
pub fn device_number(path: &Path) -> Option<(u32, u32)> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find_map(|ancestor| ancestor.metadata().ok())?;
    Some((libc::major(existing.dev()), libc::minor(existing.dev())))
}

/// A disk by its device number.
pub fn block_device(sysfs: &Path, number: Option<(u32, u32)>) -> Device {
    let Some((major, minor)) = number else { return Device::default() };
    match sysfs.join(format!("dev/block/{major}:{minor}")).canonicalize() {
        Ok(folder) => {
            let name = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            Device { name, node: node_above(&folder, MAX_STACK) }
        }
        // A file system without a disk of its own: overlay, tmpfs, network.
        Err(_) => Device::default(),
    }
}

/// The node of the first device above a disk that has one; of a disk over several, the node they all share.
fn node_above(disk: &Path, depth: usize) -> Option<u32> {
    if let Some(node) = disk.ancestors().find_map(node_of) {
        return Some(node);
    }
    // The partition of a stacked disk has its slaves at the disk.
    let slaves = disk.ancestors().take(2).map(|at| at.join("slaves")).find(|slaves| !names(slaves).is_empty())?;
    let depth = depth.checked_sub(1)?;
    let below: Vec<PathBuf> =
        names(&slaves).into_iter().filter_map(|name| slaves.join(name).canonicalize().ok()).collect();
    let mut nodes = below.iter().map(|disk| node_above(disk, depth));
    let first = nodes.next()??;
    nodes.all(|node| node == Some(first)).then_some(first)
}

//! Machines that are made up, and their `/sys`.

use lance_actors::numa::{MemoryNode, cpu_list};
use std::path::Path;

/// Bytes of one node of a machine.
pub const NODE_BYTES: u64 = 8 << 30;

/// Two nodes with two cores of two hardware threads each, numbered core by core.
pub fn two_nodes() -> Vec<MemoryNode> {
    let node = |id: u32| {
        let first = 4 * id;
        node(id, &[&[first, first + 1], &[first + 2, first + 3]])
    };
    vec![node(0), node(1)]
}

/// Four nodes with two CPUs each, dealt out in turn: node 0 has CPUs 0 and 4.
pub fn four_nodes() -> Vec<MemoryNode> {
    (0..4).map(|id| node(id, &[&[id], &[id + 4]])).collect()
}

/// A node.
pub fn node(id: u32, cores: &[&[u32]]) -> MemoryNode {
    let cores = cores.iter().map(|core| core.to_vec()).collect();
    MemoryNode { id, cores, memory_bytes: Some(NODE_BYTES) }
}

/// Writes a file with the folders it needs.
pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Writes what the kernel would show of nodes below `/sys`.
pub fn write_nodes(sysfs: &Path, nodes: &[MemoryNode]) {
    for node in nodes {
        let folder = sysfs.join(format!("devices/system/node/node{}", node.id));
        write(&folder.join("cpulist"), &format!("{}\n", cpu_list::format(&node.cpus())));
        let meminfo = format!(
            "Node {id} MemTotal:       {total} kB\nNode {id} MemFree:        12 kB\n",
            id = node.id,
            total = NODE_BYTES / 1024
        );
        write(&folder.join("meminfo"), &meminfo);
        for core in &node.cores {
            for cpu in core {
                let file = format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
                write(&sysfs.join(file), &format!("{}\n", cpu_list::format(core)));
            }
        }
    }
}

//! Nodes as hwloc sees them. Its `HWLOC_XMLFILE` and `HWLOC_SYNTHETIC` work.

use super::MemoryNode;
use hwloc2::{Bitmap, ObjectType, Topology, TopologyFlag, TopologyObject};
use std::collections::BTreeMap;

/// The nodes that have CPUs, ascending; `None` when hwloc cannot tell.
pub fn nodes() -> Option<Vec<MemoryNode>> {
    // What the process may not use is left out later, alike for every source.
    let topology = Topology::with_flags(vec![TopologyFlag::IncludeDisallowed])?;
    // Virtual machines may show no cores. NUMA nodes themselves are at a virtual depth, which the crate cannot ask for.
    let units = [ObjectType::Core, ObjectType::PU]
        .iter()
        .find_map(|kind| topology.objects_with_type(kind).ok().filter(|units| !units.is_empty()))?;
    let mut nodes: BTreeMap<u32, MemoryNode> = BTreeMap::new();
    for unit in units {
        let core = members(&unit.cpuset()?);
        // The first is the node's own memory; further ones are of another kind, such as high-bandwidth memory.
        let id = unit.nodeset().and_then(|set| u32::try_from(set.first()).ok()).unwrap_or(0);
        let node = nodes.entry(id).or_insert_with(|| MemoryNode { id, cores: Vec::new(), memory_bytes: memory(unit) });
        node.cores.push(core);
    }
    let mut nodes: Vec<MemoryNode> = nodes.into_values().collect();
    nodes.iter_mut().for_each(|node| node.cores.sort_unstable());
    (!nodes.is_empty()).then_some(nodes)
}

fn members(set: &Bitmap) -> Vec<u32> {
    let last = u32::try_from(set.last()).unwrap_or(0);
    (0..=last).filter(|member| set.is_set(*member)).collect()
}

/// The memory of the one node that a core is close to: that of the widest object with this node alone.
fn memory(unit: &TopologyObject) -> Option<u64> {
    let alone = |object: &&TopologyObject| object.nodeset().is_some_and(|set| set.weight() == 1);
    let widest = std::iter::successors(Some(unit), |object| object.parent()).take_while(alone).last()?;
    Some(widest.total_memory()).filter(|bytes| *bytes > 0)
}

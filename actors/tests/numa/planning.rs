//! The plan, from a table of machines and wishes.

use crate::machine::{four_nodes, node, two_nodes};
use lance_actors::numa::plan::{Plan, Wish, plan};
use lance_actors::numa::{Device, Topology, cpu_list};

fn topology(nodes: Vec<lance_actors::numa::MemoryNode>, nic: Option<u32>, disk: Option<u32>) -> Topology {
    let allowed = {
        let mut cpus: Vec<u32> = nodes.iter().flat_map(|node| node.cpus()).collect();
        cpus.sort_unstable();
        cpus
    };
    let device = |node| Device { name: None, node };
    Topology { nodes, allowed, nic: device(nic), disk: device(disk) }
}

fn wish(shards: u16, own_network_threads: bool, cpus: &[u32]) -> Wish {
    Wish { shards, own_network_threads, cpus: cpus.to_vec(), enabled: true, ..Wish::default() }
}

/// One word a thread: `CPUs` and, of shards with bound buffers, `@node`.
fn shown(plan: &Plan) -> String {
    let threads = plan.shards.iter().chain(&plan.network).map(|thread| {
        let memory = thread.memory_node.map_or(String::new(), |node| format!("@{node}"));
        format!("{}{memory}", if thread.cpus.is_empty() { "any".to_owned() } else { cpu_list::format(&thread.cpus) })
    });
    threads.collect::<Vec<_>>().join(" ")
}

#[test]
fn threads_go_where_their_device_is() {
    let one = || vec![node(0, &[&[0], &[1]])];
    let (two, four) = (two_nodes, four_nodes);
    let cases = [
        // Shards near the disk, a core each before hardware threads share one.
        ("a shard", topology(two(), Some(0), Some(1)), wish(1, false, &[]), "4@1"),
        ("two shards", topology(two(), Some(0), Some(1)), wish(2, false, &[]), "4@1 6@1"),
        ("four shards", topology(two(), Some(0), Some(1)), wish(4, false, &[]), "4@1 6@1 5@1 7@1"),
        ("network apart", topology(two(), Some(0), Some(1)), wish(2, true, &[]), "4@1 6@1 0 2"),
        ("same node", topology(two(), Some(1), Some(1)), wish(2, true, &[]), "4@1 6@1 5 7"),
        ("four nodes", topology(four(), Some(3), Some(2)), wish(2, true, &[]), "2@2 6@2 3 7"),
        // Where one device is not known, everything goes to the other.
        ("no card", topology(two(), None, Some(1)), wish(1, true, &[]), "4@1 6"),
        ("no disk", topology(two(), Some(0), None), wish(1, true, &[]), "0@0 2"),
        ("neither", topology(two(), None, None), wish(2, true, &[]), "any any any any"),
        // More threads than CPUs: all CPUs of the node for each.
        ("crowded", topology(two(), Some(0), Some(1)), wish(5, false, &[]), "4-7@1 4-7@1 4-7@1 4-7@1 4-7@1"),
        ("crowded together", topology(four(), Some(2), Some(2)), wish(2, true, &[]), "2,6@2 2,6@2 2,6 2,6"),
        // What is named wins; its node has the buffers, and nobody else gets its CPU.
        ("named", topology(two(), Some(0), Some(1)), wish(2, false, &[0, 7]), "0@0 7@1"),
        ("named, network apart", topology(two(), Some(0), Some(1)), wish(1, true, &[0]), "0@0 2"),
        ("all named", topology(two(), Some(0), Some(1)), wish(1, true, &[5, 6]), "5@1 6"),
        // One node: only what was asked for.
        ("one node", topology(one(), Some(0), Some(0)), wish(2, true, &[]), "any any any any"),
        ("one node, named", topology(one(), Some(0), Some(0)), wish(2, true, &[1, 0]), "1 0 1 0"),
    ];
    for (what, topology, wish, expected) in cases {
        let plan = plan(&topology, &wish);
        assert_eq!(shown(&plan), expected, "{what}: {plan:#?}");
        assert!(plan.shards.iter().chain(&plan.network).all(|thread| !thread.reason.is_empty()), "{what}");
    }
}

#[test]
fn nothing_leaves_the_cpus_that_the_process_may_use() {
    let mut machine = topology(two_nodes(), Some(0), Some(1));
    machine.allowed = vec![0, 1, 7];
    let placed = plan(&machine, &wish(1, true, &[]));
    assert_eq!(shown(&placed), "7@1 0");
    // More shards than are left on the node.
    assert_eq!(shown(&plan(&machine, &wish(2, false, &[]))), "7@1 7@1");
    // None is left there.
    machine.allowed = vec![0, 1];
    let placed = plan(&machine, &wish(2, false, &[]));
    assert_eq!(shown(&placed), "any any");
    let about = |plan: &Plan, words: &str| plan.warnings.iter().filter(|text| text.contains(words)).count();
    assert_eq!(about(&placed, "no CPU of node 1"), 1, "{placed:#?}");
    // One that is named and not allowed is not used, and said.
    let placed = plan(&machine, &wish(2, false, &[0, 7]));
    assert_eq!(shown(&placed), "0@0 any");
    assert_eq!(about(&placed, "names CPU 7, this process may use 0-1"), 1, "{placed:#?}");
}

#[test]
fn configured_nodes_win_over_found_ones_when_they_exist() {
    let machine = topology(two_nodes(), Some(0), Some(1));
    let swapped = Wish { nic_node: Some(1), nvme_node: Some(0), ..wish(1, true, &[]) };
    let placed = plan(&machine, &swapped);
    assert_eq!((shown(&placed).as_str(), placed.nic_node), ("0@0 4", Some(1)));
    let missing = Wish { nic_node: Some(9), nvme_node: Some(9), ..wish(1, true, &[]) };
    assert_eq!(shown(&plan(&machine, &missing)), "4@1 0");
}

#[test]
fn without_placement_only_named_cpus_count() {
    let machine = topology(two_nodes(), Some(0), Some(1));
    let off = |cpus: &[u32]| Wish { enabled: false, disabled_because: "it is off", ..wish(2, true, cpus) };
    let placed = plan(&machine, &off(&[]));
    assert_eq!(shown(&placed), "any any any any");
    assert_eq!(placed.shards[0].reason, "not pinned: it is off");
    assert_eq!(shown(&plan(&machine, &off(&[1, 2]))), "1 2 1 2");
    assert_eq!(shown(&plan(&machine, &off(&[1, 2, 5]))), "1 2 5 1");
}

#[test]
fn shared_threads_between_two_nodes_are_pointed_out() {
    let placed = plan(&topology(two_nodes(), Some(0), Some(1)), &wish(1, false, &[]));
    assert!(placed.warnings.iter().any(|text| text.contains("shards.placement")), "{placed:#?}");
    let same = plan(&topology(two_nodes(), Some(1), Some(1)), &wish(1, false, &[]));
    assert!(same.warnings.is_empty(), "{same:#?}");
}

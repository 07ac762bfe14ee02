//! How the metadata leader brings copies to where they shall be.

use crate::controller::{PARTITION, World};
use lance_cluster::metadata::MetadataCommand;
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicId};

/// So many nodes, and a partition of so many copies that node 1 leads in epoch 1.
fn led(nodes: u16, copies: u8) -> World {
    let mut world = World::new(nodes, copies);
    world.commit_proposed();
    (1..=u16::from(copies)).for_each(|node| world.clean(node, 1, 0, 0));
    world.commit_proposed();
    world.controller.on_leading(PARTITION, LeaderEpoch(1));
    assert_eq!(world.leader(), Some((1, 1)));
    world.proposed.clear();
    world
}

fn factor(replication_factor: u8) -> MetadataCommand {
    MetadataCommand::SetReplicationFactor { topic: TopicId(1), replication_factor }
}

fn nodes(of: &[NodeId]) -> Vec<u16> {
    of.iter().map(|node| node.0).collect()
}

fn holders(world: &World) -> Vec<u16> {
    world.state.partition(PARTITION).unwrap().replicas.iter().map(|replica| replica.node.0).collect()
}

/// Lets time pass until something is planned, commits it, and says which set is planned.
fn planned(world: &mut World) -> Vec<u16> {
    world.pass_ms(600);
    world.commit_proposed();
    nodes(&world.state.partition(PARTITION).unwrap().planned)
}

/// The leader finds that nothing is lost by the planned set: it is exchanged.
fn exchange(world: &mut World) {
    let decided = world.state.partition(PARTITION).unwrap();
    let incarnation = |node| ReplicaIncarnation {
        node: world.state.node(node).unwrap().incarnation,
        copy_version: decided.replicas_version,
        damage_count: 0,
    };
    let command = MetadataCommand::ReplaceReplica {
        partition: PARTITION,
        epoch: decided.epoch,
        replicas_version: decided.replicas_version,
        replicas: decided.planned.clone(),
        newcomer: decided.newcomer().map(|node| (node, incarnation(node))),
    };
    world.apply(&command);
}

#[test]
fn copies_are_added_one_by_one_until_there_are_as_many_as_asked() {
    let mut world = led(4, 1);
    assert_eq!(planned(&mut world), [0u16; 0], "nothing is to be done");
    world.apply(&factor(3));
    let first = planned(&mut world);
    assert_eq!((first.len(), first[0]), (2, 1));
    assert_eq!(planned(&mut world), first, "the next step waits for this one");
    exchange(&mut world);
    assert_eq!(planned(&mut world).len(), 3);
    exchange(&mut world);
    assert_eq!(holders(&world).len(), 3);
    assert_eq!(planned(&mut world), [0u16; 0]);
}

#[test]
fn copies_are_taken_away_but_never_the_leaders() {
    let mut world = led(3, 3);
    world.silent.insert(2);
    world.pass_ms(1500);
    world.apply(&factor(1));
    assert_eq!(planned(&mut world), [1, 3], "the silent node goes first");
    exchange(&mut world);
    assert_eq!(planned(&mut world), [1]);
    exchange(&mut world);
    assert_eq!(holders(&world), [1]);
}

#[test]
fn a_node_that_leaves_is_emptied_and_then_removed() {
    let mut world = led(4, 3);
    world.apply(&MetadataCommand::SetLeaving { node: NodeId(3) });
    assert_eq!(planned(&mut world), [1, 2, 4], "another node takes its place");
    exchange(&mut world);
    world.pass_ms(600);
    assert_eq!(world.proposed, [MetadataCommand::RemoveNode { node: NodeId(3) }]);
    world.commit_proposed();
    assert!(world.state.node(NodeId(3)).is_none());
    world.pass_ms(3000);
    assert!(world.proposed.is_empty());
}

#[test]
fn a_sole_copy_is_doubled_before_its_node_leaves() {
    let mut world = led(3, 1);
    world.apply(&MetadataCommand::SetLeaving { node: NodeId(1) });
    let both = planned(&mut world);
    assert_eq!((both.len(), both[0]), (2, 1));
    exchange(&mut world);
    assert_eq!(planned(&mut world), [0u16; 0], "the leadership moves first");
    assert_eq!(world.moves, [(1, 1, both[1])]);
    world.move_ready(1, both[1]);
    world.commit_proposed();
    (1..=2).for_each(|node| world.clean(node, 2, 1, 0));
    world.commit_proposed();
    world.report_leading(PARTITION);
    assert_eq!(world.leader(), Some((both[1], 2)));
    assert_eq!(planned(&mut world), [both[1]]);
    exchange(&mut world);
    world.pass_ms(600);
    assert_eq!(world.proposed, [MetadataCommand::RemoveNode { node: NodeId(1) }]);
}

#[test]
fn a_node_leaves_only_where_others_can_hold_its_copies() {
    let mut world = led(3, 3);
    let leave = MetadataCommand::SetLeaving { node: NodeId(3) };
    world.apply(&leave);
    assert!(world.state.node(NodeId(3)).is_some_and(|node| !node.leaving && !node.draining), "there is no fourth node");
    world.apply(&factor(2));
    world.apply(&leave);
    assert_eq!(planned(&mut world), [1, 2], "fewer copies are asked for: this one goes");
}

#[test]
fn a_plan_whose_newcomer_stays_silent_is_given_up_and_another_node_is_taken() {
    let mut world = led(4, 2);
    world.apply(&factor(3));
    let newcomer = *planned(&mut world).last().unwrap();
    world.silent.insert(newcomer);
    world.pass_ms(20_000);
    assert!(world.proposed.is_empty(), "it may only be starting again");
    world.pass_ms(15_000);
    world.commit_proposed();
    let next = planned(&mut world);
    assert!(next.len() == 3 && !next.contains(&newcomer), "{next:?}");
}

#[test]
fn a_plan_that_a_node_which_leaves_is_new_in_is_given_up() {
    let mut world = led(4, 2);
    world.apply(&factor(3));
    let newcomer = *planned(&mut world).last().unwrap();
    world.apply(&MetadataCommand::SetLeaving { node: NodeId(newcomer) });
    world.pass_ms(600);
    world.commit_proposed();
    let next = planned(&mut world);
    assert!(next.len() == 3 && !next.contains(&newcomer), "{next:?}");
}

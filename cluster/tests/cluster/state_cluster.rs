//! What the commands of a cluster of several nodes may and may not do.

use crate::state_rules::{World, choice};
use crate::support::{create, register};
use lance_cluster::metadata::state_replicas::NO_INCARNATION;
use lance_cluster::metadata::{
    MetadataAnswer, MetadataCommand, MetadataEvent, MetadataRefusal, PartitionRecovery, PartitionRefusal,
    PartitionState, ReplicaIncarnation, ReplicationMode,
};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};

const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
const EPOCH: LeaderEpoch = LeaderEpoch(1);

/// Topic 1 with one partition on nodes 1..=copies of `nodes`, led by node 1 in epoch 1, in-quorum version 1.
fn led(nodes: u16, copies: u8) -> World {
    let mut world = World::of_nodes(nodes);
    world.created(create("alpha", 1, copies));
    world.open(PARTITION, 1);
    assert_eq!(world.choose(choice(PARTITION, 1, 1, 101, 1)).len(), 1);
    world
}

fn decided(world: &World) -> PartitionState {
    world.state.partition(PARTITION).unwrap().clone()
}

fn in_quorum(world: &World) -> Vec<u16> {
    decided(world).in_quorum.iter().map(|node| node.0).collect()
}

fn life(node: u16) -> ReplicaIncarnation {
    ReplicaIncarnation { node: 100 + u64::from(node), copy_version: 0, damage_count: 0 }
}

fn evict(node: u16, version: u32) -> MetadataCommand {
    MetadataCommand::Evict { node: NodeId(node), partitions: vec![(PARTITION, EPOCH, version)] }
}

fn rejoin(node: u16, incarnation: ReplicaIncarnation, version: u32) -> MetadataCommand {
    MetadataCommand::Rejoin { node: NodeId(node), partitions: vec![(PARTITION, incarnation, EPOCH, version)] }
}

fn admit(node: u16, incarnation: ReplicaIncarnation, version: u32) -> MetadataCommand {
    MetadataCommand::Admit { node: NodeId(node), partitions: vec![(PARTITION, incarnation, EPOCH, version)] }
}

/// Applies a command about one partition and gives its verdict.
fn verdict(world: &mut World, command: MetadataCommand) -> Result<(), PartitionRefusal> {
    let before = decided(world);
    match world.ok(command) {
        MetadataAnswer::PartitionsChanged { changed, refused } if refused.is_empty() => {
            assert_eq!(changed, [PARTITION]);
            Ok(())
        }
        MetadataAnswer::PartitionsChanged { refused, .. } => {
            assert_eq!(decided(world), before, "a refused change leaves the partition alone");
            Err(refused[0].1)
        }
        other => panic!("{other:?}"),
    }
}

fn refused(world: &mut World, command: MetadataCommand) -> PartitionRefusal {
    match world.refused(command) {
        MetadataRefusal::Partition { partition: PARTITION, reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn drain(node: u16, draining: bool) -> MetadataCommand {
    MetadataCommand::SetDraining { node: NodeId(node), draining }
}

#[test]
fn an_evicted_follower_leaves_the_in_quorum_set_and_may_rejoin_it() {
    let mut world = led(3, 3);
    let (events, _) = world.apply(evict(3, 1));
    let changed = MetadataEvent::InQuorumChanged {
        partition: PARTITION,
        epoch: EPOCH,
        in_quorum: vec![NodeId(1), NodeId(2)],
        in_quorum_version: 2,
    };
    assert_eq!(events, [changed]);
    assert_eq!(verdict(&mut world, rejoin(3, life(3), 2)), Ok(()));
    assert_eq!((in_quorum(&world), decided(&world).in_quorum_version), (vec![1, 2, 3], 3));
}

#[test]
fn evictions_that_would_do_harm_or_come_late_are_refused() {
    let mut world = led(4, 3);
    let cases = [
        (evict(3, 9), PartitionRefusal::StaleVersion { given: 9, current: 1 }),
        (evict(4, 1), PartitionRefusal::NotReplica { node: NodeId(4) }),
        (evict(1, 1), PartitionRefusal::IsLeader { node: NodeId(1) }),
    ];
    for (command, reason) in cases {
        assert_eq!(verdict(&mut world, command), Err(reason));
    }
    world.ok(drain(3, true));
    assert_eq!(verdict(&mut world, evict(3, 1)), Err(PartitionRefusal::Draining { node: NodeId(3) }));
    world.ok(drain(3, false));
    assert_eq!(verdict(&mut world, evict(3, 1)), Ok(()));
    assert_eq!(verdict(&mut world, evict(3, 2)), Err(PartitionRefusal::NotInQuorum { node: NodeId(3) }));
    let below = PartitionRefusal::BelowQuorum { left_count: 1, quorum: 2 };
    assert_eq!(verdict(&mut world, evict(2, 2)), Err(below));
    world.open(PARTITION, 2);
    let stale = PartitionRefusal::StaleEpoch { given: EPOCH, current: LeaderEpoch(2) };
    assert_eq!(verdict(&mut world, evict(2, 2)), Err(stale));
    let unled = MetadataCommand::Evict { node: NodeId(2), partitions: vec![(PARTITION, LeaderEpoch(2), 2)] };
    assert_eq!(verdict(&mut world, unled), Err(PartitionRefusal::NoLeader { epoch: LeaderEpoch(2) }));
}

#[test]
fn of_two_replicas_none_is_evicted() {
    let mut world = led(2, 2);
    let below = PartitionRefusal::BelowQuorum { left_count: 1, quorum: 2 };
    assert_eq!(verdict(&mut world, evict(2, 1)), Err(below));
}

#[test]
fn a_replica_that_counts_is_not_evicted_for_one_that_does_not() {
    let mut world = led(3, 3);
    world.ok(register(2, 902, 1));
    let below = PartitionRefusal::BelowQuorum { left_count: 1, quorum: 2 };
    assert_eq!(verdict(&mut world, evict(3, 1)), Err(below), "node 2 is in Q, and its acks do not count");
    assert_eq!(verdict(&mut world, evict(2, 1)), Ok(()));
}

#[test]
fn each_partition_of_an_eviction_is_judged_alone() {
    let mut world = World::of_nodes(3);
    world.created(create("alpha", 2, 3));
    let partitions = [PARTITION, TopicPartition::new(TopicId(1), 1)];
    for partition in partitions {
        world.open(partition, 1);
        world.choose(choice(partition, 1, 1, 101, 1));
    }
    let asked = vec![(partitions[0], EPOCH, 0), (partitions[1], EPOCH, 1)];
    let stale = PartitionRefusal::StaleVersion { given: 0, current: 1 };
    let answer = world.ok(MetadataCommand::Evict { node: NodeId(3), partitions: asked });
    let expected =
        MetadataAnswer::PartitionsChanged { changed: vec![partitions[1]], refused: vec![(partitions[0], stale)] };
    assert_eq!(answer, expected);
}

#[test]
fn only_the_admitted_incarnation_rejoins() {
    let mut world = led(3, 3);
    assert_eq!(verdict(&mut world, rejoin(3, life(3), 1)), Err(PartitionRefusal::InQuorum { node: NodeId(3) }));
    world.ok(evict(3, 1));
    let damaged = ReplicaIncarnation { node: 103, copy_version: 0, damage_count: 1 };
    let not_admitted = PartitionRefusal::NotAdmitted { node: NodeId(3), given: damaged, admitted: life(3) };
    assert_eq!(verdict(&mut world, rejoin(3, damaged, 2)), Err(not_admitted));
    world.ok(register(3, 903, 1));
    let stale = PartitionRefusal::StaleIncarnation { node: NodeId(3), given: life(3) };
    assert_eq!(verdict(&mut world, rejoin(3, life(3), 2)), Err(stale), "its node has a newer life");
}

#[test]
fn an_incarnation_counts_once_it_is_admitted() {
    let mut world = led(3, 3);
    world.ok(register(3, 903, 1));
    let (old, new) = (life(3), ReplicaIncarnation { node: 903, copy_version: 0, damage_count: 2 });
    let cases = [
        (admit(3, old, 1), PartitionRefusal::StaleIncarnation { node: NodeId(3), given: old }),
        (admit(1, life(1), 1), PartitionRefusal::IsLeader { node: NodeId(1) }),
        (admit(3, new, 0), PartitionRefusal::StaleVersion { given: 0, current: 1 }),
        (admit(9, new, 1), PartitionRefusal::NotReplica { node: NodeId(9) }),
        (admit(2, life(2), 1), PartitionRefusal::StaleIncarnation { node: NodeId(2), given: life(2) }),
    ];
    for (command, reason) in cases {
        assert_eq!(verdict(&mut world, command), Err(reason));
    }
    assert!(!world.state.counts(decided(&world).replica(NodeId(3)).unwrap()));
    let (events, _) = world.apply(admit(3, new, 1));
    assert_eq!(events, [MetadataEvent::ReplicaAdmitted { partition: PARTITION, node: NodeId(3), incarnation: new }]);
    assert!(world.state.counts(decided(&world).replica(NodeId(3)).unwrap()));
    let less_damaged = ReplicaIncarnation { node: 903, copy_version: 0, damage_count: 1 };
    let stale = PartitionRefusal::StaleIncarnation { node: NodeId(3), given: less_damaged };
    assert_eq!(verdict(&mut world, admit(3, less_damaged, 1)), Err(stale));
}

fn swap(out: u16, into: u16, incarnation: ReplicaIncarnation, version: u32) -> MetadataCommand {
    let (out, into) = (NodeId(out), NodeId(into));
    MetadataCommand::SwapIn { partition: PARTITION, epoch: EPOCH, in_quorum_version: version, out, into, incarnation }
}

#[test]
fn a_spare_takes_the_place_of_a_silent_replica_in_one_step() {
    let mut world = led(3, 3);
    world.ok(evict(3, 1));
    let cases = [
        (swap(1, 3, life(3), 2), PartitionRefusal::IsLeader { node: NodeId(1) }),
        (swap(2, 2, life(2), 2), PartitionRefusal::InQuorum { node: NodeId(2) }),
        (swap(3, 3, life(3), 2), PartitionRefusal::NotInQuorum { node: NodeId(3) }),
        (swap(2, 3, life(3), 1), PartitionRefusal::StaleVersion { given: 1, current: 2 }),
        (
            swap(2, 3, ReplicaIncarnation { node: 103, copy_version: 0, damage_count: 4 }, 2),
            PartitionRefusal::NotAdmitted {
                node: NodeId(3),
                given: ReplicaIncarnation { node: 103, copy_version: 0, damage_count: 4 },
                admitted: life(3),
            },
        ),
    ];
    for (command, reason) in cases {
        assert_eq!(refused(&mut world, command), reason);
    }
    world.ok(swap(2, 3, life(3), 2));
    assert_eq!((in_quorum(&world), decided(&world).in_quorum_version), (vec![1, 3], 3));
}

/// The life of a node whose copy was given by a version of the replica set.
fn copy(node: u16, copy_version: u32) -> ReplicaIncarnation {
    ReplicaIncarnation { copy_version, ..life(node) }
}

fn replace(nodes: &[u16], newcomer: Option<u16>, version: u32) -> MetadataCommand {
    MetadataCommand::ReplaceReplica {
        partition: PARTITION,
        epoch: EPOCH,
        replicas_version: version,
        replicas: nodes.iter().map(|node| NodeId(*node)).collect(),
        newcomer: newcomer.map(|node| (NodeId(node), copy(node, version))),
    }
}

fn plan(nodes: &[u16], version: u32) -> MetadataCommand {
    let replicas = nodes.iter().map(|node| NodeId(*node)).collect();
    MetadataCommand::PlanReplicas { partition: PARTITION, replicas_version: version, replicas }
}

#[test]
fn only_what_is_planned_is_changed_and_a_plan_that_is_given_up_makes_late_proposals_void() {
    let mut world = led(5, 3);
    assert_eq!(refused(&mut world, replace(&[1, 2, 4], Some(4), 0)), PartitionRefusal::NotPlanned);
    let planned = MetadataEvent::ReplicasPlanned { partition: PARTITION };
    assert_eq!(world.apply(plan(&[1, 2, 4], 0)).0, [planned]);
    assert!(decided(&world).newcomer() == Some(NodeId(4)) && !decided(&world).has_replica(NodeId(4)));
    assert!(decided(&world).has_or_gets_replica(NodeId(4)));
    assert_eq!(refused(&mut world, replace(&[1, 2, 5], Some(5), 1)), PartitionRefusal::NotPlanned);
    world.ok(plan(&[], 1));
    assert_eq!(decided(&world).newcomer(), None);
    let stale = PartitionRefusal::StaleVersion { given: 1, current: 2 };
    assert_eq!(refused(&mut world, replace(&[1, 2, 4], Some(4), 1)), stale);
    world.ok(plan(&[1, 2, 4], 2));
    assert_eq!(
        refused(&mut world, replace(&[1, 2, 4], Some(4), 1)),
        PartitionRefusal::StaleVersion { given: 1, current: 3 }
    );
    let earlier = |newcomer| match replace(&[1, 2, 4], Some(4), 3) {
        MetadataCommand::ReplaceReplica { partition, epoch, replicas_version, replicas, .. } => {
            MetadataCommand::ReplaceReplica { partition, epoch, replicas_version, replicas, newcomer }
        }
        other => other,
    };
    let given = copy(4, 1);
    let of_the_plan_before = earlier(Some((NodeId(4), given)));
    assert_eq!(
        refused(&mut world, of_the_plan_before),
        PartitionRefusal::StaleIncarnation { node: NodeId(4), given },
        "what a copy of an earlier plan held may be gone"
    );
    world.ok(replace(&[1, 2, 4], Some(4), 3));
    assert_eq!((decided(&world).planned.len(), decided(&world).replicas_version), (0, 4));
    let one_at_a_time = PartitionRefusal::NotOneChange { added_count: 2, removed_count: 2 };
    assert_eq!(refused(&mut world, plan(&[1, 3, 5], 4)), one_at_a_time);
    world.ok(drain(5, true));
    assert_eq!(refused(&mut world, plan(&[1, 2, 4, 5], 4)), PartitionRefusal::Draining { node: NodeId(5) });
    assert_eq!(refused(&mut world, plan(&[1, 2, 4, 9], 4)), PartitionRefusal::NodeUnknown { node: NodeId(9) });
}

#[test]
fn a_node_that_leaves_stays_marked_through_restarts_until_it_may_lead_again() {
    let mut world = World::of_nodes(2);
    let leave = |node| MetadataCommand::SetLeaving { node: NodeId(node) };
    let marks = |world: &World| world.state.node(NodeId(2)).map(|node| (node.draining, node.leaving));
    world.ok(leave(2));
    assert_eq!(marks(&world), Some((true, true)));
    world.ok(register(2, 102, 9));
    assert_eq!(marks(&world), Some((true, true)));
    world.ok(drain(2, false));
    assert_eq!(marks(&world), Some((false, false)));
    world.ok(drain(2, true));
    world.ok(register(2, 102, 10));
    assert_eq!(marks(&world), Some((false, false)), "a node that was only drained serves again");
    world.ok(MetadataCommand::AllowNode { node: NodeId(7), address: "a:1".into() });
    world.ok(leave(7));
    assert_eq!(world.state.allowed_nodes().count(), 0, "an allowance is just taken back");
    assert_eq!(World::of_nodes(1).refused(leave(1)), MetadataRefusal::LastNode { node: NodeId(1) });
}

#[test]
fn a_replica_set_changes_by_one_and_the_newcomer_gets_the_leavers_place() {
    let mut world = led(4, 3);
    world.ok(plan(&[1, 2, 4], 0));
    let (events, _) = world.apply(replace(&[1, 2, 4], Some(4), 1));
    let changed = MetadataEvent::ReplicasChanged {
        partition: PARTITION,
        epoch: EPOCH,
        replicas: vec![NodeId(1), NodeId(2), NodeId(4)],
        replicas_version: 2,
        in_quorum: vec![NodeId(1), NodeId(2), NodeId(4)],
        in_quorum_version: 2,
        leaver: Some(NodeId(3)),
    };
    assert_eq!(events, [changed]);
    assert_eq!(decided(&world).replica(NodeId(4)).unwrap().admitted, copy(4, 1));
    assert_eq!(world.state.replica_counts().get(&NodeId(3)), None);
    assert_eq!(world.state.replica_counts()[&NodeId(4)], 1);
}

#[test]
fn one_copy_becomes_three_and_one_again_step_by_step() {
    let mut world = led(3, 1);
    for (version, nodes, newcomer) in
        [(0, &[1, 2][..], Some(2)), (2, &[1, 2, 3], Some(3)), (4, &[1, 3], None), (6, &[1], None)]
    {
        world.ok(plan(nodes, version));
        world.ok(replace(nodes, newcomer, version + 1));
        let mut expected = nodes.to_vec();
        expected.sort_unstable();
        assert_eq!(in_quorum(&world), expected);
    }
}

#[test]
fn other_changes_of_a_replica_set_are_refused() {
    let mut world = led(5, 3);
    let not_one = |added_count, removed_count| PartitionRefusal::NotOneChange { added_count, removed_count };
    let cases = [
        (replace(&[1, 2, 3], None, 0), not_one(0, 0)),
        (replace(&[1, 4, 5], Some(4), 0), not_one(2, 2)),
        (replace(&[1], None, 0), not_one(0, 2)),
        (replace(&[], None, 0), not_one(0, 3)),
        (replace(&[1, 2, 2, 3, 4], Some(4), 0), not_one(1, 0)),
        (replace(&[1, 2, 4], None, 0), PartitionRefusal::WrongNewcomer),
        (replace(&[1, 2, 4], Some(5), 0), PartitionRefusal::WrongNewcomer),
        (replace(&[1, 2, 4], Some(4), 7), PartitionRefusal::StaleVersion { given: 7, current: 0 }),
        (replace(&[2, 3, 4], Some(4), 0), PartitionRefusal::IsLeader { node: NodeId(1) }),
        (replace(&[1, 2, 9], Some(9), 0), PartitionRefusal::NodeUnknown { node: NodeId(9) }),
    ];
    for (command, reason) in cases {
        assert_eq!(refused(&mut world, command), reason);
    }
    world.ok(drain(4, true));
    assert_eq!(refused(&mut world, replace(&[1, 2, 4], Some(4), 0)), PartitionRefusal::Draining { node: NodeId(4) });
    world.ok(register(5, 905, 1));
    let stale = PartitionRefusal::StaleIncarnation { node: NodeId(5), given: life(5) };
    assert_eq!(refused(&mut world, replace(&[1, 2, 5], Some(5), 0)), stale);
    world.ok(evict(3, 1));
    let below = PartitionRefusal::BelowQuorum { left_count: 1, quorum: 2 };
    assert_eq!(refused(&mut world, replace(&[1, 3], None, 0)), below, "the evicted one cannot stay alone");
}

#[test]
fn a_node_goes_only_when_it_holds_nothing_and_comes_back_only_when_it_is_allowed() {
    let mut world = led(4, 3);
    let remove = |node| MetadataCommand::RemoveNode { node: NodeId(node) };
    let allow = |node| MetadataCommand::AllowNode { node: NodeId(node), address: "new:9000".into() };
    let holds = MetadataRefusal::NodeHoldsReplicas { node: NodeId(3), replica_count: 1 };
    assert_eq!(world.refused(remove(3)), holds);
    assert_eq!(world.refused(remove(9)), MetadataRefusal::NodeNotFound { node: NodeId(9) });
    assert_eq!(world.apply(remove(4)).0, [MetadataEvent::NodeRemoved { node: NodeId(4) }]);
    assert!(world.state.is_removed(NodeId(4)) && world.state.node(NodeId(4)).is_none());
    assert_eq!(world.refused(register(4, 904, 1)), MetadataRefusal::NodeNotAllowed { node: NodeId(4) });
    assert_eq!(world.apply(allow(4)).0, [MetadataEvent::NodeAllowed { node: NodeId(4) }]);
    assert_eq!(world.apply(allow(4)).0, [], "twice is once");
    let retired = MetadataRefusal::RetiredIncarnation { node: NodeId(4), incarnation: 104 };
    assert_eq!(world.refused(register(4, 104, 9)), retired);
    world.ok(register(4, 904, 1));
    assert_eq!(world.state.allowed_nodes().count(), 0);
    assert_eq!(world.refused(allow(4)), MetadataRefusal::NodeExists { node: NodeId(4) });
    world.ok(allow(5));
    assert_eq!(world.apply(remove(5)).0, [MetadataEvent::NodeRemoved { node: NodeId(5) }], "an allowance ends too");
    let mut alone = World::of_nodes(1);
    assert_eq!(alone.refused(remove(1)), MetadataRefusal::LastNode { node: NodeId(1) });
}

#[test]
fn no_two_nodes_ever_have_one_incarnation() {
    let mut world = World::of_nodes(2);
    world.ok(register(1, 900, 1));
    for incarnation in [101, 900] {
        let refusal = world.refused(register(2, incarnation, 5));
        assert!(matches!(refusal, MetadataRefusal::InvalidRegistration { node: NodeId(2), .. }), "{refusal}");
    }
    assert_eq!(world.state.had_incarnation(101), Some(NodeId(1)));
}

#[test]
fn draining_is_said_once_and_ends_with_the_next_start() {
    let mut world = World::of_nodes(1);
    let set = MetadataEvent::DrainingSet { node: NodeId(1), draining: true };
    assert_eq!(world.apply(drain(1, true)).0, [set]);
    assert_eq!(world.apply(drain(1, true)).0, []);
    world.ok(register(1, 101, 1));
    assert!(world.state.node(NodeId(1)).unwrap().draining, "the same start registers again");
    let (events, _) = world.apply(register(1, 101, 2));
    assert!(events.contains(&MetadataEvent::DrainingSet { node: NodeId(1), draining: false }), "{events:?}");
    assert!(!world.state.node(NodeId(1)).unwrap().draining);
    assert_eq!(world.refused(drain(9, true)), MetadataRefusal::NodeNotFound { node: NodeId(9) });
}

#[test]
fn a_change_of_mode_opens_an_epoch_of_every_partition() {
    let mut world = led(3, 3);
    let set = |mode| MetadataCommand::SetTopicMode { topic: TopicId(1), mode };
    assert_eq!(world.apply(set(ReplicationMode::L1)).0, [], "it is so already");
    let (events, _) = world.apply(set(ReplicationMode::L2));
    let opened = MetadataEvent::EpochOpened { partition: PARTITION, epoch: LeaderEpoch(2) };
    let mode = MetadataEvent::TopicModeSet { topic: TopicId(1), mode: ReplicationMode::L2 };
    assert_eq!(events, [mode, opened]);
    assert_eq!((decided(&world).leader, world.state.leader_counts().len()), (None, 0));
    let unknown = MetadataCommand::SetTopicMode { topic: TopicId(9), mode: ReplicationMode::L2 };
    assert_eq!(world.refused(unknown), MetadataRefusal::TopicNotFound { topic: TopicId(9) });
}

fn recovery(node: u16) -> PartitionRecovery {
    PartitionRecovery {
        partition: PARTITION,
        epoch: LeaderEpoch(2),
        node: NodeId(node),
        incarnation: ReplicaIncarnation { node: 100 + u64::from(node), copy_version: 0, damage_count: 1 },
        accept_data_loss: true,
        requested_by: "operator".into(),
        recovered_at_secs: 77,
        lost_from: 500,
        lost_to: 900,
    }
}

#[test]
fn a_recovery_goes_on_with_one_copy_counts_no_other_and_is_remembered() {
    let mut world = led(3, 3);
    world.open(PARTITION, 2);
    let (events, answer) = world.apply(MetadataCommand::RecoverPartition(recovery(2)));
    assert_eq!(answer, Ok(MetadataAnswer::PartitionRecovered { partition: PARTITION, epoch: LeaderEpoch(2) }));
    assert!(matches!(events[0], MetadataEvent::PartitionRecovered { lost_from: 500, lost_to: 900, .. }));
    assert!(matches!(events[1], MetadataEvent::LeaderChosen { leader: NodeId(2), boot_number: 1, .. }));
    let state = decided(&world);
    assert_eq!(state.replica(NodeId(2)).unwrap().admitted, recovery(2).incarnation);
    assert_eq!(state.replica(NodeId(1)).unwrap().admitted.node, NO_INCARNATION);
    assert!(world.state.leader_is_current(&state));
    let audit = &world.state.recoveries()[0];
    assert_eq!((audit.requested_by.as_str(), audit.recovered_at_secs, audit.index), ("operator", 77, world.index));
    let refilled = ReplicaIncarnation { node: 101, copy_version: 0, damage_count: 1 };
    let admit = MetadataCommand::Admit {
        node: NodeId(1),
        partitions: vec![(PARTITION, refilled, LeaderEpoch(2), state.in_quorum_version)],
    };
    assert_eq!(verdict(&mut world, admit), Ok(()), "a copy that was refilled counts again");
}

#[test]
fn a_recovery_without_need_or_without_consent_is_refused() {
    let mut world = led(4, 3);
    let wrong = |change: fn(&mut PartitionRecovery)| {
        let mut order = recovery(2);
        change(&mut order);
        MetadataCommand::RecoverPartition(order)
    };
    let has_leader = PartitionRefusal::HasLeader { leader: NodeId(1), epoch: EPOCH };
    assert_eq!(refused(&mut world, wrong(|order| order.epoch = EPOCH)), has_leader);
    world.open(PARTITION, 2);
    let stale = |damage_count, node| PartitionRefusal::StaleIncarnation {
        node: NodeId(2),
        given: ReplicaIncarnation { node, copy_version: 0, damage_count },
    };
    let cases = [
        (wrong(|order| order.accept_data_loss = false), PartitionRefusal::DataLossNotAccepted),
        (wrong(|order| order.requested_by.clear()), PartitionRefusal::InvalidAudit { what: "name of who orders it" }),
        (wrong(|order| order.lost_to = 499), PartitionRefusal::InvalidAudit { what: "lost range" }),
        (
            wrong(|order| order.epoch = LeaderEpoch(3)),
            PartitionRefusal::StaleEpoch { given: LeaderEpoch(3), current: LeaderEpoch(2) },
        ),
        (wrong(|order| order.node = NodeId(4)), PartitionRefusal::NotReplica { node: NodeId(4) }),
        (wrong(|order| order.incarnation.node = 999), stale(1, 999)),
    ];
    for (command, reason) in cases {
        assert_eq!(refused(&mut world, command), reason);
    }
    assert!(world.state.recoveries().is_empty());
}

fn in_rack(node: u16, rack: &str) -> MetadataCommand {
    match register(node, 100 + u64::from(node), 1) {
        MetadataCommand::RegisterNode { node, incarnation, boot_number, nonce, address, .. } => {
            let rack = rack.to_owned();
            MetadataCommand::RegisterNode { node, incarnation, boot_number, nonce, address, rack }
        }
        other => other,
    }
}

#[test]
fn copies_go_to_different_racks_and_preferred_leaders_are_spread() {
    let mut world = World::of_nodes(0);
    for (node, rack) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")] {
        world.ok(in_rack(node, rack));
    }
    world.created(create("alpha", 30, 3));
    let mut preferred = std::collections::BTreeMap::new();
    for (_, partition) in world.state.partitions() {
        let racks: std::collections::BTreeSet<_> =
            partition.replicas.iter().map(|replica| world.state.node(replica.node).unwrap().rack.clone()).collect();
        assert_eq!(racks.len(), 3, "{partition:?}");
        *preferred.entry(partition.replicas[0].node.0).or_insert(0) += 1;
    }
    assert_eq!(world.state.replica_counts().values().copied().collect::<Vec<_>>(), [10, 10, 10, 15, 15, 30]);
    assert!(preferred.values().all(|count| *count == 5), "{preferred:?}");
}

#[test]
fn a_draining_node_gets_copies_only_when_there_are_not_enough_others() {
    let mut world = World::of_nodes(4);
    world.ok(drain(2, true));
    world.created(create("alpha", 6, 3));
    assert_eq!(world.state.replica_counts().get(&NodeId(2)), None);
    world.created(create("beta", 4, 4));
    assert_eq!(world.state.replica_counts()[&NodeId(2)], 4);
    let preferred = world.state.partitions().filter(|(_, state)| state.replicas[0].node == NodeId(2)).count();
    assert_eq!(preferred, 0, "nor is it preferred to lead");
}

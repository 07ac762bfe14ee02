//! How the metadata leader deals with nodes that die, are emptied, or lead too much.

use crate::controller::{PARTITION, World, clean_of};
use crate::support::{create, register};
use lance_cluster::metadata::{ControllerOptions, MetadataCommand, PromiseOutcome, ReplicationMode};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::peer::PeerIdentity;

/// Three nodes and a partition that node 1 leads in epoch 1.
fn led() -> World {
    let mut world = World::new(3, 3);
    world.commit_proposed();
    (1..=3).for_each(|node| world.clean(node, 1, 0, 0));
    world.commit_proposed();
    world.controller.on_leading(PARTITION, LeaderEpoch(1));
    assert_eq!(world.leader(), Some((1, 1)));
    assert!(world.controller.is_settled());
    world
}

/// Three nodes, and a topic of `count` partitions that node 1 leads all of.
fn lopsided(count: u16) -> World {
    let mut world = World::new(3, 3);
    world.apply(&MetadataCommand::DeleteTopic { topic: TopicId(1), deleted_at_secs: 1 });
    world.proposed.clear();
    world.apply(&create("wide", count, 3));
    world.commit_proposed();
    for number in 0..count {
        let partition = TopicPartition::new(TopicId(2), number);
        // Node 1 holds more than the others: it has to lead.
        world.clean_for(partition, 1, 1, 900);
        world.clean_for(partition, 2, 1, 500);
        world.clean_for(partition, 3, 1, 500);
    }
    world.commit_proposed();
    (0..count).for_each(|number| world.report_leading(TopicPartition::new(TopicId(2), number)));
    assert_eq!(world.state.leader_counts()[&NodeId(1)], u32::from(count));
    world
}

fn counts(world: &World) -> Vec<u32> {
    (1..=3).map(|node| world.state.leader_counts().get(&NodeId(node)).copied().unwrap_or(0)).collect()
}

#[test]
fn the_partitions_of_a_silent_leader_get_another_one() {
    let mut world = led();
    world.silent.insert(1);
    world.pass_ms(900);
    assert!(world.proposed.is_empty());
    world.pass_ms(200);
    assert_eq!(world.proposed.len(), 1);
    world.commit_proposed();
    world.clean(3, 2, 1, 100);
    world.clean(2, 2, 1, 100);
    world.commit_proposed();
    assert_eq!(world.leader(), Some((2, 2)), "all that are alive have answered: nobody is waited for");
}

#[test]
fn a_silent_follower_changes_nothing() {
    let mut world = led();
    world.silent.insert(3);
    world.pass_ms(5000);
    assert!(world.proposed.is_empty() && !world.controller.is_alive(NodeId(3)));
    world.silent.clear();
    world.pass_ms(50);
    assert!(world.controller.is_alive(NodeId(3)));
}

#[test]
fn a_node_heard_in_another_boot_than_the_registered_one_is_silent() {
    let mut world = led();
    world.silent.insert(1);
    for _ in 0..30 {
        world.pass_ms(50);
        let next_boot = PeerIdentity { boot_number: 2, ..identity(&world, 1) };
        world.controller.on_heard(&world.state, next_boot, world.now_ms);
    }
    assert_eq!(world.proposed.len(), 1);
}

#[test]
fn a_wiped_node_that_counts_its_boots_anew_is_not_taken_for_the_one_that_was_chosen() {
    let mut world = led();
    world.silent.insert(1);
    for _ in 0..30 {
        world.pass_ms(50);
        let registered = identity(&world, 1);
        let wiped = PeerIdentity { incarnation: registered.incarnation + 1, ..registered };
        world.controller.on_heard(&world.state, wiped, world.now_ms);
    }
    assert_eq!(world.proposed.len(), 1);
}

/// A node as it is registered.
fn identity(world: &World, node: u16) -> PeerIdentity {
    let known = world.state.node(NodeId(node)).unwrap();
    PeerIdentity { node: NodeId(node), incarnation: known.incarnation, boot_number: known.boot_number }
}

#[test]
fn a_new_metadata_leader_knows_at_once_who_was_silent_and_waits_for_who_it_never_heard() {
    for (heard_ms_ago, at_once) in [(Some(1500), true), (Some(100), false), (None, false)] {
        let mut world = led();
        world.now_ms = 10_000;
        world.controller = lance_cluster::metadata::Controller::new(ControllerOptions::default());
        if let Some(ago) = heard_ms_ago {
            world.controller.on_heard(&world.state, identity(&world, 1), world.now_ms - ago);
        }
        world.act(|controller, state, now_ms, actions| controller.activate(state, now_ms, actions));
        assert_eq!(!world.proposed.is_empty(), at_once, "{heard_ms_ago:?}");
        world.silent.insert(1);
        world.pass_ms(1000);
        assert!(!world.proposed.is_empty());
    }
}

#[test]
fn a_process_that_stood_still_takes_nobody_for_dead() {
    let mut world = led();
    world.pass_ms(100);
    world.now_ms += 60_000;
    world.act(|controller, state, now_ms, actions| controller.on_tick(state, now_ms, actions));
    assert!(world.proposed.is_empty());
    world.pass_ms(3000);
    assert!(world.proposed.is_empty());
}

#[test]
fn a_sole_copy_keeps_its_leader_while_its_node_is_silent() {
    let mut world = World::new(1, 1);
    world.commit_proposed();
    world.clean(1, 1, 0, 0);
    world.commit_proposed();
    world.silent.insert(1);
    world.pass_ms(5000);
    assert!(world.proposed.is_empty());
}

#[test]
fn a_late_answer_that_holds_more_wins_within_the_grace_and_not_after() {
    for (late_ms, winner) in [(40, 3), (60, 1)] {
        let mut world = led();
        world.silent.insert(9);
        world.request_epoch(1);
        world.commit_proposed();
        world.clean(1, 2, 1, 500);
        world.clean(2, 2, 1, 500);
        world.pass_ms(late_ms);
        world.clean(3, 2, 1, 900);
        world.commit_proposed();
        assert_eq!(world.leader(), Some((winner, 2)), "after {late_ms} ms");
    }
}

#[test]
fn an_unclean_answer_is_an_answer_and_does_not_count() {
    let mut world = led();
    world.request_epoch(1);
    world.commit_proposed();
    world.answer(3, 2, PromiseOutcome::Unclean);
    world.clean(1, 2, 1, 100);
    assert_eq!(world.controller.waiting().collect::<Vec<_>>(), [(PARTITION, 1)]);
    world.clean(2, 2, 1, 500);
    world.commit_proposed();
    assert_eq!(world.leader(), Some((2, 2)), "nobody else can answer");
}

#[test]
fn with_one_clean_answer_of_three_a_partition_stays_offline_and_is_asked_about() {
    let mut world = led();
    world.silent.extend([1, 2]);
    world.pass_ms(1100);
    world.commit_proposed();
    world.answer(3, 2, clean_of(103, 1, 1, 100));
    for _ in 0..20 {
        world.asked.clear();
        world.pass_ms(250);
        assert!(world.proposed.is_empty());
        assert_eq!(world.asked.keys().copied().collect::<Vec<_>>(), [1, 2]);
    }
    assert_eq!(world.controller.waiting().collect::<Vec<_>>(), [(PARTITION, 1)]);
}

#[test]
fn of_two_replicas_one_clean_answer_elects() {
    let mut world = World::new(2, 2);
    world.commit_proposed();
    world.clean(1, 1, 0, 0);
    world.pass_ms(50);
    world.commit_proposed();
    assert_eq!(world.leader(), Some((1, 1)));
}

#[test]
fn a_draining_node_hands_over_what_it_leads_once_the_target_holds_everything() {
    let mut world = led();
    world.apply(&MetadataCommand::SetDraining { node: NodeId(1), draining: true });
    world.pass_ms(300);
    assert_eq!(world.moves, [(1, 1, 2)]);
    assert!(world.proposed.is_empty(), "the leader has to be ready first");
    world.move_ready(1, 3);
    world.move_ready(7, 2);
    assert!(world.proposed.is_empty(), "another target or epoch was not asked for");
    world.ready_from(NodeId(3), PARTITION, LeaderEpoch(1), NodeId(2));
    assert!(world.proposed.is_empty(), "it does not lead");
    world.move_ready(1, 2);
    world.commit_proposed();
    (1..=3).for_each(|node| world.clean(node, 2, 1, 500));
    world.commit_proposed();
    assert_eq!(world.leader(), Some((2, 2)));
    assert_eq!(world.controller.move_count(), 0);
    world.controller.on_leading(PARTITION, LeaderEpoch(2));
    world.pass_ms(20_000);
    assert_eq!(world.moves.len(), 1, "it leads nothing any more");
}

#[test]
fn a_leader_that_hands_over_by_itself_is_followed_by_whom_it_names() {
    for target in [2, 3] {
        let mut world = led();
        world.move_ready(7, target);
        world.move_ready(1, 1);
        world.move_ready(1, 9);
        assert!(world.proposed.is_empty(), "another epoch, itself, and who holds no copy");
        world.move_ready(1, target);
        world.commit_proposed();
        (1..=3).for_each(|node| world.clean(node, 2, 1, 500));
        world.commit_proposed();
        assert_eq!(world.leader(), Some((target, 2)));
        assert_eq!(world.controller.move_count(), 0);
    }
}

#[test]
fn the_target_of_a_move_does_not_win_against_a_longer_log() {
    let mut world = led();
    world.apply(&MetadataCommand::SetDraining { node: NodeId(1), draining: true });
    world.pass_ms(300);
    world.move_ready(1, 2);
    world.commit_proposed();
    world.clean(1, 2, 1, 500);
    world.clean(2, 2, 1, 400);
    world.clean(3, 2, 1, 400);
    world.commit_proposed();
    assert_eq!(world.leader(), Some((1, 2)));
}

#[test]
fn the_planned_target_wins_among_equal_logs() {
    for target in [2, 3] {
        let mut world = led();
        // The other follower leads more: the target is certain.
        world.lead_elsewhere(5 - target);
        world.apply(&MetadataCommand::SetDraining { node: NodeId(1), draining: true });
        world.pass_ms(300);
        assert_eq!(world.moves, [(1, 1, target)]);
        world.move_ready(1, target);
        world.commit_proposed();
        (1..=3).for_each(|node| world.clean(node, 2, 1, 500));
        world.commit_proposed();
        assert_eq!(world.leader(), Some((target, 2)));
    }
}

#[test]
fn a_move_whose_leader_is_not_ready_in_time_is_abandoned_and_tried_again_later() {
    let mut world = led();
    world.apply(&MetadataCommand::SetDraining { node: NodeId(1), draining: true });
    world.pass_ms(5300);
    assert_eq!(world.controller.move_count(), 0);
    let asked = world.moves.len();
    assert_eq!(asked, 5, "a request that may be lost is repeated each second");
    world.move_ready(1, 2);
    assert!(world.proposed.is_empty(), "too late");
    world.pass_ms(9000);
    assert_eq!(world.moves.len(), asked);
    world.pass_ms(2000);
    assert!(world.moves.len() > asked);
}

#[test]
fn leaders_are_balanced_after_a_while_of_quiet_and_no_further_than_needed() {
    let mut world = lopsided(9);
    assert_eq!(counts(&world), [9, 0, 0]);
    world.pass_ms(9000);
    assert!(world.moves.is_empty());
    world.finish_moves(3000);
    assert_eq!(counts(&world), [3, 3, 3]);
    let moved = world.moves.len();
    world.finish_moves(20_000);
    assert_eq!(world.moves.len(), moved, "balance is reached once");
}

#[test]
fn a_restart_of_a_node_delays_the_balance() {
    let mut world = lopsided(6);
    for boot_number in 2..6 {
        world.pass_ms(5000);
        world.apply(&register(3, 103, boot_number));
    }
    assert!(world.moves.is_empty());
    world.finish_moves(12_000);
    assert_eq!(counts(&world), [2, 2, 2]);
}

#[test]
fn nothing_moves_to_a_replica_outside_the_in_quorum_set_or_a_silent_one() {
    let mut world = led();
    let partitions = vec![(PARTITION, LeaderEpoch(1), 1)];
    world.apply(&MetadataCommand::Evict { node: NodeId(2), partitions });
    world.silent.insert(3);
    world.pass_ms(1500);
    world.apply(&MetadataCommand::SetDraining { node: NodeId(1), draining: true });
    world.pass_ms(3000);
    assert!(world.moves.is_empty());
    world.silent.clear();
    world.pass_ms(500);
    assert_eq!(world.moves, [(1, 1, 3)]);
}

#[test]
fn many_new_partitions_are_led_evenly_at_once() {
    let mut world = World::new(3, 3);
    world.apply(&create("wide", 30, 3));
    world.commit_proposed();
    for number in 0..30 {
        let partition = TopicPartition::new(TopicId(2), number);
        (1..=3).for_each(|node| world.clean_for(partition, node, 1, 0));
    }
    world.commit_proposed();
    assert_eq!(counts(&world), [10, 10, 10]);
}

#[test]
fn a_change_of_mode_brings_the_partition_to_a_leader_again() {
    let mut world = led();
    world.apply(&MetadataCommand::SetTopicMode { topic: TopicId(1), mode: ReplicationMode::L2 });
    assert_eq!(world.asked.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    (1..=3).for_each(|node| world.clean(node, 2, 1, 100));
    world.commit_proposed();
    assert_eq!(world.leader().map(|(_, epoch)| epoch), Some(2));
}

/// Node 1 finds itself slow, in everything that it leads.
fn report_slow(world: &mut World) {
    let led: Vec<(TopicPartition, LeaderEpoch)> =
        world.state.partitions().map(|(partition, decided)| (partition, decided.epoch)).collect();
    let now_ms = world.now_ms;
    world.controller.on_leader_slow(&world.state, NodeId(1), &led, now_ms);
}

#[test]
fn a_slow_leader_is_relieved_and_leads_nothing_for_a_while_that_doubles() {
    let mut world = lopsided(6);
    for length_ms in [60_000, 120_000, 240_000] {
        report_slow(&mut world);
        world.finish_moves(3_000);
        assert_eq!(counts(&world), [0, 3, 3]);
        let moved = world.moves.len();
        // Another report of the same time changes nothing.
        report_slow(&mut world);
        world.finish_moves(length_ms - 10_000);
        assert_eq!((counts(&world), world.moves.len()), (vec![0, 3, 3], moved), "nothing goes back before");
        world.finish_moves(20_000);
        assert_eq!(counts(&world), [2, 2, 2]);
    }
}

#[test]
fn a_slow_leader_stays_where_no_other_replica_counts() {
    let mut world = led();
    let partition = world.state.partition(PARTITION).unwrap();
    assert_eq!(partition.in_quorum.len(), 3);
    world.silent.extend([2, 3]);
    world.pass_ms(1500);
    report_slow(&mut world);
    world.pass_ms(40_000);
    assert!(world.moves.is_empty(), "{:?}", world.moves);
    world.silent.clear();
    world.pass_ms(1000);
    assert!(world.moves.is_empty(), "what was asked for long ago is asked for again, if it still is so");
    report_slow(&mut world);
    world.pass_ms(500);
    assert_eq!(world.moves.len(), 1);
}

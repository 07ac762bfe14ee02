//! Changes of the replica set and of the in-quorum set, and what a leader may propose, ack and hand over.

use super::log::{PARTITION, epoch, incarnation};
use lance_cluster::metadata::ReplicationMode;
use lance_cluster::replica::{LeaderEffect, LeaderReplica, Swap, Vote};
use lance_messages::id::{NodeId, ReplicaIncarnation};

fn vote(node: u16) -> Vote {
    Vote { node: NodeId(node), admitted: incarnation(node), in_quorum: true }
}

/// Node 1 leads epoch 4 with replicas 1..=copies; its start, at 0..104, is on every disk.
fn serving(copies: u16) -> LeaderReplica {
    let votes: Vec<Vote> = (1..=copies).map(vote).collect();
    let mut leader = LeaderReplica::new(PARTITION, epoch(4), NodeId(1), &votes, 0, 0);
    leader.on_epoch_started(104, &mut Vec::new());
    leader.on_local_flushed(104, &mut Vec::new());
    for node in 2..=copies {
        acked(&mut leader, node, 104);
    }
    assert!(leader.is_serving());
    leader
}

/// The high watermark after a follower has acked.
fn acked(leader: &mut LeaderReplica, node: u16, durable_end: u64) -> u64 {
    leader.on_appended(NodeId(node), epoch(4), incarnation(node), durable_end, &mut Vec::new());
    leader.high_watermark()
}

fn flushed(leader: &mut LeaderReplica, durable_end: u64) -> u64 {
    leader.on_local_flushed(durable_end, &mut Vec::new());
    leader.high_watermark()
}

fn nodes(numbers: &[u16]) -> Vec<NodeId> {
    numbers.iter().map(|&number| NodeId(number)).collect()
}

#[test]
fn while_an_eviction_is_pending_only_members_of_both_sets_count() {
    let mut leader = serving(3);
    leader.on_quorum_change_proposed(&nodes(&[1, 2]));
    assert!(leader.is_change_pending() && !leader.may_evict(NodeId(2)), "one change at a time");
    flushed(&mut leader, 200);
    assert_eq!(acked(&mut leader, 3, 200), 104, "it may be evicted already");
    leader.on_change_refused(&mut Vec::new());
    assert_eq!(leader.high_watermark(), 200, "it was not");
    leader.on_quorum_change_proposed(&nodes(&[1, 2]));
    let mut effects = Vec::new();
    leader.on_in_quorum_changed(&nodes(&[1, 2]), &mut effects);
    assert_eq!((leader.in_quorum(), effects), (nodes(&[1, 2]), vec![]));
    flushed(&mut leader, 300);
    assert_eq!(acked(&mut leader, 3, 300), 200);
    assert_eq!(acked(&mut leader, 2, 300), 300);
}

#[test]
fn a_returning_member_counts_once_its_return_is_committed() {
    let mut leader = serving(3);
    leader.on_in_quorum_changed(&nodes(&[1, 2]), &mut Vec::new());
    flushed(&mut leader, 200);
    assert!(leader.may_rejoin(NodeId(3)), "it holds everything committed");
    acked(&mut leader, 2, 200);
    assert!(!leader.may_rejoin(NodeId(3)) && !leader.may_rejoin(NodeId(2)) && !leader.may_rejoin(NodeId(7)));
    acked(&mut leader, 3, 200);
    assert!(leader.may_rejoin(NodeId(3)));
    leader.on_quorum_change_proposed(&nodes(&[1, 2, 3]));
    flushed(&mut leader, 300);
    assert_eq!(acked(&mut leader, 3, 300), 200);
    leader.on_in_quorum_changed(&nodes(&[1, 2, 3]), &mut Vec::new());
    assert_eq!(leader.high_watermark(), 300);
}

#[test]
fn nobody_is_evicted_below_the_quorum_or_before_the_epoch_start_is_committed() {
    assert!(!serving(2).may_evict(NodeId(2)));
    let mut leader = serving(3);
    assert!(leader.may_evict(NodeId(2)) && !leader.may_evict(NodeId(1)) && !leader.may_evict(NodeId(9)));
    leader.on_in_quorum_changed(&nodes(&[1, 2]), &mut Vec::new());
    assert!(!leader.may_evict(NodeId(2)) && !leader.may_evict(NodeId(3)));
    assert!(serving(5).may_evict(NodeId(5)));
    let fresh = LeaderReplica::new(PARTITION, epoch(4), NodeId(1), &[1, 2, 3].map(vote), 0, 0);
    assert!(!fresh.may_evict(NodeId(2)));
}

#[test]
fn while_a_replacement_is_pending_both_sets_need_a_quorum() {
    let mut leader = serving(3);
    leader.on_newcomer_added(NodeId(4), incarnation(4));
    flushed(&mut leader, 200);
    assert!(!leader.may_change_replicas(&nodes(&[1, 2, 4])), "the newcomer holds nothing");
    assert_eq!(acked(&mut leader, 4, 200), 104, "a newcomer counts for nothing");
    assert!(leader.may_change_replicas(&nodes(&[1, 2, 4])));
    leader.on_replicas_change_proposed(&nodes(&[1, 2, 4]));
    assert_eq!(acked(&mut leader, 3, 200), 200, "on 1 and 3 of the old set, on 1 and 4 of the new one");
    flushed(&mut leader, 300);
    assert_eq!(acked(&mut leader, 3, 300), 200, "only on a quorum of the old set");
    assert_eq!(acked(&mut leader, 2, 250), 250, "on a quorum of both");
    assert_eq!(acked(&mut leader, 4, 300), 300);
    leader.on_replicas_changed(&[1, 2, 4].map(vote), &mut Vec::new());
    flushed(&mut leader, 400);
    assert_eq!(acked(&mut leader, 3, 400), 300, "it has left");
    assert_eq!(acked(&mut leader, 4, 400), 400);
    assert_eq!((leader.copies(), leader.in_quorum()), (3, nodes(&[1, 2, 4])));
}

#[test]
fn a_growing_set_counts_on_its_new_size_from_the_proposal_on() {
    let mut leader = serving(1);
    for (newcomer, members) in [(2, vec![1, 2]), (3, vec![1, 2, 3])] {
        leader.on_newcomer_added(NodeId(newcomer), incarnation(newcomer));
        let place = 104 * u64::from(newcomer);
        flushed(&mut leader, place);
        acked(&mut leader, 2, place);
        assert!(!leader.may_change_replicas(&nodes(&[2, 3])), "without the leader");
        let committed = leader.high_watermark();
        acked(&mut leader, newcomer, committed);
        assert!(leader.may_change_replicas(&nodes(&members)));
        leader.on_replicas_change_proposed(&nodes(&members));
        let before = leader.high_watermark();
        assert_eq!(flushed(&mut leader, place + 50), before, "not on the newcomer");
        let votes: Vec<Vote> = members.iter().map(|&node| vote(node)).collect();
        leader.on_replicas_changed(&votes, &mut Vec::new());
        assert_eq!(acked(&mut leader, newcomer, place + 50), place + 50);
    }
    leader.on_replicas_change_proposed(&nodes(&[1, 2]));
    leader.on_change_refused(&mut Vec::new());
    assert_eq!((leader.copies(), leader.quorum()), (3, 2));
}

#[test]
fn a_newcomer_that_is_given_up_or_loses_its_disk_holds_nothing() {
    let mut leader = serving(3);
    leader.on_newcomer_added(NodeId(4), incarnation(4));
    acked(&mut leader, 4, 104);
    assert!(leader.may_change_replicas(&nodes(&[1, 2, 4])));
    let wiped = ReplicaIncarnation { node: 999, copy_version: 0, damage_count: 0 };
    leader.on_incarnation_heard(NodeId(4), wiped);
    assert!(!leader.may_change_replicas(&nodes(&[1, 2, 4])));
    leader.on_newcomer_removed(NodeId(4));
    leader.on_newcomer_removed(NodeId(2));
    leader.on_newcomer_added(NodeId(1), incarnation(1));
    assert_eq!(leader.followers().map(|follower| follower.node.0).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn admission_needs_what_is_committed_and_the_epoch_start() {
    let refilled = ReplicaIncarnation { damage_count: 1, ..incarnation(3) };
    let mut leader = LeaderReplica::new(PARTITION, epoch(4), NodeId(1), &[1, 2, 3].map(vote), 0, 500);
    let mut effects = Vec::new();
    leader.on_appended(NodeId(3), epoch(4), refilled, 500, &mut effects);
    assert!(!leader.may_admit(NodeId(3), refilled), "the epoch has not begun");
    leader.on_epoch_started(604, &mut effects);
    assert!(!leader.may_admit(NodeId(3), refilled), "at a high watermark of 0");
    leader.on_local_flushed(700, &mut effects);
    leader.on_appended(NodeId(3), epoch(4), refilled, 604, &mut effects);
    assert!(leader.may_admit(NodeId(3), refilled), "the start need not be committed: nobody else may be alive");
    assert!(!leader.may_admit(NodeId(3), incarnation(3)) && !leader.may_admit(NodeId(2), incarnation(2)));
    assert_eq!(effects, []);
    leader.on_admitted(NodeId(3), refilled, &mut effects);
    let led = LeaderEffect::Led { partition: PARTITION, epoch: epoch(4) };
    let advanced = LeaderEffect::HighWatermarkAdvanced { partition: PARTITION, position: 604 };
    assert_eq!(effects, [advanced, led], "what it had acked counts at once");
    assert!(!leader.may_admit(NodeId(3), refilled), "it is admitted");
}

#[test]
fn an_earlier_life_counts_no_more_once_a_new_one_is_heard() {
    let mut leader = serving(3);
    let wiped = ReplicaIncarnation { node: 999, copy_version: 0, damage_count: 0 };
    flushed(&mut leader, 300);
    leader.on_incarnation_heard(NodeId(2), wiped);
    assert_eq!(acked(&mut leader, 2, 300), 104, "the bytes are gone");
    leader.on_appended(NodeId(2), epoch(4), wiped, 300, &mut Vec::new());
    assert_eq!(leader.high_watermark(), 104, "it is not admitted");
    let facts = leader.followers().next().unwrap();
    assert_eq!((facts.incarnation, facts.admitted, facts.durable_end), (wiped, incarnation(2), Some(300)));
    leader.on_admitted(NodeId(2), wiped, &mut Vec::new());
    assert_eq!(leader.high_watermark(), 300);
}

#[test]
fn a_spare_takes_the_place_of_a_member_that_does_not_respond() {
    let mut leader = serving(3);
    leader.on_in_quorum_changed(&nodes(&[1, 2]), &mut Vec::new());
    let all = |_| true;
    let without_2 = |node: NodeId| node != NodeId(2);
    assert!(!leader.lacks_responsive_quorum(all) && leader.lacks_responsive_quorum(without_2));
    assert_eq!(leader.spare_swap(all), None, "nothing is missing");
    let swap = Swap { out: NodeId(2), into: NodeId(3), incarnation: incarnation(3) };
    assert_eq!(leader.spare_swap(without_2), Some(swap));
    assert_eq!(leader.spare_swap(|_| false), None, "the spare does not respond either");
    flushed(&mut leader, 300);
    acked(&mut leader, 2, 300);
    assert_eq!(leader.spare_swap(without_2), None, "it lacks what is committed");
    acked(&mut leader, 3, 300);
    leader.on_quorum_change_proposed(&nodes(&[1, 3]));
    assert_eq!(leader.spare_swap(without_2), None, "one is under way");
    leader.on_in_quorum_changed(&nodes(&[1, 3]), &mut Vec::new());
    assert!(!leader.lacks_responsive_quorum(without_2));
}

#[test]
fn a_member_that_lost_its_disk_is_swapped_out_though_it_responds() {
    let mut leader = serving(3);
    leader.on_in_quorum_changed(&nodes(&[1, 2]), &mut Vec::new());
    leader.on_incarnation_heard(NodeId(2), ReplicaIncarnation { node: 999, copy_version: 0, damage_count: 0 });
    assert_eq!(leader.spare_swap(|_| true).map(|swap| (swap.out, swap.into)), Some((NodeId(2), NodeId(3))));
}

#[test]
fn l1_acks_at_the_own_disk_while_a_quorum_or_a_metadata_leader_is_there_and_l2_never() {
    let mut leader = serving(3);
    flushed(&mut leader, 500);
    let cases = [
        (ReplicationMode::L2, true, true, 104),
        (ReplicationMode::L1, true, false, 500),
        (ReplicationMode::L1, false, true, 500),
        (ReplicationMode::L1, false, false, 104),
    ];
    for (mode, quorum_responds, lease_holds, expected) in cases {
        assert_eq!(leader.ack_position(mode, quorum_responds, lease_holds), expected, "{mode:?}");
    }
    leader.on_fenced(epoch(5), &mut Vec::new());
    assert_eq!(leader.ack_position(ReplicationMode::L1, true, true), 104, "it leads no more");
}

#[test]
fn leadership_moves_to_a_clean_replica_that_holds_everything() {
    let mut leader = serving(3);
    flushed(&mut leader, 500);
    assert!(!leader.holds_everything(NodeId(2), 500));
    acked(&mut leader, 2, 500);
    assert!(leader.holds_everything(NodeId(2), 500) && !leader.holds_everything(NodeId(2), 600));
    leader.on_incarnation_heard(NodeId(2), ReplicaIncarnation { damage_count: 1, ..incarnation(2) });
    assert!(!leader.holds_everything(NodeId(2), 500));
}

#[test]
fn a_proposed_replica_set_that_lost_its_quorum_to_an_eviction_is_told() {
    let mut leader = serving(3);
    let kept = nodes(&[1, 2]);
    assert!(leader.may_change_replicas(&kept) && leader.may_become(&kept));
    leader.on_replicas_change_proposed(&kept);
    leader.on_votes_changed(&[vote(1), Vote { in_quorum: false, ..vote(2) }, vote(3)], &mut Vec::new());
    flushed(&mut leader, 200);
    acked(&mut leader, 2, 200);
    assert_eq!(acked(&mut leader, 3, 200), 104, "nothing is committed while both sets are to have it");
    assert!(!leader.may_become(&kept) && !leader.may_rejoin(NodeId(2)));
    // The plan was ended: the set stays what it is, and what was proposed is void.
    leader.on_replicas_changed(&[vote(1), Vote { in_quorum: false, ..vote(2) }, vote(3)], &mut Vec::new());
    assert_eq!(leader.high_watermark(), 200);
    assert!(leader.may_rejoin(NodeId(2)));
    // Who is new enters along with the set.
    leader.on_newcomer_added(NodeId(4), incarnation(4));
    assert!(leader.may_become(&nodes(&[1, 3, 4])) && leader.may_become(&nodes(&[1, 2, 4])));
}

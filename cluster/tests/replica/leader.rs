//! The leader's high watermark.

use lance_cluster::metadata::ReplicaIncarnation;
use lance_cluster::replica::{LeaderEffect, LeaderReplica, Vote};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};

const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
const EPOCH: LeaderEpoch = LeaderEpoch(4);

fn incarnation(node: u16) -> ReplicaIncarnation {
    ReplicaIncarnation { node: 100 + u64::from(node), copy_version: 0, damage_count: 0 }
}

fn leader_of(copies: u16, high_watermark: u64, own_flush: u64) -> LeaderReplica {
    let votes: Vec<Vote> =
        (1..=copies).map(|node| Vote { node: NodeId(node), admitted: incarnation(node), in_quorum: true }).collect();
    LeaderReplica::new(PARTITION, EPOCH, NodeId(1), &votes, high_watermark, own_flush)
}

fn effects(input: impl FnOnce(&mut Vec<LeaderEffect>)) -> Vec<LeaderEffect> {
    let mut effects = Vec::new();
    input(&mut effects);
    effects
}

fn advanced(position: u64) -> LeaderEffect {
    LeaderEffect::HighWatermarkAdvanced { partition: PARTITION, position }
}

const LED: LeaderEffect = LeaderEffect::Led { partition: PARTITION, epoch: EPOCH };

#[test]
fn alone_the_high_watermark_follows_the_own_flush_once_the_epoch_has_started() {
    let mut leader = leader_of(1, 0, 500);
    assert_eq!(effects(|out| leader.on_local_flushed(600, out)), [], "no epoch-start batch yet");
    assert_eq!(effects(|out| leader.on_epoch_started(704, out)), [], "it is not synced yet");
    assert!(!leader.is_serving());
    assert_eq!(effects(|out| leader.on_local_flushed(704, out)), [advanced(704), LED]);
    assert!(leader.is_serving());
    assert_eq!(effects(|out| leader.on_local_flushed(900, out)), [advanced(900)]);
    assert_eq!(effects(|out| leader.on_local_flushed(800, out)), [], "a flush never goes back");
}

#[test]
fn older_epochs_are_committed_only_with_the_epoch_start() {
    let mut leader = leader_of(3, 100, 500);
    effects(|out| leader.on_epoch_started(604, out));
    let acked = effects(|out| leader.on_appended(NodeId(2), EPOCH, incarnation(2), 500, out));
    assert_eq!(acked, [], "a quorum holds 500, all of it of older epochs");
    assert_eq!(effects(|out| leader.on_local_flushed(604, out)), []);
    let acked = effects(|out| leader.on_appended(NodeId(3), EPOCH, incarnation(3), 604, out));
    assert_eq!(acked, [advanced(604), LED]);
}

#[test]
fn acks_of_other_epochs_incarnations_or_strangers_do_not_count() {
    let mut leader = leader_of(3, 0, 0);
    effects(|out| leader.on_epoch_started(104, out));
    effects(|out| leader.on_local_flushed(104, out));
    let mut ignored = Vec::new();
    leader.on_appended(NodeId(2), LeaderEpoch(3), incarnation(2), 104, &mut ignored);
    leader.on_appended(NodeId(2), LeaderEpoch(5), incarnation(2), 104, &mut ignored);
    leader.on_appended(NodeId(3), EPOCH, incarnation(9), 104, &mut ignored);
    leader.on_appended(NodeId(3), EPOCH, incarnation(3), 104, &mut ignored);
    leader.on_appended(NodeId(8), EPOCH, incarnation(8), 104, &mut ignored);
    leader.on_appended(NodeId(1), EPOCH, incarnation(1), 104, &mut ignored);
    assert_eq!(ignored, []);
    assert_eq!(effects(|out| leader.on_appended(NodeId(2), EPOCH, incarnation(2), 104, out)), [advanced(104), LED]);
}

#[test]
fn an_evicted_follower_does_not_count_and_an_admitted_one_starts_anew() {
    let mut leader = leader_of(3, 0, 0);
    effects(|out| leader.on_epoch_started(104, out));
    effects(|out| leader.on_in_quorum_changed(&[NodeId(1), NodeId(3)], out));
    effects(|out| leader.on_local_flushed(300, out));
    assert_eq!(effects(|out| leader.on_appended(NodeId(2), EPOCH, incarnation(2), 300, out)), []);
    let acked = effects(|out| leader.on_appended(NodeId(3), EPOCH, incarnation(3), 200, out));
    assert_eq!(acked, [advanced(200), LED]);
    let back = effects(|out| leader.on_in_quorum_changed(&[NodeId(1), NodeId(2), NodeId(3)], out));
    assert_eq!(back, [advanced(300)], "its acks count again at once");
    assert_eq!(effects(|out| leader.on_admitted(NodeId(2), incarnation(7), out)), []);
    effects(|out| leader.on_local_flushed(400, out));
    assert_eq!(
        effects(|out| leader.on_appended(NodeId(2), EPOCH, incarnation(2), 400, out)),
        [],
        "its old life is over"
    );
    assert_eq!(effects(|out| leader.on_appended(NodeId(2), EPOCH, incarnation(7), 400, out)), [advanced(400)]);
}

#[test]
fn a_fenced_leader_commits_nothing_more() {
    let mut leader = leader_of(1, 0, 0);
    effects(|out| leader.on_epoch_started(104, out));
    effects(|out| leader.on_local_flushed(104, out));
    assert_eq!(effects(|out| leader.on_fenced(EPOCH, out)), [], "its own epoch is no fence");
    let promised = LeaderEpoch(5);
    let stepped_down = LeaderEffect::SteppedDown { partition: PARTITION, promised };
    assert_eq!(effects(|out| leader.on_fenced(promised, out)), [stepped_down]);
    assert_eq!(effects(|out| leader.on_fenced(promised, out)), []);
    assert_eq!(effects(|out| leader.on_local_flushed(999, out)), []);
    assert!(!leader.is_serving() && !leader.is_leader() && leader.high_watermark() == 104);
}

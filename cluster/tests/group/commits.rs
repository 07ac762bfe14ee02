//! Who may commit what.

use super::support::{Bench, GROUP, commit, heartbeat, parts};
use lance_cluster::group::limits::{MAX_APPEND_RECORDS, MAX_COMMIT_OFFSETS, MAX_METADATA_BYTES};
use lance_cluster::group::{
    CommittedOffset, ConsumerKey, GroupAnswer, GroupEffect, GroupLimits, OffsetCommit, OffsetKey, OffsetRecord,
};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::{GroupCommit, LEAVE_EPOCH};
use std::time::Duration;

fn codes(result: Result<lance_messages::wire::group::GroupCommitted, ErrorCode>) -> Vec<Option<ErrorCode>> {
    result.unwrap().results.into_iter().map(|(_, code)| code).collect()
}

#[test]
fn a_member_commits_what_it_has() {
    let mut bench = Bench::new(4);
    let (a, owned) = bench.join("a");
    let elsewhere = TopicPartition::new(TopicId(9), 0);
    let results = bench.commits(&commit("a", a, &[(owned[0], 5), (elsewhere, 6), (owned[3], 7)]));
    assert_eq!(codes(results), [None, Some(ErrorCode::PartitionNotOwned), None]);
    assert_eq!(
        (bench.committed(owned[0]), bench.committed(elsewhere), bench.committed(owned[3])),
        (Some(5), None, Some(7))
    );
    assert_eq!(bench.commits(&commit("b", a, &[(owned[0], 9)])), Err(ErrorCode::UnknownMember));
    assert_eq!(bench.commits(&commit("a", a + 1, &[(owned[0], 9)])), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(bench.commits(&commit("a", a - 1, &[(owned[0], 9)])), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(bench.committed(owned[0]), Some(5));
}

#[test]
fn what_is_being_given_up_can_be_committed_until_it_is() {
    let mut bench = Bench::new(4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    let (b, _) = bench.join("b");
    let told = bench.beat("a", a, &parts(0..4)).unwrap();
    let moving = parts(3..4)[0];
    assert_eq!(codes(bench.commits(&commit("a", told.epoch, &[(moving, 10)]))), [None]);
    // The commit was sent before the answer came: since then it was given nothing.
    assert_eq!(codes(bench.commits(&commit("a", a, &[(moving, 11)]))), [None]);
    assert_eq!(codes(bench.commits(&commit("b", b, &[(moving, 12)]))), [Some(ErrorCode::PartitionNotOwned)]);
    bench.beat("a", told.epoch, &parts(0..2)).unwrap();
    let late = bench.commits(&commit("a", told.epoch, &[(moving, 13)]));
    assert_eq!(codes(late), [Some(ErrorCode::PartitionNotOwned)]);
    let of_b = bench.beat("b", b, &[]).unwrap();
    assert_eq!(codes(bench.commits(&commit("b", of_b.epoch, &[(moving, 20)]))), [None]);
    assert_eq!(bench.commits(&commit("b", b, &[(moving, 1)])), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(bench.committed(moving), Some(20));
}

#[test]
fn a_commit_of_an_earlier_life_is_refused() {
    let mut bench = Bench::new(4);
    let (first, owned) = bench.join("a");
    let (second, _) = bench.join("a");
    assert_eq!(codes(bench.commits(&commit("a", second, &[(owned[0], 20)]))), [None]);
    assert_eq!(bench.commits(&commit("a", first, &[(owned[0], 10)])), Err(ErrorCode::StaleMemberEpoch));
    bench.beat("a", LEAVE_EPOCH, &[]).unwrap();
    assert_eq!(bench.commits(&commit("a", second, &[(owned[0], 10)])), Err(ErrorCode::UnknownMember));
    assert_eq!(bench.committed(owned[0]), Some(20));
}

#[test]
fn a_commit_that_was_overtaken_is_refused_and_one_that_is_sent_again_is_not() {
    let mut bench = Bench::new(4);
    let (epoch, owned) = bench.join("a");
    let numbered = |number, offset| GroupCommit { number, ..commit("a", epoch, &[(owned[0], offset)]) };
    assert_eq!(codes(bench.commits(&numbered(1, 10))), [None]);
    assert_eq!(codes(bench.commits(&numbered(3, 30))), [None]);
    assert_eq!(bench.commits(&numbered(2, 20)), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(codes(bench.commits(&numbered(3, 30))), [None]);
    assert_eq!(bench.committed(owned[0]), Some(30));
    // A refused one is not remembered; whoever seeks back commits less under a higher number.
    let unknown = GroupCommit { epoch: epoch + 1, ..numbered(9, 90) };
    assert_eq!(bench.commits(&unknown), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(codes(bench.commits(&numbered(4, 5))), [None]);
    assert_eq!(bench.committed(owned[0]), Some(5));
    // A new life counts anew.
    let (again, _) = bench.join("a");
    assert_eq!(codes(bench.commits(&GroupCommit { epoch: again, ..numbered(1, 6) })), [None]);
}

#[test]
fn numbers_outlive_a_reload_of_the_coordinator_and_end_with_the_life_they_are_of() {
    let mut bench = Bench::new(4);
    let (epoch, owned) = bench.join("a");
    let numbered = |epoch, number, offset| GroupCommit { number, ..commit("a", epoch, &[(owned[0], offset)]) };
    assert_eq!(codes(bench.commits(&numbered(epoch, 7, 70))), [None]);
    bench.reload();
    assert_eq!(bench.commits(&numbered(epoch, 6, 60)), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(codes(bench.commits(&numbered(epoch, 7, 70))), [None]);
    // A leaving that never becomes durable: the log brings the member back.
    bench.durable_at_once = false;
    bench.send(&heartbeat("a", LEAVE_EPOCH, &[]));
    bench.durable_at_once = true;
    bench.reload();
    assert_eq!(bench.commits(&numbered(epoch, 6, 60)), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(bench.committed(owned[0]), Some(70));
    // Another coordinator takes it into a new life, which counts from 1; then this one reads that.
    let (again, _) = bench.join("a");
    assert_eq!(codes(bench.commits(&numbered(again, 1, 80))), [None]);
    bench.reload();
    assert_eq!(codes(bench.commits(&numbered(again, 2, 90))), [None]);
    assert_eq!(bench.committed(owned[0]), Some(90));
}

#[test]
fn tools_commit_while_there_are_no_members() {
    let mut bench = Bench::new(4);
    let at = parts(0..1)[0];
    assert_eq!(codes(bench.commits(&commit("", 0, &[(at, 40)]))), [None]);
    assert_eq!(bench.committed(at), Some(40));
    let (epoch, _) = bench.join("a");
    assert_eq!(bench.commits(&commit("", 0, &[(at, 1)])), Err(ErrorCode::GroupNotEmpty));
    assert_eq!(codes(bench.commits(&commit("a", epoch, &[(at, 50)]))), [None]);
    bench.beat("a", LEAVE_EPOCH, &[]).unwrap();
    assert_eq!(codes(bench.commits(&commit("", 0, &[(at, 30)]))), [None], "a tool may go back");
    assert_eq!(bench.committed(at), Some(30));
}

#[test]
fn a_text_is_kept_with_the_offset() {
    let mut bench = Bench::new(4);
    let (epoch, owned) = bench.join("a");
    let mut noted = commit("a", epoch, &[(owned[0], 5), (owned[1], 6)]);
    noted.offsets[0].metadata = "checkpoint 7".to_owned();
    noted.offsets[1].metadata = "x".repeat(MAX_METADATA_BYTES + 1);
    assert_eq!(codes(bench.commits(&noted)), [None, Some(ErrorCode::TooLarge)]);
    bench.reload();
    let key = OffsetKey { partition: owned[0], consumer: ConsumerKey::Group(GROUP.to_owned()) };
    assert_eq!(bench.coordinator.offsets().metadata(&key), "checkpoint 7");
    assert_eq!(codes(bench.commits(&commit("a", epoch, &[(owned[0], 8)]))), [None]);
    assert_eq!((bench.coordinator.offsets().metadata(&key), bench.committed(owned[0])), ("", Some(8)));
}

#[test]
fn a_large_commit_is_durable_when_all_of_it_is() {
    let mut bench = Bench::new(1000);
    bench.durable_at_once = false;
    let offsets: Vec<_> = parts(0..1000).into_iter().map(|at| (at, 5)).collect();
    let token = bench.send_commit(&commit("", 0, &offsets));
    assert_eq!(bench.appends, 1000 / MAX_APPEND_RECORDS);
    assert_eq!(bench.answer(token), None);
    bench.settle();
    assert!(matches!(bench.answer(token), Some(GroupAnswer::Commit(Ok(_)))));
    assert_eq!(bench.describe().offsets.len(), 1000);
}

#[test]
fn bad_commits_leave_nothing_behind() {
    let mut bench = Bench::with_limits(4, GroupLimits { groups: 1, offsets: 2, ..GroupLimits::default() });
    let at = parts(0..4);
    let mut nameless = commit("", 0, &[(at[0], 1)]);
    nameless.group.clear();
    assert_eq!(bench.commits(&nameless), Err(ErrorCode::InvalidRequest));
    assert_eq!(bench.commits(&commit("a", 1, &[(at[0], 1)])), Err(ErrorCode::UnknownMember));
    let mut refused = commit("", 0, &[(at[0], 1)]);
    refused.offsets[0].metadata = "x".repeat(MAX_METADATA_BYTES + 1);
    assert_eq!(codes(bench.commits(&refused)), [Some(ErrorCode::TooLarge)]);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.coordinator.names().count(), 0, "a group without anything goes");
    assert_eq!(codes(bench.commits(&commit("", 0, &[(at[0], 1), (at[1], 1)]))), [None, None]);
    let full = bench.commits(&commit("", 0, &[(at[2], 1), (at[1], 2)]));
    assert_eq!(codes(full), [Some(ErrorCode::LimitReached), None]);
    let endless = vec![(at[0], 1); MAX_COMMIT_OFFSETS + 1];
    assert_eq!(bench.commits(&commit("", 0, &endless)), Err(ErrorCode::LimitReached));
    let mut other = commit("", 0, &[(at[0], 1)]);
    other.group = "other".to_owned();
    assert_eq!(bench.commits(&other), Err(ErrorCode::LimitReached));
}

#[test]
fn consumers_of_the_first_protocol_commit_beside_groups() {
    let mut bench = Bench::new(4);
    let plain = |consumer, offset| OffsetCommit {
        key: OffsetKey { partition: parts(0..1)[0], consumer },
        committed: CommittedOffset { offset, committed_at_ms: 1 },
    };
    let mut effects = Vec::new();
    bench.coordinator.on_plain_commit(1, plain(ConsumerKey::Id(7), 70), &mut effects);
    assert!(
        matches!(&effects[..], [GroupEffect::Append { records, .. }] if matches!(records[..], [OffsetRecord::Commit(_)]))
    );
    bench.take(effects);
    assert_eq!(bench.answer(1), Some(GroupAnswer::Plain(Ok(()))));
    let key = plain(ConsumerKey::Id(7), 0).key;
    assert_eq!(bench.coordinator.offsets().committed(&key).map(|at| at.offset), Some(70));
    let mut effects = Vec::new();
    bench.coordinator.on_plain_commit(2, plain(ConsumerKey::Group(GROUP.to_owned()), 70), &mut effects);
    bench.take(effects);
    assert_eq!(bench.answer(2), Some(GroupAnswer::Plain(Err(ErrorCode::InvalidRequest))));
    assert_eq!(bench.coordinator.names().count(), 0);
}

#[test]
fn offsets_of_a_deleted_topic_are_void() {
    let mut bench = Bench::new(4);
    let elsewhere = TopicPartition::new(TopicId(2), 0);
    bench.commits(&commit("", 0, &[(parts(0..1)[0], 1), (elsewhere, 2)])).unwrap();
    let mut effects = Vec::new();
    bench.coordinator.on_topic_deleted(TopicId(5), &mut effects);
    assert_eq!(effects, []);
    bench.coordinator.on_topic_deleted(TopicId(1), &mut effects);
    bench.take(effects);
    assert_eq!((bench.committed(parts(0..1)[0]), bench.committed(elsewhere)), (None, Some(2)));
}

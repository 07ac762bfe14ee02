//! Nobody is told what the log does not say, and what it says is the same after a restart.

use super::support::{Bench, GROUP, Members, SESSION, commit, heartbeat, held, moved, parts};
use lance_cluster::group::{Coordinator, GroupAnswer, GroupEffect, GroupLimits, GroupState, OffsetRecord, Replayed};
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::group::{JOIN_EPOCH, LEAVE_EPOCH};
use std::time::Duration;

#[test]
fn answers_wait_for_what_they_tell() {
    let mut bench = Bench::new(4);
    bench.durable_at_once = false;
    let a = bench.send(&heartbeat("a", JOIN_EPOCH, &[]));
    let other = {
        let mut join = heartbeat("z", JOIN_EPOCH, &[]);
        join.group = "other".to_owned();
        bench.send(&join)
    };
    assert_eq!((bench.answer(a), bench.answer(other)), (None, None));
    let again = bench.send(&heartbeat("a", 1, &parts(0..4)));
    assert_eq!(bench.answer(again), None, "it would tell an epoch that is not durable");
    bench.settle();
    assert!(matches!(bench.answer(a), Some(GroupAnswer::Heartbeat(Ok(_)))));
    assert!(matches!(bench.answer(again), Some(GroupAnswer::Heartbeat(Ok(_)))));
    assert!(matches!(bench.answer(other), Some(GroupAnswer::Heartbeat(Ok(_)))));
    let token = bench.send_commit(&commit("a", 1, &[(parts(0..1)[0], 9)]));
    let beat = bench.send(&heartbeat("a", 1, &parts(0..4)));
    assert!(bench.answer(beat).is_some(), "commits say nothing about members");
    assert_eq!((bench.answer(token), bench.committed(parts(0..1)[0])), (None, None));
    bench.settle();
    assert!(matches!(bench.answer(token), Some(GroupAnswer::Commit(Ok(_)))));
    assert_eq!(bench.committed(parts(0..1)[0]), Some(9));
}

#[test]
fn answers_wait_for_all_appends_before_their_own() {
    let mut coordinator = Coordinator::new(GroupLimits::default());
    coordinator.on_loaded(Duration::ZERO);
    let mut effects = Vec::new();
    let at = parts(0..1)[0];
    for (token, offset) in [(1, 10), (2, 20)] {
        coordinator.on_commit(token, &commit("", 0, &[(at, offset)]), Duration::ZERO, 0, &mut effects);
    }
    let appends: Vec<u64> = effects
        .drain(..)
        .map(|effect| match effect {
            GroupEffect::Append { append, .. } => append,
            answer => panic!("{answer:?}"),
        })
        .collect();
    assert!(coordinator.on_appended(appends[1], true, &mut effects));
    assert_eq!(effects, []);
    assert!(coordinator.on_appended(appends[0], true, &mut effects));
    let tokens = effects.iter().map(|effect| match effect {
        GroupEffect::Answer { token, .. } => *token,
        append => panic!("{append:?}"),
    });
    assert_eq!(tokens.collect::<Vec<_>>(), [1, 2]);
    let offsets = coordinator.describe(GROUP, Duration::ZERO).unwrap().offsets;
    assert_eq!(offsets[0].1.offset, 20, "in the order of the log");
    assert!(!coordinator.on_appended(77, true, &mut effects), "none of this life");
}

#[test]
fn after_a_failed_append_nobody_is_served_until_the_log_was_read() {
    let mut bench = Bench::new(4);
    bench.durable_at_once = false;
    let waiting = bench.send(&heartbeat("a", JOIN_EPOCH, &[]));
    let commit_waiting = bench.send_commit(&commit("a", 1, &[(parts(0..1)[0], 9)]));
    let mut effects = Vec::new();
    let (append, _) = bench.flying[0];
    assert!(bench.coordinator.on_appended(append, false, &mut effects));
    bench.take(effects);
    assert_eq!(bench.answer(waiting), Some(GroupAnswer::Heartbeat(Err(ErrorCode::OutcomeUnknown))));
    assert_eq!(bench.answer(commit_waiting), Some(GroupAnswer::Commit(Err(ErrorCode::OutcomeUnknown))));
    assert!(bench.coordinator.needs_reload());
    assert_eq!(bench.beat("a", JOIN_EPOCH, &[]), Err(ErrorCode::Unavailable));
    assert_eq!(bench.commits(&commit("a", 1, &[])), Err(ErrorCode::Unavailable));
    assert_eq!(bench.delete(GROUP), Err(ErrorCode::Unavailable));
    assert_eq!(bench.coordinator.next_deadline(), None);
    let late = bench.flying[1].0;
    bench.reload();
    assert!(!bench.coordinator.on_appended(late, true, &mut Vec::new()), "a report to the one before");
    bench.durable_at_once = true;
    assert_eq!(bench.join("a").1, parts(0..4));
}

#[test]
fn before_the_log_is_read_nobody_is_served() {
    let mut bench = Bench::new(4);
    bench.coordinator = Coordinator::new(GroupLimits::default());
    assert!(!bench.coordinator.is_loaded());
    assert_eq!(bench.beat("a", JOIN_EPOCH, &[]), Err(ErrorCode::Unavailable));
    bench.wait(Duration::from_secs(1));
}

fn stable(partitions: u16, count: usize) -> (Bench, Members) {
    let mut bench = Bench::new(partitions);
    let mut members = Members::new();
    for number in 0..count {
        members.join(&mut bench, &format!("m{number}"));
        members.converge(&mut bench);
    }
    (bench, members)
}

#[test]
fn a_restart_moves_nothing_and_begins_sessions_anew() {
    let (mut bench, mut members) = stable(30, 7);
    let (before, epochs) = (members.owners(), members.told.clone());
    let group = bench.describe();
    bench.wait(SESSION - Duration::from_millis(1));
    bench.reload();
    bench.wait(SESSION - Duration::from_millis(301));
    let appends = bench.appends;
    members.converge(&mut bench);
    assert_eq!((moved(&before, &members.owners()), bench.appends), (0, appends));
    assert_eq!(members.told, epochs);
    assert_eq!(bench.describe().epoch, group.epoch);
    bench.wait(SESSION);
    assert_eq!(bench.describe().state, GroupState::Empty);
}

#[test]
fn a_restart_in_the_middle_goes_on() {
    let (mut bench, mut members) = stable(30, 5);
    members.join(&mut bench, "new");
    bench.wait(Duration::from_secs(1));
    members.round(&mut bench);
    assert_eq!(bench.describe().state, GroupState::Reconciling);
    let before = members.owners();
    bench.reload();
    members.converge(&mut bench);
    assert_eq!((moved(&before, &members.owners()), members.owners().len()), (0, 30));
    assert_eq!(members.loads().len(), 1);
}

#[test]
fn a_snapshot_says_everything() {
    let (mut bench, mut members) = stable(30, 5);
    let mut fixed = heartbeat("s1", JOIN_EPOCH, &[]);
    fixed.instance = Some("s".to_owned());
    fixed.topics = vec!["other".to_owned()];
    bench.beats(&fixed).unwrap();
    fixed.member = "s2".to_owned();
    bench.beats(&fixed).unwrap();
    let mut noted = commit("m0", members.told["m0"].epoch, &[(held(&members.told["m0"])[0], 5)]);
    noted.offsets[0].metadata = "note".to_owned();
    bench.commits(&noted).unwrap();
    members.join(&mut bench, "new");
    bench.wait(Duration::from_secs(1));
    members.round(&mut bench);
    let mut gone = heartbeat("g", JOIN_EPOCH, &[]);
    gone.group = "gone".to_owned();
    bench.beats(&gone).unwrap();
    gone.epoch = LEAVE_EPOCH;
    bench.beats(&gone).unwrap();
    bench.delete("gone").unwrap();
    let only_offsets =
        lance_messages::wire::group::GroupCommit { group: "tool".to_owned(), ..commit("", 0, &[(parts(0..1)[0], 1)]) };
    bench.commits(&only_offsets).unwrap();

    assert!(bench.coordinator.is_settled());
    let records: Vec<OffsetRecord> = bench.coordinator.snapshot_records().collect();
    let snapshot: Vec<Vec<u8>> = records.iter().map(|record| record.encode().unwrap()).collect();
    let (group, tool) = (bench.describe(), bench.coordinator.describe("tool", bench.now).unwrap());
    let read = |log: &[Vec<u8>]| {
        let mut coordinator = Coordinator::new(GroupLimits::default());
        let replayed: Vec<Replayed> = log.iter().map(|record| coordinator.replay(record).unwrap()).collect();
        coordinator.on_loaded(bench.now);
        (coordinator, replayed.last().copied())
    };
    let (from_snapshot, last) = read(&snapshot);
    assert_eq!(last, Some(Replayed::SnapshotComplete));
    let (from_log, _) = read(&bench.log);
    for coordinator in [&from_snapshot, &from_log] {
        let mut found = coordinator.describe(GROUP, bench.now).unwrap();
        for (member, before) in found.members.iter_mut().zip(&group.members) {
            member.silent = before.silent;
        }
        assert_eq!((&found, coordinator.describe("tool", bench.now).as_ref()), (&group, Some(&tool)));
        assert_eq!(coordinator.names().collect::<Vec<_>>(), [GROUP, "tool"]);
        let again: Vec<OffsetRecord> = coordinator.snapshot_records().collect();
        assert_eq!(again, records);
    }
    // Until its last record is there it counts for nothing.
    let torn = [&bench.log[..], &snapshot[..snapshot.len() - 1]].concat();
    assert_eq!(read(&torn).0.snapshot_records().collect::<Vec<_>>(), records);
}

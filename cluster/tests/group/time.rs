//! What time alone does to groups without members.

use super::support::{Bench, GROUP, SESSION, commit, parts};
use lance_cluster::group::{GroupLimits, GroupState};
use lance_messages::wire::group::LEAVE_EPOCH;
use std::time::Duration;

const RETENTION: Duration = Duration::from_secs(1000);

fn bench() -> Bench {
    Bench::with_limits(4, GroupLimits { offsets_retention: RETENTION, ..GroupLimits::default() })
}

/// Ticks exactly when the coordinator asks for it.
fn tick_until_idle(bench: &mut Bench, at_most: Duration) {
    let end = bench.now + at_most;
    while let Some(next) = bench.coordinator.next_deadline().filter(|next| *next <= end) {
        let wait = next.saturating_sub(bench.now);
        bench.wait(wait);
    }
    let rest = end - bench.now;
    bench.wait(rest);
}

#[test]
fn offsets_of_a_group_without_members_are_forgotten_when_they_are_old() {
    let mut bench = bench();
    let at = parts(0..2);
    bench.commits(&commit("", 0, &[(at[0], 1)])).unwrap();
    bench.wait(RETENTION / 2);
    bench.commits(&commit("", 0, &[(at[1], 2)])).unwrap();
    tick_until_idle(&mut bench, RETENTION / 2 - Duration::from_millis(1));
    assert_eq!((bench.committed(at[0]), bench.committed(at[1])), (Some(1), Some(2)));
    tick_until_idle(&mut bench, Duration::from_millis(1));
    assert_eq!((bench.committed(at[0]), bench.committed(at[1])), (None, Some(2)));
    tick_until_idle(&mut bench, RETENTION / 2);
    assert_eq!(bench.coordinator.names().count(), 0);
    assert!(bench.coordinator.offsets().is_empty());
    bench.reload();
    assert_eq!((bench.coordinator.names().count(), bench.coordinator.offsets().len()), (0, 0));
    assert_eq!(bench.coordinator.next_deadline(), None);
}

#[test]
fn offsets_stay_while_there_are_members_and_as_long_again_after_them() {
    let mut bench = bench();
    let at = parts(0..1)[0];
    let (epoch, owned) = bench.join("a");
    bench.commits(&commit("a", epoch, &[(at, 1)])).unwrap();
    let end = bench.now + 3 * RETENTION;
    while bench.now < end {
        bench.wait(SESSION / 2);
        bench.beat("a", epoch, &owned).unwrap();
    }
    assert_eq!(bench.committed(at), Some(1));
    bench.beat("a", LEAVE_EPOCH, &[]).unwrap();
    bench.wait(Duration::ZERO);
    tick_until_idle(&mut bench, RETENTION / 2);
    bench.reload();
    tick_until_idle(&mut bench, RETENTION / 2 - Duration::from_millis(1));
    assert_eq!((bench.committed(at), bench.describe().state), (Some(1), GroupState::Empty));
    tick_until_idle(&mut bench, Duration::from_millis(1));
    assert_eq!(bench.coordinator.names().count(), 0);
}

#[test]
fn a_commit_under_way_is_not_forgotten_with_what_it_replaces() {
    let mut bench = bench();
    let at = parts(0..1)[0];
    bench.commits(&commit("", 0, &[(at, 1)])).unwrap();
    bench.wait(RETENTION - Duration::from_millis(1));
    bench.durable_at_once = false;
    bench.send_commit(&commit("", 0, &[(at, 2)]));
    bench.wait(Duration::from_millis(1));
    bench.settle();
    tick_until_idle(&mut bench, RETENTION / 2);
    assert_eq!(bench.committed(at), Some(2));
}

#[test]
fn a_group_that_was_restarted_before_anybody_noted_when_it_emptied_is_kept_as_long() {
    let mut bench = bench();
    bench.join("a");
    bench.beat("a", LEAVE_EPOCH, &[]).unwrap();
    bench.reload();
    tick_until_idle(&mut bench, RETENTION - Duration::from_millis(1));
    assert_eq!(bench.coordinator.names().collect::<Vec<_>>(), [GROUP]);
    tick_until_idle(&mut bench, Duration::from_millis(1));
    assert_eq!(bench.coordinator.names().count(), 0);
}

#[test]
fn many_that_join_at_once_cost_few_targets() {
    let mut bench = Bench::new(1000);
    for number in 0..1000 {
        bench.join(&format!("m{number}"));
        bench.now += Duration::from_micros(100);
    }
    let epoch = bench.describe().epoch;
    assert!(epoch < 60, "{epoch} targets in a tenth of a second");
    tick_until_idle(&mut bench, Duration::from_millis(100));
    assert!(bench.describe().epoch <= epoch + 1);
    let appends = bench.appends;
    bench.wait(SESSION);
    assert_eq!(bench.describe().state, GroupState::Empty);
    assert!(bench.appends - appends <= 6, "they go together");
    bench.reload();
    assert_eq!(bench.describe().state, GroupState::Empty);
}

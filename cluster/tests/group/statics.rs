//! Members with a name of their own, which come back to what they had.

use super::support::{Bench, Members, SESSION, commit, heartbeat, held, moved, parts};
use lance_cluster::group::limits::MAX_REPLACED;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::group::{GroupHeartbeat, JOIN_EPOCH, LEAVE_EPOCH, PAUSE_EPOCH};
use std::time::Duration;

fn fixed(member: &str, epoch: i32, instance: &str) -> GroupHeartbeat {
    GroupHeartbeat { instance: Some(instance.to_owned()), ..heartbeat(member, epoch, &[]) }
}

#[test]
fn a_new_process_takes_the_place_of_the_old_one() {
    let mut bench = Bench::new(4);
    let mut members = Members::new();
    let first = bench.beats(&fixed("old", JOIN_EPOCH, "i")).unwrap();
    members.join(&mut bench, "other");
    bench.wait(Duration::from_secs(1));
    let told = bench.beats(&GroupHeartbeat { owned: held(&first), ..fixed("old", first.epoch, "i") }).unwrap();
    bench.beats(&GroupHeartbeat { owned: held(&told), ..fixed("old", told.epoch, "i") }).unwrap();
    members.converge(&mut bench);
    let (before, epoch) = (members.owners(), bench.describe().epoch);

    let new = bench.beats(&fixed("new", JOIN_EPOCH, "i")).unwrap();
    assert_eq!(held(&new), held(&told));
    assert!(new.epoch > told.epoch);
    members.converge(&mut bench);
    assert_eq!((moved(&before, &members.owners()), bench.describe().epoch), (0, epoch));
    for reloaded in [false, true] {
        if reloaded {
            bench.reload();
        }
        let fenced = [told.epoch, JOIN_EPOCH, LEAVE_EPOCH, PAUSE_EPOCH];
        let answers = fenced.map(|epoch| bench.beats(&fixed("old", epoch, "i")).map(|told| told.epoch));
        assert_eq!(answers, [Err(ErrorCode::FencedInstance); 4]);
        let late = bench.commits(&commit("old", told.epoch, &[(held(&told)[0], 1)]));
        assert_eq!(late, Err(ErrorCode::FencedInstance));
        assert_eq!(bench.members(), ["new", "other"]);
    }
}

#[test]
fn a_pause_keeps_the_place_until_the_session_ends() {
    let mut bench = Bench::new(4);
    let first = bench.beats(&fixed("old", JOIN_EPOCH, "i")).unwrap();
    let paused = bench.beats(&fixed("old", PAUSE_EPOCH, "i")).unwrap();
    assert_eq!((paused.epoch, paused.topics.len()), (first.epoch, 0));
    bench.wait(Duration::from_secs(1));
    let mut members = Members::new();
    members.join(&mut bench, "other");
    for _ in 0..SESSION.as_secs() - 2 {
        bench.wait(Duration::from_secs(1));
        members.round(&mut bench);
    }
    assert_eq!(members.owners().len(), 0, "it may come back");
    let back = bench.beats(&fixed("new", JOIN_EPOCH, "i")).unwrap();
    assert_eq!(held(&back), parts(0..4));
    bench.beats(&fixed("new", PAUSE_EPOCH, "i")).unwrap();
    bench.wait(SESSION - Duration::from_secs(1));
    members.round(&mut bench);
    bench.wait(Duration::from_secs(1));
    members.round(&mut bench);
    members.converge(&mut bench);
    assert_eq!(members.owners().len(), 4);
}

#[test]
fn who_pauses_has_given_up_what_it_was_to_give_up() {
    let mut bench = Bench::new(4);
    let first = bench.beats(&fixed("old", JOIN_EPOCH, "i")).unwrap();
    bench.wait(Duration::from_secs(1));
    let (other, _) = bench.join("other");
    bench.beats(&GroupHeartbeat { owned: held(&first), ..fixed("old", first.epoch, "i") }).unwrap();
    bench.beats(&fixed("old", PAUSE_EPOCH, "i")).unwrap();
    assert_eq!(held(&bench.beat("other", other, &[]).unwrap()), parts(2..4));
}

#[test]
fn a_pause_is_only_for_members_with_a_name() {
    let mut bench = Bench::new(4);
    bench.join("a");
    assert_eq!(bench.beat("a", PAUSE_EPOCH, &[]), Err(ErrorCode::InvalidRequest));
}

#[test]
fn leaving_for_good_gives_the_name_free() {
    let mut bench = Bench::new(4);
    bench.beats(&fixed("a", JOIN_EPOCH, "i")).unwrap();
    bench.beats(&fixed("b", JOIN_EPOCH, "i")).unwrap();
    bench.beats(&fixed("b", LEAVE_EPOCH, "i")).unwrap();
    assert_eq!(bench.members(), [""; 0]);
    bench.beats(&fixed("a", JOIN_EPOCH, "i")).unwrap();
    assert_eq!(bench.members(), ["a"]);
}

#[test]
fn a_member_has_one_name_for_all_its_life() {
    let mut bench = Bench::new(4);
    let told = bench.beats(&fixed("a", JOIN_EPOCH, "i")).unwrap();
    for epoch in [JOIN_EPOCH, told.epoch] {
        assert_eq!(bench.beats(&fixed("a", epoch, "j")), Err(ErrorCode::InvalidRequest));
        assert_eq!(bench.beat("a", epoch, &[]), Err(ErrorCode::InvalidRequest));
    }
}

#[test]
fn a_process_that_starts_again_and_again_is_one_member() {
    let mut bench = Bench::new(4);
    let mut before = 0;
    for life in 0..20 {
        let told = bench.beats(&fixed(&format!("m{life}"), JOIN_EPOCH, "i")).unwrap();
        assert!(told.epoch > before);
        before = told.epoch;
        assert_eq!(held(&told), parts(0..4));
    }
    bench.reload();
    assert_eq!(bench.members(), ["m19"]);
    let remembered = 19 - MAX_REPLACED;
    assert_eq!(bench.beats(&fixed(&format!("m{remembered}"), 1, "i")), Err(ErrorCode::FencedInstance));
    let forgotten = remembered - 1;
    assert_eq!(bench.beats(&fixed(&format!("m{forgotten}"), 1, "i")), Err(ErrorCode::UnknownMember));
}

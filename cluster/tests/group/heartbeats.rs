//! How members come, stay and go, one at a time.

use super::support::{Bench, GROUP, Members, PATIENCE, SESSION, heartbeat, held, moved, parts};
use lance_cluster::group::{GroupLimits, GroupState};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::{AssignmentStrategy, JOIN_EPOCH, LEAVE_EPOCH, PAUSE_EPOCH};
use std::time::Duration;

#[test]
fn the_first_member_has_everything_at_once() {
    let mut bench = Bench::new(4);
    let joined = bench.beat("a", JOIN_EPOCH, &[]).unwrap();
    assert_eq!((joined.epoch, held(&joined)), (1, parts(0..4)));
    assert_eq!((joined.topics[0].name.as_str(), joined.heartbeat_interval_ms), ("t", 300));
    let group = bench.describe();
    assert_eq!((group.state, group.epoch, group.strategy), (GroupState::Stable, 1, AssignmentStrategy::Sticky));
    let member = &group.members[0];
    assert_eq!((member.client.as_str(), member.rack.as_str(), member.silent), ("test", "r1", Duration::ZERO));
}

#[test]
fn a_heartbeat_that_changes_nothing_appends_nothing() {
    let mut bench = Bench::new(4);
    let (epoch, owned) = bench.join("a");
    let appends = bench.appends;
    for _ in 0..10 {
        bench.wait(Duration::from_secs(1));
        let told = bench.beat("a", epoch, &owned).unwrap();
        assert_eq!((told.epoch, held(&told)), (epoch, owned.clone()));
    }
    assert_eq!(bench.appends, appends);
}

#[test]
fn a_partition_goes_on_only_when_its_member_gave_it_up() {
    let mut bench = Bench::new(4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    let (b, of_b) = bench.join("b");
    assert_eq!(of_b, []);
    let told = bench.beat("a", a, &parts(0..4)).unwrap();
    assert_eq!(held(&told), parts(0..2));
    assert!(told.epoch > a);
    assert_eq!(bench.describe().state, GroupState::Reconciling);
    assert_eq!(held(&bench.beat("b", b, &[]).unwrap()), [], "a still holds them");
    bench.beat("a", told.epoch, &parts(0..3)).unwrap();
    let of_b = bench.beat("b", b, &[]).unwrap();
    assert_eq!(held(&of_b), parts(3..4), "one is given up");
    bench.beat("a", told.epoch, &parts(0..2)).unwrap();
    let of_b = bench.beat("b", of_b.epoch, &parts(3..4)).unwrap();
    assert_eq!(held(&of_b), parts(2..4));
    assert_eq!(bench.describe().state, GroupState::Stable);
}

#[test]
fn an_answer_that_was_lost_is_given_again() {
    let mut bench = Bench::new(4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    bench.join("b");
    let lost = bench.beat("a", a, &parts(0..4)).unwrap();
    let appends = bench.appends;
    assert_eq!(bench.beat("a", a, &parts(0..4)), Ok(lost.clone()));
    assert_eq!(bench.beat("a", a, &parts(0..2)), Ok(lost), "by its epoch it cannot know: nothing is free by it");
    assert_eq!(bench.describe().members[0].revoking.as_slice(), parts(2..4));
    assert_eq!(bench.appends, appends);
}

#[test]
fn a_joining_that_comes_late_frees_nothing() {
    let mut bench = Bench::new(4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    let (b, _) = bench.join("b");
    let told = bench.beat("a", a, &parts(0..4)).unwrap();
    // The first heartbeat of a, once more: a still holds everything.
    let (late, owned) = bench.join("a");
    assert!(late > told.epoch, "a new life has a new epoch");
    assert_eq!(owned, parts(0..2));
    assert_eq!(held(&bench.beat("b", b, &[]).unwrap()), []);
    let told = bench.beat("a", told.epoch, &parts(0..4)).unwrap();
    assert_eq!((told.epoch, held(&told)), (late, parts(0..2)));
    bench.beat("a", late, &parts(0..2)).unwrap();
    assert_eq!(held(&bench.beat("b", b, &[]).unwrap()), parts(2..4));
}

#[test]
fn who_holds_what_is_not_its_own_joins_again_and_keeps_its_place() {
    let mut bench = Bench::new(4);
    let (a, owned) = bench.join("a");
    let mut strange = owned.clone();
    strange.push(TopicPartition::new(TopicId(7), 0));
    assert_eq!(bench.beat("a", a, &strange), Err(ErrorCode::UnknownMember));
    assert_eq!(bench.beat("a", a + 1, &owned), Err(ErrorCode::UnknownMember), "an epoch it was never told");
    assert_eq!(bench.beat("a", JOIN_EPOCH, &owned), Err(ErrorCode::InvalidRequest), "who joins holds nothing");
    let (again, kept) = bench.join("a");
    assert!(again > a);
    assert_eq!(kept, owned);
}

#[test]
fn leaving_frees_everything_at_once_and_can_be_repeated() {
    let mut bench = Bench::new(4);
    let mut members = Members::new();
    ["a", "b"].iter().for_each(|member| members.join(&mut bench, member));
    members.converge(&mut bench);
    let epoch = members.told["a"].epoch;
    assert_eq!(bench.beat("a", LEAVE_EPOCH, &[]).map(|told| (told.epoch, told.topics.len())), Ok((epoch, 0)));
    assert_eq!(bench.beat("a", LEAVE_EPOCH, &[]).map(|told| told.epoch), Ok(LEAVE_EPOCH));
    assert_eq!(bench.beat("a", epoch, &parts(0..2)), Err(ErrorCode::UnknownMember));
    members.told.remove("a");
    members.converge(&mut bench);
    assert_eq!(members.owners().len(), 4);
    let (again, _) = bench.join("a");
    assert!(again > epoch, "no epoch of an id comes twice");
}

#[test]
fn silent_members_go_when_their_session_ends() {
    let mut bench = Bench::new(4);
    let mut members = Members::new();
    ["a", "b"].iter().for_each(|member| members.join(&mut bench, member));
    members.converge(&mut bench);
    let silent = members.told.remove("a").unwrap();
    for _ in 0..SESSION.as_secs() - 1 {
        bench.wait(Duration::from_secs(1));
        members.round(&mut bench);
    }
    assert_eq!(bench.members(), ["a", "b"]);
    let deadline = bench.coordinator.next_deadline().unwrap();
    bench.wait(Duration::from_secs(1));
    assert!(deadline <= bench.now);
    assert_eq!(bench.members(), ["b"]);
    members.converge(&mut bench);
    assert_eq!(members.owners().len(), 4);
    assert_eq!(bench.beat("a", silent.epoch, &held(&silent)), Err(ErrorCode::UnknownMember));
}

#[test]
fn who_takes_too_long_to_give_up_is_heard_no_more_and_loses_all_when_it_must_have_noticed() {
    let mut bench = Bench::new(4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    let (mut b, mut of_b) = bench.join("b");
    let told = bench.beat("a", a, &parts(0..4)).unwrap();
    let begun = bench.now;
    let mut last_heard = bench.now;
    loop {
        bench.wait(Duration::from_secs(2));
        let beat = bench.beat("b", b, &of_b).unwrap();
        (b, of_b) = (beat.epoch, held(&beat));
        match bench.beat("a", told.epoch, &parts(0..4)) {
            Ok(_) => last_heard = bench.now,
            Err(code) => {
                assert_eq!(code, ErrorCode::UnknownMember);
                break;
            }
        }
    }
    assert_eq!(bench.now, begun + PATIENCE);
    // It may not have been reached: what it was told is good until its session ends.
    assert!(bench.describe().members[0].expelled);
    while bench.now < last_heard + SESSION {
        assert_eq!(of_b, []);
        let beat = bench.beat("b", b, &of_b).unwrap();
        (b, of_b) = (beat.epoch, held(&beat));
        bench.wait(Duration::from_secs(1));
    }
    assert_eq!(held(&bench.beat("b", b, &[]).unwrap()), parts(0..4));
}

#[test]
fn who_was_too_slow_and_joins_again_keeps_what_was_its_own() {
    let mut bench = Bench::new(4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    let (b, _) = bench.join("b");
    let told = bench.beat("a", a, &parts(0..4)).unwrap();
    for _ in 0..PATIENCE.as_secs() / 5 {
        bench.wait(Duration::from_secs(5));
        bench.beat("b", b, &[]).unwrap();
        let _ = bench.beat("a", told.epoch, &parts(0..4));
    }
    assert_eq!(bench.beat("a", told.epoch, &parts(0..4)), Err(ErrorCode::UnknownMember));
    let (again, owned) = bench.join("a");
    assert_eq!(owned, parts(0..2));
    bench.beat("a", again, &owned).unwrap();
    assert_eq!(held(&bench.beat("b", b, &[]).unwrap()), parts(2..4));
}

#[test]
fn what_is_taken_back_before_it_moved_stays() {
    let mut bench = Bench::new(4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    bench.join("b");
    let told = bench.beat("a", a, &parts(0..4)).unwrap();
    bench.beat("b", LEAVE_EPOCH, &[]).unwrap();
    bench.wait(Duration::from_secs(1));
    let back = bench.beat("a", told.epoch, &parts(0..4)).unwrap();
    assert_eq!(held(&back), parts(0..4));
    assert!(back.epoch > told.epoch);
    // The word that it has given them up, come late, is void: it has them again.
    assert_eq!(bench.beat("a", told.epoch, &parts(0..2)), Ok(back));
    assert_eq!(bench.describe().state, GroupState::Stable);
}

#[test]
fn topics_that_grow_appear_or_go_are_followed() {
    let mut bench = Bench::new(2);
    let mut members = Members::new();
    ["a", "b"].iter().for_each(|member| members.join(&mut bench, member));
    members.converge(&mut bench);
    let (before, epoch) = (members.owners(), bench.describe().epoch);
    bench.catalog.set("t", 1, 6);
    members.converge(&mut bench);
    assert_eq!((members.owners().len(), moved(&before, &members.owners())), (6, 0));
    assert!(bench.describe().epoch > epoch);
    bench.catalog.set("other", 2, 9);
    let epoch = bench.describe().epoch;
    members.converge(&mut bench);
    assert_eq!(bench.describe().epoch, epoch, "nobody reads it");
    bench.catalog.remove("t");
    members.converge(&mut bench);
    assert_eq!(members.owners().len(), 0);
    bench.catalog.set("t", 3, 2);
    members.converge(&mut bench);
    assert_eq!(members.owners().keys().map(|at| at.topic).collect::<Vec<_>>(), [TopicId(3); 2]);
}

#[test]
fn subscriptions_strategies_and_labels_can_change() {
    let mut bench = Bench::new(4);
    bench.catalog.set("u", 2, 4);
    let (a, _) = bench.join("a");
    bench.wait(Duration::from_secs(1));
    let mut beat = heartbeat("a", a, &parts(0..4));
    beat.topics = vec!["u".to_owned(), "t".to_owned(), "u".to_owned()];
    let told = bench.beats(&beat).unwrap();
    assert_eq!(told.topics.iter().map(|topic| topic.partitions.len()).collect::<Vec<_>>(), [4, 4]);
    beat.epoch = told.epoch;
    beat.owned = held(&told);
    let appends = bench.appends;
    assert_eq!(bench.beats(&beat), Ok(told.clone()), "in any order it is the same");
    assert_eq!(bench.appends, appends);
    beat.rack = "r2".to_owned();
    assert_eq!(bench.beats(&beat), Ok(told.clone()));
    assert_eq!((bench.appends, bench.describe().members[0].rack.as_str()), (appends + 1, "r2"));
    beat.session_timeout_ms += 1;
    assert_eq!(bench.beats(&beat), Err(ErrorCode::InvalidRequest), "it counts on the one it had");
}

#[test]
fn the_strategy_most_ask_for_is_the_groups() {
    let mut bench = Bench::new(6);
    let with = |member: &str, strategy| {
        let mut join = heartbeat(member, JOIN_EPOCH, &[]);
        join.strategy = strategy;
        join
    };
    bench.beats(&with("a", AssignmentStrategy::RoundRobin)).unwrap();
    assert_eq!(bench.describe().strategy, AssignmentStrategy::RoundRobin);
    bench.wait(Duration::from_secs(1));
    bench.beats(&with("b", AssignmentStrategy::Range)).unwrap();
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.describe().strategy, AssignmentStrategy::Range, "of as many the first");
    bench.beats(&with("c", AssignmentStrategy::RoundRobin)).unwrap();
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.describe().strategy, AssignmentStrategy::RoundRobin);
}

#[test]
fn joining_moves_no_more_than_the_share_of_the_one_that_joins() {
    let mut bench = Bench::new(100);
    let mut members = Members::new();
    for number in 0..20 {
        let before = members.owners();
        members.join(&mut bench, &format!("m{number:02}"));
        members.converge(&mut bench);
        let after = members.owners();
        assert_eq!(after.len(), 100);
        assert!(moved(&before, &after) <= 100_usize.div_ceil(number + 1), "{number}");
        assert!(members.loads().last().unwrap() - members.loads().first().unwrap() <= 1);
    }
}

#[test]
fn bad_heartbeats_are_refused() {
    let mut bench = Bench::new(4);
    let good = heartbeat("a", JOIN_EPOCH, &[]);
    let refused = |bench: &mut Bench, change: &dyn Fn(&mut lance_messages::wire::group::GroupHeartbeat)| {
        let mut bad = good.clone();
        change(&mut bad);
        bench.beats(&bad).unwrap_err()
    };
    let long = "x".repeat(256);
    assert_eq!(refused(&mut bench, &|bad| bad.group.clear()), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.group.clone_from(&long)), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.member.clear()), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.member.clone_from(&long)), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.instance = Some(long.clone())), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.rack.clone_from(&long)), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.topics = vec![String::new()]), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.epoch = -3), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.session_timeout_ms = 999), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.session_timeout_ms = 1_800_001), ErrorCode::InvalidRequest);
    assert_eq!(refused(&mut bench, &|bad| bad.epoch = 5), ErrorCode::UnknownMember);
    assert_eq!(refused(&mut bench, &|bad| bad.epoch = PAUSE_EPOCH), ErrorCode::UnknownMember);
    let topics: Vec<String> = (0..257).map(|number| format!("t{number}")).collect();
    assert_eq!(refused(&mut bench, &|bad| bad.topics.clone_from(&topics)), ErrorCode::LimitReached);
    assert_eq!((bench.coordinator.names().count(), bench.appends), (0, 0), "nothing is left of them");
}

#[test]
fn limits_hold() {
    let limits = GroupLimits { groups: 1, members: 2, partitions: 5, ..GroupLimits::default() };
    let mut bench = Bench::with_limits(4, limits);
    bench.catalog.set("u", 2, 2);
    bench.join("a");
    let mut other = heartbeat("a", JOIN_EPOCH, &[]);
    other.group = "other".to_owned();
    assert_eq!(bench.beats(&other), Err(ErrorCode::LimitReached));
    let mut wide = heartbeat("b", JOIN_EPOCH, &[]);
    wide.topics = vec!["t".to_owned(), "u".to_owned()];
    assert_eq!(bench.beats(&wide), Err(ErrorCode::LimitReached), "six partitions");
    let (b, _) = bench.join("b");
    wide.epoch = b;
    assert_eq!(bench.beats(&wide), Err(ErrorCode::LimitReached));
    assert_eq!(bench.beat("c", JOIN_EPOCH, &[]), Err(ErrorCode::LimitReached));
    bench.catalog.set("t", 1, 6);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.describe().members.len(), 2, "a topic that grew too large is not read, and nobody falls");
}

#[test]
fn large_groups_beat_more_slowly() {
    let mut bench = Bench::new(4);
    for number in 0..3000 {
        bench.join(&format!("m{number}"));
    }
    let told = bench.beat("m0", JOIN_EPOCH, &[]).unwrap();
    assert_eq!(told.heartbeat_interval_ms, 1500);
    let mut short = heartbeat("short", JOIN_EPOCH, &[]);
    short.session_timeout_ms = 2000;
    assert_eq!(bench.beats(&short).unwrap().heartbeat_interval_ms, 666);
}

#[test]
fn a_group_can_be_deleted_when_nobody_is_in_it() {
    let mut bench = Bench::new(4);
    assert_eq!(bench.delete(GROUP), Err(ErrorCode::GroupNotFound));
    let (epoch, _) = bench.join("a");
    assert_eq!(bench.delete(GROUP), Err(ErrorCode::GroupNotEmpty));
    bench.beat("a", LEAVE_EPOCH, &[]).unwrap();
    assert_eq!(bench.delete(GROUP), Ok(()));
    assert_eq!(bench.coordinator.names().count(), 0);
    let (again, _) = bench.join("a");
    assert!(again > epoch, "a heartbeat of the group's earlier life is none of this one");
    bench.reload();
    assert_eq!(bench.describe().members[0].epoch, again);
}

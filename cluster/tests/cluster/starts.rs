//! Which starts are those of an older image of a disk, and when a start may take part.

use bytes::Bytes;
use lance_cluster::metadata::{
    KnownStarts, MetadataCommand, MetadataState, NodeStart, PastStart, RaftEntry, START_CHECK_MS, StartCheck,
    StartKnowledge,
};
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;

fn start(incarnation: u64, boot_number: u64, nonce: u64) -> NodeStart {
    NodeStart { node: NodeId(3), incarnation, boot_number, nonce }
}

fn register(start: NodeStart) -> MetadataCommand {
    let NodeStart { node, incarnation, boot_number, nonce } = start;
    let (address, rack) = ("lance-3:1992".to_owned(), String::new());
    MetadataCommand::RegisterNode { node, incarnation, boot_number, nonce, address, rack }
}

fn state_of(starts: &[NodeStart]) -> MetadataState {
    let mut state = MetadataState::new();
    for (index, start) in (1..).zip(starts) {
        assert!(state.apply(index, &register(*start)).answer.is_ok());
    }
    state
}

fn entry(index: u64, start: NodeStart) -> RaftEntry {
    let bytes = [&[1, 0][..], &register(start).encode().unwrap()].concat();
    RaftEntry { index, term: 1, bytes: Bytes::from(bytes) }
}

/// What the disk of a node that has started so often knows of its starts.
fn own_nonces(last: u64) -> impl Fn(u64) -> Option<u64> {
    move |boot_number| (boot_number <= last).then_some(1_000 + boot_number)
}

#[test]
fn an_older_image_is_told_however_often_it_is_started() {
    // Starts 1 to 6 are on the image; 7, 8 and 9 were registered after it was taken.
    let state = state_of(&[start(50, 6, 1_006), start(50, 9, 9)]);
    let known = KnownStarts::default().about(&state, start(50, 7, 77));
    assert_eq!(known, StartKnowledge::Newest { boot_number: 9, nonce: 9 });
    for boot_number in 7..20 {
        let own = start(50, boot_number, 1_000 + boot_number);
        let judged = known.judge(own, own_nonces(boot_number));
        assert_eq!(judged, Err(PastStart::Forgotten { known: 9 }), "start {boot_number} of the image");
    }
}

#[test]
fn the_newest_disk_is_never_taken_for_an_older_one() {
    let registered = start(50, 9, 1_009);
    let known = KnownStarts::default().about(&state_of(&[registered]), registered);
    assert_eq!(known.judge(registered, own_nonces(9)), Ok(()), "the same start asks again");
    for boot_number in 10..20 {
        let own = start(50, boot_number, 1_000 + boot_number);
        assert_eq!(known.judge(own, own_nonces(boot_number)), Ok(()));
        // Of starts of an older program the disk knows nothing.
        assert_eq!(known.judge(own, |_| None), Ok(()));
    }
}

#[test]
fn the_log_tells_of_starts_that_are_not_known_to_be_committed() {
    let starts =
        KnownStarts::of_log(&[entry(1, start(50, 8, 8)), entry(2, start(50, 9, 9)), entry(3, start(50, 4, 4))]);
    let behind = state_of(&[start(50, 6, 6)]);
    let known = starts.about(&behind, start(50, 7, 7));
    assert_eq!(known, StartKnowledge::Newest { boot_number: 9, nonce: 9 });
    // What was decided since stands above it.
    let ahead = state_of(&[start(50, 11, 11)]);
    assert_eq!(starts.about(&ahead, start(50, 7, 7)), StartKnowledge::Newest { boot_number: 11, nonce: 11 });
    assert_eq!(starts.about(&MetadataState::new(), start(51, 1, 1)), StartKnowledge::Unknown, "another life");
}

#[test]
fn votes_of_an_earlier_start_or_life_do_not_count() {
    let state = state_of(&[start(50, 3, 3), start(51, 4, 4)]);
    let peer = |incarnation, boot_number| PeerIdentity { node: NodeId(3), incarnation, boot_number };
    let mut starts = KnownStarts::default();
    for (peer, is_past) in [(peer(50, 9), true), (peer(51, 3), true), (peer(51, 4), false), (peer(52, 1), false)] {
        assert_eq!(starts.is_past(&state, peer), is_past, "{peer:?}");
    }
    starts.note(start(51, 6, 6));
    assert!(starts.is_past(&state, peer(51, 5)), "it has told of a later start");
    assert_eq!(starts.about(&state, start(50, 9, 9)).judge(start(50, 9, 9), |_| None), Err(PastStart::Retired));
}

#[test]
fn a_start_waits_for_every_other_voter_or_a_moment() {
    let voters = [NodeId(1), NodeId(2)];
    let mut check = StartCheck::new(100);
    assert!(!check.is_passed(voters, 100));
    check.on_told(NodeId(1));
    assert!(
        !check.is_passed(voters, 100 + START_CHECK_MS - 1) && !check.is_open(NodeId(1)) && check.is_open(NodeId(2))
    );
    let mut late = check.clone();
    assert!(late.is_passed(voters, 100 + START_CHECK_MS), "who is gone is not waited for");
    check.on_told(NodeId(2));
    assert!(check.is_passed(voters, 101));
    assert!(check.is_passed([NodeId(9)], 102), "it stays passed");
    assert!(StartCheck::new(0).is_passed([], 0), "alone there is nobody to ask");
}

#[test]
fn a_start_that_was_only_told_of_does_not_hide_the_one_that_is_registered() {
    let (registered, told, asking) = (start(50, 4, 44), start(50, 7, 77), start(50, 8, 88));
    let state = state_of(&[registered]);
    let mut starts = KnownStarts::default();
    starts.note(told);
    let answers = starts.answers(&state, asking);
    let own_of = |number: u64| match number {
        4 => Some(400),
        7 => Some(77),
        _ => None,
    };
    let verdicts: Vec<_> = answers.iter().map(|known| known.judge(asking, own_of)).collect();
    assert_eq!(verdicts, [Err(PastStart::Forgotten { known: 4 }), Ok(())]);
    assert_eq!(starts.answers(&state_of(&[]), asking).len(), 1);
}

//! What a follower takes, cuts and confirms.

use super::log::{PARTITION, TestLog, batch, epoch, incarnation};
use lance_cluster::replica::{AppendDecision, FollowerReplica, LogFacts, Promise, TruncateDecision};
use lance_messages::peer::{AppendRequest, BelowStart, DivergedLog, LogPlace, TruncateRequest, TruncateTo};

const U: u64 = 104;

fn follower(promised: u32) -> FollowerReplica {
    FollowerReplica::new(PARTITION, incarnation(2), epoch(promised))
}

/// An append in `epoch` that begins behind `prev` batches, the last of `prev_epoch`, with batches of these epochs.
fn request(in_epoch: u32, prev: u64, prev_epoch: u32, batches: &[u32], high_watermark: u64) -> AppendRequest {
    let batches = batches.iter().zip(prev..).map(|(&of_epoch, at)| batch(at * U, of_epoch)).collect();
    AppendRequest {
        partition: PARTITION,
        epoch: epoch(in_epoch),
        prev_end: prev * U,
        prev_epoch: epoch(prev_epoch),
        high_watermark: high_watermark * U,
        log_start: 0,
        batches,
        traced: Vec::new(),
    }
}

fn append(skip_batches: usize, high_watermark: u64) -> AppendDecision {
    AppendDecision::Append { skip_batches, high_watermark: high_watermark * U }
}

#[test]
fn appends_are_taken_skipped_or_refused() {
    let fenced = AppendDecision::Fenced { promised: epoch(3) };
    let diverged = AppendDecision::Diverged;
    // The log holds batches of these epochs; the promise is 3.
    let held = &[1, 1, 2];
    let cases = [
        ("of a fenced leader", request(2, 3, 2, &[2], 0), fenced),
        ("at the log's end", request(3, 3, 2, &[3], 0), append(0, 0)),
        ("a probe at the log's end", request(3, 3, 2, &[], 0), append(0, 0)),
        ("of a new leader", request(4, 3, 2, &[2, 4], 0), append(0, 0)),
        ("the last epoch is another one", request(3, 3, 1, &[3], 0), diverged),
        ("the last epoch is unknown here", request(4, 3, 3, &[4], 0), diverged),
        ("a gap", request(3, 4, 2, &[3], 0), diverged),
        ("from the beginning, all held", request(3, 0, 0, &[1, 1, 2], 0), append(3, 0)),
        ("from the beginning, partly held", request(3, 0, 0, &[1, 1, 2, 3, 3], 0), append(3, 0)),
        ("inside what is held", request(3, 1, 1, &[1], 0), append(1, 0)),
        ("a probe inside what is held", request(3, 2, 1, &[], 0), append(0, 0)),
        ("inside, then another epoch", request(3, 1, 1, &[1, 3], 0), diverged),
        ("inside, another epoch before", request(3, 2, 2, &[2], 0), diverged),
        ("batches that do not join", batches_apart(), diverged),
        ("batches of a later epoch than the leader's", request(3, 3, 2, &[4], 0), diverged),
        ("batches of falling epochs", request(3, 3, 2, &[3, 2], 0), diverged),
    ];
    for (name, request, expected) in cases {
        let log = TestLog::synced(held);
        let mut follower = follower(3);
        assert_eq!(log.facts(|facts| follower.on_append(facts, &request)), expected, "{name}");
        let promised = if matches!(expected, AppendDecision::Append { .. }) { request.epoch } else { epoch(3) };
        assert_eq!(follower.promised(), promised, "{name}: only what is taken raises the promise");
    }
}

fn batches_apart() -> AppendRequest {
    let mut request = request(3, 3, 2, &[3, 3], 0);
    request.batches[1] = batch(5 * U, 3);
    request
}

#[test]
fn what_was_dropped_from_the_front_counts_as_held() {
    let mut log = TestLog::synced(&[1, 1, 2, 2]);
    log.drop_front(2);
    let cases = [
        ("at the start", request(3, 2, 1, &[2], 0), append(1, 2)),
        ("before the start", request(3, 1, 1, &[1, 2, 2, 3], 0), append(3, 2)),
        ("at the start, another epoch behind", request(3, 2, 1, &[3], 0), AppendDecision::Diverged),
    ];
    for (name, request, expected) in cases {
        assert_eq!(log.facts(|facts| follower(2).on_append(facts, &request)), expected, "{name}");
    }
    log.restart(9);
    assert_eq!(log.facts(|facts| follower(2).on_append(facts, &request(3, 9, 2, &[3], 0))), append(0, 9));
    assert_eq!(log.facts(|facts| follower(2).on_append(facts, &request(3, 0, 0, &[1], 0))), append(1, 9));
    assert_eq!(log.facts(|facts| follower(2).on_append(facts, &request(3, 10, 2, &[3], 0))), AppendDecision::Diverged);
}

#[test]
fn only_what_matched_and_is_synced_is_confirmed() {
    let log = TestLog::synced(&[1, 1, 1, 1]);
    let mut follower = follower(1);
    assert_eq!(follower.on_flushed(4 * U), None, "no leader was heard");
    assert_eq!(log.facts(|facts| follower.on_append(facts, &request(2, 1, 1, &[1], 0))), append(1, 0));
    assert_eq!(follower.on_flushed(4 * U), Some((epoch(2), 2 * U)), "what lies behind may be another leader's");
    assert_eq!(follower.on_flushed(U), Some((epoch(2), U)));
    assert_eq!(log.facts(|facts| follower.on_append(facts, &request(2, 4, 1, &[2], 0))), append(0, 0));
    assert_eq!(follower.on_flushed(4 * U), Some((epoch(2), 4 * U)), "the last one is not synced yet");
    assert_eq!(log.facts(|facts| follower.on_append(facts, &request(2, 0, 0, &[1], 0))), append(1, 0));
    assert_eq!(follower.on_flushed(9 * U), Some((epoch(2), 5 * U)), "a late append takes nothing back");
}

#[test]
fn after_a_promise_nothing_is_confirmed_until_the_new_leader_is_heard() {
    let log = TestLog::synced(&[1]);
    let mut follower = follower(1);
    assert_eq!(log.facts(|facts| follower.on_append(facts, &request(1, 1, 1, &[1], 0))), append(0, 0));
    assert_eq!(follower.promise(epoch(3)), Promise::Raised);
    assert_eq!(follower.on_flushed(2 * U), None);
    assert_eq!(follower.promise(epoch(3)), Promise::Already);
    assert_eq!(follower.promise(epoch(2)), Promise::Higher(epoch(3)));
    assert_eq!(
        (follower.promised(), follower.incarnation(), follower.partition()),
        (epoch(3), incarnation(2), PARTITION)
    );
    assert_eq!(log.facts(|facts| follower.on_append(facts, &request(3, 1, 1, &[], 0))), append(0, 0));
    assert_eq!(follower.on_flushed(2 * U), Some((epoch(3), U)));
}

#[test]
fn the_high_watermark_is_adopted_below_what_matched_and_is_synced() {
    let mut log = TestLog::synced(&[1, 1, 1, 1]);
    let mut follower = follower(1);
    assert_eq!(follower.high_watermark_limit(4 * U), 0);
    let diverged = log.facts(|facts| follower.on_append(facts, &request(2, 5, 1, &[], 5)));
    assert_eq!((diverged, follower.high_watermark_limit(4 * U)), (AppendDecision::Diverged, 0));
    assert_eq!(log.facts(|facts| follower.on_append(facts, &request(2, 1, 1, &[1], 9))), append(1, 2));
    assert_eq!(log.facts(|facts| follower.on_append(facts, &request(2, 4, 1, &[2], 9))), append(0, 4));
    assert_eq!(follower.high_watermark_limit(5 * U), 5 * U, "it follows the sync");
    log.high_watermark = 3 * U;
    let mut other = follower.clone();
    assert_eq!(
        log.facts(|facts| other.on_append(facts, &request(3, 4, 1, &[], 1))),
        append(0, 3),
        "it never goes back"
    );
}

fn truncation(in_epoch: u32, last_epoch: u32, log_end: u64, to: TruncateTo) -> TruncateRequest {
    let answers = DivergedLog { incarnation: incarnation(2), last_epoch: epoch(last_epoch), log_end: log_end * U };
    TruncateRequest { partition: PARTITION, epoch: epoch(in_epoch), answers, to, below: BelowStart::default() }
}

#[test]
fn a_truncation_is_obeyed_only_while_it_answers_the_log_as_it_is() {
    let position = |batches: u64| TruncateTo::Position(batches * U);
    let place = |batches: u64| LogPlace { position: batches * U, offset: 5, record: 1 };
    let mut of_another_life = truncation(3, 2, 3, position(2));
    of_another_life.answers.incarnation.damage_count = 1;
    let below = |batches: u64| TruncateDecision::BelowHighWatermark { position: batches * U, high_watermark: 2 * U };
    let fenced = TruncateDecision::Fenced { promised: epoch(2) };
    let cases = [
        ("of a fenced leader", truncation(1, 2, 3, position(2)), fenced),
        ("another end", truncation(3, 2, 4, position(2)), TruncateDecision::Ignore),
        ("another last epoch", truncation(3, 1, 3, position(2)), TruncateDecision::Ignore),
        ("another life", of_another_life, TruncateDecision::Ignore),
        ("behind the end", truncation(3, 2, 3, position(4)), TruncateDecision::Ignore),
        ("a cut", truncation(3, 2, 3, position(2)), TruncateDecision::Cut { position: 2 * U }),
        ("a cut below what is committed", truncation(3, 2, 3, position(1)), below(1)),
        (
            "a restart",
            truncation(3, 2, 3, TruncateTo::Restart(place(7))),
            TruncateDecision::Restart { place: place(7) },
        ),
        ("a restart below what is committed", truncation(3, 2, 3, TruncateTo::Restart(place(0))), below(0)),
    ];
    for (name, request, expected) in cases {
        let mut log = TestLog::synced(&[1, 1, 2]);
        log.high_watermark = 2 * U;
        let mut follower = follower(2);
        assert_eq!(log.facts(|facts| follower.on_truncate(facts, &request)), expected, "{name}");
        let obeyed = matches!(expected, TruncateDecision::Cut { .. } | TruncateDecision::Restart { .. });
        assert_eq!(follower.promised(), if obeyed { epoch(3) } else { epoch(2) }, "{name}");
    }
}

#[test]
fn what_a_cut_leaves_is_confirmed_and_a_repeated_cut_finds_another_log() {
    let mut log = TestLog::synced(&[1, 1, 2]);
    let mut follower = follower(2);
    let cut = truncation(3, 2, 3, TruncateTo::Position(U));
    let decision = log.facts(|facts| follower.on_truncate(facts, &cut));
    assert_eq!(decision, TruncateDecision::Cut { position: U });
    assert_eq!(follower.on_flushed(3 * U), Some((epoch(3), U)), "a sync from before the cut says no more");
    log.truncate(1);
    assert_eq!(follower.on_flushed(U), Some((epoch(3), U)));
    assert_eq!(log.facts(|facts| follower.on_truncate(facts, &cut)), TruncateDecision::Ignore);
    let restart = LogPlace { position: 6 * U, offset: 5, record: 1 };
    let request = truncation(4, 1, 1, TruncateTo::Restart(restart));
    let decision = log.facts(|facts| follower.on_truncate(facts, &request));
    assert_eq!(decision, TruncateDecision::Restart { place: restart });
    assert_eq!(follower.on_flushed(6 * U), Some((epoch(4), 6 * U)));
}

#[test]
fn an_election_hears_of_durable_batches_only() {
    let answer = |log: &TestLog| log.facts(|facts| follower(1).promise_answer(facts));
    let mut log = TestLog::default();
    assert_eq!(answer(&log), Some((epoch(0), 0)), "an empty log is one");
    log = TestLog::synced(&[1, 1, 2]);
    log.durable_end = 2 * U;
    assert_eq!(answer(&log), Some((epoch(1), 2 * U)), "of the last durable batch, not of the last one");
    log.drop_front(1);
    assert_eq!(answer(&log), Some((epoch(1), 2 * U)));
    log.restart(7);
    assert_eq!(answer(&log), None, "nobody knows the epoch of what would lie below");
    log.batches.push((2, 0));
    assert_eq!(answer(&log), None);
    log.durable_end = 8 * U;
    assert_eq!(answer(&log), Some((epoch(2), 8 * U)));
    let epoch_before = |_| Some(epoch(3));
    let place = 7 * U;
    let told = LogFacts {
        log_start: place,
        log_end: place,
        durable_end: place,
        high_watermark: 0,
        last_epoch: epoch(3),
        epoch_before: &epoch_before,
    };
    assert_eq!(follower(1).promise_answer(&told), Some((epoch(3), place)), "its leader said of which epoch that was");
}

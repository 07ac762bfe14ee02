//! What a leader sends to a follower, and when.

use super::log::incarnation;
use lance_cluster::replica::{
    AckProgress, DivergedAnswer, DivergedStep, EpochHistory, EpochStart, FlowLog, FlowOptions, FlowStep, FollowerFlow,
    LeaderLog,
};
use lance_messages::id::{LeaderEpoch, ReplicaIncarnation};
use lance_messages::peer::{LogPlace, TruncateTo};
use std::time::Duration;

const OPTIONS: FlowOptions = FlowOptions { window_bytes: 1000, ack_timeout: Duration::from_secs(1) };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A flow, the leader's log that it sends from, and the time.
struct Run {
    flow: FollowerFlow,
    log: FlowLog,
    now: Duration,
}

impl Run {
    /// A leader with 1000 bytes and a link that stands.
    fn new() -> Self {
        let log = FlowLog { log_start: 0, log_end: 1000, high_watermark: 0, allowance: u64::MAX };
        let mut run = Self { flow: FollowerFlow::new(OPTIONS), log, now: ms(5000) };
        run.flow.on_link_up();
        run
    }

    /// A follower that holds and has acked everything.
    fn live() -> Self {
        let mut run = Self::new();
        assert_eq!(run.next(), FlowStep::Probe { prev_end: 1000 });
        run.ack(1000);
        run
    }

    fn outstanding(&self) -> Option<Duration> {
        self.flow.outstanding(self.now)
    }

    fn next(&mut self) -> FlowStep {
        self.flow.next(&self.log, self.now)
    }

    fn at(&mut self, after_ms: u64) -> &mut Self {
        self.now += ms(after_ms);
        self
    }

    fn ack(&mut self, durable_end: u64) -> AckProgress {
        self.flow.on_appended(incarnation(2), durable_end, self.now)
    }

    fn sent(&mut self, from: u64, end: u64) {
        self.flow.on_sent(from, end, self.log.high_watermark, self.now);
    }

    fn push(&mut self, bytes: u64) {
        let from = self.log.log_end;
        self.log.log_end += bytes;
        assert!(self.flow.is_live(from));
        self.sent(from, self.log.log_end);
    }

    fn diverged(&mut self, life: ReplicaIncarnation, log_end: u64, history: &[(u32, u64)]) -> DivergedStep {
        let starts: Vec<(LeaderEpoch, u64)> = history.iter().map(|&(epoch, at)| (LeaderEpoch(epoch), at)).collect();
        let last_epoch = starts.last().map_or(LeaderEpoch(0), |start| start.0);
        let answer = DivergedAnswer { incarnation: life, last_epoch, log_start: 0, log_end, history: &starts };
        let ours = [EpochStart { epoch: LeaderEpoch(4), start_position: 0 }];
        let history = EpochHistory::from_starts(ours).unwrap();
        let start = LogPlace { position: self.log.log_start, offset: 0, record: 0 };
        let leader = LeaderLog { start, log_end: self.log.log_end, history: &history };
        self.flow.on_diverged(&leader, &answer, self.now)
    }
}

#[test]
fn one_probe_is_outstanding_while_the_position_is_unknown() {
    let mut run = Run::new();
    assert_eq!(run.next(), FlowStep::Probe { prev_end: 1000 });
    assert_eq!(run.at(199).next(), FlowStep::Nothing);
    run.log.log_end = 1200;
    assert!(!run.flow.is_live(1200));
    assert_eq!(run.at(1).next(), FlowStep::Probe { prev_end: 1200 }, "repeated, at the end as it is now");
    assert_eq!(run.outstanding(), Some(ms(200)), "a repetition is no excuse");
    assert!(run.ack(300).advanced);
    assert_eq!(run.next(), FlowStep::Send { from: 300, max_bytes: 1000 });
    assert_eq!(run.next(), FlowStep::Nothing, "it is being read");
    assert_eq!(run.outstanding(), None);
}

#[test]
fn a_down_link_sends_nothing_and_hears_nothing() {
    let mut run = Run::live();
    run.flow.on_link_down();
    assert_eq!((run.next(), run.flow.is_up(), run.flow.is_live(1000)), (FlowStep::Nothing, false, false));
    assert_eq!(run.at(700).outstanding(), None, "it has everything");
    run.log.log_end = 1104;
    assert_eq!(run.next(), FlowStep::Nothing);
    assert_eq!(run.at(300).outstanding(), Some(ms(300)), "what can't be sent is owed");
    assert_eq!(run.ack(1104), AckProgress::default());
    assert_eq!(run.diverged(incarnation(2), 500, &[(4, 0)]), DivergedStep::Ignore);
    run.flow.on_link_up();
    assert_eq!(run.next(), FlowStep::Probe { prev_end: 1104 });
    assert_eq!(run.outstanding(), Some(ms(300)));
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut run = Run::live();
    run.push(600);
    run.push(600);
    assert!(!run.flow.is_live(2200), "the window is full");
    run.log.log_end = 3000;
    assert_eq!(run.next(), FlowStep::Nothing);
    run.ack(1600);
    assert_eq!(run.next(), FlowStep::Send { from: 2200, max_bytes: 400 });
    run.sent(2200, 3000);
    let progress = run.at(7).ack(3000);
    assert_eq!((progress.acked_count, progress.caught_up, progress.latency), (2, true, Some(ms(7))));
    assert!(run.flow.is_live(3000));
    run.flow.set_window_bytes(0);
    assert!(!run.flow.is_live(3000));
}

#[test]
fn latency_is_that_of_the_oldest_append_an_ack_confirms() {
    let mut run = Run::live();
    run.push(100);
    run.at(3).push(100);
    run.at(2);
    let progress = run.ack(1100);
    let expected = AckProgress { advanced: true, latency: Some(ms(5)), acked_count: 1, caught_up: false };
    assert_eq!(progress, expected);
    assert_eq!(run.at(1).ack(1100), AckProgress { caught_up: false, ..AckProgress::default() }, "said twice");
    assert_eq!(run.at(1).ack(1200).latency, Some(ms(4)));
}

#[test]
fn silence_begins_the_stream_anew_from_what_the_follower_says() {
    let mut run = Run::live();
    run.push(100);
    assert_eq!(run.at(999).next(), FlowStep::Nothing);
    assert_eq!(run.at(1).next(), FlowStep::Probe { prev_end: 1100 });
    assert!(!run.flow.is_live(1100));
    assert_eq!(run.outstanding(), Some(ms(1000)));
    run.ack(1000);
    assert_eq!(run.next(), FlowStep::Send { from: 1000, max_bytes: 1000 });
    run.ack(1100);
    run.sent(1000, 1100);
    assert_eq!(run.flow.acked(), Some(1100));
    assert!(run.flow.is_live(1100), "the first ones had arrived after all");
}

#[test]
fn acks_on_the_way_excuse_a_slow_follower() {
    let mut run = Run::live();
    run.push(100);
    run.at(600).push(100);
    run.at(300).ack(1100);
    assert_eq!(run.at(300).next(), FlowStep::Nothing);
    assert_eq!(run.outstanding(), Some(ms(300)));
    assert_eq!(run.at(700).next(), FlowStep::Probe { prev_end: 1200 });
}

#[test]
fn a_follower_that_only_lacks_batches_is_sent_them_once() {
    let mut run = Run::live();
    (0..5).for_each(|_| run.push(100));
    assert_eq!(run.diverged(incarnation(2), 1000, &[(4, 0)]), DivergedStep::Resend);
    assert_eq!(run.next(), FlowStep::Send { from: 1000, max_bytes: 1000 });
    run.sent(1000, 1500);
    for _ in 0..3 {
        assert_eq!(
            run.diverged(incarnation(2), 1000, &[(4, 0)]),
            DivergedStep::Ignore,
            "the others in flight say so too"
        );
    }
    assert!(run.flow.is_live(1500));
    run.at(1).ack(1200);
    assert_eq!(run.at(500).diverged(incarnation(2), 1000, &[(4, 0)]), DivergedStep::Ignore, "an ack has overtaken it");
    assert_eq!(run.diverged(incarnation(2), 1300, &[(4, 0)]), DivergedStep::Resend);
    assert_eq!(run.next(), FlowStep::Send { from: 1300, max_bytes: 1000 });
}

#[test]
fn a_follower_that_began_anew_by_itself_is_believed_once_its_ack_is_old() {
    let mut run = Run::live();
    run.push(500);
    assert_eq!(run.diverged(incarnation(2), 0, &[]), DivergedStep::Ignore, "an ack has overtaken it");
    assert_eq!(run.at(1000).diverged(incarnation(2), 0, &[]), DivergedStep::Resend);
    assert_eq!(run.next(), FlowStep::Send { from: 0, max_bytes: 1000 });
}

#[test]
fn a_foreign_end_is_cut_before_anything_else_is_sent() {
    let mut run = Run::new();
    assert_eq!(run.next(), FlowStep::Probe { prev_end: 1000 });
    let step = run.diverged(incarnation(2), 700, &[(4, 0), (6, 300)]);
    let DivergedStep::Truncate { answers, to } = step else {
        panic!("{step:?}");
    };
    assert_eq!((answers.log_end, answers.last_epoch, answers.incarnation), (700, LeaderEpoch(6), incarnation(2)));
    assert_eq!(to, TruncateTo::Position(300));
    assert_eq!(run.next(), FlowStep::Nothing);
    assert!(!run.flow.is_live(1000));
    run.ack(300);
    assert_eq!(run.next(), FlowStep::Send { from: 300, max_bytes: 1000 });
}

#[test]
fn a_truncation_without_an_answer_is_followed_by_a_probe() {
    let mut run = Run::new();
    assert_eq!(run.next(), FlowStep::Probe { prev_end: 1000 });
    let step = run.diverged(incarnation(2), 700, &[(3, 0)]);
    assert!(matches!(step, DivergedStep::Truncate { to: TruncateTo::Position(0), .. }), "{step:?}");
    assert_eq!(run.next(), FlowStep::Nothing);
    assert_eq!(run.at(999).next(), FlowStep::Nothing);
    assert_eq!(run.at(1).next(), FlowStep::Probe { prev_end: 1000 });
    assert!(matches!(run.diverged(incarnation(2), 700, &[(3, 0)]), DivergedStep::Truncate { .. }));
    run.ack(0);
    assert_eq!(run.next(), FlowStep::Send { from: 0, max_bytes: 1000 });
}

#[test]
fn a_follower_behind_the_log_start_begins_anew_there() {
    let mut run = Run::live();
    run.flow.on_link_down();
    (run.log.log_start, run.log.log_end) = (1500, 2000);
    run.flow.on_link_up();
    assert_eq!(run.next(), FlowStep::Probe { prev_end: 2000 });
    let step = run.diverged(incarnation(2), 1000, &[(4, 0)]);
    assert!(matches!(step, DivergedStep::Truncate { to: TruncateTo::Restart(place), .. } if place.position == 1500));
    run.ack(1500);
    assert_eq!(run.next(), FlowStep::Send { from: 1500, max_bytes: 1000 });
    run.sent(1500, 1600);
    run.log.log_start = 1700;
    assert_eq!(run.at(200).next(), FlowStep::Probe { prev_end: 2000 }, "what comes next was dropped meanwhile");
}

#[test]
fn a_refilled_replica_is_taken_for_what_it_says_and_its_earlier_life_for_nothing() {
    let mut run = Run::live();
    let refilled = ReplicaIncarnation { damage_count: 1, ..incarnation(2) };
    run.push(100);
    assert_eq!(run.diverged(refilled, 400, &[(4, 0)]), DivergedStep::Resend, "below what its earlier life had acked");
    assert_eq!(run.flow.acked(), None);
    assert_eq!(run.ack(1100), AckProgress::default(), "a late word of the earlier life");
    assert_eq!(run.next(), FlowStep::Send { from: 400, max_bytes: 1000 });
}

#[test]
fn an_unavailable_follower_is_left_alone_for_a_growing_while() {
    let mut run = Run::live();
    run.push(100);
    for wait_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
        run.flow.on_unavailable(run.now);
        run.flow.on_unavailable(run.now);
        assert_eq!(run.at(wait_ms - 1).next(), FlowStep::Nothing);
        run.at(1);
        while run.next() == FlowStep::Nothing {
            run.at(1);
        }
    }
    assert!(run.outstanding() >= Some(ms(16_000)), "it owes the ack all the while");
    assert!(run.flow.is_refused(), "it answers, though: its node need not be slow");
    run.ack(1000);
    assert!(!run.flow.is_refused());
    assert_eq!(run.next(), FlowStep::Send { from: 1000, max_bytes: 1000 });
    run.flow.on_read_failed(run.now);
    assert_eq!(run.at(99).next(), FlowStep::Nothing);
    assert_eq!(run.at(101).next(), FlowStep::Probe { prev_end: 1100 }, "an ack has ended the growth");
}

#[test]
fn a_follower_that_answers_and_syncs_nothing_owes_all_the_while() {
    let mut run = Run::live();
    run.push(100);
    for _ in 0..4 {
        run.at(250);
        run.flow.on_unavailable(run.now);
        run.at(400);
        while run.next() == FlowStep::Nothing {
            run.at(1);
        }
        assert!(!run.ack(1000).advanced);
    }
    assert!(run.outstanding() >= Some(ms(2_600)));
    assert!(matches!(run.next(), FlowStep::Send { from: 1000, .. }));
    run.sent(1000, 1100);
    assert!(run.at(10).ack(1050).advanced);
    assert_eq!(run.at(5).outstanding(), Some(ms(5)), "counted from its last progress");
    run.ack(1100);
    assert_eq!(run.outstanding(), None);
}

#[test]
fn a_link_that_breaks_again_and_again_pays_nothing_back() {
    let mut run = Run::live();
    run.push(100);
    for _ in 0..5 {
        run.at(300).flow.on_link_down();
        run.next();
        run.at(100).flow.on_link_up();
        assert!(matches!(run.next(), FlowStep::Probe { .. }));
        run.ack(1000);
        assert!(matches!(run.next(), FlowStep::Send { from: 1000, .. }));
        run.sent(1000, 1100);
    }
    assert!(run.outstanding() >= Some(ms(2_000)), "it has synced nothing of what it was sent: {:?}", run.outstanding());
    run.ack(1100);
    assert_eq!(run.outstanding(), None);
}

#[test]
fn a_follower_owes_nothing_while_its_leader_cannot_read() {
    let mut run = Run::live();
    run.push(100);
    run.flow.on_unavailable(run.now);
    for _ in 0..20 {
        run.at(200);
        match run.next() {
            FlowStep::Probe { .. } => _ = run.ack(1000),
            FlowStep::Send { .. } => run.flow.on_read_failed(run.now),
            FlowStep::Nothing => {}
        }
    }
    assert!(run.outstanding() < Some(ms(1_000)), "{:?}", run.outstanding());
    while !matches!(run.next(), FlowStep::Send { .. }) {
        run.at(100).ack(1000);
    }
    run.sent(1000, 1100);
    assert_eq!(run.at(1_500).outstanding(), Some(ms(1_500)), "what was sent is owed again");
}

#[test]
fn an_idle_follower_learns_the_high_watermark() {
    let mut run = Run::live();
    run.push(100);
    run.log.high_watermark = 1100;
    assert_eq!(run.at(50).next(), FlowStep::Nothing, "it is not idle");
    run.ack(1100);
    assert_eq!(run.at(49).next(), FlowStep::Nothing);
    assert_eq!(run.at(1).next(), FlowStep::Probe { prev_end: 1100 });
    run.sent(1100, 1100);
    assert_eq!(run.at(500).next(), FlowStep::Nothing, "it was told");
    let progress = run.ack(1100);
    assert_eq!((progress.latency, progress.acked_count), (None, 1), "it syncs nothing: no measure of its disk");
    assert_eq!(run.next(), FlowStep::Nothing);
}

#[test]
fn an_idle_follower_is_measured_on_request() {
    let mut run = Run::live();
    run.flow.request_measure();
    assert_eq!(run.next(), FlowStep::Probe { prev_end: 1000 });
    run.sent(1000, 1000);
    assert_eq!(run.next(), FlowStep::Nothing);
    assert_eq!(run.at(3).ack(1000).latency, Some(ms(3)));
    assert_eq!(run.next(), FlowStep::Nothing, "once");
}

#[test]
fn a_demoted_follower_is_sent_what_was_appended_meanwhile_in_one_piece() {
    let mut run = Run::live();
    run.flow.set_demoted(true);
    assert!(run.flow.is_live(1000), "it has everything");
    run.log.log_end = 1050;
    run.sent(1000, 1050);
    for log_end in [1100, 1200, 1300] {
        assert!(!run.flow.is_live(run.log.log_end), "nothing is pushed");
        run.log.log_end = log_end;
    }
    assert_eq!(run.next(), FlowStep::Send { from: 1050, max_bytes: 950 });
    run.sent(1050, 1300);
    assert!(!run.flow.is_live(1300));
    run.flow.set_demoted(false);
    assert!(run.flow.is_live(1300));
    run.flow.set_demoted(true);
    run.ack(1300);
    assert!(run.flow.is_live(1300), "it has everything again");
}

//! The leader's sending side for one follower of one partition: where it is, and what goes to it next.
//!
//! ```text
//!          on_link_up             on_appended                 on_diverged
//!   Down ────────────▶ Probing ◀──────────────▶ Streaming ────────────────▶ Truncating
//!    ▲                  │  ▲     no answer for        ▲                          │
//!    └─ on_link_down ─ any │     ack_timeout          └───── on_appended ────────┘
//!                       ▼  │
//!                      Waiting (on_unavailable, with back-off)
//! ```

use super::divergence::{DivergedAnswer, LeaderLog, Resolution, resolve};
use lance_messages::id::ReplicaIncarnation;
use lance_messages::peer::{DivergedLog, TruncateTo};
use std::collections::VecDeque;
use std::time::Duration;

/// A probe without an answer is repeated after this; a state of a log is answered once in this time.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// An answer that says less than an ack before it was overtaken by that ack, unless the ack is as old as this.
const OVERTAKEN: Duration = Duration::from_secs(1);
/// The high watermark goes to an idle follower at most this often.
const HIGH_WATERMARK_INTERVAL: Duration = Duration::from_millis(100);
/// The wait after the first `Unavailable`; it doubles with each further one …
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// … up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Most appends in flight, however small.
const MAX_IN_FLIGHT: usize = 1024;

/// Bounds of a flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// Most bytes of batches in flight; a single batch may be larger.
    pub window_bytes: u64,
    /// Appends without an answer for so long are taken for lost.
    pub ack_timeout: Duration,
}

impl Default for FlowOptions {
    /// 8 MiB in flight, 1 s for an ack.
    fn default() -> Self {
        Self { window_bytes: 8 * 1024 * 1024, ack_timeout: Duration::from_secs(1) }
    }
}

/// The leader's log at the moment, in log positions.
#[derive(Clone, Copy, Debug)]
pub struct FlowLog {
    /// First position it still has.
    pub log_start: u64,
    /// First position not written.
    pub log_end: u64,
    /// Everything below is committed.
    pub high_watermark: u64,
    /// Most bytes that may be sent now.
    pub allowance: u64,
}

/// What goes to the follower next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowStep {
    /// Nothing at the moment.
    Nothing,
    /// An append without batches, to be reported by [`FollowerFlow::on_sent`] at once.
    Probe {
        /// Its `prev_end`.
        prev_end: u64,
    },
    /// Batches, to be read from the log and reported by [`FollowerFlow::on_sent`] or [`FollowerFlow::on_read_failed`]; until
    /// then there is nothing more to do.
    Send {
        /// Where the first one begins.
        from: u64,
        /// Most bytes of them, unless the first is larger.
        max_bytes: u64,
    },
}

/// What an ack has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckProgress {
    /// Whether the follower has synced more than was known.
    pub advanced: bool,
    /// From sending to this answer, of the oldest append it confirms.
    pub latency: Option<Duration>,
    /// How many appends it confirms.
    pub acked_count: u32,
    /// Whether everything that was sent is synced there.
    pub caught_up: bool,
}

/// What follows from a `Diverged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DivergedStep {
    /// Nothing: it is late, repeated, or makes no sense.
    Ignore,
    /// The follower only lacks batches: [`FollowerFlow::next`] sends them.
    Resend,
    /// Send this truncation.
    Truncate {
        /// The state it answers.
        answers: DivergedLog,
        /// What to do.
        to: TruncateTo,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Probing,
    Streaming,
    Truncating { since: Duration },
    Waiting { until: Duration },
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    from: u64,
    end: u64,
    sent_at: Duration,
    measured: bool,
}

/// The flow to one follower in one epoch. `now` is the time since the process started.
///
/// Only answers of the leader's own epoch may be handed in.
#[derive(Clone, Debug)]
pub struct FollowerFlow {
    options: FlowOptions,
    state: State,
    /// The incarnation that answered last.
    incarnation: Option<ReplicaIncarnation>,
    /// What it has synced, as far as it said so since the link stands.
    acked: Option<u64>,
    /// When it said last that it had synced anything more.
    acked_at: Duration,
    /// When the last probe for its position went out over this link.
    probed_at: Option<Duration>,
    /// Where the next batch to send begins; meant for streaming.
    next: u64,
    /// A `Send` was handed out and not reported yet.
    reading: bool,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    /// The highest high watermark sent since the position is known.
    told_high_watermark: u64,
    told_at: Duration,
    measure: bool,
    /// Whether it is slow: others are not kept waiting, nor memory kept, for it.
    demoted: bool,
    /// Since when the follower owes any answer.
    unanswered_since: Option<Duration>,
    /// Since when it has synced nothing of what it was sent.
    owes_since: Option<Duration>,
    /// Where the last batch ends that it was sent; a link that breaks again and again pays nothing back.
    sent_end: u64,
    /// The furthest that a life of the replica has synced, over all links.
    furthest: Option<(ReplicaIncarnation, u64)>,
    backoff: Duration,
    /// The follower's last answer was that it can take nothing.
    refused: bool,
    /// The last state of its log that was answered, and when.
    answered: Option<(DivergedLog, Duration)>,
}

impl FollowerFlow {
    /// A flow whose link is down.
    pub fn new(options: FlowOptions) -> Self {
        Self {
            options,
            state: State::Down,
            incarnation: None,
            acked: None,
            acked_at: Duration::ZERO,
            probed_at: None,
            next: 0,
            reading: false,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            told_high_watermark: 0,
            told_at: Duration::ZERO,
            measure: false,
            demoted: false,
            unanswered_since: None,
            owes_since: None,
            sent_end: 0,
            furthest: None,
            backoff: BACKOFF_MIN,
            refused: false,
            answered: None,
        }
    }

    /// A link to the follower's node stands, perhaps in place of an earlier one.
    pub fn on_link_up(&mut self) {
        self.incarnation = None;
        self.acked = None;
        self.probed_at = None;
        self.answered = None;
        self.refused = false;
        self.backoff = BACKOFF_MIN;
        self.start_probing();
    }

    /// The link is gone, and with it whatever was in flight.
    pub fn on_link_down(&mut self) {
        self.clear();
        self.state = State::Down;
    }

    /// What to send now. Asked after every input, when the log grew, and at least every 100 ms.
    pub fn next(&mut self, log: &FlowLog, now: Duration) -> FlowStep {
        match self.state {
            State::Down => {
                if self.acked != Some(log.log_end) {
                    self.expect_answer(now);
                }
                return FlowStep::Nothing;
            }
            State::Waiting { until } if now < until => return FlowStep::Nothing,
            State::Truncating { since } if now < since + self.options.ack_timeout => return FlowStep::Nothing,
            State::Waiting { .. } | State::Truncating { .. } => self.start_probing(),
            State::Streaming if self.is_lost(log, now) => self.start_probing(),
            State::Streaming | State::Probing => {}
        }
        if self.state == State::Probing { self.next_probe(log, now) } else { self.next_of_stream(log, now) }
    }

    /// An append with this `high_watermark` went to the link: the batches from `from` to `end`, or none when the two are equal.
    /// Batches may be pushed without [`next`](Self::next) while [`is_live`](Self::is_live).
    pub fn on_sent(&mut self, from: u64, end: u64, high_watermark: u64, now: Duration) {
        if self.state != State::Streaming {
            return;
        }
        self.reading = false;
        // Read before the stream began anew elsewhere: the follower skips or refuses it.
        if from != self.next {
            return;
        }
        self.told_high_watermark = self.told_high_watermark.max(high_watermark);
        self.told_at = now;
        let measured = end > from || self.measure;
        self.measure &= end > from;
        self.next = end;
        self.sent_end = self.sent_end.max(end);
        self.in_flight_bytes += end - from;
        self.in_flight.push_back(InFlight { from, end, sent_at: now, measured });
        self.expect_answer(now);
    }

    /// What `next` wanted sent could not be read by this node: it is tried again later.
    pub fn on_read_failed(&mut self, now: Duration) {
        if self.state != State::Down {
            self.wait(now);
            // It is the leader that cannot go on: nothing is owed until it can.
            (self.owes_since, self.sent_end) = (None, self.acked.unwrap_or_default());
        }
    }

    /// The follower has synced below `durable_end`.
    pub fn on_appended(&mut self, incarnation: ReplicaIncarnation, durable_end: u64, now: Duration) -> AckProgress {
        if self.state == State::Down || !self.meet(incarnation) {
            return AckProgress::default();
        }
        self.backoff = BACKOFF_MIN;
        self.refused = false;
        self.measure_ack(durable_end, now)
    }

    /// The follower took nothing, and says what its log is.
    pub fn on_diverged(&mut self, leader: &LeaderLog<'_>, answer: &DivergedAnswer<'_>, now: Duration) -> DivergedStep {
        if self.state == State::Down || !self.meet(answer.incarnation) {
            return DivergedStep::Ignore;
        }
        let state = answer.state();
        // An answer overtaken by an ack, or one of several to appends that were in flight together.
        // A follower whose empty log could take nothing from where it began says so too, again and again.
        let late = self.acked > Some(answer.log_end) && now < self.acked_at + OVERTAKEN;
        let repeated = self.answered.is_some_and(|(before, at)| before == state && now < at + PROBE_INTERVAL);
        if late || repeated {
            return DivergedStep::Ignore;
        }
        self.answered = Some((state, now));
        self.refused = false;
        match resolve(leader, answer) {
            Ok(Resolution::Resend { from }) => {
                self.stream_from(from);
                DivergedStep::Resend
            }
            Ok(Resolution::Truncate(to)) => {
                self.clear();
                // What it holds becomes less, and everything from there on is progress.
                (self.acked, self.furthest) = (None, None);
                self.state = State::Truncating { since: now };
                self.expect_answer(now);
                DivergedStep::Truncate { answers: state, to }
            }
            Err(_) => {
                self.wait(now);
                DivergedStep::Ignore
            }
        }
    }

    /// The follower can take nothing at the moment.
    pub fn on_unavailable(&mut self, now: Duration) {
        self.refused = self.state != State::Down;
        if !matches!(self.state, State::Down | State::Waiting { .. }) {
            self.wait(now);
        }
    }

    /// Has the follower answer an append without batches although it is idle, so that its latency can be measured.
    pub fn request_measure(&mut self) {
        self.measure = true;
    }

    /// Whether batches are pushed to it as they are appended, or later, together, as [`FollowerFlow::next`] has them read.
    pub fn set_demoted(&mut self, demoted: bool) {
        self.demoted = demoted;
    }

    /// Bounds what is in flight from now on.
    pub fn set_window_bytes(&mut self, window_bytes: u64) {
        self.options.window_bytes = window_bytes;
    }

    /// Whether a batch that is appended at `log_end` may be pushed from memory at once.
    pub fn is_live(&self, log_end: u64) -> bool {
        // One that is slow is given the next from memory once it has all before it; what it misses meanwhile is read.
        let is_waited_for = self.demoted && !self.in_flight.is_empty();
        self.state == State::Streaming && self.next == log_end && !self.reading && !is_waited_for && self.has_room()
    }

    /// Whether the follower was not sent everything yet, although it is known where it is.
    pub fn is_behind(&self, log_end: u64) -> bool {
        self.state == State::Streaming && self.next < log_end
    }

    /// Whether the link to the follower's node stands.
    pub fn is_up(&self) -> bool {
        self.state != State::Down
    }

    /// What the follower has synced, as far as it said so over this link.
    pub fn acked(&self) -> Option<u64> {
        self.acked
    }

    /// How long the follower has synced nothing of what it was sent; `None` while nothing waits for it. Answers that bring
    /// no progress, as to probes or from a replica without room, pay nothing back.
    pub fn outstanding(&self, now: Duration) -> Option<Duration> {
        self.owes_since.map(|since| now.saturating_sub(since))
    }

    /// Whether the follower answers, but that it can take nothing: its log is stopped, and its node need not be slow.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    fn expect_answer(&mut self, now: Duration) {
        self.unanswered_since.get_or_insert(now);
        self.owes_since.get_or_insert(now);
    }

    fn next_probe(&mut self, log: &FlowLog, now: Duration) -> FlowStep {
        if self.probed_at.is_some_and(|at| now < at + PROBE_INTERVAL) {
            return FlowStep::Nothing;
        }
        self.probed_at = Some(now);
        self.expect_answer(now);
        FlowStep::Probe { prev_end: log.log_end }
    }

    fn next_of_stream(&mut self, log: &FlowLog, now: Duration) -> FlowStep {
        if self.reading {
            return FlowStep::Nothing;
        }
        if self.next < log.log_end {
            if !self.has_room() || log.allowance == 0 {
                return FlowStep::Nothing;
            }
            self.reading = true;
            let max_bytes = self.options.window_bytes.saturating_sub(self.in_flight_bytes).min(log.allowance);
            return FlowStep::Send { from: self.next, max_bytes };
        }
        let tells = self.told_high_watermark < log.high_watermark && now >= self.told_at + HIGH_WATERMARK_INTERVAL;
        if (tells || self.measure) && self.in_flight.is_empty() {
            // Told once for each interval even when the link drops it: the next one brings it.
            self.told_at = now;
            return FlowStep::Probe { prev_end: self.next };
        }
        FlowStep::Nothing
    }

    /// Whether the stream can't go on: appends without an answer, or a log that no longer has what comes next.
    fn is_lost(&self, log: &FlowLog, now: Duration) -> bool {
        let overdue = |append: &InFlight| now >= append.sent_at + self.options.ack_timeout;
        // A later ack excuses earlier appends: a follower that is only slow is not asked again.
        let silent = self.unanswered_since.is_some_and(|since| now >= since + self.options.ack_timeout);
        let overdue = silent && self.in_flight.front().is_some_and(overdue);
        overdue || self.next < log.log_start || self.next > log.log_end
    }

    fn has_room(&self) -> bool {
        self.in_flight_bytes < self.options.window_bytes && self.in_flight.len() < MAX_IN_FLIGHT
    }

    /// Takes note of who answers; false for a life of the replica that is known to be over.
    fn meet(&mut self, incarnation: ReplicaIncarnation) -> bool {
        match self.incarnation {
            Some(known) if known == incarnation => true,
            Some(known) if known.node == incarnation.node && known > incarnation => false,
            _ => {
                self.incarnation = Some(incarnation);
                self.acked = None;
                true
            }
        }
    }

    fn measure_ack(&mut self, durable_end: u64, now: Duration) -> AckProgress {
        let mut progress = AckProgress { advanced: self.acked < Some(durable_end), ..AckProgress::default() };
        while let Some(append) = self.in_flight.front().filter(|append| append.end <= durable_end) {
            if append.measured && progress.latency.is_none() {
                progress.latency = Some(now.saturating_sub(append.sent_at));
            }
            progress.acked_count += 1;
            self.in_flight_bytes -= append.end - append.from;
            self.in_flight.pop_front();
        }
        if progress.advanced {
            (self.acked, self.acked_at) = (Some(durable_end), now);
        }
        if self.state == State::Streaming {
            // More than was sent over this stream: it arrived before the stream began anew.
            self.next = self.next.max(durable_end);
        } else {
            self.stream_from(durable_end);
        }
        self.unanswered_since = if self.in_flight.is_empty() { None } else { Some(now) };
        let further = self.has_come_further(durable_end);
        if self.in_flight.is_empty() && self.sent_end <= durable_end {
            self.owes_since = None;
        } else if further || progress.acked_count > 0 {
            self.owes_since = Some(now);
        }
        progress.caught_up = self.in_flight.is_empty();
        progress
    }

    fn has_come_further(&mut self, durable_end: u64) -> bool {
        let Some(life) = self.incarnation else { return false };
        let before = self.furthest.filter(|(known, _)| *known == life).map(|(_, end)| end);
        self.furthest = Some((life, before.unwrap_or_default().max(durable_end)));
        before < Some(durable_end)
    }

    fn stream_from(&mut self, position: u64) {
        self.clear();
        self.next = position;
        self.state = State::Streaming;
    }

    fn start_probing(&mut self) {
        self.clear();
        self.state = State::Probing;
    }

    fn wait(&mut self, now: Duration) {
        self.clear();
        self.state = State::Waiting { until: now + self.backoff };
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    /// Nothing of what was sent counts as in flight any more.
    fn clear(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.reading = false;
        self.told_high_watermark = 0;
    }
}

//! The traced batches of one partition that are still on their way: which of their stages are over is seen from the
//! positions that the log, the followers and the quorum have reached.

use super::{Stage, StageError, StageSpan};
use lance_messages::id::{NodeId, TopicPartition};
use lance_messages::peer::{ReplicaBatch, TracedBatch};
use lance_messages::wire::TraceContext;
use std::collections::VecDeque;
use std::time::Duration;

/// Traced batches of a partition that are followed at the same time; more are not.
const MAX_FOLLOWED: usize = 1024;
/// A batch that is not done after this is not followed any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Traced batches on their way, in log order.
#[derive(Debug, Default)]
pub struct TracedBatches {
    followed: VecDeque<Followed>,
}

/// When the parts of a log's step were done, as far as the disk tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// The disk had it.
    pub started: Option<Duration>,
    /// It was written.
    pub written: Option<Duration>,
}

#[derive(Debug)]
struct Followed {
    end: u64,
    /// The span that the stages belong to.
    context: TraceContext,
    appended_at: Duration,
    /// Since when it waits for its sync alone.
    written_at: Option<Duration>,
    durable: bool,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Leader { committed: bool, sent: Vec<Sent> },
    Follower { parent: TraceContext, bytes: u64 },
}

/// Sent to a follower.
#[derive(Debug)]
struct Sent {
    to: NodeId,
    span_id: [u8; 8],
    sent_at: Duration,
    acked: bool,
}

impl Followed {
    fn is_done(&self) -> bool {
        let told = match &self.role {
            Role::Leader { committed, sent } => *committed && sent.iter().all(|sent| sent.acked),
            Role::Follower { .. } => true,
        };
        self.durable && told
    }

    /// The stages of the disk, once the log is written up to `written` and durable up to `durable`.
    fn pass_disk(
        &mut self,
        (written, durable): (u64, u64),
        times: StepTimes,
        now: Duration,
        mut over: impl FnMut(Stage, Duration, Duration),
    ) {
        let is_durable = !self.durable && self.end <= durable;
        if self.written_at.is_none() && self.end <= written.max(durable) {
            let started = times.started.unwrap_or(now).max(self.appended_at);
            // A step without a sync is done when it is written.
            let at_once = if is_durable { times.written } else { Some(times.written.unwrap_or(now)) };
            over(Stage::Queue, self.appended_at, started);
            over(Stage::Write { with_sync: at_once.is_none() }, started, at_once.unwrap_or(now));
            if is_durable {
                over(Stage::Sync { with_write: at_once.is_none() }, at_once.unwrap_or(started), now);
            }
            self.written_at = Some(at_once.unwrap_or(now));
        } else if is_durable {
            over(Stage::Sync { with_write: false }, self.written_at.unwrap_or(now), now);
        }
        self.durable |= is_durable;
    }
}

impl TracedBatches {
    /// Whether there are none: then nothing is to be told.
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// Nothing that was appended is followed any more: the log may be another one.
    pub fn clear(&mut self) {
        self.followed.clear();
    }

    /// A leader appended a batch of a traced request. Batches come in log order.
    pub fn on_appended(&mut self, end: u64, context: TraceContext, now: Duration) {
        self.follow(end, context, now, Role::Leader { committed: false, sent: Vec::new() });
    }

    /// A follower appended a batch that its leader traces; `parent` is the leader's span of sending it.
    pub fn on_replica_appended(&mut self, batch: &ReplicaBatch, parent: TraceContext, own: NodeId, now: Duration) {
        let (end, bytes) = (batch.header.end_position(), batch.header.batch_bytes());
        let context = parent.child(u64::from(own.0));
        self.follow(end, context, now, Role::Follower { parent, bytes });
    }

    fn follow(&mut self, end: u64, context: TraceContext, appended_at: Duration, role: Role) {
        if self.followed.len() < MAX_FOLLOWED {
            let followed = Followed { end, context, appended_at, written_at: None, durable: false, role };
            self.followed.push_back(followed);
        }
    }

    /// Batches go to a follower, again perhaps; names those that are traced.
    pub fn on_sent(&mut self, to: NodeId, batches: &[ReplicaBatch], now: Duration) -> Vec<TracedBatch> {
        let mut names = Vec::new();
        for followed in &mut self.followed {
            let Role::Leader { sent, .. } = &mut followed.role else { continue };
            let ends = |batch: &ReplicaBatch| batch.header.end_position();
            let Ok(index) = batches.binary_search_by_key(&followed.end, ends) else { continue };
            let before = sent.iter().find(|sent| sent.to == to).map(|sent| sent.span_id);
            let span_id = before.unwrap_or_else(|| {
                let span_id = followed.context.child(u64::from(to.0)).span_id;
                sent.push(Sent { to, span_id, sent_at: now, acked: false });
                span_id
            });
            let context = TraceContext { span_id, ..followed.context };
            names.push(TracedBatch { index: index as u32, context });
        }
        names
    }

    /// The log is written and durable up to these positions.
    pub fn on_disk(
        &mut self,
        partition: TopicPartition,
        ends: (u64, u64),
        times: StepTimes,
        now: Duration,
        out: &mut impl FnMut(StageSpan),
    ) {
        for followed in &mut self.followed {
            let (parent, was_durable) = (followed.context, followed.durable);
            followed.pass_disk(ends, times, now, |stage, started, ended| {
                let span = StageSpan::until_now(parent, stage, partition, started);
                out(StageSpan { ended: Some(ended), ..span });
            });
            if let Role::Follower { parent, bytes } = followed.role
                && followed.durable
                && !was_durable
            {
                let stage = Stage::AppendReplica { bytes };
                let span = StageSpan::until_now(parent, stage, partition, followed.appended_at);
                out(StageSpan { span_id: Some(followed.context.span_id), ..span });
            }
        }
        self.followed.retain(|followed| !followed.is_done());
    }

    /// A follower has everything below `durable_end`.
    pub fn on_acked(
        &mut self,
        partition: TopicPartition,
        from: NodeId,
        durable_end: u64,
        now: Duration,
        out: &mut impl FnMut(StageSpan),
    ) {
        for followed in self.followed.iter_mut().filter(|followed| followed.end <= durable_end) {
            let Role::Leader { sent, .. } = &mut followed.role else { continue };
            for sent in sent.iter_mut().filter(|sent| sent.to == from && !sent.acked) {
                sent.acked = true;
                out(replicated(followed.context, sent, partition, now, None));
            }
        }
        self.followed.retain(|followed| !followed.is_done());
    }

    /// A quorum has everything below `high_watermark`.
    pub fn on_committed(
        &mut self,
        partition: TopicPartition,
        high_watermark: u64,
        now: Duration,
        out: &mut impl FnMut(StageSpan),
    ) {
        for followed in self.followed.iter_mut().filter(|followed| followed.end <= high_watermark) {
            let Role::Leader { committed, .. } = &mut followed.role else { continue };
            if !std::mem::replace(committed, true) {
                let span = StageSpan::until_now(followed.context, Stage::Quorum, partition, followed.appended_at);
                out(StageSpan { ended: Some(now), ..span });
            }
        }
        self.followed.retain(|followed| !followed.is_done());
    }

    /// Time has passed: what is not done by now is told as it stands.
    pub fn on_tick(&mut self, partition: TopicPartition, now: Duration, out: &mut impl FnMut(StageSpan)) {
        let late = |followed: &Followed| now >= followed.appended_at.saturating_add(PATIENCE);
        let error = Some(StageError::TimedOut);
        for followed in self.followed.iter().filter(|followed| late(followed)) {
            let Role::Leader { committed, sent } = &followed.role else { continue };
            for sent in sent.iter().filter(|sent| !sent.acked) {
                out(replicated(followed.context, sent, partition, now, error));
            }
            if !committed {
                let span = StageSpan::until_now(followed.context, Stage::Quorum, partition, followed.appended_at);
                out(StageSpan { error, ended: Some(now), ..span });
            }
        }
        self.followed.retain(|followed| !late(followed));
    }
}

fn replicated(
    parent: TraceContext,
    sent: &Sent,
    partition: TopicPartition,
    now: Duration,
    error: Option<StageError>,
) -> StageSpan {
    let span = StageSpan::until_now(parent, Stage::Replicate { to: sent.to }, partition, sent.sent_at);
    StageSpan { span_id: Some(sent.span_id), ended: Some(now), error, ..span }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader};
    use lance_messages::id::{LeaderEpoch, TopicId};
    use lance_messages::sort_key::SortKey;

    const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
    const CONTEXT: TraceContext = TraceContext { trace_id: [1; 16], span_id: [2; 8], flags: TraceContext::SAMPLED };
    const OTHER: NodeId = NodeId(2);
    const NO_TIMES: StepTimes = StepTimes { started: None, written: None };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn batch(position: u64, end: u64) -> ReplicaBatch {
        let header = BatchHeader {
            flags: BatchFlags::default(),
            records_crc: 0,
            position,
            base_offset: 0,
            base_record: 0,
            stored_len: (end - position - BATCH_HEADER_BYTES as u64) as u32,
            plain_len: 0,
            record_count: 1,
            leader_epoch: LeaderEpoch(1),
            committed_through: 0,
            sort_key: SortKey::default(),
            max_timestamp_ns: 0,
            producer: None,
        };
        ReplicaBatch { raw_header: [0; BATCH_HEADER_BYTES], header, records: Bytes::new() }
    }

    /// Stages in order, with when each began and ended.
    fn told(of: impl FnOnce(&mut dyn FnMut(StageSpan))) -> Vec<StageSpan> {
        let mut spans = Vec::new();
        of(&mut |span| spans.push(span));
        spans
    }

    fn times(span: &StageSpan) -> (Stage, u64, u64) {
        let millis = |at: Duration| at.as_millis() as u64;
        (span.stage, millis(span.started), millis(span.ended.unwrap_or_default()))
    }

    #[test]
    fn the_stages_of_the_disk_follow_each_other_as_the_disk_tells() {
        let mut traced = TracedBatches::default();
        traced.on_appended(500, CONTEXT, at(10));
        let steps = StepTimes { started: Some(at(12)), written: Some(at(15)) };
        let spans = told(|mut out| traced.on_disk(PARTITION, (500, 500), steps, at(20), &mut out));
        let write = Stage::Write { with_sync: false };
        let expected = [(Stage::Queue, 10, 12), (write, 12, 15), (Stage::Sync { with_write: false }, 15, 20)];
        assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), expected);
        assert!(spans.iter().all(|span| span.parent == CONTEXT && span.partition == Some(PARTITION)));
        // Durable, it still waits for a quorum, and is told of once.
        assert!(!traced.is_empty());
        assert_eq!(told(|mut out| traced.on_disk(PARTITION, (900, 900), steps, at(30), &mut out)), []);
        let spans = told(|mut out| traced.on_committed(PARTITION, 499, at(31), &mut out));
        assert_eq!(spans, [], "it is not there yet");
        let spans = told(|mut out| traced.on_committed(PARTITION, 500, at(32), &mut out));
        assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [(Stage::Quorum, 10, 32)]);
        assert!(traced.is_empty());
    }

    #[test]
    fn a_disk_that_does_not_tell_has_one_time_for_both_and_says_so() {
        let mut traced = TracedBatches::default();
        traced.on_appended(500, CONTEXT, at(10));
        let spans = told(|mut out| traced.on_disk(PARTITION, (500, 500), NO_TIMES, at(20), &mut out));
        let stages: Vec<Stage> = spans.iter().map(|span| span.stage).collect();
        assert_eq!(stages, [Stage::Queue, Stage::Write { with_sync: true }, Stage::Sync { with_write: true }]);
    }

    #[test]
    fn where_syncs_come_by_interval_the_sync_lasts_until_the_batch_is_durable() {
        let mut traced = TracedBatches::default();
        traced.on_appended(500, CONTEXT, at(10));
        let spans = told(|mut out| traced.on_disk(PARTITION, (500, 0), NO_TIMES, at(20), &mut out));
        let expected = [(Stage::Queue, 10, 20), (Stage::Write { with_sync: false }, 20, 20)];
        assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), expected);
        told(|mut out| traced.on_committed(PARTITION, 500, at(21), &mut out));
        assert!(!traced.is_empty(), "it is acked and not durable");
        let spans = told(|mut out| traced.on_disk(PARTITION, (500, 500), NO_TIMES, at(90), &mut out));
        assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [(Stage::Sync { with_write: false }, 20, 90)]);
        assert!(traced.is_empty());
    }

    #[test]
    fn each_follower_has_a_span_that_lasts_from_the_first_sending_to_the_ack() {
        let mut traced = TracedBatches::default();
        traced.on_appended(200, CONTEXT, at(10));
        traced.on_appended(600, CONTEXT, at(10));
        let batches = [batch(0, 200), batch(200, 400), batch(400, 600)];
        let names = traced.on_sent(OTHER, &batches, at(11));
        assert_eq!(names.iter().map(|traced| traced.index).collect::<Vec<_>>(), [0, 2]);
        assert!(names.iter().all(|name| name.context.trace_id == CONTEXT.trace_id));
        assert_ne!(names[0].context.span_id, CONTEXT.span_id);
        // Sent again, it is the same span; to another follower it is another.
        assert_eq!(traced.on_sent(OTHER, &batches[..1], at(12)), names[..1]);
        assert_ne!(traced.on_sent(NodeId(3), &batches[..1], at(12))[0].context, names[0].context);
        let spans = told(|mut out| traced.on_acked(PARTITION, OTHER, 400, at(20), &mut out));
        assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [(Stage::Replicate { to: OTHER }, 11, 20)]);
        assert_eq!((spans[0].parent, spans[0].span_id), (CONTEXT, Some(names[0].context.span_id)));
        assert_eq!(told(|mut out| traced.on_acked(PARTITION, OTHER, 400, at(21), &mut out)), []);
    }

    #[test]
    fn a_followers_append_lies_below_the_sending_and_lasts_until_it_is_durable() {
        let mut traced = TracedBatches::default();
        traced.on_replica_appended(&batch(0, 300), CONTEXT, OTHER, at(5));
        let spans = told(|mut out| traced.on_disk(PARTITION, (300, 300), NO_TIMES, at(9), &mut out));
        let append = spans.last().unwrap();
        assert_eq!(append.stage, Stage::AppendReplica { bytes: 300 });
        assert_eq!((append.parent, append.started), (CONTEXT, at(5)));
        assert!(spans[..3].iter().all(|span| Some(span.parent.span_id) == append.span_id), "{spans:#?}");
        assert!(traced.is_empty());
    }

    #[test]
    fn what_is_not_heard_of_again_is_told_as_it_stands_and_forgotten() {
        let mut traced = TracedBatches::default();
        traced.on_appended(200, CONTEXT, at(0));
        traced.on_sent(OTHER, &[batch(0, 200)], at(1));
        assert_eq!(told(|mut out| traced.on_tick(PARTITION, PATIENCE - at(1), &mut out)), []);
        let spans = told(|mut out| traced.on_tick(PARTITION, PATIENCE, &mut out));
        let stages: Vec<Stage> = spans.iter().map(|span| span.stage).collect();
        assert_eq!(stages, [Stage::Replicate { to: OTHER }, Stage::Quorum]);
        assert!(spans.iter().all(|span| span.error == Some(StageError::TimedOut)));
        assert!(traced.is_empty());
    }

    #[test]
    fn no_more_are_followed_than_there_is_room_for() {
        let mut traced = TracedBatches::default();
        (1..=2 * MAX_FOLLOWED as u64).for_each(|end| traced.on_appended(end, CONTEXT, at(0)));
        assert_eq!(traced.followed.len(), MAX_FOLLOWED);
    }
}

//! The source: when a flow reads, and what it makes of what was read.

use super::bucket::rest_ms;
use super::flow::{Flow, FlowId, SourceBatch, SourceBounds, Stage};
use super::{Effects, TeeCore, TeeEffect, TeeNote, UNLOAD_FAILURES};
use lance_messages::id::TopicPartition;
use lance_messages::peer::LogPlace;
use lance_messages::wire::tee::TeeState;

/// Bytes read at once, at most.
const READ_BYTES: usize = 1 << 20;
/// A flow that holds so much reads no more.
const FLOW_BYTES: usize = 4 << 20;
/// Reads of one rule that may be under way together: each may bring one batch of any size.
const MAX_READS: usize = 4;
/// How often flows are looked at that are not read.
const LOOK_MS: u64 = 1000;

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the first batch there is: only its place is wanted.
    Start,
    /// At the first batch stored at or after this time, ns since the Unix epoch: only its place is wanted.
    Time(u64),
    /// At this log position.
    Position(u64),
}

/// What a read came to.
#[derive(Debug)]
pub enum ReadOutcome {
    /// Batches, none where nothing is committed.
    Batches {
        /// How far the source is.
        bounds: SourceBounds,
        /// Those that hold records, in order.
        batches: Vec<SourceBatch>,
        /// Where they end, those without records included; where it began, when there were none.
        end: LogPlace,
    },
    /// The place that was looked for.
    Place {
        /// How far the source is.
        bounds: SourceBounds,
        /// The place.
        place: LogPlace,
    },
    /// What is wanted was removed.
    BelowStart {
        /// How far the source is.
        bounds: SourceBounds,
    },
    /// It cannot be read.
    Failed {
        /// Why.
        reason: String,
        /// Whether somebody has to look.
        stuck: bool,
    },
}

impl TeeCore {
    pub(super) fn pump_source(&mut self, id: FlowId, now_ms: u64, effects: &mut Effects) {
        let Some(flow) = self.flows.get(&id) else { return };
        let rests = now_ms < flow.read_not_before_ms || now_ms < flow.not_before_ms && flow.is_empty();
        if flow.reading.is_some() || rests {
            return;
        }
        match flow.stage {
            Stage::Unclaimed | Stage::Claiming => {}
            Stage::Placing => {
                let from = match (flow.durable, self.rules.get(&flow.tee).map_or(0, |rule| rule.rule.from_ns)) {
                    (Some(durable), _) => ReadFrom::Position(durable.position),
                    (None, 0) => ReadFrom::Start,
                    (None, at) => ReadFrom::Time(at),
                };
                self.read(id, from, effects);
            }
            Stage::Running if flow.removed_to.is_some() => self.skip_removed(id, effects),
            Stage::Running if flow.has_more() => {
                let share = self.rules.get(&flow.tee).map_or(0, |rule| {
                    let fits = rule.held_bytes < self.options.buffer_bytes && rule.reads < MAX_READS;
                    let share = self.options.buffer_bytes / usize::from(rule.led.max(1));
                    if fits { share.min(FLOW_BYTES) } else { 0 }
                });
                if flow.queued_bytes < share {
                    self.read(id, ReadFrom::Position(flow.read_end.position), effects);
                }
            }
            Stage::Running => self.wait(id, effects),
        }
    }

    fn read(&mut self, id: FlowId, from: ReadFrom, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        flow.reading = Some(ticket);
        let (mut max_bytes, mut is_rated) = (READ_BYTES, false);
        if let Some(rule) = self.rules.get_mut(&flow.tee) {
            rule.reads += 1;
            is_rated = rule.rule.bytes_per_second > 0;
            max_bytes = max_bytes.min(self.options.buffer_bytes / usize::from(rule.led.max(1))).max(64 << 10);
        }
        self.reads.insert(ticket, flow.tee);
        // A target that refuses batch after batch may have found damage: what is read into memory is checked here. Ranges
        // keep their segments open, removed ones too: few at a time, and not for as long as a rate makes them wait.
        let in_files =
            self.options.in_kernel && flow.failures < UNLOAD_FAILURES && max_bytes == READ_BYTES && !is_rated;
        effects.push(TeeEffect::Read { flow: id, ticket, partition: flow.partition, from, max_bytes, in_files });
    }

    fn wait(&mut self, id: FlowId, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id).filter(|flow| !flow.waiting) else { return };
        flow.waiting = true;
        effects.push(TeeEffect::Wait { flow: id, partition: flow.partition, offset: flow.read_end.offset });
    }

    /// The outcome of a read.
    pub fn on_read(&mut self, id: FlowId, ticket: u64, outcome: ReadOutcome, now_ms: u64, effects: &mut Effects) {
        let tee = self.reads.remove(&ticket);
        if let Some(rule) = tee.and_then(|tee| self.rules.get_mut(&tee)) {
            rule.reads = rule.reads.saturating_sub(1);
        }
        let seed = self.options.seed;
        // What a flow has forgotten since is read again.
        let Some(flow) = self.flows.get_mut(&id).filter(|flow| flow.reading == Some(ticket)) else { return };
        flow.reading = None;
        let (tee, partition) = (flow.tee, flow.partition);
        if let ReadOutcome::Failed { reason, stuck } = outcome {
            flow.read_failures = flow.read_failures.saturating_add(1);
            flow.read_not_before_ms = now_ms + rest_ms(flow.read_failures, flow.seed(seed));
            return note_read_failure(flow, reason, stuck, effects);
        }
        flow.read_failures = 0;
        if flow.stage == Stage::Placing {
            flow.stage = Stage::Running;
            let position = match &outcome {
                ReadOutcome::Place { place, .. } => place.position,
                _ => flow.front.position,
            };
            effects.push(TeeEffect::Note { tee, partition, note: TeeNote::Began { position } });
        }
        match outcome {
            ReadOutcome::Batches { bounds, batches, end } => {
                flow.source = bounds;
                let held = flow.push(batches, end);
                if let Some(rule) = self.rules.get_mut(&tee) {
                    rule.held_bytes += held;
                }
            }
            ReadOutcome::Place { bounds, place } => {
                flow.source = bounds;
                flow.go_to(place);
            }
            ReadOutcome::BelowStart { bounds } => {
                flow.source = bounds;
                flow.removed_to = Some(bounds.log_start);
            }
            ReadOutcome::Failed { .. } => {}
        }
        self.settle(id);
        self.pump(id, now_ms, effects);
    }

    /// Goes on behind what retention removed, once everything that was read before is acked. The batches behind the gap
    /// get the numbers of another producer: those of the old one are taken by batches that nobody can count any more.
    fn skip_removed(&mut self, id: FlowId, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id).filter(|flow| flow.is_empty()) else { return };
        let Some(place) = flow.removed_to.take() else { return };
        let (records, bytes) =
            (place.record.saturating_sub(flow.front.record), place.offset.saturating_sub(flow.front.offset));
        let news = place.record.saturating_sub(flow.front.record.max(flow.lost_through));
        let (tee, partition) = (flow.tee, flow.partition);
        flow.go_to(place);
        if records == 0 {
            return;
        }
        flow.lost_through = flow.lost_through.max(place.record);
        flow.forget_producer();
        if news > 0 {
            effects.push(TeeEffect::Note { tee, partition, note: TeeNote::Lost { records: news, bytes } });
            if let Some(counts) = self.counts.get_mut(&(tee, partition)) {
                counts.lost_records += news;
                counts.lost_bytes += bytes;
            }
        }
        self.close_link(id, effects);
    }

    /// The wait of a flow is over: something is committed, or its time is up. `None`: it could not wait.
    pub fn on_waited(&mut self, id: FlowId, end_offset: Option<u64>, now_ms: u64, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.waiting = false;
        match end_offset {
            // The read that follows says where that is in the log.
            Some(end_offset) if end_offset >= flow.read_end.offset => {
                flow.source.high_watermark.offset = flow.source.high_watermark.offset.max(end_offset);
            }
            _ => flow.read_not_before_ms = now_ms + rest_ms(1, 0),
        }
        self.pump_source(id, now_ms, effects);
    }

    /// A shard of this node restarted: whoever waits there is not answered any more.
    pub fn on_shard_restarted(&mut self, now_ms: u64, effects: &mut Effects) {
        let ids: Vec<FlowId> = self.flows.keys().copied().collect();
        for id in ids {
            self.on_waited(id, None, now_ms, effects);
        }
    }

    pub(super) fn look(&mut self, now_ms: u64, effects: &mut Effects) {
        if self.flows.is_empty() || now_ms < self.looked_ms + LOOK_MS {
            return;
        }
        self.looked_ms = now_ms;
        let mut partitions: Vec<TopicPartition> = self.flows.values().map(|flow| flow.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        effects.push(TeeEffect::Look(partitions));
    }

    /// How far partitions are.
    pub fn on_bounds(&mut self, bounds: &[(TopicPartition, SourceBounds)], now_ms: u64, effects: &mut Effects) {
        for (partition, bounds) in bounds {
            for flow in self.flows.values_mut().filter(|flow| flow.partition == *partition) {
                let before = flow.source.high_watermark;
                flow.source = *bounds;
                if bounds.high_watermark.offset < before.offset {
                    flow.source.high_watermark = before;
                }
            }
        }
        self.pump_all(now_ms, effects);
    }

    /// Shows a flow that has nothing to do as one that works.
    pub(super) fn settle(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.stage == Stage::Running && flow.failures == 0 && flow.read_failures == 0 {
            flow.state = TeeState::Forwarding;
            flow.error.clear();
        }
    }
}

fn note_read_failure(flow: &mut Flow, reason: String, stuck: bool, effects: &mut Effects) {
    flow.state = match (stuck, flow.stage) {
        (true, _) => TeeState::Stuck,
        (false, Stage::Running) => TeeState::Waiting,
        (false, _) => TeeState::Starting,
    };
    if flow.error != reason {
        let note = TeeNote::Failed { reason: reason.clone(), stuck };
        effects.push(TeeEffect::Note { tee: flow.tee, partition: flow.partition, note });
        flow.error = reason;
    }
}

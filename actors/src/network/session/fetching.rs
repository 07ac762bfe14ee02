//! Fetches: split into parts, one a partition; answered when every part is.

use super::control::has_partition;
use super::lanes::RequestId;
use super::replies::{FetchPart, FetchSlot, PartData, ReplySlot};
use super::routing::{Route, leader_id, not_leader, redirect};
use super::{Effects, SessionCore, SessionEffect, shard_of};
use crate::network::readers::{ReadFailure, SegmentRead};
use crate::view::ClusterView;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::mail::connection::{FetchedData, PartitionBounds};
use lance_messages::mail::ingestion::{CancelWait, Fetch};
use lance_messages::wire::fetch::{
    DataEncoding, END_OFFSET, Fetch as WireFetch, FetchPartitions, FetchedPartition, MAX_FETCH_DATA_BYTES,
    fetch_partitions_head, fetch_response_head,
};
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Command, Response, ResponseFrame};
use lance_storage::reader::{Piece, ReadPlan};
use std::time::Duration;

/// Most partitions of one fetch.
pub(super) const MAX_PARTS: usize = 4096;
/// Least data a partition of a fetch may answer with.
const MIN_PART_BYTES: u32 = 16 * 1024;

impl SessionCore {
    pub(super) fn on_fetch(
        &mut self,
        fetch: WireFetch,
        correlation: u64,
        partition: u16,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        let partition = TopicPartition::new(fetch.topic, partition);
        if !has_partition(view, partition) {
            let error = TypedError::new(ErrorCode::UnknownTopic, Answers::Control(Command::FETCH.0));
            let lane = self.control_lane();
            self.lanes.reserve(lane, ReplySlot::ready(correlation, Response::Error(error)));
            return;
        }
        let mut part = self.part(partition, fetch.offset, fetch.max_bytes);
        match self.route(partition, view) {
            Route::Here => {}
            Route::Forward => part.waiting_for = Some(self.forwarder()),
            Route::Redirect => {
                let error = not_leader(view, Some(partition), Answers::Control(Command::FETCH.0));
                let lane = self.control_lane();
                self.lanes.reserve(lane, ReplySlot::ready(correlation, Response::Error(error)));
                return;
            }
        }
        let (parts, redirect) = (vec![part], String::new());
        let slot =
            FetchSlot { legacy: true, correlation, parts, redirect, cancelled: false, since: now, may_wait: false };
        self.start_fetch(slot, Duration::ZERO, effects);
    }

    pub(super) fn on_fetch_partitions(
        &mut self,
        fetch: &FetchPartitions,
        correlation: u64,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        // A stored batch is read whole, however large: one at a time.
        let most = if self.copies_logs() { 1 } else { MAX_PARTS };
        if fetch.partitions.is_empty() || fetch.partitions.len() > most {
            let message = format!("A fetch names 1 to {most} partitions");
            let answers = Answers::Control(Command::FETCH_PARTITIONS.0);
            let error = TypedError::with_message(ErrorCode::InvalidRequest, answers, message);
            let lane = self.control_lane();
            self.lanes.reserve(lane, ReplySlot::ready(correlation, Response::Error(error)));
            return;
        }
        let share = (fetch.max_bytes / fetch.partitions.len() as u32).max(MIN_PART_BYTES);
        // The parts together stay below what one frame may carry.
        let ceiling = MAX_FETCH_DATA_BYTES / fetch.partitions.len() as u32;
        let parts: Vec<FetchPart> = fetch
            .partitions
            .iter()
            .map(|asked| {
                let mut part = self.part(asked.partition, asked.offset, asked.max_bytes.min(share).min(ceiling));
                if !has_partition(view, asked.partition) {
                    finish_part(&mut part, Some(ErrorCode::UnknownPartition));
                } else if self.route(asked.partition, view) != Route::Here {
                    // The end of the log is the leader's to tell.
                    part.near = asked.near && asked.offset != END_OFFSET && view.is_in_quorum(asked.partition);
                    if !part.near {
                        part.leader = leader_id(view, asked.partition);
                        finish_part(&mut part, Some(ErrorCode::NotLeader));
                    }
                } else if asked.near
                    && asked.offset != END_OFFSET
                    && let Some(node) = view.nearer_replica(asked.partition, &fetch.rack)
                {
                    part.leader = node.0;
                    finish_part(&mut part, Some(ErrorCode::ReadElsewhere));
                }
                part
            })
            .collect();
        let wait = if fetch.min_bytes == 0 { 0 } else { fetch.max_wait_ms };
        let may_wait = wait > 0;
        let redirect = String::new();
        let slot = FetchSlot { legacy: false, correlation, parts, redirect, cancelled: false, since: now, may_wait };
        let wait = Duration::from_millis(u64::from(wait)).min(self.limits.max_fetch_wait);
        self.start_fetch(slot, wait, effects);
    }

    fn part(&self, partition: TopicPartition, offset: u64, max_bytes: u32) -> FetchPart {
        FetchPart {
            partition,
            offset,
            max_bytes: max_bytes.min(self.limits.max_fetch_bytes),
            waiting_for: Some(shard_of(partition, self.limits.shards)),
            bounds: None,
            answer: None,
            data: PartData::None,
            data_crc: 0,
            timestamp_ns: 0,
            leader: 0,
            near: false,
        }
    }

    fn start_fetch(&mut self, slot: FetchSlot, max_wait: Duration, effects: &mut Effects) {
        self.fetches += 1;
        let any_failed = slot.is_complete() || slot.parts.iter().any(|part| part.answer.is_some());
        let max_wait = if any_failed || self.draining { Duration::ZERO } else { max_wait };
        let lane = self.control_lane();
        let stored = self.copies_logs() && !slot.legacy;
        let asked: Vec<_> = slot
            .parts
            .iter()
            .zip(0..)
            .map(|(part, number)| (number, (part.partition, part.offset, part.max_bytes, part.near), part.waiting_for))
            .collect();
        let id = self.lanes.reserve(lane, ReplySlot::Fetch(Box::new(slot)));
        for (part, (partition, offset, max_bytes, near), shard) in asked {
            let Some(shard) = shard else { continue };
            let (connection, request) = (self.id, id.0);
            let trace = self.spans.fetch_trace(id, part);
            let fetch =
                Fetch { connection, request, part, partition, offset, max_bytes, max_wait, stored, near, trace };
            effects.push(SessionEffect::Fetch(shard, fetch));
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        request: u64,
        number: u16,
        result: Result<(PartitionBounds, FetchedData<SegmentRead>), ErrorCode>,
        (view, now): (&ClusterView, Duration),
        effects: &mut Effects,
    ) {
        if matches!(result, Err(ErrorCode::NotLeader)) && self.read_elsewhere(request, effects) {
            return;
        }
        let (connection, stored) = (self.id, self.copies_logs());
        let Some(ReplySlot::Fetch(fetch)) = self.slot_mut(request) else {
            return;
        };
        let (legacy, stored) = (fetch.legacy, stored && !fetch.legacy);
        let Some(part) = fetch.parts.get_mut(usize::from(number)) else {
            return;
        };
        if part.answer.is_some() {
            return;
        }
        part.waiting_for = None;
        let mut wants_plan = false;
        match result {
            Err(code) => {
                if code == ErrorCode::NotLeader {
                    part.leader = leader_id(view, part.partition);
                    fetch.redirect = redirect(view, Some(part.partition));
                }
                finish_part(part, Some(code));
            }
            Ok((bounds, data)) => {
                part.bounds = Some(bounds);
                match data {
                    FetchedData::Tail { data, next_offset, record_count, crc, timestamp_ns } => {
                        (part.data_crc, part.timestamp_ns) = (crc, timestamp_ns);
                        let len = data.len() as u32;
                        part.data = PartData::Memory(data);
                        answer_part(part, None, next_offset, record_count, len);
                    }
                    FetchedData::Segments(read) => {
                        let offset = part.offset.max(bounds.log_start_offset);
                        let max_bytes = part.max_bytes;
                        wants_plan = true;
                        effects.push(SessionEffect::Plan { request, part: number, read, offset, max_bytes, stored });
                    }
                    FetchedData::Empty => answer_part(part, None, part.offset.max(bounds.log_start_offset), 0, 0),
                    FetchedData::BeyondEnd if part.offset == END_OFFSET || legacy => {
                        answer_part(part, None, bounds.high_watermark_offset, 0, 0);
                    }
                    FetchedData::BeyondEnd => finish_part(part, Some(ErrorCode::OffsetOutOfRange)),
                }
            }
        }
        // One part has something to say: the others need not wait any longer.
        if fetch.may_wait && !fetch.cancelled && fetch.parts.len() > 1 {
            fetch.cancelled = true;
            for part in fetch.parts.iter().filter(|part| part.answer.is_none()) {
                let Some(shard) = part.waiting_for else { continue };
                let cancel = CancelWait { connection, request, partition: part.partition };
                effects.push(SessionEffect::CancelWait(shard, cancel));
            }
        }
        if wants_plan && !self.traces_nothing() {
            self.spans.on_plan_wanted(request, number, now);
        }
    }

    /// Another node leads by now: a 1.0 Fetch goes on to it. `false` where the client has to go there itself.
    fn read_elsewhere(&mut self, request: u64, effects: &mut Effects) -> bool {
        let (connection, forwarder) = (self.id, self.forwarder());
        if self.features.is_some() {
            return false;
        }
        let Some(ReplySlot::Fetch(fetch)) = self.slot_mut(request) else {
            return false;
        };
        let Some(part) = fetch.parts.first_mut().filter(|part| part.waiting_for.is_some_and(|at| at != forwarder))
        else {
            return false;
        };
        part.waiting_for = Some(forwarder);
        let FetchPart { partition, offset, max_bytes, .. } = *part;
        let max_wait = Duration::ZERO;
        let trace = self.spans.fetch_trace(RequestId(request), 0);
        let stored = false;
        let (part, near) = (0, false);
        let fetch = Fetch { connection, request, part, partition, offset, max_bytes, max_wait, stored, near, trace };
        effects.push(SessionEffect::Fetch(forwarder, fetch));
        true
    }

    /// A reader thread planned a part.
    pub fn on_plan(
        &mut self,
        request: u64,
        number: u16,
        plan: Result<ReadPlan, impl Into<ReadFailure>>,
        (view, now): (&ClusterView, Duration),
        effects: &mut Effects,
    ) {
        if let Some(ReplySlot::Fetch(fetch)) = self.slot_mut(request)
            && let Some(part) = fetch.parts.get_mut(usize::from(number))
            && part.answer.is_none()
        {
            let (partition, mut planned) = (part.partition, 0);
            match plan {
                Ok(plan) => {
                    planned = plan.bytes;
                    (part.data_crc, part.timestamp_ns) = (plan.crc, plan.timestamp_ns);
                    let (next_offset, records, len) = (plan.next_offset, plan.record_count, plan.bytes as u32);
                    part.data = PartData::Plan(plan);
                    answer_part(part, None, next_offset, records, len);
                }
                Err(failure) => {
                    let failure = failure.into();
                    // Who came for a near replica that is damaged finds the records at the leader.
                    let elsewhere = part.near && failure.damage().is_some();
                    if elsewhere {
                        part.leader = leader_id(view, partition);
                    }
                    finish_part(part, Some(if elsewhere { ErrorCode::NotLeader } else { failure.code(view) }));
                }
            }
            if !self.traces_nothing() {
                self.spans.on_planned(request, number, (partition, planned), effects);
            }
        }
        self.advance(effects, now);
    }

    pub(super) fn write_fetch(&mut self, fetch: FetchSlot, now: Duration, effects: &mut Effects) {
        self.fetches = self.fetches.saturating_sub(1);
        let bytes: u64 =
            fetch.parts.iter().filter_map(|part| part.answer).map(|answer| u64::from(answer.data_len)).sum();
        let took = (!fetch.may_wait).then(|| now.saturating_sub(fetch.since));
        effects.push(SessionEffect::FetchDone(took, bytes));
        if fetch.legacy {
            self.write_legacy_fetch(fetch);
        } else {
            self.write_fetch_partitions(fetch);
        }
    }

    fn write_legacy_fetch(&mut self, fetch: FetchSlot) {
        let features = self.features;
        let correlation = fetch.correlation;
        let Some(part) = fetch.parts.into_iter().next() else {
            return;
        };
        let Some(answer) = part.answer else { return };
        if let Some(code) = answer.error {
            let mut error = TypedError::new(code, Answers::Control(Command::FETCH.0));
            error.detail = fetch.redirect;
            ResponseFrame { correlation, response: Response::Error(error) }.encode(&mut self.output.tail, features);
            return;
        }
        let end = part.bounds.map_or(answer.next_offset, |bounds| bounds.high_watermark_offset);
        if answer.data_len == 0 && part.offset > end && part.offset != END_OFFSET {
            let response = Response::CatchingUp { end_offset: end };
            ResponseFrame { correlation, response }.encode(&mut self.output.tail, features);
            return;
        }
        let crc = features.unwrap_or_default().header_crc();
        let head = fetch_response_head(
            answer.next_offset,
            answer.record_count,
            answer.data_len,
            part.data_crc,
            correlation,
            crc,
        );
        self.output.tail.extend_from_slice(&head);
        self.write_data(part.data);
    }

    fn write_fetch_partitions(&mut self, fetch: FetchSlot) {
        let crc = self.features.unwrap_or_default().header_crc();
        let encoding = if self.copies_logs() { DataEncoding::StoredBatches } else { DataEncoding::Plain };
        let answered = |part: &FetchPart| Some((FetchedPartition { encoding, ..part.answer? }, part.data_crc));
        let answers: Vec<(FetchedPartition, u32)> = fetch.parts.iter().filter_map(answered).collect();
        let head = fetch_partitions_head(answers.iter().map(|(answer, crc)| (answer, *crc)), fetch.correlation, crc);
        self.output.tail.extend_from_slice(&head);
        for part in fetch.parts {
            let Some(answer) = part.answer else { continue };
            self.output.tail.extend_from_slice(&FetchedPartition { encoding, ..answer }.encode());
            self.write_data(part.data);
        }
    }

    fn write_data(&mut self, data: PartData) {
        match data {
            PartData::None => {}
            PartData::Memory(bytes) => self.output.push_bytes(bytes),
            PartData::Plan(plan) => {
                for piece in plan.pieces {
                    match piece {
                        Piece::Inline(bytes) => self.output.push_bytes(bytes),
                        Piece::File { file, file_offset, len } => self.output.push_file(file, file_offset, len),
                    }
                }
            }
        }
    }
}

/// The parts that this shard was asked for are answered "outcome unknown".
pub(super) fn fail_parts_of(fetch: &mut FetchSlot, shard: u16) {
    for part in fetch.parts.iter_mut().filter(|part| part.waiting_for == Some(shard) && part.answer.is_none()) {
        finish_part(part, Some(ErrorCode::OutcomeUnknown));
    }
}

fn finish_part(part: &mut FetchPart, error: Option<ErrorCode>) {
    part.waiting_for = None;
    let next_offset = part.offset;
    answer_part(part, error, next_offset, 0, 0);
}

fn answer_part(part: &mut FetchPart, error: Option<ErrorCode>, next_offset: u64, record_count: u32, data_len: u32) {
    let bounds = part.bounds;
    part.answer = Some(FetchedPartition {
        partition: part.partition,
        error,
        leader_epoch: bounds.map_or(0, |bounds| bounds.leader_epoch.0),
        encoding: DataEncoding::Plain,
        leader: part.leader,
        high_watermark: bounds.map_or(0, |bounds| bounds.high_watermark_offset),
        log_start: bounds.map_or(0, |bounds| bounds.log_start_offset),
        next_offset,
        timestamp: part.timestamp_ns,
        record_count,
        data_len,
    });
}

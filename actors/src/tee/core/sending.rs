//! The target: where a flow connects, and what it sends.

use super::flow::{FlowId, FlowLink, LinkPhase, SourceBatch, Stage, TargetPlace};
use super::{Effects, TEE_FEATURES, TeeCore, TeeEffect};
use crate::outbound::socket::LINK_REQUESTS;
use crate::outbound::{LinkId, LinkPiece};
use bytes::{Bytes, BytesMut};
use lance_messages::wire::compression::compression_prefix;
use lance_messages::wire::hello::{HelloResponse, InitProducer, ProducerEpoch};
use lance_messages::wire::produce::ProduceHeader;
use lance_messages::wire::{Request, RequestFrame};
use std::collections::VecDeque;

/// Bytes of one flow that may be under way, where the target takes as many; one batch always may.
const WINDOW_BYTES: usize = 4 << 20;
/// Batches of one flow that may be under way.
const WINDOW_BATCHES: usize = LINK_REQUESTS / 2;
/// Silence after which a link with something to answer is given up, ms.
const SILENCE_MS: u64 = 30_000;
/// Time without anything to send after which a link is closed, ms.
const IDLE_MS: u64 = 60_000;

impl TeeCore {
    pub(super) fn pump_target(&mut self, id: FlowId, now_ms: u64, effects: &mut Effects) {
        let Some(flow) = self.flows.get(&id) else { return };
        if flow.stage != Stage::Running || flow.is_empty() || now_ms < flow.not_before_ms {
            return;
        }
        match flow.link.as_ref().map(|link| link.phase) {
            None => self.connect(id, now_ms, effects),
            Some(LinkPhase::Opening | LinkPhase::Binding) => {}
            Some(LinkPhase::Bound) => self.send(id, now_ms, effects),
        }
    }

    /// Decides where the flow writes, and connects to who leads there.
    fn connect(&mut self, id: FlowId, now_ms: u64, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let (tee, number) = (flow.tee, flow.partition.partition);
        let Some(rule) = self.rules.get_mut(&tee) else { return };
        let Some(found) = &rule.survey.found else {
            rule.survey.wanted = true;
            return self.begin_surveys(now_ms, effects);
        };
        let partitions = found.leaders.len().clamp(1, usize::from(u16::MAX)) as u16;
        let place = flow.target.unwrap_or(TargetPlace { topic: found.topic, partition: number % partitions });
        if place.topic > found.topic {
            // What is known of the target is older than what was forwarded there.
            rule.survey.found = None;
            let reason = "the target does not know the topic yet that was forwarded to".to_owned();
            return self.fail(id, reason, false, now_ms, effects);
        }
        if place.topic < found.topic || place.partition >= partitions {
            return self.restart(id, true, "the target topic was made anew", effects);
        }
        flow.target = Some(place);
        match found.leaders.get(usize::from(place.partition)).cloned().flatten() {
            Some(address) => {
                let link = self.next_link;
                self.next_link += 1;
                self.links.insert(link, id);
                flow.link = Some(FlowLink::new(link, now_ms));
                effects.push(TeeEffect::Open { link, address });
            }
            None => {
                self.doubt_survey(tee);
                let reason = format!("nobody leads partition {} of the target topic", place.partition);
                self.fail(id, reason, false, now_ms, effects);
            }
        }
    }

    /// A link stands: binds the producer of its flow, or takes one.
    pub fn on_link_up(&mut self, link: LinkId, hello: HelloResponse, now_ms: u64, effects: &mut Effects) {
        let Some(flow) = self.links.get(&link).and_then(|id| self.flows.get_mut(id)) else { return };
        let producer = flow.producer;
        let Some(known) = flow.link.as_mut() else { return };
        known.phase = LinkPhase::Binding;
        known.max_payload_bytes = hello.max_payload_bytes as usize;
        known.window_bytes = WINDOW_BYTES.min(usize::try_from(hello.max_in_flight_bytes).unwrap_or(usize::MAX));
        known.heard_ms = now_ms;
        let existing = producer.map(|producer| ProducerEpoch { id: producer.id, epoch: producer.epoch });
        let pieces = control(Request::InitProducer(InitProducer { existing }));
        effects.push(TeeEffect::Send { link, pieces });
    }

    fn send(&mut self, id: FlowId, now_ms: u64, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let Some(rule) = self.rules.get_mut(&flow.tee) else { return };
        let (Some(target), false, None) = (flow.target, flow.unstored, &flow.trouble) else { return };
        let mut retries = 0;
        while let Some((sequence, batch)) = flow.next() {
            let batch = batch.clone();
            let Some(link) = flow.link.as_mut().filter(|link| now_ms >= link.paused_until_ms) else { break };
            let bytes = batch.payload_bytes();
            let fits = link.in_flight_bytes + bytes <= link.window_bytes && link.due.len() < WINDOW_BATCHES;
            if !fits && !link.due.is_empty() {
                break;
            }
            if bytes > link.max_payload_bytes {
                let most = link.max_payload_bytes;
                let reason = format!("a batch of {bytes} bytes is larger than the {most} that the target takes");
                return self.fail(id, reason, true, now_ms, effects);
            }
            if !rule.bucket.may_take(now_ms) {
                break;
            }
            rule.bucket.take(bytes);
            let pieces = frame(&batch, target, sequence);
            effects.push(TeeEffect::Send { link: link.id, pieces });
            if link.due.is_empty() {
                link.heard_ms = now_ms;
            }
            link.used_ms = now_ms;
            link.due.push_back((sequence, bytes));
            link.in_flight_bytes += bytes;
            flow.sent += 1;
            retries += u64::from(sequence < flow.sent_through);
            flow.sent_through = flow.sent_through.max(sequence + 1);
        }
        if retries > 0
            && let Some(counts) = self.counts.get_mut(&(flow.tee, flow.partition))
        {
            counts.retries += retries;
        }
    }

    /// A link is gone.
    pub fn on_link_ended(&mut self, link: LinkId, reason: &str, now_ms: u64, effects: &mut Effects) {
        let Some(id) = self.links.remove(&link) else { return };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let tee = flow.tee;
        flow.link = None;
        flow.sent = 0;
        flow.trouble = None;
        // Whoever led there may not lead any more.
        self.doubt_survey(tee);
        let reason = if reason.is_empty() { "the connection ended" } else { reason };
        self.fail(id, reason.to_owned(), false, now_ms, effects);
    }

    /// Gives the link of a flow up, if it has one.
    pub(super) fn close_link(&mut self, id: FlowId, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.sent = 0;
        flow.trouble = None;
        if let Some(link) = flow.link.take() {
            self.links.remove(&link.id);
            effects.push(TeeEffect::Close(link.id));
        }
    }

    /// Gives up links that nothing is heard on, and those that are not needed.
    pub(super) fn check_links(&mut self, now_ms: u64, effects: &mut Effects) {
        let (mut silent, mut idle) = (Vec::new(), Vec::new());
        for (id, flow) in &self.flows {
            let Some(link) = &flow.link else { continue };
            let asked = !link.due.is_empty() || link.phase == LinkPhase::Binding;
            if asked && now_ms >= link.heard_ms + SILENCE_MS {
                silent.push(*id);
            } else if !asked && flow.is_empty() && now_ms >= link.used_ms + IDLE_MS {
                idle.push(*id);
            }
        }
        for id in silent {
            self.close_link(id, effects);
            if let Some(tee) = self.flows.get(&id).map(|flow| flow.tee) {
                self.doubt_survey(tee);
            }
            let reason = format!("the target has not answered for {} s", SILENCE_MS / 1000);
            self.fail(id, reason, false, now_ms, effects);
        }
        for id in idle {
            self.close_link(id, effects);
        }
    }
}

impl FlowLink {
    fn new(id: LinkId, now_ms: u64) -> Self {
        Self {
            id,
            phase: LinkPhase::Opening,
            due: VecDeque::new(),
            in_flight_bytes: 0,
            window_bytes: WINDOW_BYTES,
            max_payload_bytes: 0,
            paused_until_ms: 0,
            heard_ms: now_ms,
            used_ms: now_ms,
        }
    }
}

impl SourceBatch {
    /// Bytes of the payload it is sent as.
    pub(super) fn payload_bytes(&self) -> usize {
        let prefix = if self.codec.is_some() { compression_prefix_len() } else { 0 };
        prefix + self.records.len()
    }
}

fn compression_prefix_len() -> usize {
    lance_messages::wire::compression::COMPRESSION_PREFIX_LEN
}

/// The frame of a batch: its records as they are, under the checksum they were stored with.
fn frame(batch: &SourceBatch, target: TargetPlace, sequence: u64) -> [LinkPiece; 2] {
    let prefix = batch.codec.map(|codec| compression_prefix(codec, batch.plain_len));
    let payload_crc = prefix.map_or(batch.records_crc, |prefix| {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&prefix);
        hasher.combine(&crc32fast::Hasher::new_with_initial_len(batch.records_crc, batch.records.len() as u64));
        hasher.finalize()
    });
    let header = ProduceHeader {
        topic: target.topic,
        partition: target.partition,
        // Its low half is the sequence, and nothing else is made of it.
        batch_id: u64::from(sequence as u32),
        timestamp: batch.timestamp_ns,
        record_count: batch.record_count,
        compressed: prefix.is_some(),
        traced: false,
        payload_len: batch.payload_bytes() as u32,
        payload_crc,
    };
    let mut head = header.encode(TEE_FEATURES.header_crc()).to_vec();
    head.extend(prefix.iter().flatten());
    [Bytes::from(head).into(), batch.records.clone()]
}

/// The frame of anything else.
pub(super) fn control(request: Request) -> [LinkPiece; 2] {
    let mut out = BytesMut::new();
    RequestFrame { correlation: 1, partition: 0, trace: None, request }.encode(&mut out, Some(TEE_FEATURES));
    [out.freeze().into(), Bytes::new().into()]
}

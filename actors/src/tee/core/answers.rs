//! What targets answer, and what follows from it.

use super::flow::{FlowId, LinkPhase, Trouble};
use super::sending::control;
use super::{Effects, TeeCore, TeeEffect, UNLOAD_FAILURES};
use crate::outbound::{LinkAnswer, LinkId, LinkPiece};
use lance_cluster::metadata::TeeProducer;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Command, Request, Response};

/// The pause after a target has said that it is pressed.
const PRESSED_MS: u64 = 50;
/// The rest before a leader that was named is asked.
const REDIRECT_MS: u64 = 20;

impl TeeCore {
    /// Answers of a target, in order.
    pub fn on_answers(&mut self, link: LinkId, answers: Vec<LinkAnswer>, now_ms: u64, effects: &mut Effects) {
        for answer in answers {
            let Some(id) = self.links.get(&link).copied() else { return };
            let Some(known) = self.flows.get_mut(&id).and_then(|flow| flow.link.as_mut()) else { return };
            known.heard_ms = now_ms;
            let understood = match answer.frame.response {
                Response::Backpressure => {
                    known.paused_until_ms = now_ms + PRESSED_MS;
                    true
                }
                Response::Keepalive => {
                    effects.push(TeeEffect::Send { link, pieces: control(Request::Keepalive) });
                    true
                }
                Response::InitProducer(producer) => self.on_bound(id, producer, now_ms, effects),
                Response::Ack { batch_id, offsets } => {
                    let duplicate = offsets.is_some_and(|offsets| offsets.duplicate);
                    self.on_acked(id, batch_id, duplicate)
                }
                Response::Error(error) => self.on_refused(id, error, now_ms, effects),
                _ => false,
            };
            if !understood {
                // What the target says can no longer be told apart: what is under way is sent again.
                self.close_link(id, effects);
                self.fail(id, "the target answers what was not asked".to_owned(), true, now_ms, effects);
                return;
            }
        }
        if let Some(id) = self.links.get(&link).copied() {
            self.act_on_trouble(id, now_ms, effects);
            self.settle(id);
            self.pump(id, now_ms, effects);
        }
    }

    /// The producer is bound to the link.
    fn on_bound(&mut self, id: FlowId, bound: ProducerEpoch, now_ms: u64, effects: &mut Effects) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return true };
        let Some(link) = flow.link.as_mut().filter(|link| link.phase == LinkPhase::Binding) else { return false };
        let bound = TeeProducer { id: bound.id, epoch: bound.epoch };
        match flow.producer {
            Some(known) if known == bound => link.phase = LinkPhase::Bound,
            Some(_) => self.restart(id, true, "the target does not know the producer any more", effects),
            None => {
                link.phase = LinkPhase::Bound;
                flow.producer = Some(bound);
                flow.unstored = true;
                self.begin_rounds(now_ms, effects);
            }
        }
        true
    }

    fn on_acked(&mut self, id: FlowId, batch_id: u64, duplicate: bool) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return true };
        let Some(sequence) = flow.answered(batch_id) else { return false };
        let (tee, partition) = (flow.tee, flow.partition);
        let (freed, acked) = flow.acked_through(sequence);
        flow.failures = 0;
        if flow.trouble.as_ref().is_some_and(|trouble| trouble.sequence < flow.front_sequence) {
            flow.trouble = None;
        }
        self.free(tee, freed);
        if let Some(counts) = self.counts.get_mut(&(tee, partition)) {
            counts.duplicates += u64::from(duplicate);
            for batch in acked {
                counts.batches += 1;
                counts.records += u64::from(batch.record_count);
                counts.bytes += batch.payload_bytes() as u64;
                counts.kernel_bytes += match batch.records {
                    LinkPiece::Memory(_) => 0,
                    LinkPiece::File(range) => range.len,
                };
            }
        }
        true
    }

    fn on_refused(&mut self, id: FlowId, error: TypedError, now_ms: u64, effects: &mut Effects) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return true };
        match error.answers {
            Answers::Ingest(batch_id) => {
                let Some(sequence) = flow.answered(batch_id) else { return false };
                // Those behind a batch that was refused are refused for that.
                if sequence == flow.front_sequence && flow.trouble.is_none() {
                    let message = error.message.into_owned();
                    flow.trouble = Some(Trouble { sequence, code: error.code, message, detail: error.detail });
                }
            }
            // What came was no frame for it, or was damaged: it closes the link.
            Answers::Control(0) => {
                // Once the records were checked here it is not they that are damaged.
                let stuck = flow.failures >= UNLOAD_FAILURES || !self.options.in_kernel;
                self.close_link(id, effects);
                self.fail(id, error.message.into_owned(), stuck, now_ms, effects);
            }
            Answers::Control(command) => {
                let binding = flow.link.as_ref().is_some_and(|link| link.phase == LinkPhase::Binding);
                if Command(command) != Command::INIT_PRODUCER || !binding {
                    return false;
                }
                let forgotten = matches!(error.code, ErrorCode::FencedProducer | ErrorCode::UnknownProducer);
                if forgotten && flow.producer.is_some() {
                    self.restart(id, true, &error.message, effects);
                } else {
                    self.close_link(id, effects);
                    self.fail(id, error.message.into_owned(), !error.code.is_retriable(), now_ms, effects);
                }
            }
        }
        true
    }

    /// Acts on a refusal once everything that was under way behind it is answered.
    fn act_on_trouble(&mut self, id: FlowId, now_ms: u64, effects: &mut Effects) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let under_way = flow.link.as_ref().is_some_and(|link| !link.due.is_empty());
        let Some(trouble) = flow.trouble.take_if(|it| !under_way || it.code == ErrorCode::NotLeader) else { return };
        flow.sent = 0;
        let tee = flow.tee;
        let at_checkpoint = flow.durable.is_some_and(|durable| durable.sequence == trouble.sequence);
        match trouble.code {
            ErrorCode::NotLeader => {
                let target = flow.target;
                self.close_link(id, effects);
                let leader = self.rules.get_mut(&tee).and_then(|rule| {
                    let leaders = &mut rule.survey.found.as_mut()?.leaders;
                    leaders.get_mut(usize::from(target?.partition))
                });
                match leader {
                    Some(leader) if !trouble.detail.is_empty() => *leader = Some(trouble.detail),
                    _ => self.doubt_survey(tee),
                }
                self.fail(id, trouble.message, false, now_ms, effects);
                if let Some(flow) = self.flows.get_mut(&id).filter(|flow| flow.failures < 3) {
                    flow.not_before_ms = now_ms + REDIRECT_MS;
                }
            }
            ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => {
                self.close_link(id, effects);
                self.doubt_survey(tee);
                self.fail(id, trouble.message, false, now_ms, effects);
            }
            // It lacks batches that it has acked, if only since the last checkpoint: those are sent again. Lacking more
            // than that, it has forgotten the producer.
            ErrorCode::OutOfOrderSequence if !at_checkpoint => {
                self.restart(id, false, "the target has lost batches that it had acked", effects);
                self.fail(id, trouble.message, false, now_ms, effects);
            }
            ErrorCode::OutOfOrderSequence | ErrorCode::FencedProducer | ErrorCode::UnknownProducer => {
                self.restart(id, true, "the target does not know the producer any more", effects);
                self.fail(id, trouble.message, false, now_ms, effects);
            }
            code => self.fail(id, trouble.message, !code.is_retriable(), now_ms, effects),
        }
    }
}

impl super::flow::Flow {
    /// The oldest batch under way is answered: its number, if the answer is its.
    fn answered(&mut self, batch_id: u64) -> Option<u64> {
        let link = self.link.as_mut()?;
        let (sequence, bytes) = link.due.pop_front_if(|due| u64::from(due.0 as u32) == batch_id)?;
        link.in_flight_bytes -= bytes;
        Some(sequence)
    }
}

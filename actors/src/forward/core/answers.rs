//! What other nodes answer, and what clients are told of it.

use super::flow::Work;
use super::link::Sent;
use super::{Effects, ForwardCore, ForwardEffect, LinkId, target};
use crate::view::ClusterView;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::LeaderEpoch;
use lance_messages::mail::connection::{Answer, FetchedData, PartitionBounds, Produced, Reply};
use lance_messages::wire::Response;
use lance_messages::wire::typed_error::{Answers, TypedError};

pub use crate::outbound::LinkAnswer;

impl ForwardCore {
    /// Answers of a node, in order.
    pub fn on_answers(
        &mut self,
        link: LinkId,
        answers: Vec<LinkAnswer>,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        for answer in answers {
            let Some(known) = self.links.get_mut(&link).filter(|link| !link.closing) else {
                return;
            };
            known.heard_ms = now_ms;
            if !self.on_answer(link, answer, view, now_ms, effects)
                && let Some(link_state) = self.links.get_mut(&link)
            {
                // What the node says can no longer be told apart: what is under way has an unknown outcome.
                link_state.closing = true;
                self.places.remove(&link_state.place);
                effects.push(ForwardEffect::Close(link));
                return;
            }
        }
        if self.links.get_mut(&link).is_some_and(|link| std::mem::take(&mut link.was_full)) {
            self.pump_all(view, now_ms, effects);
        }
    }

    /// `false`: it answers nothing that was asked.
    fn on_answer(
        &mut self,
        id: LinkId,
        answer: LinkAnswer,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return true };
        let correlation = answer.frame.correlation;
        let sent = match &answer.frame.response {
            Response::Backpressure => return true,
            Response::Keepalive => {
                let pieces = link.keepalive();
                effects.push(ForwardEffect::Send { link: id, pieces });
                return true;
            }
            Response::Ack { batch_id, .. } => link.pop_ack(*batch_id),
            Response::Error(TypedError { answers: Answers::Ingest(batch_id), .. }) => link.pop_ack(*batch_id),
            _ => link.pop_control(correlation),
        };
        let Some(sent) = sent else { return false };
        let key = sent.flow;
        let understood = match answer.frame.response {
            Response::Error(error) => {
                self.on_refusal(id, &sent, error, view, now_ms, effects);
                true
            }
            response => self.on_success(&sent, response, answer.data_crc, effects),
        };
        self.pump(key, view, now_ms, effects);
        understood
    }

    fn on_refusal(
        &mut self,
        link: LinkId,
        sent: &Sent,
        error: TypedError,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let Some(flow) = self.flows.get_mut(&sent.flow) else { return };
        let Some(work) = flow.work(sent.item) else { return };
        if is_elsewhere(error.code, work, view) {
            let asked = self.links.get(&link).map(|link| link.place.address.as_str());
            let hint = (!error.detail.is_empty() && Some(error.detail.as_str()) != asked).then_some(error.detail);
            return flow.came_back(sent.item, error.code, hint, now_ms);
        }
        if let Some(work) = flow.finish(sent.item) {
            self.release(&work);
            work.answer_error(error.code, effects);
        }
    }

    /// `false`: no answer to what was asked.
    fn on_success(&mut self, sent: &Sent, response: Response, data_crc: u32, effects: &mut Effects) -> bool {
        let Some(flow) = self.flows.get_mut(&sent.flow) else { return true };
        let Some(work) = flow.finish(sent.item) else { return true };
        let overtaken = flow.overtaken(sent.item);
        self.release(&work);
        for earlier in overtaken {
            self.release(&earlier);
            earlier.answer_error(ErrorCode::Unavailable, effects);
        }
        match success(&work, response, data_crc) {
            Some(effect) => effects.push(effect),
            None => {
                work.answer_error(ErrorCode::OutcomeUnknown, effects);
                return false;
            }
        }
        true
    }
}

/// Whether a refusal says that the request was not done and that another node, or this one later, will do it.
fn is_elsewhere(code: ErrorCode, work: &Work, view: &ClusterView) -> bool {
    match code {
        ErrorCode::NotLeader | ErrorCode::Unavailable | ErrorCode::ShuttingDown => true,
        // The other node may not have heard of a topic that this one knows.
        ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => {
            target(work, view).is_some_and(|partition| view.leader(partition).is_some())
        }
        ErrorCode::OutcomeUnknown => work.is_repeatable(),
        _ => false,
    }
}

/// What the client is told; `None` when the response is no answer to the request.
fn success(work: &Work, response: Response, data_crc: u32) -> Option<ForwardEffect> {
    match (work, response) {
        (Work::Produce(connection, request), Response::Ack { offsets: Some(offsets), .. }) => {
            let produced = Produced {
                base_offset: offsets.base_offset,
                record_count: offsets.record_count,
                duplicate: offsets.duplicate,
            };
            let answer = Answer::Produced(Ok(produced));
            Some(ForwardEffect::Reply(*connection, Reply { request: request.request, answer }))
        }
        (Work::Fetch(fetch), Response::Fetch { next_offset, record_count, data }) => {
            // The leader has applied the rules of 1.0: what it says is passed on as it is.
            let found = FetchedData::Tail { data, next_offset, record_count, crc: data_crc, timestamp_ns: 0 };
            Some(fetched(fetch, next_offset, found))
        }
        (Work::Fetch(fetch), Response::CatchingUp { end_offset }) => {
            Some(fetched(fetch, end_offset, FetchedData::BeyondEnd))
        }
        (Work::LookUp(look_up), Response::LookupOffset(found)) => {
            let answer = Answer::LookedUp(Ok((found.offset, found.record_number, found.timestamp)));
            Some(ForwardEffect::Reply(look_up.connection, Reply { request: look_up.request, answer }))
        }
        (Work::Commit(ticket, _), Response::CommitAck { .. }) => Some(ForwardEffect::Committed(*ticket, Ok(()))),
        (Work::Committed(ticket, _), Response::SubscribeAck { offset, .. }) => {
            Some(ForwardEffect::CommittedOffset(*ticket, Ok(Some(offset))))
        }
        (Work::Groups(ticket), Response::DescribeGroups(json)) => Some(ForwardEffect::Groups(*ticket, Ok(json))),
        _ => None,
    }
}

/// `end` stands for the high watermark, of which a 1.0 answer says no more than the session needs to repeat it.
fn fetched(
    fetch: &lance_messages::mail::ingestion::Fetch,
    end: u64,
    found: FetchedData<crate::network::readers::SegmentRead>,
) -> ForwardEffect {
    let bounds = PartitionBounds { leader_epoch: LeaderEpoch(0), log_start_offset: 0, high_watermark_offset: end };
    let answer = Answer::Fetched { part: fetch.part, partition: fetch.partition, result: Ok((bounds, found)) };
    ForwardEffect::Reply(fetch.connection, Reply { request: fetch.request, answer })
}

//! Flows: requests that must reach their leader in the order they came in.

use super::link::LinkId;
use super::{Effects, FETCH_BYTES, ForwardEffect, RETRY_MS};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, TopicPartition};
use lance_messages::mail::connection::{Answer, Reply};
use lance_messages::mail::group::{CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{Fetch, LookUpOffset, ProduceRequest};
use std::collections::VecDeque;

/// What a request is counted with beside its payload.
const REQUEST_BYTES: usize = 256;

/// Which requests have an order among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FlowKey {
    /// Batches of one connection for one partition.
    Produce(ConnectionId, TopicPartition),
    /// Offsets of one consumer in one partition.
    Commit(TopicPartition, u64),
    /// A read: alone.
    Read(u64),
}

/// A request.
#[derive(Debug)]
pub(super) enum Work {
    Produce(ConnectionId, ProduceRequest),
    Fetch(Fetch),
    LookUp(LookUpOffset),
    Commit(u64, CommitOffset),
    Committed(u64, CommittedOffset),
    /// Every group, from the node that keeps them.
    Groups(u64),
}

/// A request that was not answered yet.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) work: Work,
    /// Until then it is kept where it cannot be sent, ms.
    pub(super) deadline_ms: u64,
    /// Whether a link carries it.
    pub(super) sent: bool,
    /// Why it is not stored yet.
    last: ErrorCode,
}

/// Requests in order.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) items: VecDeque<Item>,
    /// How many of them are under way.
    pub(super) in_flight: usize,
    /// Over which link.
    pub(super) link: Option<LinkId>,
    /// The leader as the last refusal named it.
    pub(super) hint: Option<String>,
    /// Some came back: nothing is sent until all are answered that went after them.
    back: bool,
    not_before_ms: u64,
}

impl Work {
    /// Bytes it holds in memory, about.
    pub(super) fn bytes(&self) -> usize {
        REQUEST_BYTES + self.payload_bytes()
    }

    pub(super) fn payload_bytes(&self) -> usize {
        match self {
            Self::Produce(_, request) => request.records.len(),
            Self::Fetch(_) | Self::LookUp(_) | Self::Commit(..) | Self::Committed(..) | Self::Groups(_) => 0,
        }
    }

    /// Bytes it counts with on a link: its own, or those of its answer.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Fetch(fetch) => REQUEST_BYTES + fetch.max_bytes.min(FETCH_BYTES) as usize,
            other => other.bytes(),
        }
    }

    /// Whether it changes nothing, so that it may be sent again after all.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self, Self::Fetch(_) | Self::LookUp(_) | Self::Committed(..) | Self::Groups(_))
    }

    pub(super) fn answer_error(&self, code: ErrorCode, effects: &mut Effects) {
        effects.push(match self {
            Self::Produce(connection, request) => {
                let reply = Reply { request: request.request, answer: Answer::Produced(Err(code)) };
                ForwardEffect::Reply(*connection, reply)
            }
            Self::Fetch(fetch) => {
                let (part, partition) = (fetch.part, fetch.partition);
                let answer = Answer::Fetched { part, partition, result: Err(code) };
                ForwardEffect::Reply(fetch.connection, Reply { request: fetch.request, answer })
            }
            Self::LookUp(look_up) => {
                let reply = Reply { request: look_up.request, answer: Answer::LookedUp(Err(code)) };
                ForwardEffect::Reply(look_up.connection, reply)
            }
            Self::Commit(ticket, _) => ForwardEffect::Committed(*ticket, Err(code)),
            Self::Committed(ticket, _) => ForwardEffect::CommittedOffset(*ticket, Err(code)),
            Self::Groups(ticket) => ForwardEffect::Groups(*ticket, Err(code)),
        });
    }
}

impl Item {
    pub(super) fn new(number: u64, work: Work, deadline_ms: u64) -> Self {
        Self { number, work, deadline_ms, sent: false, last: ErrorCode::Unavailable }
    }

    /// What its client hears once it was kept for too long: it may try again, at this same address.
    pub(super) fn expired_as(&self) -> ErrorCode {
        match self.last {
            ErrorCode::NotLeader | ErrorCode::ShuttingDown => ErrorCode::Unavailable,
            code => code,
        }
    }
}

impl Flow {
    /// Whether something is to be sent, now or later.
    pub(super) fn is_waiting(&self) -> bool {
        self.items.len() > self.in_flight
    }

    /// What is to be sent next, if something may be.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<&Work> {
        if (self.back && self.in_flight > 0) || now_ms < self.not_before_ms {
            return None;
        }
        self.back = false;
        self.items.iter().find(|item| !item.sent).map(|item| &item.work)
    }

    pub(super) fn work(&self, number: u64) -> Option<&Work> {
        self.items.iter().find(|item| item.number == number).map(|item| &item.work)
    }

    /// A request is answered: takes it out.
    pub(super) fn finish(&mut self, number: u64) -> Option<Work> {
        let at = self.items.iter().position(|item| item.number == number)?;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.items.remove(at).map(|item| item.work)
    }

    /// Those that came back from before a request that was stored: they would be stored behind it.
    pub(super) fn overtaken(&mut self, by: u64) -> Vec<Work> {
        let mut overtaken = Vec::new();
        while let Some(item) = self.items.pop_front_if(|item| !item.sent && item.number < by) {
            overtaken.push(item.work);
        }
        overtaken
    }

    /// A request is not stored, and goes to the next leader: `hint`, when the last one named it.
    pub(super) fn came_back(&mut self, number: u64, code: ErrorCode, hint: Option<String>, now_ms: u64) {
        let Some(item) = self.items.iter_mut().find(|item| item.number == number) else {
            return;
        };
        item.sent = false;
        item.last = code;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.back = true;
        self.not_before_ms = if hint.is_some() { now_ms } else { now_ms + RETRY_MS };
        self.hint = hint;
    }
}

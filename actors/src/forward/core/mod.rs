//! `ForwardCore`: keeps requests until the node that leads their partition has answered them.
//!
//! A request waits in the *flow* of its connection and partition and leaves over a *link* to the leader. What is known
//! not to be stored (refused, or never written whole) goes to the next leader within [`PATIENCE_MS`]; what may be stored
//! is never sent twice, since batches of 1.0 clients cannot be recognised.

pub mod answers;
mod flow;
mod link;

use self::flow::{Flow, FlowKey, Item, Work};
use self::link::{Link, Place, Sent};
use crate::network::readers::SegmentRead;
use crate::network::session::routing::groups_partition;
use crate::view::ClusterView;
use bytes::Bytes;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, TopicPartition};
use lance_messages::mail::connection::Reply;
use lance_messages::mail::group::{CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{Fetch, LookUpOffset, ProduceRequest};
use lance_messages::wire::Features;
use std::collections::BTreeMap;

pub use crate::outbound::LinkId;
pub use crate::outbound::socket::LINK_REQUESTS;

/// How long a request is kept while its leader is unknown, away, moving or full, ms.
pub const PATIENCE_MS: u64 = 5_000;
/// Bytes of requests, and of the answers they may bring, that a link may carry unanswered; one request always may.
pub const LINK_BYTES: usize = 16 * 1024 * 1024;
/// Requests that may be held in all.
pub const HELD_REQUESTS: usize = 16_384;
/// Bytes of requests that may be held in all.
pub const HELD_BYTES: usize = 128 * 1024 * 1024;
/// Most data bytes of one forwarded fetch: it is held in memory until the client has taken it.
pub const FETCH_BYTES: u32 = 1024 * 1024;
/// What a forwarder asks for in its Hello, all of it.
pub const FORWARD_FEATURES: Features = Features(
    Features::PARTITIONS.0
        | Features::HEADER_CRC.0
        | Features::TYPED_ERRORS.0
        | Features::ACK_OFFSETS.0
        | Features::LOOKUP.0
        | Features::GROUPS.0
        | Features::TRACE_CONTEXT.0,
);

/// Links to one node: a partition that answers late holds back only those that share its link.
const WRITE_LINKS: u16 = 8;
const READ_LINKS: u16 = 4;
/// Pause before a leader that refused, or an address that did not answer, is asked again.
const RETRY_MS: u64 = 50;
/// Silence after which a link to a node that leads no more is given up, ms.
const DEPOSED_MS: u64 = 5_000;
/// Silence after which any link with unanswered requests is given up, ms.
const SILENCE_MS: u64 = 30_000;
/// Time without a request after which a link is closed, ms.
const IDLE_MS: u64 = 30_000;
/// How soon time matters again, with requests that wait, and with links alone.
const BUSY_TICK_MS: u64 = 20;
const IDLE_TICK_MS: u64 = 1_000;

/// What a forwarder wants done.
#[derive(Debug)]
pub enum ForwardEffect {
    /// Connect, say Hello; then [`ForwardCore::on_link_up`], or [`ForwardCore::on_link_ended`].
    Open {
        /// The link.
        link: LinkId,
        /// Where to.
        address: String,
    },
    /// Write these bytes after all those before.
    Send {
        /// The link.
        link: LinkId,
        /// The bytes, in pieces.
        pieces: [Bytes; 2],
    },
    /// End the link; [`ForwardCore::on_link_ended`] follows.
    Close(LinkId),
    /// Answer a connection.
    Reply(ConnectionId, Reply<SegmentRead>),
    /// An offset was stored, or not.
    Committed(u64, Result<(), ErrorCode>),
    /// Where a consumer goes on.
    CommittedOffset(u64, Result<Option<u64>, ErrorCode>),
    /// Every group as JSON, from the node that keeps them.
    Groups(u64, Result<Bytes, ErrorCode>),
}

type Effects = Vec<ForwardEffect>;

/// The decisions of a forwarder.
#[derive(Debug)]
pub struct ForwardCore {
    flows: BTreeMap<FlowKey, Flow>,
    links: BTreeMap<LinkId, Link>,
    places: BTreeMap<Place, LinkId>,
    /// Addresses that are not asked before this time, ms.
    cooling: BTreeMap<String, u64>,
    next_link: LinkId,
    next_item: u64,
    held_requests: usize,
    held_bytes: usize,
}

impl ForwardCore {
    /// A forwarder whose links are numbered from `first_link` on.
    pub fn new(first_link: LinkId) -> Self {
        Self {
            flows: BTreeMap::new(),
            links: BTreeMap::new(),
            places: BTreeMap::new(),
            cooling: BTreeMap::new(),
            next_link: first_link,
            next_item: 0,
            held_requests: 0,
            held_bytes: 0,
        }
    }

    /// The number of the next link.
    pub fn next_link(&self) -> LinkId {
        self.next_link
    }

    /// Requests held.
    pub fn held_requests(&self) -> usize {
        self.held_requests
    }

    /// A batch of a connection.
    pub fn on_produce(
        &mut self,
        connection: ConnectionId,
        request: ProduceRequest,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let key = FlowKey::Produce(connection, request.partition);
        self.hold(key, Work::Produce(connection, request), view, now_ms, effects);
    }

    /// A 1.0 Fetch of a connection.
    pub fn on_fetch(&mut self, fetch: Fetch, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        self.hold(FlowKey::Read(self.next_item), Work::Fetch(fetch), view, now_ms, effects);
    }

    /// A look-up of this node's own.
    pub fn on_look_up(&mut self, look_up: LookUpOffset, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        self.hold(FlowKey::Read(self.next_item), Work::LookUp(look_up), view, now_ms, effects);
    }

    /// An offset to store; answered under `ticket`.
    pub fn on_commit(
        &mut self,
        ticket: u64,
        commit: CommitOffset,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let key = FlowKey::Commit(commit.partition, commit.consumer_id);
        self.hold(key, Work::Commit(ticket, commit), view, now_ms, effects);
    }

    /// A stored offset is asked for; answered under `ticket`.
    pub fn on_committed(
        &mut self,
        ticket: u64,
        asked: CommittedOffset,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        self.hold(FlowKey::Read(self.next_item), Work::Committed(ticket, asked), view, now_ms, effects);
    }

    /// All groups are asked for; answered under `ticket`.
    pub fn on_groups(&mut self, ticket: u64, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        self.hold(FlowKey::Read(self.next_item), Work::Groups(ticket), view, now_ms, effects);
    }

    fn hold(&mut self, key: FlowKey, work: Work, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        let bytes = work.bytes();
        if self.held_requests >= HELD_REQUESTS || self.held_bytes + bytes > HELD_BYTES {
            return work.answer_error(ErrorCode::Overloaded, effects);
        }
        self.held_requests += 1;
        self.held_bytes += bytes;
        let number = self.next_item;
        self.next_item += 1;
        self.flows.entry(key).or_default().items.push_back(Item::new(number, work, now_ms + PATIENCE_MS));
        self.pump(key, view, now_ms, effects);
    }

    /// A request is done: it is held no longer.
    fn release(&mut self, work: &Work) {
        self.held_requests -= 1;
        self.held_bytes -= work.bytes();
    }

    /// Sends what a flow has, in order, as far as its leader is known and can take it.
    fn pump(&mut self, key: FlowKey, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        loop {
            let Some(flow) = self.flows.get_mut(&key) else { return };
            if flow.items.is_empty() {
                self.flows.remove(&key);
                return;
            }
            let Some((partition, slot)) = flow.next(now_ms).map(|work| (target(work, view), slot(work))) else {
                return;
            };
            let hint = flow.hint.clone();
            let known = hint.or_else(|| partition.and_then(|at| view.leader_address(at)).map(str::to_owned));
            let Some(address) = known else { return };
            let Some(link) = self.link_to(Place { address, slot }, now_ms, effects) else {
                return;
            };
            if !self.send_next(key, link, now_ms, effects) {
                return;
            }
        }
    }

    /// The link to a place, once it stands; opened when there is none.
    fn link_to(&mut self, place: Place, now_ms: u64, effects: &mut Effects) -> Option<LinkId> {
        if let Some(link) = self.places.get(&place) {
            return self.links.get(link).filter(|found| found.max_payload_bytes.is_some()).map(|_| *link);
        }
        if self.cooling.get(&place.address).is_some_and(|until| now_ms < *until) {
            return None;
        }
        let link = self.next_link;
        self.next_link += 1;
        effects.push(ForwardEffect::Open { link, address: place.address.clone() });
        self.links.insert(link, Link::new(place.clone(), now_ms));
        self.places.insert(place, link);
        None
    }

    /// Sends the next request of a flow; `false` when it has to wait, or is over.
    fn send_next(&mut self, key: FlowKey, id: LinkId, now_ms: u64, effects: &mut Effects) -> bool {
        let (Some(flow), Some(link)) = (self.flows.get_mut(&key), self.links.get_mut(&id)) else {
            return false;
        };
        // Over another link they could overtake those that are under way.
        if flow.in_flight > 0 && flow.link != Some(id) {
            return false;
        }
        let Some(at) = flow.items.iter().position(|item| !item.sent) else {
            return false;
        };
        if link.max_payload_bytes.is_some_and(|most| flow.items[at].work.payload_bytes() > most as usize) {
            if let Some(item) = flow.items.remove(at) {
                self.release(&item.work);
                item.work.answer_error(ErrorCode::TooLarge, effects);
            }
            return true;
        }
        let item = &mut flow.items[at];
        if !link.has_room(item.work.weight()) {
            link.was_full = true;
            return false;
        }
        let pieces = link.push(&item.work, key, item.number, now_ms);
        item.sent = true;
        flow.in_flight += 1;
        flow.link = Some(id);
        effects.push(ForwardEffect::Send { link: id, pieces });
        true
    }

    fn pump_all(&mut self, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        let waiting = self.flows.iter().filter(|(_, flow)| flow.is_waiting()).map(|(key, _)| *key);
        for key in waiting.collect::<Vec<_>>() {
            self.pump(key, view, now_ms, effects);
        }
    }

    /// A link stands: requests may go.
    pub fn on_link_up(
        &mut self,
        link: LinkId,
        max_payload_bytes: u32,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        if let Some(link) = self.links.get_mut(&link) {
            link.max_payload_bytes = Some(max_payload_bytes);
            self.pump_all(view, now_ms, effects);
        }
    }

    /// A link is gone, having written `written` bytes of what it was sent.
    pub fn on_link_ended(
        &mut self,
        link: LinkId,
        written: u64,
        view: &ClusterView,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let Some(link) = self.links.remove(&link) else { return };
        self.places.retain(|_, other| self.links.contains_key(other));
        self.cooling.retain(|_, until| now_ms < *until);
        self.cooling.insert(link.place.address.clone(), now_ms + RETRY_MS);
        for Sent { flow: key, item, end, .. } in link.acks.into_iter().chain(link.controls) {
            let Some(flow) = self.flows.get_mut(&key) else { continue };
            // The leader cannot have taken a frame that never left whole.
            let repeatable = end > written || flow.work(item).is_some_and(Work::is_repeatable);
            if repeatable {
                flow.came_back(item, ErrorCode::Unavailable, None, now_ms);
            } else if let Some(work) = flow.finish(item) {
                self.release(&work);
                work.answer_error(ErrorCode::OutcomeUnknown, effects);
            }
        }
        // Who was sent here by a hint asks the view again.
        for flow in self.flows.values_mut().filter(|flow| flow.hint.as_ref() == Some(&link.place.address)) {
            flow.hint = None;
        }
        self.flows.retain(|_, flow| !flow.items.is_empty());
        self.pump_all(view, now_ms, effects);
    }

    /// Time passes, or the view has changed.
    pub fn on_tick(&mut self, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        self.expire(now_ms, effects);
        for (id, link) in &mut self.links {
            let silent_ms = now_ms.saturating_sub(link.heard_ms);
            let deposed = || {
                let flows = link.acks.iter().chain(&link.controls).filter_map(|sent| self.flows.get(&sent.flow));
                let led = flows.filter_map(|flow| target(&flow.items.front()?.work, view));
                led.filter_map(|partition| view.leader_address(partition)).any(|leads| leads != link.place.address)
            };
            let over = match link.is_quiet() {
                true => now_ms.saturating_sub(link.used_ms) >= IDLE_MS,
                false => silent_ms >= SILENCE_MS || (silent_ms >= DEPOSED_MS && deposed()),
            };
            if over && !link.closing {
                link.closing = true;
                self.places.remove(&link.place);
                effects.push(ForwardEffect::Close(*id));
            }
        }
        self.pump_all(view, now_ms, effects);
    }

    fn expire(&mut self, now_ms: u64, effects: &mut Effects) {
        let mut over = Vec::new();
        for flow in self.flows.values_mut() {
            while let Some(at) = flow.items.iter().position(|item| !item.sent && item.deadline_ms <= now_ms) {
                over.extend(flow.items.remove(at));
            }
        }
        self.flows.retain(|_, flow| !flow.items.is_empty());
        for item in over {
            self.release(&item.work);
            let code = item.expired_as();
            item.work.answer_error(code, effects);
        }
    }

    /// When [`Self::on_tick`] is to be called next; `None` when nothing waits for time.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let waiting = self.flows.values().any(Flow::is_waiting);
        if waiting {
            return Some(BUSY_TICK_MS);
        }
        (!self.links.is_empty()).then_some(IDLE_TICK_MS)
    }
}

/// The partition whose leader serves a request.
fn target(work: &Work, view: &ClusterView) -> Option<TopicPartition> {
    match work {
        Work::Produce(_, request) => Some(request.partition),
        Work::Fetch(fetch) => Some(fetch.partition),
        Work::LookUp(look_up) => Some(look_up.partition),
        Work::Commit(..) | Work::Committed(..) | Work::Groups(_) => groups_partition(view),
    }
}

/// Which of the links to a node carries a request.
fn slot(work: &Work) -> u16 {
    let spread = |partition, links| crate::network::session::shard_of(partition, links);
    match work {
        Work::Produce(_, request) => spread(request.partition, WRITE_LINKS),
        Work::Commit(_, commit) => spread(commit.partition, WRITE_LINKS),
        Work::Fetch(fetch) => WRITE_LINKS + spread(fetch.partition, READ_LINKS),
        Work::LookUp(look_up) => WRITE_LINKS + spread(look_up.partition, READ_LINKS),
        Work::Committed(_, asked) => WRITE_LINKS + spread(asked.partition, READ_LINKS),
        Work::Groups(_) => WRITE_LINKS,
    }
}

//! Fetches from one node: all its partitions with one long poll, or one after another from a server that has none.

use super::board::{Ask, Key, Plan, ReaderId};
use super::hub::Hub;
use super::placement::Lost;
use super::split::Splitter;
use super::{ConsumedChunk, ConsumerOptions, OutOfRange};
use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::unexpected;
use crate::spans::ClientSpan;
use bytes::Bytes;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicPartition};
use lance_messages::wire::fetch::{
    DataEncoding, Fetch, FetchList, FetchPartition, FetchPartitions, FetchPartitionsResponse, FetchedPartition,
};
use lance_messages::wire::{Features, Request, Response};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Wait between two empty answers of a server without long poll.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MOST: Duration = Duration::from_millis(100);
/// How long an answer is waited for that lacks something by now. A long poll with nothing to say takes longer, and is
/// left alone: answers come in order, so the next question goes over another connection.
const OVERTAKEN_GRACE: Duration = Duration::from_millis(10);

pub(super) struct Reader {
    id: ReaderId,
    client: Client,
    hub: Arc<Hub>,
    options: ConsumerOptions,
    address: String,
    lost: mpsc::UnboundedSender<Lost>,
    /// What was read of a record whose end has not come, by the generation it belongs to.
    splitters: HashMap<Key, (u64, Splitter)>,
    /// Partitions that the node has answered for.
    answered: HashSet<Key>,
    /// Turns the order of partitions, so that none starves behind a busy one.
    turn: usize,
}

/// Why a part of an answer is no data.
enum Refused {
    /// The partition needs another node; `near` is a replica's that its leader has named.
    Lost { error: ClientError, redirected: bool, near: Option<String> },
    /// It cannot be read any further.
    Failed(ClientError),
}

impl Reader {
    pub(super) fn new(
        id: ReaderId,
        client: Client,
        hub: Arc<Hub>,
        options: ConsumerOptions,
        address: String,
        lost: mpsc::UnboundedSender<Lost>,
    ) -> Self {
        let (splitters, answered) = (HashMap::new(), HashSet::new());
        Self { id, client, hub, options, address, lost, splitters, answered, turn: 0 }
    }

    /// Reads until nothing is to be read from its node, or nothing can be.
    pub(super) async fn run(mut self) {
        let Err(error) = self.read().await else { return };
        if error.is_retriable() || error.is_stale_metadata() {
            let keys = self.hub.change(|board| board.remove_reader(self.id));
            let answered = !self.answered.is_empty();
            _ = self.lost.send(Lost { keys, redirected: false, near: None, answered, error });
        } else {
            self.hub.fail_reader(self.id, error);
        }
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        let (mut changes, mut drains) = (self.hub.changes(), self.hub.drains());
        let mut connection = self.client.open(&self.address).await?;
        let mut pause = POLL_FIRST;
        loop {
            changes.borrow_and_update();
            drains.borrow_and_update();
            let (mut asks, max_bytes) = match self.hub.plan(self.id, self.options.max_bytes) {
                Plan::Ask { asks, max_bytes } => (asks, max_bytes),
                Plan::Wait => {
                    // The hub lives as long as its bells are waited for.
                    _ = drains.changed().await;
                    continue;
                }
                Plan::End => return Ok(()),
            };
            if self.splitters.len() > asks.len() {
                self.splitters.retain(|key, _| asks.iter().any(|ask| ask.key == *key));
            }
            self.turn = (self.turn + 1) % asks.len();
            asks.sort_by(|a, b| (&a.key.topic, a.key.partition).cmp(&(&b.key.topic, b.key.partition)));
            asks.rotate_left(self.turn);
            if connection.supports(Features::LONG_POLL) {
                match self.poll(&connection, &asks, max_bytes, &mut changes).await? {
                    Some(reply) => self.on_reply(&connection, &asks, reply)?,
                    None => connection = self.client.open(&self.address).await?,
                }
                continue;
            }
            if self.sweep(&connection, &asks, max_bytes).await? {
                pause = POLL_FIRST;
                continue;
            }
            _ = tokio::time::timeout(pause, changes.changed()).await;
            pause = (pause * 2).min(POLL_MOST);
        }
    }

    /// `None`: there is something else to ask by now, and the answer takes its time.
    async fn poll(
        &mut self,
        connection: &Connection,
        asks: &[Ask],
        max_bytes: u32,
        changes: &mut watch::Receiver<()>,
    ) -> Result<Option<FetchPartitionsResponse>, ClientError> {
        let partition_max_bytes = self.options.partition_max_bytes.min(max_bytes);
        let mut partitions = Vec::with_capacity(asks.len());
        let now = Instant::now();
        for ask in asks {
            let partition = TopicPartition::new(ask.topic_id, ask.key.partition);
            let offset = self.splitter(ask).fetch_offset();
            let near = self.hub.near.may_be_near(&ask.key, now);
            partitions.push(FetchPartition { partition, offset, max_bytes: partition_max_bytes, near });
        }
        let fetch = FetchPartitions {
            max_wait_ms: self.options.max_wait.as_millis().min(u128::from(u32::MAX)) as u32,
            min_bytes: self.options.min_bytes,
            max_bytes,
            partitions: FetchList::new(&partitions),
            rack: self.hub.near.rack().to_owned(),
        };
        let request = Request::FetchPartitions(fetch);
        let request = traced(connection, asks, request, 0, self.options.max_wait);
        tokio::pin!(request);
        let reply = loop {
            tokio::select! {
                biased;
                reply = &mut request => break reply?,
                _ = changes.changed() => {
                    if self.hub.board().overtakes(self.id, asks) {
                        match tokio::time::timeout(OVERTAKEN_GRACE, &mut request).await {
                            Ok(reply) => break reply?,
                            Err(_) => return Ok(None),
                        }
                    }
                }
            }
        };
        match reply {
            Response::FetchPartitions(reply) => Ok(Some(reply)),
            _ => Err(unexpected(connection, "fetch")),
        }
    }

    /// What is known of a record whose end was not fetched, or a beginning.
    fn splitter(&mut self, ask: &Ask) -> &mut Splitter {
        let new = || (ask.generation, Splitter::new(ask.offset));
        let (generation, splitter) = self.splitters.entry(ask.key.clone()).or_insert_with(new);
        if *generation != ask.generation || splitter.next_offset() != ask.offset {
            (*generation, *splitter) = new();
        }
        splitter
    }

    fn on_reply(
        &mut self,
        connection: &Connection,
        asks: &[Ask],
        reply: FetchPartitionsResponse,
    ) -> Result<(), ClientError> {
        let by_id = |found: &FetchedPartition| {
            let same = |ask: &&Ask| TopicPartition::new(ask.topic_id, ask.key.partition) == found.partition;
            asks.iter().find(same)
        };
        for (fetched, data) in reply.partitions {
            let Some(ask) = by_id(&fetched) else { return Err(unexpected(connection, "fetch")) };
            match self.on_part(connection, ask, &fetched, data)? {
                Ok(()) => {
                    self.hub.near.served(&ask.key);
                    self.answered.insert(ask.key.clone());
                }
                Err(refused) => self.on_refused(ask, refused),
            }
        }
        Ok(())
    }

    fn on_refused(&mut self, ask: &Ask, refused: Refused) {
        match refused {
            Refused::Failed(error) => self.hub.fail(ask, error),
            Refused::Lost { error, redirected, near } => {
                self.hub.change(|board| board.displace(&ask.key));
                let answered = self.answered.remove(&ask.key);
                _ = self.lost.send(Lost { keys: vec![ask.key.clone()], redirected, near, answered, error });
            }
        }
    }

    fn on_part(
        &mut self,
        connection: &Connection,
        ask: &Ask,
        fetched: &FetchedPartition,
        data: Bytes,
    ) -> Result<Result<(), Refused>, ClientError> {
        if self.hub.board().is_deposed(&ask.key, fetched.leader_epoch) {
            let error = ClientError::from_code(ErrorCode::NotLeader);
            return Ok(Err(Refused::Lost { error, redirected: false, near: None }));
        }
        let asked = self.splitter(ask).fetch_offset();
        let (earliest, latest) = (fetched.log_start, fetched.high_watermark);
        match fetched.error {
            None => {}
            Some(ErrorCode::OffsetOutOfRange) => return Ok(self.out_of_range(ask, asked, earliest, latest)),
            Some(code) => return Ok(Err(self.refused(ask, code, fetched.leader))),
        }
        if fetched.encoding != DataEncoding::Plain {
            return Err(unexpected(connection, "fetch"));
        }
        let data_offset = fetched.next_offset.checked_sub(data.len() as u64).filter(|&begin| begin >= asked);
        let data_offset = data_offset.ok_or_else(|| unexpected(connection, "fetch"))?;
        if data_offset > asked && self.options.out_of_range != OutOfRange::Earliest {
            return Ok(self.out_of_range(ask, asked, earliest, latest));
        }
        if data_offset > asked {
            warn_of_gap(ask, asked, data_offset);
        }
        let timestamp = (fetched.timestamp != 0).then_some(fetched.timestamp);
        self.deliver(ask, data_offset, data, timestamp, Some(latest));
        Ok(Ok(()))
    }

    fn refused(&mut self, ask: &Ask, code: ErrorCode, leader: u16) -> Refused {
        if code == ErrorCode::ReadElsewhere {
            let near = self.client.node_address(NodeId(leader));
            return Refused::Lost { error: ClientError::from_code(code), redirected: false, near };
        }
        let error = match code {
            ErrorCode::UnknownTopic | ErrorCode::TopicNotFound => {
                ClientError::UnknownTopic { topic: ask.key.topic.to_string() }
            }
            code => ClientError::from_code(code),
        };
        // What is wrong with a nearer replica need not be wrong with the leader.
        let is_near = self.hub.near.address(&ask.key).is_some();
        if !error.is_retriable() && !error.is_stale_metadata() && !is_near {
            return Refused::Failed(error);
        }
        let leader = (code == ErrorCode::NotLeader).then_some(NodeId(leader));
        let address = leader.and_then(|leader| self.client.node_address(leader));
        if let Some(address) = &address {
            self.client.redirect(&ask.key.topic, ask.key.partition, address);
        }
        Refused::Lost { error, redirected: address.is_some(), near: None }
    }

    /// The partition does not have what was asked for: before its log start, or after its end.
    fn out_of_range(&self, ask: &Ask, asked: u64, earliest: u64, latest: u64) -> Result<(), Refused> {
        let offset = match self.options.out_of_range {
            OutOfRange::Earliest => earliest,
            OutOfRange::Latest => latest,
            OutOfRange::Error => {
                let (topic, partition) = (ask.key.topic.to_string(), ask.key.partition);
                let error = ClientError::OffsetOutOfRange { topic, partition, offset: asked, earliest, latest };
                return Err(Refused::Failed(error));
            }
        };
        warn_of_gap(ask, asked, offset);
        self.hub.change(|board| board.reset(ask, offset));
        Ok(())
    }

    fn deliver(
        &mut self,
        ask: &Ask,
        data_offset: u64,
        data: Bytes,
        timestamp: Option<u64>,
        high_watermark: Option<u64>,
    ) {
        let splitter = self.splitter(ask);
        let before = splitter.fetch_offset();
        let bytes = data.len();
        let mut records = Vec::new();
        splitter.feed(data_offset, data, timestamp, &mut records);
        let next_offset = splitter.next_offset();
        if splitter.fetch_offset() == before || next_offset == ask.offset {
            return;
        }
        let (topic, partition) = (Arc::clone(&ask.key.topic), ask.key.partition);
        let chunk = ConsumedChunk { topic, partition, records, next_offset, high_watermark };
        self.hub.offer(self.id, ask, chunk, bytes);
    }

    /// Asks for one partition after another; true when there was data.
    async fn sweep(&mut self, connection: &Connection, asks: &[Ask], max_bytes: u32) -> Result<bool, ClientError> {
        let mut some = false;
        let share = max_bytes / asks.len().max(1) as u32;
        for ask in asks {
            match self.fetch_1_0(connection, ask, share.clamp(1, self.options.partition_max_bytes.max(1))).await {
                Ok(data) => {
                    some |= data;
                    self.answered.insert(ask.key.clone());
                }
                Err(error @ ClientError::Server { .. }) if error.is_retriable() || error.is_stale_metadata() => {
                    let redirected = self.client.follow(&ask.key.topic, ask.key.partition, &error);
                    self.on_refused(ask, Refused::Lost { error, redirected, near: None });
                }
                Err(error @ (ClientError::Server { .. } | ClientError::OffsetOutOfRange { .. })) => {
                    self.on_refused(ask, Refused::Failed(error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(some)
    }

    async fn fetch_1_0(&mut self, connection: &Connection, ask: &Ask, max_bytes: u32) -> Result<bool, ClientError> {
        let asked = self.splitter(ask).fetch_offset();
        let fetch = Request::Fetch(Fetch { topic: ask.topic_id, offset: asked, max_bytes });
        match traced(connection, std::slice::from_ref(ask), fetch, ask.key.partition, Duration::ZERO).await? {
            Response::Fetch { next_offset, data, .. } => {
                let begin =
                    next_offset.checked_sub(data.len() as u64).filter(|&begin| begin >= asked || data.is_empty());
                let begin = begin.ok_or_else(|| unexpected(connection, "fetch"))?.max(asked);
                if begin > asked && self.options.out_of_range == OutOfRange::Error {
                    let (topic, partition) = (ask.key.topic.to_string(), ask.key.partition);
                    let (offset, earliest, latest) = (asked, begin, next_offset);
                    return Err(ClientError::OffsetOutOfRange { topic, partition, offset, earliest, latest });
                }
                let some = !data.is_empty();
                if begin > asked {
                    warn_of_gap(ask, asked, begin);
                }
                self.deliver(ask, begin, data, None, None);
                Ok(some)
            }
            Response::CatchingUp { .. } => Ok(false),
            _ => Err(unexpected(connection, "fetch")),
        }
    }
}

/// Records are passed over, or come again: nobody should find that out by counting.
fn warn_of_gap(ask: &Ask, asked: u64, offset: u64) {
    let Key { topic, partition } = &ask.key;
    tracing::warn!(topic = &**topic, partition, asked, offset, "the offset is out of range: reading goes on elsewhere");
}

/// Asks for records, within a span where the application traces what it does.
async fn traced(
    connection: &Connection,
    asks: &[Ask],
    request: Request,
    partition: u16,
    patience: Duration,
) -> Result<Response, ClientError> {
    let topic = asks.first().map_or("", |ask| &*ask.key.topic);
    let only = match asks {
        [only] => Some(only.key.partition),
        _ => None,
    };
    let span = ClientSpan::poll(topic, only, connection.address());
    let trace = span.as_ref().map(ClientSpan::context);
    let answer = connection.request_for(request, partition, trace, "fetch", patience).await;
    if let Some(span) = span {
        match &answer {
            Ok(response) => {
                let (records, bytes) = found_in(response);
                span.finish(records, bytes);
            }
            Err(error) => span.fail(error),
        }
    }
    answer
}

/// Records and bytes of an answer.
fn found_in(response: &Response) -> (u64, u64) {
    match response {
        Response::FetchPartitions(reply) => {
            reply.partitions.iter().fold((0, 0), |(records, bytes), (fetched, data)| {
                (records + u64::from(fetched.record_count), bytes + data.len() as u64)
            })
        }
        Response::Fetch { record_count, data, .. } => (u64::from(*record_count), data.len() as u64),
        _ => (0, 0),
    }
}

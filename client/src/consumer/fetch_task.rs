//! Fetches from one node: all its partitions with one long poll, or one after another from a 1.0 server.

use super::placement::ChunkSender;
use super::split::Splitter;
use super::{ConsumedChunk, ConsumerOptions};
use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::unexpected;
use crate::spans::ClientSpan;
use bytes::Bytes;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicId, TopicPartition};
use lance_messages::wire::fetch::{
    DataEncoding, Fetch, FetchList, FetchPartition, FetchPartitions, FetchPartitionsResponse, FetchedPartition,
};
use lance_messages::wire::{Features, Request, Response};
use std::sync::Arc;
use std::time::Duration;

/// Wait between two empty answers of a 1.0 server.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MOST: Duration = Duration::from_millis(100);

/// A partition and where reading is.
#[derive(Debug)]
pub(super) struct PartitionState {
    pub(super) partition: u16,
    splitter: Splitter,
    /// The latest leader epoch that answered: earlier leaders are not believed any more.
    epoch: u32,
}

/// Reading from a node ended; the partitions need another.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) partitions: Vec<PartitionState>,
    /// Whether anything was read.
    pub(super) progressed: bool,
    /// Whether the node named others that lead: they can be asked at once.
    pub(super) redirected: bool,
    pub(super) error: ClientError,
}

impl PartitionState {
    pub(super) fn new(partition: u16, offset: u64) -> Self {
        Self { partition, splitter: Splitter::new(offset), epoch: 0 }
    }
}

struct FetchTask {
    client: Client,
    connection: Connection,
    options: ConsumerOptions,
    topic: Arc<str>,
    topic_id: TopicId,
    partitions: Vec<PartitionState>,
    chunks: ChunkSender,
    progressed: bool,
    redirected: bool,
    /// The partition that is asked for first, so that none starves behind a busy one.
    first: usize,
}

/// Reads until something fails or nobody listens.
pub(super) async fn run(
    client: Client,
    connection: Connection,
    options: ConsumerOptions,
    topic: Arc<str>,
    topic_id: TopicId,
    partitions: Vec<PartitionState>,
    chunks: ChunkSender,
) -> Stopped {
    let (progressed, redirected, first) = (false, false, 0);
    let mut task =
        FetchTask { client, connection, options, topic, topic_id, partitions, chunks, progressed, redirected, first };
    let ended =
        if task.connection.supports(Features::LONG_POLL) { task.run_long_poll().await } else { task.run_1_0().await };
    let error = match ended {
        Ok(()) => ClientError::Closed { what: "consumer" },
        Err(error) => error,
    };
    if !error.is_retriable() && !error.is_stale_metadata() && !task.chunks.is_closed() {
        // Nothing can be read any more: say so, and leave nothing for others to try.
        _ = task.chunks.send(Err(error.clone())).await;
        task.partitions.clear();
    }
    if let [only] = &task.partitions[..] {
        task.redirected |= task.client.follow(&task.topic, only.partition, &error);
    }
    Stopped { partitions: task.partitions, progressed: task.progressed, redirected: task.redirected, error }
}

impl FetchTask {
    async fn run_long_poll(&mut self) -> Result<(), ClientError> {
        while !self.chunks.is_closed() && !self.partitions.is_empty() {
            self.first = (self.first + 1) % self.partitions.len();
            let asked: Vec<FetchPartition> = self.in_turn().map(|state| self.ask(state)).collect();
            let fetch = FetchPartitions {
                max_wait_ms: self.options.max_wait.as_millis().min(u128::from(u32::MAX)) as u32,
                min_bytes: self.options.min_bytes,
                max_bytes: self.options.max_bytes,
                partitions: FetchList::new(&asked),
            };
            let request = Request::FetchPartitions(fetch);
            match self.poll(request, 0, self.options.max_wait).await? {
                Response::FetchPartitions(reply) => self.on_reply(reply).await?,
                _ => return Err(unexpected(&self.connection, "fetch")),
            }
        }
        Ok(())
    }

    /// Asks for records, within a span where the application traces what it does.
    async fn poll(&self, request: Request, partition: u16, patience: Duration) -> Result<Response, ClientError> {
        let only = match &self.partitions[..] {
            [only] => Some(only.partition),
            _ => None,
        };
        let span = ClientSpan::poll(&self.topic, only, self.connection.address());
        let trace = span.as_ref().map(ClientSpan::context);
        let answer = self.connection.request_for(request, partition, trace, "fetch", patience).await;
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

    fn in_turn(&self) -> impl Iterator<Item = &PartitionState> {
        let (before, after) = self.partitions.split_at(self.first);
        after.iter().chain(before)
    }

    fn ask(&self, state: &PartitionState) -> FetchPartition {
        FetchPartition {
            partition: TopicPartition::new(self.topic_id, state.partition),
            offset: state.splitter.fetch_offset(),
            max_bytes: self.options.partition_max_bytes,
        }
    }

    async fn on_reply(&mut self, reply: FetchPartitionsResponse) -> Result<(), ClientError> {
        let mut failure = None;
        for (fetched, data) in reply.partitions {
            if self.is_deposed(&fetched) {
                failure = Some(ErrorCode::NotLeader);
                continue;
            }
            match fetched.error {
                None => self.on_data(&fetched, data).await?,
                Some(code) => {
                    let leader = (code == ErrorCode::NotLeader).then_some(NodeId(fetched.leader));
                    if let Some(address) = leader.and_then(|leader| self.client.node_address(leader)) {
                        self.client.redirect(&self.topic, fetched.partition.partition, &address);
                        self.redirected = true;
                    }
                    failure = Some(code);
                }
            }
        }
        match failure {
            None => Ok(()),
            Some(code) => Err(self.explain(code)),
        }
    }

    /// Whether a later leader than the one that answers was heard: what this one says is of the past.
    fn is_deposed(&mut self, fetched: &FetchedPartition) -> bool {
        let partition = fetched.partition.partition;
        let Some(state) = self.partitions.iter_mut().find(|state| state.partition == partition) else {
            return false;
        };
        if fetched.leader_epoch == 0 {
            return false;
        }
        let deposed = fetched.leader_epoch < state.epoch;
        state.epoch = state.epoch.max(fetched.leader_epoch);
        deposed
    }

    fn explain(&self, code: ErrorCode) -> ClientError {
        if matches!(code, ErrorCode::UnknownTopic | ErrorCode::TopicNotFound) {
            return ClientError::UnknownTopic { topic: self.topic.to_string() };
        }
        ClientError::from_code(code)
    }

    async fn on_data(&mut self, fetched: &FetchedPartition, data: Bytes) -> Result<(), ClientError> {
        if fetched.encoding != DataEncoding::Plain {
            return Err(unexpected(&self.connection, "fetch"));
        }
        let timestamp = (fetched.timestamp != 0).then_some(fetched.timestamp);
        let partition = fetched.partition.partition;
        self.deliver(partition, fetched.next_offset, data, timestamp, Some(fetched.high_watermark)).await
    }

    async fn deliver(
        &mut self,
        partition: u16,
        next_offset: u64,
        data: Bytes,
        timestamp: Option<u64>,
        high_watermark: Option<u64>,
    ) -> Result<(), ClientError> {
        let Some(state) = self.partitions.iter_mut().find(|state| state.partition == partition) else {
            return Err(unexpected(&self.connection, "fetch"));
        };
        let before = state.splitter.fetch_offset();
        let mut records = Vec::new();
        let data_offset = next_offset.saturating_sub(data.len() as u64);
        state.splitter.feed(data_offset, data, timestamp, &mut records);
        if state.splitter.fetch_offset() == before {
            return Ok(());
        }
        self.progressed = true;
        let topic = Arc::clone(&self.topic);
        let chunk =
            ConsumedChunk { topic, partition, records, next_offset: state.splitter.next_offset(), high_watermark };
        self.chunks.send(Ok(chunk)).await.map_err(|_| ClientError::Closed { what: "consumer" })
    }

    async fn run_1_0(&mut self) -> Result<(), ClientError> {
        let mut pause = POLL_FIRST;
        while !self.chunks.is_closed() {
            let mut idle = true;
            for at in 0..self.partitions.len() {
                idle &= !self.fetch_1_0(at).await?;
            }
            if idle {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(POLL_MOST);
            } else {
                pause = POLL_FIRST;
            }
        }
        Ok(())
    }

    /// True when there was data.
    async fn fetch_1_0(&mut self, at: usize) -> Result<bool, ClientError> {
        let (partition, offset) = {
            let state = &self.partitions[at];
            (state.partition, state.splitter.fetch_offset())
        };
        let fetch = Fetch { topic: self.topic_id, offset, max_bytes: self.options.partition_max_bytes };
        match self.poll(Request::Fetch(fetch), partition, Duration::ZERO).await? {
            Response::Fetch { next_offset, data, .. } => {
                let some = !data.is_empty();
                if some {
                    self.deliver(partition, next_offset, data, None, None).await?;
                }
                Ok(some)
            }
            Response::CatchingUp { .. } => Ok(false),
            _ => Err(unexpected(&self.connection, "fetch")),
        }
    }
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

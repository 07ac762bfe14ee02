//! Messages that an ingestion actor receives.

use crate::batch::{BatchFlags, BatchPlace, ProducerSequence};
use crate::id::{ConnectionId, TopicId, TopicPartition};
use crate::peer::LogPlace;
use crate::wire::TraceContext;
use bytes::Bytes;
use std::time::Duration;

/// What a traced request carries along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTrace {
    /// The span of the request on the node that took it.
    pub context: TraceContext,
    /// When it was taken, as time since the process started.
    pub received_at: Duration,
}

/// One batch to append, already checked and in the form it is stored in.
#[derive(Clone, Debug)]
pub struct ProduceRequest {
    /// Number of the request on its connection; comes back with the reply.
    pub request: u64,
    /// Where to append.
    pub partition: TopicPartition,
    /// The records as stored.
    pub records: Bytes,
    /// CRC-32 of `records`.
    pub records_crc: u32,
    /// Bytes of the records once decompressed; equals the length of `records` when they are plain.
    pub plain_len: u32,
    /// How many records there are; 1 for an opaque batch.
    pub record_count: u32,
    /// Opaque, compressed, codec.
    pub flags: BatchFlags,
    /// Newest timestamp the producer gave, ns since the Unix epoch; 0 = none.
    pub timestamp_ns: u64,
    /// For an idempotent producer.
    pub producer: Option<ProducerSequence>,
    /// The only place it may be stored at, of a batch that is restored; whatever its producer's sequence is.
    pub at: Option<BatchPlace>,
    /// Of a request that is traced: few are, and the others pay for a pointer.
    pub trace: Option<Box<RequestTrace>>,
}

/// Appends batches of one connection, in order.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct Produce {
    /// Who is answered.
    pub connection: ConnectionId,
    /// The batches; never empty.
    pub requests: Vec<ProduceRequest>,
}

/// Reads committed records from one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct Fetch {
    /// Who is answered.
    pub connection: ConnectionId,
    /// Number of the request on its connection.
    pub request: u64,
    /// Which of the parts of that request this is.
    pub part: u16,
    /// Where to read.
    pub partition: TopicPartition,
    /// First plain byte wanted.
    pub offset: u64,
    /// Most data bytes of the answer.
    pub max_bytes: u32,
    /// How long to wait at the high watermark for something to read; zero answers at once.
    pub max_wait: Duration,
    /// Whether whole batches are wanted, as they are stored.
    pub stored: bool,
    /// Whether this node was asked as a replica that follows: it answers with what it knows to be committed.
    pub near: bool,
    /// The span of the request, where it is traced.
    pub trace: Option<TraceContext>,
}

/// Ends the waiting of a fetch: it answers with what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct CancelWait {
    /// The connection.
    pub connection: ConnectionId,
    /// The request on it.
    pub request: u64,
    /// The partition it waits for.
    pub partition: TopicPartition,
}

/// Which place of a log is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The first offset that can be read.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record whose batch is not older than this time, ns since the Unix epoch.
    Timestamp(u64),
    /// The record with this number.
    Record(u64),
    /// The first record that starts at or after this offset.
    Offset(u64),
}

/// Looks an offset up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct LookUpOffset {
    /// Who is answered.
    pub connection: ConnectionId,
    /// Number of the request on its connection.
    pub request: u64,
    /// Where to look.
    pub partition: TopicPartition,
    /// What to look for.
    pub query: OffsetQuery,
}

/// The poller finished (or failed) operations; `C` is the disk's completion.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct DiskDone<C: 'static> {
    /// The life of the ingestion actor that asked for them: what an earlier life asked for is ignored.
    pub ingestion_life: u64,
    /// The completions.
    pub completions: Vec<C>,
}

/// The poller lost track of what it had in flight; logs must be opened again through recovery.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct PollerFailed;

/// The partitions that this node holds, as committed; logs are opened for new ones and dropped for gone ones.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct AssignPartitions {
    /// Every partition of this shard.
    pub partitions: Vec<TopicPartition>,
    /// Those of them that other nodes hold as well: what is damaged here can be had from there.
    pub replicated: Vec<TopicPartition>,
    /// By which version of its replica set this node was given its copy, where that was not the first set. A copy given
    /// anew begins from nothing.
    pub copy_versions: Vec<(TopicPartition, u32)>,
    /// Where restored partitions begin, of those that do not begin at 0.
    pub beginnings: Vec<(TopicPartition, LogPlace)>,
    /// Topics that are gone since the last time.
    pub deleted: Vec<TopicId>,
}

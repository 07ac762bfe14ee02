//! Reader threads: whatever may wait for the disk on behalf of a consumer happens here and blocks nobody else.

use crate::ingestion::damage::DamageFound;
use crate::network::connection::{LookUpDone, PlanDone};
use crate::sendfile::{FileRange, FileSent, send_files};
use crate::view::ClusterView;
use actix::prelude::*;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use lance_messages::error_code::ErrorCode;
use lance_messages::mail::ingestion::OffsetQuery;
use lance_storage::disk::Disk;
use lance_storage::log::LogView;
use lance_storage::reader::{Lookup, Piece, ReadError, ReadPlan, Reader};
use lance_storage::segment::{Segment, SegmentSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Jobs that may wait for a reader thread.
const QUEUE: usize = 4096;
/// The most one fetch copies into memory; a range that goes out by `sendfile` is no copy.
const COPY_BYTES: std::ops::RangeInclusive<usize> = 64 * 1024..=1024 * 1024;
/// Copied bytes that may wait for slow sockets before fetches copy less and less.
const COPY_BUDGET: usize = 256 * 1024 * 1024;
/// A reader thread without work for this long gives its buffers back.
const IDLE: Duration = Duration::from_secs(5);

/// The part of a log that a reader thread is to read.
#[derive(Clone, Debug)]
pub enum SegmentRead {
    /// The segment that holds an offset.
    Slice(SegmentSlice),
    /// All of the log, for look-ups.
    View(LogView),
}

impl SegmentRead {
    /// The segments, oldest first.
    pub fn slices(&self) -> &[SegmentSlice] {
        match self {
            Self::Slice(slice) => std::slice::from_ref(slice),
            Self::View(view) => &view.slices,
        }
    }
}

/// Work for a reader thread.
pub enum ReaderJob {
    /// Find out which bytes answer a fetch.
    Plan {
        /// The request.
        request: u64,
        /// Which of its parts.
        part: u16,
        /// Where to read.
        read: SegmentRead,
        /// First byte wanted.
        offset: u64,
        /// Most data bytes.
        max_bytes: u32,
        /// Whether whole batches are wanted, as they are stored.
        stored: bool,
        /// Who is answered.
        reply: Recipient<PlanDone>,
    },
    /// Look an offset up.
    LookUp {
        /// The request.
        request: u64,
        /// Where to look.
        read: SegmentRead,
        /// What to look for.
        query: OffsetQuery,
        /// Who is answered.
        reply: Recipient<LookUpDone>,
    },
    /// Send ranges of files to a socket.
    SendFiles {
        /// The socket, not blocking.
        socket: Arc<OwnedFd>,
        /// The ranges, in order.
        ranges: Vec<FileRange>,
        /// Who is told how far it got.
        reply: Recipient<FileSent>,
    },
}

/// The reader threads of a node; they end when the last handle is dropped.
#[derive(Clone)]
pub struct ReaderPool {
    jobs: Sender<Box<ReaderJob>>,
}

impl ReaderPool {
    /// Starts `threads` threads.
    pub fn start(threads: usize, disk: Arc<dyn Disk>, open_files: usize) -> std::io::Result<Self> {
        let (jobs, queue) = bounded(QUEUE);
        let held = Held::default();
        for number in 0..threads.max(1) {
            let (queue, disk, held) = (queue.clone(), Arc::clone(&disk), held.clone());
            let work = move || work(&queue, &disk, open_files.div_ceil(threads.max(1)), &held);
            std::thread::Builder::new().name(format!("reader-{number}")).spawn(work)?;
        }
        Ok(Self { jobs })
    }

    /// Gives a job to a thread, or back when too many wait.
    pub fn submit(&self, job: Box<ReaderJob>) -> Result<(), Box<ReaderJob>> {
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Err(job),
        }
    }
}

/// Copied bytes of all replies that no socket has taken yet.
#[derive(Clone, Default)]
struct Held(Arc<AtomicUsize>);

impl Held {
    /// How much the next fetch may copy.
    fn room(&self) -> usize {
        let left = COPY_BUDGET.saturating_sub(self.0.load(Ordering::Relaxed));
        (left / 16).clamp(*COPY_BYTES.start(), *COPY_BYTES.end())
    }

    /// Whether so much waits that records are cut inside rather than copied whole.
    fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= COPY_BUDGET
    }

    /// Counts the copies of a plan until they are dropped.
    fn hold(&self, plan: &mut ReadPlan) {
        for piece in &mut plan.pieces {
            if let Piece::Inline(bytes) = piece {
                self.0.fetch_add(bytes.len(), Ordering::Relaxed);
                let bytes = std::mem::take(bytes);
                *piece = Piece::Inline(Bytes::from_owner(HeldBytes { bytes, held: self.clone() }));
            }
        }
    }
}

/// Bytes that count as held as long as they live.
struct HeldBytes {
    bytes: Bytes,
    held: Held,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

fn work(queue: &Receiver<Box<ReaderJob>>, disk: &Arc<dyn Disk>, open_files: usize, held: &Held) {
    let mut reader = Reader::new(disk, open_files);
    loop {
        match queue.recv_timeout(IDLE) {
            Ok(job) => {
                // A panic ends the job, not the thread.
                let run = std::panic::AssertUnwindSafe(|| run(&job, &mut reader, held));
                if std::panic::catch_unwind(run).is_err() {
                    tracing::error!("a reader job panicked");
                    reader = Reader::new(disk, open_files);
                    give_up(&job);
                }
            }
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => reader.release_idle(),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn run(job: &ReaderJob, reader: &mut Reader, held: &Held) {
    match job {
        ReaderJob::Plan { request, part, read, offset, max_bytes, stored, reply } => {
            let room = held.room() as u32;
            let max_bytes = if held.is_full() { (*max_bytes).min(room) } else { *max_bytes };
            let mut plan = match stored {
                true => reader.plan_stored(read.slices(), *offset, max_bytes.min(room)),
                false => reader.plan_within(read.slices(), *offset, max_bytes, room),
            };
            if let Ok(plan) = &mut plan {
                held.hold(plan);
            }
            answer(
                reply,
                PlanDone { request: *request, part: *part, plan: plan.map_err(|error| ReadFailure::new(error, read)) },
            );
        }
        ReaderJob::LookUp { request, read, query, reply } => {
            answer(reply, LookUpDone { request: *request, result: look_up(read, *query, reader) });
        }
        ReaderJob::SendFiles { socket, ranges, reply } => answer(reply, send_files(socket, ranges)),
    }
}

/// Answers a job that panicked: who asked must not wait for ever.
fn give_up(job: &ReaderJob) {
    match job {
        ReaderJob::Plan { request, part, reply, .. } => {
            answer(reply, PlanDone { request: *request, part: *part, plan: Err(ReadFailure::Panicked) });
        }
        ReaderJob::LookUp { request, reply, .. } => {
            answer(reply, LookUpDone { request: *request, result: Err(ReadFailure::Panicked) });
        }
        ReaderJob::SendFiles { reply, .. } => {
            answer(reply, FileSent { sent: 0, blocked: false, error: Some("the reader panicked".to_owned()) });
        }
    }
}

/// Why a read came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailure {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is stored in this segment is damaged.
    #[error("{error}")]
    Damaged {
        /// What was found.
        error: ReadError,
        /// Where its good part ends.
        good_end: u64,
        /// The segment.
        segment: Arc<Segment>,
    },
    /// A fault of the reader.
    #[error("the reader panicked")]
    Panicked,
    /// A fault of who asked.
    #[error("the ends of a log are not looked up in segments")]
    NoLookUp,
}

impl ReadFailure {
    /// The failure of a read of these segments.
    pub fn new(error: ReadError, read: &SegmentRead) -> Self {
        let ReadError::Damaged { path, position, .. } = &error else { return Self::Read(error) };
        let damaged = read.slices().iter().find(|slice| slice.segment.path() == path);
        match damaged.map(|slice| Arc::clone(&slice.segment)) {
            Some(segment) => Self::Damaged { good_end: *position, segment, error },
            None => Self::Read(error),
        }
    }

    /// What its shard is to be told of damage.
    pub fn damage(&self) -> Option<DamageFound> {
        match self {
            Self::Damaged { good_end, segment, .. } => {
                Some(DamageFound { segment: Arc::clone(segment), good_end: *good_end })
            }
            Self::Read(_) | Self::Panicked | Self::NoLookUp => None,
        }
    }

    /// What the client hears.
    pub fn code(&self, view: &ClusterView) -> ErrorCode {
        match self {
            // What was removed, or could not be opened for want of descriptors, is asked for again.
            Self::Read(ReadError::Removed { .. } | ReadError::BelowStart { .. }) => ErrorCode::Unavailable,
            Self::Read(ReadError::Disk(error)) if matches!(error.errno(), Some(libc::EMFILE | libc::ENFILE)) => {
                ErrorCode::Unavailable
            }
            // Another node is about to lead, or this replica to be refilled.
            Self::Damaged { segment, .. } if view.is_held_elsewhere(segment.partition()) => ErrorCode::Unavailable,
            Self::Read(_) | Self::Damaged { .. } => ErrorCode::StorageOffline,
            Self::Panicked | Self::NoLookUp => ErrorCode::Internal,
        }
    }
}

/// Replies have their place reserved, so only a closed connection refuses one.
fn answer<M>(reply: &Recipient<M>, message: M)
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    if let Err(SendError::Full(_)) = reply.try_send(message) {
        tracing::error!("a connection's mailbox had no room for a reader's reply");
    }
}

/// Looks an offset up: offset, record number and timestamp; the end of the log when nothing is found.
pub fn look_up(read: &SegmentRead, query: OffsetQuery, reader: &mut Reader) -> Result<(u64, u64, u64), ReadFailure> {
    let lookup = match query {
        OffsetQuery::Timestamp(at) => Lookup::AppendTime(at),
        OffsetQuery::Record(number) => Lookup::Record(number),
        OffsetQuery::Offset(offset) => Lookup::Offset(offset),
        OffsetQuery::Earliest | OffsetQuery::Latest => return Err(ReadFailure::NoLookUp),
    };
    match reader.find(read.slices(), lookup) {
        Ok(Some(found)) => Ok((found.offset, found.record, found.sort_key.timestamp_ns())),
        Ok(None) => {
            let end = match read {
                SegmentRead::Slice(slice) => slice.limit,
                SegmentRead::View(view) => view.high_watermark,
            };
            Ok((end.offset, end.record, 0))
        }
        Err(error) => {
            tracing::error!(%error, "a look-up failed");
            Err(ReadFailure::new(error, read))
        }
    }
}

/// Reads committed plain bytes into memory, on a thread that may wait; for actors that read their own topics.
pub fn read_committed(
    disk: &Arc<dyn Disk>,
    read: &SegmentRead,
    offset: u64,
    max_bytes: u32,
) -> Result<(Vec<u8>, u64), ReadFailure> {
    let plan = Reader::new(disk, 1).plan(read.slices(), offset, max_bytes);
    let plan = plan.map_err(|error| ReadFailure::new(error, read))?;
    let mut data = Vec::with_capacity(plan.bytes as usize);
    for piece in plan.pieces {
        match piece {
            Piece::Inline(bytes) => data.extend_from_slice(&bytes),
            Piece::File { file, file_offset, len } => {
                let start = data.len();
                data.resize(start + len as usize, 0);
                let mut filled = 0;
                while start + filled < data.len() {
                    let count = file.read_at(&mut data[start + filled..], file_offset + filled as u64);
                    let count = count.map_err(ReadError::from)?;
                    if count == 0 {
                        break;
                    }
                    filled += count;
                }
                data.truncate(start + filled);
            }
        }
    }
    Ok((data, plan.next_offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(len: usize) -> ReadPlan {
        ReadPlan { pieces: vec![Piece::Inline(Bytes::from(vec![7; len]))], ..ReadPlan::default() }
    }

    #[test]
    fn damage_is_tried_again_where_other_nodes_hold_the_partition() {
        use crate::view::{PartitionMembers, TopicView};
        use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
        use lance_storage::reader::BatchFlaw;
        use lance_storage::segment::Mark;
        let segment = |topic| {
            let partition = TopicPartition::new(TopicId(topic), 0);
            Arc::new(Segment::new(std::path::Path::new("/logs"), partition, Mark::default()))
        };
        let mut view = ClusterView::default();
        view.node = Some(NodeId(1));
        for (topic, replicas) in [(1, vec![NodeId(1)]), (2, vec![NodeId(1), NodeId(2)])] {
            view.insert(TopicView {
                id: TopicId(topic),
                name: format!("topic {topic}"),
                created_at: 0,
                topic_epoch: 1,
                config: lance_cluster::metadata::TopicConfig::default(),
                partitions: vec![(Some(NodeId(1)), LeaderEpoch(1))],
                members: vec![PartitionMembers { replicas, ..PartitionMembers::default() }],
            });
        }
        for (topic, code) in [(1, ErrorCode::StorageOffline), (2, ErrorCode::Unavailable)] {
            let segment = segment(topic);
            let (path, partition) = (segment.path().to_owned(), segment.partition());
            let flaw = BatchFlaw::Cut { needed: 9, left: 0 };
            let error = ReadError::Damaged { path, file_offset: 700, position: 700, partition, flaw };
            let slice = SegmentSlice {
                segment,
                start_position: 0,
                start_offset: 0,
                limit: Mark { position: 900, ..Mark::default() },
                closed: true,
            };
            let failure = ReadFailure::new(error, &SegmentRead::Slice(slice));
            assert_eq!(failure.damage().map(|found| found.good_end), Some(700));
            assert_eq!(failure.code(&view), code);
        }
        assert_eq!(ReadFailure::Panicked.code(&view), ErrorCode::Internal);
    }

    #[test]
    fn copies_count_until_the_last_byte_is_sent() {
        let held = Held::default();
        assert_eq!(held.room(), *COPY_BYTES.end());
        let mut plans: Vec<ReadPlan> = (0..8).map(|_| plan_of(COPY_BUDGET / 8)).collect();
        plans.iter_mut().for_each(|plan| held.hold(plan));
        assert!(held.is_full());
        assert_eq!(held.room(), *COPY_BYTES.start());
        let Some(Piece::Inline(mut bytes)) = plans.pop().and_then(|mut plan| plan.pieces.pop()) else {
            panic!("no copy");
        };
        bytes::Buf::advance(&mut bytes, COPY_BUDGET / 8 - 1);
        assert!(held.is_full(), "one byte keeps all of its buffer");
        drop(bytes);
        assert!(!held.is_full());
        drop(plans);
        assert_eq!(held.0.load(Ordering::Relaxed), 0);
    }
}

//! Opens logs (and recovers them) on threads that may wait for the disk.

use hashbrown::HashMap;
use lance_messages::id::TopicPartition;
use lance_messages::peer::{BelowStart, LogPlace, TruncateTo};
use lance_storage::disk::Disk;
use lance_storage::log::{Latch, Log, LogOptions, OpenContext, OpenError, RecoveryReport, RestartError};
use lance_storage::recovery::{begin_log, restart_log, truncate_log};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tracing::Span;

/// Logs opened by one thread before the next takes its share.
const LOGS_PER_THREAD: usize = 32;
/// Threads that open logs at the same time.
const MAX_THREADS: usize = 16;

/// One log to open.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// Whose log.
    pub partition: TopicPartition,
    /// Log position known to be durable.
    pub flushed: Option<u64>,
    /// Log position above which this process has written nothing.
    pub written: Option<u64>,
    /// Why an earlier life of its owner stopped writing it.
    pub latch: Option<Latch>,
    /// Where it begins when nothing is there, of a partition that was restored.
    pub begins: Option<LogPlace>,
}

/// One opened log, or why it could not be opened.
pub struct Opened {
    /// Whose log.
    pub partition: TopicPartition,
    /// The log.
    pub result: Result<Log, String>,
    /// It failed for want of descriptors, memory or space, which may pass: it is to be opened again.
    pub may_pass: bool,
    /// Segments are missing, or all of a log that was durable is.
    pub is_lost: bool,
    /// Bytes of a torn tail that were cut off.
    pub truncated_bytes: u64,
}

/// A log to cut, or to begin anew.
pub struct TruncateJob {
    /// Whose log.
    pub partition: TopicPartition,
    /// The log, closed before its files are touched.
    pub log: Option<Box<Log>>,
    /// What to do.
    pub to: TruncateTo,
    /// What a log that begins anew is told of what lay below.
    pub below: BelowStart,
}

impl Opened {
    /// A log that could not be opened.
    pub fn failed(partition: TopicPartition, reason: String) -> Self {
        Self { partition, result: Err(reason), may_pass: false, is_lost: false, truncated_bytes: 0 }
    }

    fn with_log(partition: TopicPartition, log: Log) -> Self {
        Self { partition, result: Ok(log), may_pass: false, is_lost: false, truncated_bytes: 0 }
    }

    /// The log position below which a damaged log is good, and what is wrong above; `None` for one that is not damaged.
    pub fn damage(&self) -> Option<(u64, String)> {
        match &self.result {
            Ok(log) => log.offline().map(|damage| (damage.good_end(), damage.to_string())),
            Err(reason) => self.is_lost.then(|| (0, reason.clone())),
        }
    }
}

/// Why a log could not be opened, or begun where it belongs.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Restart(#[from] RestartError),
}

/// Nothing is wrong with the log itself.
fn may_pass(error: &OpenError) -> bool {
    let OpenError::Disk(error) = error else { return false };
    error.is_no_space() || matches!(error.errno(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Segments are missing or do not fit together: no part of them can be opened as a log.
fn is_lost(error: &OpenError) -> bool {
    matches!(error, OpenError::Missing { .. } | OpenError::Gap { .. } | OpenError::Overlap { .. })
}

/// How logs are opened.
#[derive(Clone)]
pub struct LogOpener {
    /// Where they are.
    pub disk: Arc<dyn Disk>,
    /// The folder that holds them.
    pub logs_dir: PathBuf,
    /// A segment that would grow past this is closed.
    pub segment_bytes: u64,
    /// Distance between two entries of a segment's index.
    pub index_interval_bytes: u64,
    /// Zeroes written ahead.
    pub zero_ahead_bytes: u64,
}

impl LogOpener {
    fn options(&self, partition: TopicPartition) -> LogOptions {
        LogOptions {
            dir: self.logs_dir.join(partition.to_string()),
            partition,
            segment_bytes: self.segment_bytes,
            index_interval_bytes: self.index_interval_bytes,
            zero_ahead_bytes: self.zero_ahead_bytes,
        }
    }

    /// Opens one log; may wait for the disk.
    pub fn open(&self, request: &OpenRequest, now_ns: u64) -> Opened {
        let partition = request.partition;
        let context = OpenContext { flushed_position: request.flushed, written_position: request.written, now_ns };
        let opening = std::panic::AssertUnwindSafe(|| self.open_at(partition, context, request.begins));
        match std::panic::catch_unwind(opening) {
            Ok(Ok((mut log, report))) => {
                if let Some(latch) = request.latch.clone() {
                    log.latch(latch);
                }
                if report.truncated_bytes > 0 {
                    let bytes = report.truncated_bytes;
                    tracing::warn!(%partition, bytes, "cut a torn tail that nobody was told of");
                }
                let truncated_bytes = report.truncated_bytes;
                Opened { truncated_bytes, ..Opened::with_log(partition, log) }
            }
            Ok(Err(BeginError::Open(error))) => Opened {
                may_pass: may_pass(&error),
                is_lost: is_lost(&error),
                ..Opened::failed(partition, error.to_string())
            },
            Ok(Err(BeginError::Restart(error))) => Opened::failed(partition, error.to_string()),
            Err(_) => Opened::failed(partition, "recovery panicked over this log".to_owned()),
        }
    }

    /// Opens a log; a restored one that holds nothing yet begins where it was told to.
    fn open_at(
        &self,
        partition: TopicPartition,
        context: OpenContext,
        begins: Option<LogPlace>,
    ) -> Result<(Log, RecoveryReport), BeginError> {
        let (log, report) = Log::open(&self.disk, self.options(partition), context)?;
        match begins {
            Some(place) if log.log_end_place() == LogPlace::default() && log.offline().is_none() => {
                drop(log);
                Ok((begin_log(&self.disk, self.options(partition), place)?, report))
            }
            _ => Ok((log, report)),
        }
    }

    /// Cuts a log, or begins it anew, and opens it; may wait for the disk. Its flushed mark was lowered before.
    pub fn truncate(&self, job: TruncateJob, now_ns: u64) -> Opened {
        let TruncateJob { partition, log, to, below } = job;
        drop(log);
        let options = self.options(partition);
        let cut = match to {
            TruncateTo::Position(position) => truncate_log(&self.disk, &options, position).map_err(|e| e.to_string()),
            TruncateTo::Restart(place) => {
                let begun = restart_log(&self.disk, options, place, &below).map_err(|e| e.to_string());
                return match begun {
                    Ok(log) => Opened::with_log(partition, log),
                    Err(reason) => Opened::failed(partition, reason),
                };
            }
        };
        match cut {
            Ok(()) => {
                self.open(&OpenRequest { partition, flushed: None, written: None, latch: None, begins: None }, now_ns)
            }
            Err(reason) => Opened::failed(partition, reason),
        }
    }

    /// Opens many logs, several at a time.
    ///
    /// Openings go on when nobody waits for them any more; `openings` tells [`Openings::finished`] of them.
    /// What is found wrong is told within `span`.
    pub async fn open_all(
        self: Arc<Self>,
        requests: Vec<OpenRequest>,
        now_ns: u64,
        openings: Openings,
        span: &Span,
    ) -> Vec<Opened> {
        let share = requests.len().div_ceil(MAX_THREADS).clamp(1, LOGS_PER_THREAD.max(requests.len() / MAX_THREADS));
        let tasks: Vec<_> = requests
            .chunks(share)
            .map(|chunk| {
                let (opener, chunk) = (Arc::clone(&self), chunk.to_vec());
                let (failed, under_way) = (chunk.clone(), openings.0.subscribe());
                let span = span.clone();
                let task = actix_rt::task::spawn_blocking(move || -> Vec<Opened> {
                    let _inside = span.enter();
                    let opened = chunk.iter().map(|request| opener.open(request, now_ns)).collect();
                    drop(under_way);
                    opened
                });
                (task, failed)
            })
            .collect();
        let mut opened = Vec::with_capacity(requests.len());
        for (task, asked) in tasks {
            match task.await {
                Ok(logs) => opened.extend(logs),
                Err(error) => opened.extend(
                    asked
                        .into_iter()
                        .map(|request| Opened::failed(request.partition, format!("opening was interrupted: {error}"))),
                ),
            }
        }
        opened
    }

    /// Removes the folder of a partition that was deleted or moved away, away from the calling thread, once nobody opens it.
    /// `under_way` tells of it: who opens logs waits for those that are removed, since a partition may come back at once.
    pub fn remove(
        &self,
        partition: TopicPartition,
        log: Option<Log>,
        openings: Openings,
        under_way: watch::Receiver<()>,
    ) {
        let (disk, dir) = (Arc::clone(&self.disk), self.options(partition).dir);
        actix_rt::spawn(async move {
            openings.finished().await;
            let removal = actix_rt::task::spawn_blocking(move || {
                drop(log);
                if let Err(error) = disk.remove_dir_all(&dir)
                    && !error.is_not_found()
                {
                    tracing::warn!(%partition, %error, "the files of a deleted partition could not be removed");
                }
            });
            let _ = removal.await;
            drop(under_way);
        });
    }
}

/// Openings, or removals, under way: a log is never opened, or removed, while an earlier opening still reads and cuts it.
#[derive(Clone, Debug)]
pub struct Openings(Arc<watch::Sender<()>>);

impl Default for Openings {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }
}

impl Openings {
    /// An opening that lasts until the answer is dropped.
    pub fn begin(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    /// Whether none is under way.
    pub fn is_idle(&self) -> bool {
        self.0.receiver_count() == 0
    }

    /// Ends once no opening is under way.
    pub async fn finished(self) {
        self.0.closed().await;
    }
}

/// What an earlier life of the ingestion actor knew of its logs.
#[derive(Debug, Default)]
pub struct LogMarks {
    /// Log positions known to be durable.
    pub flushed: HashMap<TopicPartition, u64>,
    /// How far logs were ever written, as far as this process knows: it saw them end, or wrote them.
    pub(super) written: HashMap<TopicPartition, u64>,
    /// Why logs are not written any more; only a restart of the process lifts it.
    pub latches: HashMap<TopicPartition, Latch>,
    /// Where restored partitions begin.
    pub beginnings: HashMap<TopicPartition, LogPlace>,
}

impl LogMarks {
    /// What is needed to open this log.
    pub fn request(&self, partition: TopicPartition) -> OpenRequest {
        OpenRequest {
            partition,
            flushed: self.flushed.get(&partition).copied(),
            written: self.written.get(&partition).copied(),
            latch: self.latches.get(&partition).cloned(),
            begins: self.beginnings.get(&partition).copied(),
        }
    }

    /// A log was opened: what lay above its end is cut.
    pub fn note_opened(&mut self, log: &Log) {
        let partition = log.partition();
        match log.offline() {
            None => self.written.insert(partition, log.log_end()),
            Some(_) => self.written.remove(&partition),
        };
    }

    /// A log that was opened is written up to here.
    pub fn note_written(&mut self, partition: TopicPartition, end: u64) {
        if let Some(written) = self.written.get_mut(&partition) {
            *written = end.max(*written);
        }
    }

    /// Forgets a partition that is gone.
    pub fn forget(&mut self, partition: TopicPartition) {
        self.flushed.remove(&partition);
        self.written.remove(&partition);
        self.latches.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;
    use lance_storage::disk::Operation;
    use lance_storage::disk::memory::{Fault, FaultKind, MemoryConfig, MemoryDisk};

    #[test]
    fn a_log_that_found_no_descriptor_is_to_be_opened_again() {
        let memory = MemoryDisk::new(MemoryConfig::default());
        let disk = memory.as_disk();
        let logs_dir = PathBuf::from("/logs");
        disk.create_dir_all(&logs_dir).unwrap();
        let (segment_bytes, index_interval_bytes) = (1 << 20, 64 * 1024);
        let opener = LogOpener { disk, logs_dir, segment_bytes, index_interval_bytes, zero_ahead_bytes: 0 };
        let request = LogMarks::default().request(TopicPartition::new(TopicId(1), 0));
        for (errno, passes) in [(libc::EMFILE, true), (libc::ENOSPC, true), (libc::EIO, false)] {
            for operation in [Operation::Open, Operation::Create] {
                memory.inject(Fault::new(operation, FaultKind::Errno(errno)));
                let opened = opener.open(&request, 0);
                assert!(opened.result.is_ok() || opened.may_pass == passes, "{errno} {operation:?}");
                memory.clear_faults();
            }
        }
        assert!(opener.open(&request, 0).result.is_ok());
    }
}

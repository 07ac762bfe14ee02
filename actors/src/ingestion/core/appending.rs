//! Appending: one batch at a time, answered once it is committed.

use super::committing::{queue, release};
use super::refusals::{hold_or_refuse, refuse};
use super::{Effects, IngestionCore, Now, TIMED_MAX, Timed, stages};
use crate::ingestion::partition::{Held, Leadership};
use crate::ingestion::pending::PendingProduce;
use lance_messages::batch::{BatchPlace, ProducerSequence};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch};
use lance_messages::mail::connection::Produced;
use lance_messages::mail::ingestion::ProduceRequest;
use lance_messages::sort_key::SortKey;
use lance_storage::log::{AppendError, Log, NewBatch};
use lance_storage::producers::SequenceCheck;

impl IngestionCore {
    /// Appends one batch; it is answered once it is committed.
    pub fn on_produce(&mut self, connection: ConnectionId, request: ProduceRequest, now: Now, effects: &mut Effects) {
        if !self.stalled.is_empty() {
            self.stalled.push_back((connection, request));
            return;
        }
        if let Some(request) = self.try_produce(connection, request, now, effects) {
            self.counts.pool_waits += 1;
            self.stalled.push_back((connection, request));
        }
    }

    /// Gives the request back when the pool has no slot for it.
    pub(super) fn try_produce(
        &mut self,
        connection: ConnectionId,
        request: ProduceRequest,
        now: Now,
        effects: &mut Effects,
    ) -> Option<ProduceRequest> {
        let Some(slot) = self.index.get(&request.partition).copied() else {
            // Deleted, or held by other nodes since: whoever asks the metadata again is told which.
            refuse(effects, connection, request.request, ErrorCode::NotLeader);
            return None;
        };
        let terms = self.terms();
        let Self { partitions, pool, clock, appends_refused, lease_until, .. } = self;
        let partition = partitions.get_mut(slot as usize).and_then(Option::as_mut)?;
        let Leadership::Leading { epoch } = partition.leadership else {
            if partition.is_read_only() {
                refuse(effects, connection, request.request, ErrorCode::NoSpace);
                return None;
            }
            hold_or_refuse(partition, Held::Produce(connection, request), now, effects);
            return None;
        };
        if partition.is_moving() {
            hold_or_refuse(partition, Held::Produce(connection, request), now, effects);
            return None;
        }
        let log = partition.log.as_mut()?;
        // A retry of a batch that is in the log stores nothing, and "no space" would say that it is not there.
        let repeats = |producer| is_stored(log, producer, now);
        if (partition.no_space || *appends_refused) && !request.producer.as_ref().is_some_and(repeats) {
            refuse(effects, connection, request.request, ErrorCode::NoSpace);
            return None;
        }
        if let Some(at) = request.at
            && let Some(answer) = away_from_place(log, at, connection, &request)
        {
            match answer {
                Ok(stored) => partition.pending.push(stored),
                Err(code) => refuse(effects, connection, request.request, code),
            }
            release(partition, terms, effects);
            return None;
        }
        let batch = new_batch(&request, log, (epoch, clock.tick(now.wall_ns)), now);
        let restores = request.at.is_some();
        let appended = if restores { log.append_restored(&batch, pool) } else { log.append_unkept(&batch, pool) };
        let (appended, header) = match appended {
            Ok(appended) => appended,
            Err(AppendError::PoolExhausted { .. }) => return Some(request),
            Err(error) => {
                let code = append_error_code(&error);
                // A leader that is cut off may have a successor, which stored what is missing here: a producer that took its
                // word would start over and store twice.
                let unsure = partition.may_have_successor()
                    && now.elapsed >= *lease_until
                    && matches!(code, ErrorCode::OutOfOrderSequence | ErrorCode::FencedProducer);
                refuse(effects, connection, request.request, if unsure { ErrorCode::Unavailable } else { code });
                return None;
            }
        };
        partition.touched = true;
        if appended.duplicate {
            self.counts.duplicates += 1;
        } else {
            self.gather.on_appended(request.records.len());
            self.counts.batches += 1;
            self.counts.bytes += u64::from(request.plain_len);
            self.counts.records += u64::from(request.record_count);
            if partition.leader.is_some() {
                self.pace.on_appended(u64::from(request.plain_len));
                let is_free = |timed: &Timed| now.elapsed >= timed.appended_at + TIMED_MAX;
                if self.timed.as_ref().is_none_or(is_free) {
                    self.timed = Some(Timed { slot, end: appended.end_position, appended_at: now.elapsed });
                }
            }
        }
        let produced = Produced {
            base_offset: appended.base_offset,
            record_count: appended.record_count,
            duplicate: appended.duplicate,
        };
        let end_position = appended.end_position;
        partition.pending.push(PendingProduce { connection, request: request.request, end_position, produced });
        if let Some(trace) = &request.trace {
            stages::on_appended(partition, trace, &request, (end_position, produced), now, effects);
        }
        if appended.duplicate {
            release(partition, terms, effects);
        }
        // A repeat on a full disk does not try the write again: that is done once a second.
        if !partition.no_space {
            queue(&mut self.dirty, partition, slot);
        }
        if let Some(header) = header {
            self.unkept.push((slot, header, request.records));
        }
        None
    }
}

fn new_batch<'a>(
    request: &'a ProduceRequest,
    log: &Log,
    (leader_epoch, sort_key): (LeaderEpoch, SortKey),
    now: Now,
) -> NewBatch<'a> {
    NewBatch {
        records: &request.records,
        records_crc: request.records_crc,
        plain_len: request.plain_len,
        record_count: request.record_count,
        flags: request.flags,
        leader_epoch,
        // In interval mode the high watermark may run ahead of what a power cut leaves.
        committed_through: log.high_watermark().position.min(log.durable_end()),
        sort_key,
        max_timestamp_ns: if request.timestamp_ns == 0 { now.wall_ns } else { request.timestamp_ns },
        producer: request.producer,
    }
}

/// The answer to a batch that belongs at one place and does not come next: it stands there already and is acked once all that
/// does is committed, or it is refused.
fn away_from_place(
    log: &Log,
    at: BatchPlace,
    connection: ConnectionId,
    request: &ProduceRequest,
) -> Option<Result<PendingProduce, ErrorCode>> {
    let end = log.log_end_place();
    if end.offset >= at.offset.saturating_add(u64::from(request.plain_len)) {
        let produced = Produced { base_offset: at.offset, record_count: request.record_count, duplicate: true };
        let (request, end_position) = (request.request, end.position);
        return Some(Ok(PendingProduce { connection, request, end_position, produced }));
    }
    ((at.offset, at.record) != (end.offset, end.record)).then_some(Err(ErrorCode::OffsetOutOfRange))
}

fn is_stored(log: &Log, producer: &ProducerSequence, now: Now) -> bool {
    let check = log.producers().check(producer, now.wall_ns);
    matches!(check, SequenceCheck::Duplicate(_) | SequenceCheck::DuplicateBefore(_))
}

fn append_error_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::PoolExhausted { .. } => ErrorCode::Overloaded,
        AppendError::Latched(_) | AppendError::Offline(_) => ErrorCode::StorageOffline,
        AppendError::StaleEpoch { .. } => ErrorCode::NotLeader,
        AppendError::TooLarge { .. } => ErrorCode::TooLarge,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
        AppendError::FencedProducer { .. } => ErrorCode::FencedProducer,
    }
}

//! A log as the copy of a leader's: batches are taken byte for byte, and segments roll where the leader's did.

use super::{Log, ReplicaAppendError};
use crate::disk::SlotPool;
use crate::flush::NoSlot;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader};
use std::sync::Arc;

impl Log {
    /// Appends a leader's batch to memory, byte for byte; it is durable once a step that ends at or behind it has
    /// completed. An error changed nothing.
    ///
    /// A segment begins exactly where the leader's does, so that closed segments are the same everywhere. The caller may
    /// hand the batch to [`Log::keep`] afterwards, control batches too.
    pub fn append_replica(
        &mut self,
        raw_header: &[u8; BATCH_HEADER_BYTES],
        header: &BatchHeader,
        records: &[u8],
        pool: &mut SlotPool,
    ) -> Result<(), ReplicaAppendError> {
        self.check_continues(header)?;
        self.check_bytes(raw_header, header, records)?;
        let first = self.end.position == self.active.segment.base().position;
        let starts = header.flags.starts_segment();
        if first && !starts {
            return Err(ReplicaAppendError::NoSegmentStart { position: header.position });
        }
        self.store([raw_header, records], header, starts && !first, pool)
            .map_err(|NoSlot| ReplicaAppendError::PoolExhausted { bytes: header.batch_bytes() })
    }

    fn check_continues(&self, header: &BatchHeader) -> Result<(), ReplicaAppendError> {
        if let Some(latch) = &self.latched {
            return Err(ReplicaAppendError::Latched(latch.clone()));
        }
        if let Some(damage) = &self.offline {
            return Err(ReplicaAppendError::Offline(Arc::clone(damage)));
        }
        let links = [
            ("position", header.position, self.end.position),
            ("base offset", header.base_offset, self.end.offset),
            ("base record", header.base_record, self.end.record),
        ];
        if let Some((field, found, expected)) = links.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(ReplicaAppendError::Chain { field, found, expected });
        }
        let last = self.last_epoch();
        if header.leader_epoch < last {
            return Err(ReplicaAppendError::StaleEpoch { last, got: header.leader_epoch });
        }
        Ok(())
    }

    fn check_bytes(
        &self,
        raw_header: &[u8; BATCH_HEADER_BYTES],
        header: &BatchHeader,
        records: &[u8],
    ) -> Result<(), ReplicaAppendError> {
        let position = header.position;
        let decoded = BatchHeader::decode(raw_header, self.seed)
            .map_err(|reason| ReplicaAppendError::Header { position, reason })?;
        // The tail ring keeps what the header encodes to, which must be what the segment keeps.
        if decoded != *header || header.encode(self.seed) != *raw_header {
            return Err(ReplicaAppendError::HeaderDiffers { position });
        }
        let (found, expected) = (records.len() as u64, u64::from(header.stored_len));
        if found != expected {
            return Err(ReplicaAppendError::Length { position, found, expected });
        }
        let (stored, computed) = (header.records_crc, crc32fast::hash(records));
        if stored != computed {
            return Err(ReplicaAppendError::Records { position, stored, computed });
        }
        Ok(())
    }
}

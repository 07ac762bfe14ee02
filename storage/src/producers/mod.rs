//! The idempotence table of one partition: the last five sequences of each producer, so that a retry is stored once.

use lance_messages::batch::{BatchHeader, ProducerSequence};
use lance_messages::id::ProducerId;
use std::time::Duration;

pub(crate) mod state;

/// Sequences remembered of each producer.
pub const REMEMBERED_BATCHES: usize = 5;
/// A producer that wrote nothing for so long is forgotten.
pub const PRODUCER_EXPIRY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const EXPIRY_NS: u64 = PRODUCER_EXPIRY.as_nanos() as u64;

/// Where a batch of a producer was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBatch {
    /// Log position of the batch.
    pub position: u64,
    /// Its base offset.
    pub base_offset: u64,
    /// Its first record.
    pub base_record: u64,
    /// Bytes stored behind its header.
    pub stored_len: u32,
    /// Plain bytes.
    pub plain_len: u32,
    /// Records.
    pub record_count: u32,
}

impl StoredBatch {
    pub(crate) fn of(header: &BatchHeader) -> Self {
        Self {
            position: header.position,
            base_offset: header.base_offset,
            base_record: header.base_record,
            stored_len: header.stored_len,
            plain_len: header.plain_len,
            record_count: header.record_count,
        }
    }
}

/// What a producer's sequence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// The next one: store it.
    Next,
    /// Stored before, here.
    Duplicate(StoredBatch),
    /// Stored before this batch, the oldest one remembered.
    DuplicateBefore(StoredBatch),
    /// Batches before it are missing.
    OutOfOrder {
        /// The sequence that comes next.
        expected: u32,
    },
    /// A newer incarnation of the producer has written already.
    Fenced {
        /// The newest epoch seen.
        current: u16,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: u16,
    /// The sequence of the newest batch; those before it are one lower each.
    last_sequence: u32,
    /// The newest batch first.
    batches: [StoredBatch; REMEMBERED_BATCHES],
    count: u8,
    last_append_ns: u64,
}

/// All producers that wrote to a partition lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: hashbrown::HashMap<u64, Producer>,
}

impl ProducerTable {
    /// What `wanted` means to a batch made at `now_ns`; changes nothing.
    pub fn check(&self, wanted: &ProducerSequence, now_ns: u64) -> SequenceCheck {
        // Who is not known begins at the beginning: a later batch may arrive although an earlier one was refused.
        let begins = match wanted.sequence {
            0 => SequenceCheck::Next,
            _ => SequenceCheck::OutOfOrder { expected: 0 },
        };
        let Some(known) = self.producers.get(&wanted.id.0) else {
            return begins;
        };
        let continues = wanted.epoch == known.epoch && wanted.sequence == known.last_sequence.wrapping_add(1);
        if known.is_expired(now_ns) && !continues {
            return begins;
        }
        if wanted.epoch != known.epoch {
            let fenced = SequenceCheck::Fenced { current: known.epoch };
            return if wanted.epoch > known.epoch { begins } else { fenced };
        }
        // Sequences wrap: those up to half the range behind the newest one are old.
        let behind = known.last_sequence.wrapping_sub(wanted.sequence);
        if wanted.sequence == known.last_sequence.wrapping_add(1) {
            SequenceCheck::Next
        } else if behind <= u32::MAX / 2 {
            match known.remembered().get(behind as usize) {
                Some(batch) => SequenceCheck::Duplicate(*batch),
                None => SequenceCheck::DuplicateBefore(known.remembered().last().copied().unwrap_or_default()),
            }
        } else {
            SequenceCheck::OutOfOrder { expected: known.last_sequence.wrapping_add(1) }
        }
    }

    /// Remembers a stored batch; batches without a producer change nothing.
    pub fn note(&mut self, header: &BatchHeader) {
        let Some(made_by) = header.producer else { return };
        let stored = StoredBatch::of(header);
        let now_ns = header.sort_key.timestamp_ns();
        let fresh = || Producer {
            epoch: made_by.epoch,
            last_sequence: made_by.sequence.wrapping_sub(1),
            batches: [StoredBatch::default(); REMEMBERED_BATCHES],
            count: 0,
            last_append_ns: now_ns,
        };
        let producer = self.producers.entry(made_by.id.0).or_insert_with(fresh);
        let continues = producer.epoch == made_by.epoch
            && made_by.sequence == producer.last_sequence.wrapping_add(1)
            && !producer.is_expired(now_ns);
        if !continues {
            *producer = fresh();
        }
        producer.batches.rotate_right(1);
        producer.batches[0] = stored;
        producer.count = (producer.count + 1).min(REMEMBERED_BATCHES as u8);
        producer.last_sequence = made_by.sequence;
        producer.last_append_ns = now_ns;
    }

    /// The table as it was when the log ended at `position`, as far as the batches remembered say. A producer all of whose
    /// remembered batches lie behind is left out: which sequence came before them is not known, or none did.
    pub fn as_of(&self, position: u64) -> Self {
        let before = self.producers.iter().filter_map(|(id, producer)| Some((*id, producer.as_of(position)?)));
        Self { producers: before.collect() }
    }

    /// Adds the producers of `earlier`, a table of the same log as of its start or below, that wrote nothing since.
    pub(crate) fn inherit(&mut self, earlier: Self) {
        for (id, producer) in earlier.producers {
            self.producers.entry(id).or_insert(producer);
        }
    }

    /// Forgets producers that wrote nothing for [`PRODUCER_EXPIRY`].
    pub fn expire(&mut self, now_ns: u64) {
        self.producers.retain(|_, producer| !producer.is_expired(now_ns));
    }

    /// Producers remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// True when no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The newest sequence of a producer and its epoch.
    pub fn last_sequence(&self, id: ProducerId) -> Option<ProducerSequence> {
        let known = self.producers.get(&id.0)?;
        Some(ProducerSequence { id, epoch: known.epoch, sequence: known.last_sequence })
    }
}

impl Producer {
    fn remembered(&self) -> &[StoredBatch] {
        self.batches.get(..usize::from(self.count)).unwrap_or_default()
    }

    fn as_of(&self, position: u64) -> Option<Self> {
        let behind = self.remembered().iter().take_while(|batch| batch.position >= position).count();
        let left = self.remembered().len().checked_sub(behind).filter(|left| *left > 0)?;
        let mut before = self.clone();
        before.batches.rotate_left(behind);
        before.batches[left..].fill(StoredBatch::default());
        before.count = left as u8;
        before.last_sequence = self.last_sequence.wrapping_sub(behind as u32);
        Some(before)
    }

    fn is_expired(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_append_ns) > EXPIRY_NS
    }
}

#[cfg(test)]
mod tests;

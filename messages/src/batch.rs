//! The header before every stored batch: 104 bytes, little-endian, one internal TLV of type `0F`.
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 1 | type `0F` |
//! | 1 | 4 | length of the TLV's value: 99 when TLV records follow, 99 + stored length when other bytes do |
//! | 5 | 1 | version = 1 |
//! | 6 | 2 | flags: 1 control, 2 opaque, 4 starts-segment, bits 4..8 codec (0 none, 1 LZ4 block, 2 zstd) |
//! | 8 | 4 | CRC-32 of topic id (u32), partition (u16), bytes 0..8 and bytes 12..104 |
//! | 12 | 4 | CRC-32 of the stored records |
//! | 16 | 8 | log position of the batch |
//! | 24 | 8 | offset of its first plain byte |
//! | 32 | 8 | number of its first record |
//! | 40 | 4 | stored length |
//! | 44 | 4 | plain length (0 for control) |
//! | 48 | 4 | record count (0 for control) |
//! | 52 | 4 | leader epoch |
//! | 56 | 8 | high watermark when the leader made the batch |
//! | 64 | 16 | sort key |
//! | 80 | 8 | greatest timestamp, ns since the Unix epoch |
//! | 88 | 8 | producer id, 0 = none |
//! | 96 | 2 | producer epoch |
//! | 98 | 2 | zero |
//! | 100 | 4 | sequence |
//!
//! Topic and partition seed the header's CRC, so that a foreign or recycled batch never checks.

use crate::id::{LeaderEpoch, NodeId, ProducerId, TopicPartition};
use crate::sort_key::SortKey;
use std::fmt;
use thiserror::Error;

/// Bytes of an encoded [`BatchHeader`].
pub const BATCH_HEADER_BYTES: usize = 104;
/// The TLV type of a batch header; no client may write it.
pub const BATCH_TYPE: u8 = 0x0F;
/// The version this code writes, and the only one it reads.
pub const BATCH_VERSION: u8 = 1;
/// Most bytes of records in one batch, stored or plain: the greatest payload of a frame.
pub const MAX_BATCH_BYTES: u32 = 16 * 1024 * 1024;

const TLV_VALUE_BYTES: u32 = 99;

/// How stored records were compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// A raw LZ4 block; the plain length stands in the header.
    Lz4,
    /// A zstd frame.
    Zstd,
}

/// What kind of bytes a batch stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BatchFlags(u16);

impl BatchFlags {
    /// Plain TLV records.
    pub const RECORDS: Self = Self(0);
    /// Written by the broker for itself: never served, no offsets.
    pub const CONTROL: Self = Self(0x0001);
    /// Bytes that are no TLVs, served as they came; counted as one record.
    pub const OPAQUE: Self = Self(0x0002);
    /// The first batch of a segment: followers roll here too.
    pub const STARTS_SEGMENT: Self = Self(0x0004);

    const CODEC_SHIFT: u32 = 4;
    const CODEC_MASK: u16 = 0x00F0;
    const KNOWN: u16 = 0x0007 | Self::CODEC_MASK;

    /// The flags written as `bits`; `None` when one of them or the codec is unknown.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::KNOWN != 0 || (bits & Self::CODEC_MASK) >> Self::CODEC_SHIFT > 2 {
            return None;
        }
        Some(Self(bits))
    }

    /// The two bytes on disk.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// These flags and those of `other`; meant for flags, not for two codecs.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// These flags with `codec` in place of the codec they had.
    #[must_use]
    pub const fn with_codec(self, codec: Option<Codec>) -> Self {
        let bits = match codec {
            None => 0,
            Some(Codec::Lz4) => 1,
            Some(Codec::Zstd) => 2,
        };
        Self((self.0 & !Self::CODEC_MASK) | (bits << Self::CODEC_SHIFT))
    }

    /// How the stored records are compressed, if they are.
    pub const fn codec(self) -> Option<Codec> {
        match (self.0 & Self::CODEC_MASK) >> Self::CODEC_SHIFT {
            1 => Some(Codec::Lz4),
            2 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// True when the batch is the broker's own.
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL.0 != 0
    }

    /// True when the plain bytes are not TLV records.
    pub const fn is_opaque(self) -> bool {
        self.0 & Self::OPAQUE.0 != 0
    }

    /// True for the first batch of a segment.
    pub const fn starts_segment(self) -> bool {
        self.0 & Self::STARTS_SEGMENT.0 != 0
    }

    /// True when the stored bytes are TLV records themselves.
    pub const fn stores_records(self) -> bool {
        !self.is_control() && !self.is_opaque() && self.codec().is_none()
    }
}

impl fmt::Debug for BatchFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchFlags({:#06x})", self.0)
    }
}

/// Who made a batch, and which of its batches to this partition it is: what makes a retry recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerSequence {
    /// The producer.
    pub id: ProducerId,
    /// Its incarnation: a higher one fences a lower one.
    pub epoch: u16,
    /// The number of this batch among its batches to the partition; +1 each.
    pub sequence: u32,
}

/// Where a batch begins in the stream of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchPlace {
    /// Offset of its first plain byte.
    pub offset: u64,
    /// Number of its first record.
    pub record: u64,
}

/// What seeds the header checksums of one partition; computed once per log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSeed(u32);

impl BatchSeed {
    /// The seed of `partition`.
    pub fn new(partition: TopicPartition) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&partition.topic.0.to_le_bytes());
        hasher.update(&partition.partition.to_le_bytes());
        Self(hasher.finalize())
    }

    fn checksum(self, header: &[u8; BATCH_HEADER_BYTES]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(&header[..8]);
        hasher.update(&header[12..]);
        hasher.finalize()
    }
}

/// Everything known about a stored batch without reading its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What kind of bytes follow.
    pub flags: BatchFlags,
    /// CRC-32 of the stored records.
    pub records_crc: u32,
    /// Log position of the header's first byte.
    pub position: u64,
    /// Offset of the first plain byte.
    pub base_offset: u64,
    /// Number of the first record.
    pub base_record: u64,
    /// Bytes that follow the header.
    pub stored_len: u32,
    /// Bytes of the records once decompressed; 0 for control batches.
    pub plain_len: u32,
    /// Records in the batch; 0 for control batches.
    pub record_count: u32,
    /// The leader epoch it was made in.
    pub leader_epoch: LeaderEpoch,
    /// The high watermark when the leader made it.
    pub committed_through: u64,
    /// When and where it was made.
    pub sort_key: SortKey,
    /// The greatest timestamp of its records, ns since the Unix epoch.
    pub max_timestamp_ns: u64,
    /// Its maker's sequence, for idempotent producers.
    pub producer: Option<ProducerSequence>,
}

/// Why bytes are not a batch header of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than a header has.
    #[error("{found} bytes where a batch header has 104")]
    Short {
        /// Bytes there are.
        found: usize,
    },
    /// Nothing was written here.
    #[error("nothing is written here")]
    Empty,
    /// The TLV is no batch header.
    #[error("type {found:#04x} where a batch header (0x0f) belongs")]
    NotABatch {
        /// The type byte.
        found: u8,
    },
    /// Written by another version.
    #[error("batch header version {found}, only 1 is known")]
    UnknownVersion {
        /// The version byte.
        found: u8,
    },
    /// Damaged, torn, or a batch of another partition.
    #[error("batch header checksum {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// As written.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A flag or codec nobody knows.
    #[error("unknown batch flags in {bits:#06x}")]
    UnknownFlags {
        /// All flags.
        bits: u16,
    },
    /// The fields contradict each other though the checksum fits.
    #[error("batch header field {field} is {found}, which its other fields rule out")]
    Inconsistent {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

impl BatchHeader {
    /// Log position of the first byte after the batch.
    pub const fn end_position(&self) -> u64 {
        self.position.saturating_add(self.batch_bytes())
    }

    /// Offset of the first byte after its plain records.
    pub const fn end_offset(&self) -> u64 {
        self.base_offset.saturating_add(self.plain_len as u64)
    }

    /// Number of the first record after it.
    pub const fn end_record(&self) -> u64 {
        self.base_record.saturating_add(self.record_count as u64)
    }

    /// Bytes of the whole batch, header included.
    pub const fn batch_bytes(&self) -> u64 {
        BATCH_HEADER_BYTES as u64 + self.stored_len as u64
    }

    /// Writes the header, its checksum included.
    pub fn encode(&self, seed: BatchSeed) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        let producer = self.producer.unwrap_or(ProducerSequence { id: ProducerId(0), epoch: 0, sequence: 0 });
        out[0] = BATCH_TYPE;
        out[1..5].copy_from_slice(&self.tlv_len().to_le_bytes());
        out[5] = BATCH_VERSION;
        out[6..8].copy_from_slice(&self.flags.bits().to_le_bytes());
        out[12..16].copy_from_slice(&self.records_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.position.to_le_bytes());
        out[24..32].copy_from_slice(&self.base_offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_record.to_le_bytes());
        out[40..44].copy_from_slice(&self.stored_len.to_le_bytes());
        out[44..48].copy_from_slice(&self.plain_len.to_le_bytes());
        out[48..52].copy_from_slice(&self.record_count.to_le_bytes());
        out[52..56].copy_from_slice(&self.leader_epoch.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.committed_through.to_le_bytes());
        out[64..80].copy_from_slice(&self.sort_key.to_le_bytes());
        out[80..88].copy_from_slice(&self.max_timestamp_ns.to_le_bytes());
        out[88..96].copy_from_slice(&producer.id.0.to_le_bytes());
        out[96..98].copy_from_slice(&producer.epoch.to_le_bytes());
        out[100..104].copy_from_slice(&producer.sequence.to_le_bytes());
        let crc = seed.checksum(&out);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks the header at the start of `bytes`.
    pub fn decode(bytes: &[u8], seed: BatchSeed) -> Result<Self, BatchError> {
        let Some(raw) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Short { found: bytes.len() });
        };
        match raw[0] {
            BATCH_TYPE => {}
            0 => return Err(BatchError::Empty),
            found => return Err(BatchError::NotABatch { found }),
        }
        let stored = u32_at(raw, 8);
        let computed = seed.checksum(raw);
        if stored != computed {
            return Err(BatchError::Checksum { stored, computed });
        }
        // Checked after the checksum: a flipped bit is damage, another version is a reason to refuse to start.
        if raw[5] != BATCH_VERSION {
            return Err(BatchError::UnknownVersion { found: raw[5] });
        }
        let bits = u16_at(raw, 6);
        let flags = BatchFlags::from_bits(bits).ok_or(BatchError::UnknownFlags { bits })?;
        let header = Self::fields(raw, flags);
        header.check(raw)?;
        Ok(header)
    }

    fn fields(raw: &[u8; BATCH_HEADER_BYTES], flags: BatchFlags) -> Self {
        let producer_id = u64_at(raw, 88);
        let mut sort_key = [0; 16];
        sort_key.copy_from_slice(&raw[64..80]);
        Self {
            flags,
            records_crc: u32_at(raw, 12),
            position: u64_at(raw, 16),
            base_offset: u64_at(raw, 24),
            base_record: u64_at(raw, 32),
            stored_len: u32_at(raw, 40),
            plain_len: u32_at(raw, 44),
            record_count: u32_at(raw, 48),
            leader_epoch: LeaderEpoch(u32_at(raw, 52)),
            committed_through: u64_at(raw, 56),
            sort_key: SortKey::from_le_bytes(sort_key),
            max_timestamp_ns: u64_at(raw, 80),
            producer: (producer_id != 0).then(|| ProducerSequence {
                id: ProducerId(producer_id),
                epoch: u16_at(raw, 96),
                sequence: u32_at(raw, 100),
            }),
        }
    }

    fn check(&self, raw: &[u8; BATCH_HEADER_BYTES]) -> Result<(), BatchError> {
        let wrong = |field, found: u64| Err(BatchError::Inconsistent { field, found });
        let limit = u64::MAX - 2 * u64::from(u32::MAX);
        if self.stored_len > MAX_BATCH_BYTES {
            wrong("stored_len", self.stored_len.into())
        } else if u32_at(raw, 1) != self.tlv_len() {
            wrong("length", u32_at(raw, 1).into())
        } else if self.plain_len > MAX_BATCH_BYTES
            || (self.flags.is_control() && self.plain_len != 0)
            || (!self.flags.is_control() && self.flags.codec().is_none() && self.plain_len != self.stored_len)
        {
            wrong("plain_len", self.plain_len.into())
        } else if self.flags.is_control() && self.record_count != 0 {
            wrong("record_count", self.record_count.into())
        } else if self.position > limit {
            wrong("position", self.position)
        } else if self.base_offset > limit {
            wrong("base_offset", self.base_offset)
        } else if self.base_record > limit {
            wrong("base_record", self.base_record)
        } else if raw[98..100] != [0, 0] {
            wrong("zero", u16_at(raw, 98).into())
        } else {
            Ok(())
        }
    }

    /// A reader of TLVs steps from batch to batch: bytes that are no TLVs belong to the header's own.
    const fn tlv_len(&self) -> u32 {
        if self.flags.stores_records() { TLV_VALUE_BYTES } else { TLV_VALUE_BYTES.saturating_add(self.stored_len) }
    }
}

fn u16_at(raw: &[u8; BATCH_HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

fn u32_at(raw: &[u8; BATCH_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

fn u64_at(raw: &[u8; BATCH_HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(raw, at)) | (u64::from(u32_at(raw, at + 4)) << 32)
}

/// What a control batch says: `[kind u8][version u8 = 1]` and the fields of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlBatch {
    /// Kind 1: a leader opens its epoch; `[node u16]` follows. The epoch itself stands in the header.
    EpochStart {
        /// The leader.
        leader: NodeId,
    },
}

/// Why the body of a control batch makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControlBatchError {
    /// Another length than its kind has.
    #[error("a control batch of {found} bytes, its kind has {expected}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// A kind or version nobody knows.
    #[error("control batch kind {kind} version {version} is unknown")]
    Unknown {
        /// Its kind.
        kind: u8,
        /// Its version.
        version: u8,
    },
}

impl ControlBatch {
    const EPOCH_START: u8 = 1;
    const VERSION: u8 = 1;

    /// The body of the batch.
    pub const fn encode(self) -> [u8; 4] {
        match self {
            Self::EpochStart { leader } => {
                let node = leader.0.to_le_bytes();
                [Self::EPOCH_START, Self::VERSION, node[0], node[1]]
            }
        }
    }

    /// Reads the body of a control batch.
    pub fn decode(body: &[u8]) -> Result<Self, ControlBatchError> {
        match *body {
            [Self::EPOCH_START, Self::VERSION, low, high] => {
                Ok(Self::EpochStart { leader: NodeId(u16::from_le_bytes([low, high])) })
            }
            [Self::EPOCH_START, Self::VERSION, ..] => Err(ControlBatchError::Length { found: body.len(), expected: 4 }),
            [kind, version, ..] => Err(ControlBatchError::Unknown { kind, version }),
            _ => Err(ControlBatchError::Length { found: body.len(), expected: 4 }),
        }
    }
}

#[cfg(test)]
mod tests;

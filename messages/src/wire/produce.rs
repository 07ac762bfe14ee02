//! Ingest frames and their acks.
//!
//! Payload of an ack with ACK_OFFSETS negotiated; empty without:
//! ```text
//! off size field
//!   0    8 base offset
//!   8    4 record count
//!  12    1 1 = a duplicate, stored before at that offset (u64::MAX: where is no longer known)
//! ```
//! With IDEMPOTENT negotiated and a producer bound to the connection the low 32 bits of an ingest frame's batch id
//! are the sequence of the batch within (producer, partition).

use super::compression::Compression;
use super::features::Features;
use super::header::{Flags, HEADER_LEN, Header, HeaderCrc};
use crate::id::TopicId;
use bytes::{Bytes, BytesMut};

/// Bytes of an ack's payload with ACK_OFFSETS.
pub const ACK_PAYLOAD_LEN: usize = 13;

/// Records to store in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produce {
    /// The topic.
    pub topic: TopicId,
    /// Echoed in the ack. Its low 32 bits are the sequence once a producer is bound to the connection.
    pub batch_id: u64,
    /// When the client made the batch, ns since the Unix epoch, as it says.
    pub timestamp: u64,
    /// How many records the client says there are.
    pub record_count: u32,
    /// How the records are compressed.
    pub compression: Compression,
    /// The records, plain or compressed, without anything in front.
    pub records: Bytes,
    /// CRC of `records`.
    pub records_crc: u32,
}

impl Produce {
    /// The batch's sequence, meaningful once a producer is bound to the connection.
    pub const fn sequence(&self) -> u32 {
        self.batch_id as u32
    }
}

/// Where the records of an ack went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckOffsets {
    /// Offset of the first record; `u64::MAX` for a duplicate so old that it is no longer known.
    pub base_offset: u64,
    /// Records stored.
    pub record_count: u32,
    /// Whether the batch had been stored before.
    pub duplicate: bool,
}

impl AckOffsets {
    /// The 13 bytes.
    pub fn encode(&self) -> [u8; ACK_PAYLOAD_LEN] {
        let mut bytes = [0u8; ACK_PAYLOAD_LEN];
        bytes[0..8].copy_from_slice(&self.base_offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[12] = u8::from(self.duplicate);
        bytes
    }

    /// Reads an ack's payload.
    pub fn decode(payload: &[u8]) -> Option<AckOffsets> {
        let mut reader = super::payload::PayloadReader::new(payload);
        let (base_offset, record_count) = (reader.u64()?, reader.u32()?);
        let duplicate = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(AckOffsets { base_offset, record_count, duplicate })
    }
}

/// Appends an ack; `offsets` are sent when ACK_OFFSETS was negotiated. Allocates nothing while `out` has room.
pub fn put_ack(out: &mut BytesMut, batch_id: u64, offsets: &AckOffsets, features: Features) {
    let crc = features.header_crc();
    if !features.contains(Features::ACK_OFFSETS) {
        let header = Header { flags: Flags::ACK, batch_id, ..Header::default() };
        out.extend_from_slice(&header.encode(crc));
        return;
    }
    let payload = offsets.encode();
    let header = Header {
        flags: Flags::ACK,
        batch_id,
        payload_len: ACK_PAYLOAD_LEN as u32,
        payload_crc: crc32fast::hash(&payload),
        ..Header::default()
    };
    let mut frame = [0u8; HEADER_LEN + ACK_PAYLOAD_LEN];
    frame[..HEADER_LEN].copy_from_slice(&header.encode(crc));
    frame[HEADER_LEN..].copy_from_slice(&payload);
    out.extend_from_slice(&frame);
}

/// Header of an ingest frame, for senders that write header and payload from two places.
#[derive(Clone, Copy, Debug)]
pub struct ProduceHeader {
    /// The topic.
    pub topic: TopicId,
    /// The partition: 0 unless PARTITIONS was negotiated.
    pub partition: u16,
    /// Echoed in the ack.
    pub batch_id: u64,
    /// ns since the Unix epoch.
    pub timestamp: u64,
    /// Records in the payload.
    pub record_count: u32,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// Whether the payload starts with a trace context.
    pub traced: bool,
    /// Bytes of payload.
    pub payload_len: u32,
    /// CRC of the whole payload.
    pub payload_crc: u32,
}

impl ProduceHeader {
    /// The 44 bytes.
    pub fn encode(&self, crc: HeaderCrc) -> [u8; HEADER_LEN] {
        let mut flags = Flags::BATCH_MODE;
        if self.compressed {
            flags = flags.with(Flags::COMPRESSED);
        }
        if self.traced {
            flags = flags.with(Flags::TRACED);
        }
        Header {
            flags,
            partition: self.partition,
            batch_id: self.batch_id,
            timestamp: self.timestamp,
            record_count: self.record_count,
            payload_len: self.payload_len,
            payload_crc: self.payload_crc,
            topic_id: self.topic.0,
        }
        .encode(crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_1_0_ack_has_its_golden_bytes() {
        let mut out = BytesMut::new();
        let offsets = AckOffsets { base_offset: 5, record_count: 1, duplicate: false };
        put_ack(&mut out, 0x0102, &offsets, Features::NONE);
        let mut golden = vec![0x4C, 0x41, 0x4E, 0x43, 1, 0x08, 0, 0];
        golden.extend_from_slice(&crc32fast::hash(&golden).to_le_bytes());
        golden.extend_from_slice(&[0x02, 0x01]);
        golden.resize(HEADER_LEN, 0);
        assert_eq!(&out[..], &golden[..]);
    }

    #[test]
    fn ack_offsets_have_their_golden_bytes() {
        let offsets = AckOffsets { base_offset: 0x0807_0605_0403_0201, record_count: 9, duplicate: true };
        assert_eq!(offsets.encode(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 1]);
        assert_eq!(AckOffsets::decode(&offsets.encode()), Some(offsets));
        assert_eq!(AckOffsets::decode(&offsets.encode()[..12]), None);
    }
}

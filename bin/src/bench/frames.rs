//! Ingest frames built once: a run of equal frames, written again and again.

use lance_client::TopicId;
use lance_client::wire::HeaderCrc;
use lance_client::wire::header::HEADER_LEN;
use lance_client::wire::produce::ProduceHeader;

/// Bytes of a run, so that one write carries many small frames and the run still fits a cache.
const RUN_BYTES: usize = 256 * 1024;

/// Batch id of every frame: ids may repeat, and acks come in order.
pub const BATCH_ID: u64 = 1;

/// A run of equal frames.
#[derive(Debug)]
pub struct FrameRun {
    bytes: Vec<u8>,
    frame_len: usize,
    records: u32,
}

impl FrameRun {
    /// Frames of `records` records of `record_bytes` each.
    pub fn new(topic: TopicId, partition: u16, records: u32, record_bytes: usize) -> Self {
        let mut payload = Vec::with_capacity(records as usize * (record_bytes + 5));
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..records {
            payload.push(1);
            payload.extend_from_slice(&(record_bytes as u32).to_le_bytes());
            for _ in 0..record_bytes {
                // xorshift: neither compressible nor costly.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                payload.push(b' ' + (state % 95) as u8);
            }
        }
        let header = ProduceHeader {
            topic,
            partition,
            batch_id: BATCH_ID,
            timestamp: 0,
            record_count: records,
            compressed: false,
            traced: false,
            payload_len: payload.len() as u32,
            payload_crc: crc32fast::hash(&payload),
        }
        .encode(HeaderCrc::Prefix);
        let frame_len = HEADER_LEN + payload.len();
        let count = (RUN_BYTES / frame_len).max(1);
        let mut bytes = Vec::with_capacity(count * frame_len);
        for _ in 0..count {
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(&payload);
        }
        Self { bytes, frame_len, records }
    }

    /// Bytes of one frame.
    pub fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// Bytes of the payload of one frame.
    pub fn payload_len(&self) -> usize {
        self.frame_len - HEADER_LEN
    }

    /// Records in one frame.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// At most `most` bytes of the endless stream of frames, from byte `position` of it on.
    pub fn slice(&self, position: u64, most: u64) -> &[u8] {
        let start = (position % self.bytes.len() as u64) as usize;
        let end = (start as u64 + most).min(self.bytes.len() as u64) as usize;
        &self.bytes[start..end]
    }
}

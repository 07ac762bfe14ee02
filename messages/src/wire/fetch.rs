//! Fetch of 1.0 and FetchPartitions.
//!
//! ```text
//! Fetch 0x10                      FetchResponse 0x11
//!   0 4 topic id                    0 8 next offset
//!   4 8 offset                      8 4 bytes returned n
//!  12 4 max bytes                  12 4 record count
//!                                  16 n data
//! FetchPartitions 0x42            FetchPartitionsResponse 0xC2
//!   0 4 max wait, ms                0 4 number of partitions
//!   4 4 min bytes                   4 … per partition: 56 bytes, then its data
//!   8 4 max bytes
//!  12 4 number of partitions
//!  16 … 20 bytes each
//!   … text rack of the reader (may be absent: none)
//! one partition asked for         one partition answered
//!   0 4 topic id                    0 4 topic id
//!   4 2 partition                   4 2 partition
//!   6 2 flags: 1 near                6 2 error code, 0 = none
//!   8 8 offset (u64::MAX: the end)  8 4 leader epoch
//!  16 4 max bytes                  12 1 encoding: 0 plain records, 1 stored batches
//!                                  13 1 zero
//!                                  14 2 node id of the leader, or of the replica to read from (0: unknown)
//!                                  16 8 high watermark (offset)
//!                                  24 8 log start (offset)
//!                                  32 8 next offset
//!                                  40 8 timestamp of the newest batch in the data, ns (0: unknown)
//!                                  48 4 record count
//!                                  52 4 bytes of data n
//!                                  56 n data
//! ```
//! With `near`, a replica of Q answers although it does not lead, with what is committed as far as it knows; and a leader whose
//! rack is not the reader's, while a replica of Q is in it, answers ReadElsewhere with that node.
//!
//! Plain data starts at offset `next offset − n`. Each partition's data is one run of bytes, so a server can send it
//! from a file, having combined the payload CRC from the checksums it has stored.

use super::command::Command;
use super::header::{Flags, HEADER_LEN, Header, HeaderCrc};
use super::payload::{PayloadReader, put_text};
use crate::error_code::ErrorCode;
use crate::id::{TopicId, TopicPartition};
use bytes::{BufMut, Bytes, BytesMut};
use crc32fast::Hasher;

/// Bytes in front of the data of a FetchResponse.
pub const FETCH_RESPONSE_PREFIX_LEN: usize = 16;
/// Most data in a FetchResponse: the public Rust client refuses a frame over 16 MiB in total.
pub const MAX_FETCH_DATA_BYTES: u32 = super::header::MAX_PAYLOAD_BYTES - 60;
/// Bytes of one partition in a FetchPartitions request.
pub const FETCH_PARTITION_LEN: usize = 20;
/// Bytes of one partition in a reply, in front of its data.
pub const FETCHED_PARTITION_LEN: usize = 56;
/// Bytes in front of the first partition of a reply.
pub const FETCH_PARTITIONS_PREFIX_LEN: usize = 4;
/// Flag of a partition asked for: a replica that does not lead may answer.
const NEAR: u16 = 1;
/// The offset that stands for the end of the log.
pub const END_OFFSET: u64 = u64::MAX;

/// Fetch of 1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The topic.
    pub topic: TopicId,
    /// Where to start; [`END_OFFSET`] gives an empty reply that names the end.
    pub offset: u64,
    /// Most bytes of data wanted.
    pub max_bytes: u32,
}

/// Waits for and fetches from several partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPartitions {
    /// Longest wait for `min_bytes`, in milliseconds; 0 answers at once.
    pub max_wait_ms: u32,
    /// Bytes over all partitions to wait for.
    pub min_bytes: u32,
    /// Most bytes of data over all partitions.
    pub max_bytes: u32,
    /// The partitions.
    pub partitions: FetchList,
    /// What the reader fails together with, as `node.rack` of nodes; empty when it is somewhere else, or does not say.
    pub rack: String,
}

/// The partitions of a FetchPartitions request, kept as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchList {
    entries: Bytes,
}

/// One partition asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// Where to start; [`END_OFFSET`] is the end at the time the request arrives.
    pub offset: u64,
    /// Most bytes of data from this partition.
    pub max_bytes: u32,
    /// Whether a replica that does not lead may answer, or be named as the one to ask.
    pub near: bool,
}

/// How the data of a partition is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DataEncoding {
    /// The plain record stream.
    #[default]
    Plain = 0,
    /// Whole batches as stored, each with its header: COMPRESSED_FETCH.
    StoredBatches = 1,
}

/// What a reply says about one partition, apart from the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchedPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// Why there is no data.
    pub error: Option<ErrorCode>,
    /// Epoch of the leader that answers.
    pub leader_epoch: u32,
    /// How the data is written.
    pub encoding: DataEncoding,
    /// The leader's node id for NotLeader, that of a nearer replica for ReadElsewhere; 0 when unknown.
    pub leader: u16,
    /// Offset up to which everything is committed.
    pub high_watermark: u64,
    /// Offset of the oldest record.
    pub log_start: u64,
    /// Where to go on.
    pub next_offset: u64,
    /// Timestamp of the newest batch in the data, ns; 0 when unknown.
    pub timestamp: u64,
    /// Records in the data.
    pub record_count: u32,
    /// Bytes of data that follow.
    pub data_len: u32,
}

impl Fetch {
    pub(super) fn decode(payload: &[u8]) -> Option<Fetch> {
        let mut reader = PayloadReader::new(payload);
        Some(Fetch { topic: TopicId(reader.u32()?), offset: reader.u64()?, max_bytes: reader.u32()? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.topic.0);
        out.put_u64_le(self.offset);
        out.put_u32_le(self.max_bytes);
    }
}

impl FetchList {
    /// A list of these partitions.
    pub fn new(partitions: &[FetchPartition]) -> Self {
        let mut entries = BytesMut::with_capacity(partitions.len() * FETCH_PARTITION_LEN);
        for asked in partitions {
            entries.put_u32_le(asked.partition.topic.0);
            entries.put_u16_le(asked.partition.partition);
            entries.put_u16_le(if asked.near { NEAR } else { 0 });
            entries.put_u64_le(asked.offset);
            entries.put_u32_le(asked.max_bytes);
        }
        Self { entries: entries.freeze() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len() / FETCH_PARTITION_LEN
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The partitions, in the order asked.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = FetchPartition> + '_ {
        self.entries.chunks_exact(FETCH_PARTITION_LEN).map(|entry| {
            let mut reader = PayloadReader::new(entry);
            let topic = TopicId(reader.u32().unwrap_or_default());
            let partition = TopicPartition::new(topic, reader.u16().unwrap_or_default());
            let near = reader.u16().unwrap_or_default() & NEAR != 0;
            let offset = reader.u64().unwrap_or_default();
            FetchPartition { partition, offset, max_bytes: reader.u32().unwrap_or_default(), near }
        })
    }
}

impl FetchPartitions {
    pub(super) fn decode(payload: &Bytes) -> Option<FetchPartitions> {
        let mut reader = PayloadReader::new(payload);
        let (max_wait_ms, min_bytes, max_bytes) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let length = (reader.u32()? as usize).checked_mul(FETCH_PARTITION_LEN)?;
        if length > reader.remaining() {
            return None;
        }
        let partitions = FetchList { entries: payload.slice(16..16 + length) };
        let mut rest = PayloadReader::new(&payload[16 + length..]);
        let rack = if rest.remaining() == 0 { String::new() } else { rest.text()? };
        Some(FetchPartitions { max_wait_ms, min_bytes, max_bytes, partitions, rack })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.max_wait_ms);
        out.put_u32_le(self.min_bytes);
        out.put_u32_le(self.max_bytes);
        out.put_u32_le(self.partitions.len() as u32);
        out.put_slice(&self.partitions.entries);
        if !self.rack.is_empty() {
            put_text(out, &self.rack);
        }
    }
}

impl FetchedPartition {
    /// The 56 bytes in front of the data.
    pub fn encode(&self) -> [u8; FETCHED_PARTITION_LEN] {
        let mut bytes = [0u8; FETCHED_PARTITION_LEN];
        bytes[0..4].copy_from_slice(&self.partition.topic.0.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.partition.partition.to_le_bytes());
        bytes[6..8].copy_from_slice(&crate::error_code::result_code(self.error).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.leader_epoch.to_le_bytes());
        bytes[12] = self.encoding as u8;
        bytes[14..16].copy_from_slice(&self.leader.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.high_watermark.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.log_start.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.next_offset.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.data_len.to_le_bytes());
        bytes
    }

    /// Reads the 56 bytes; an unknown error code or encoding gives `None`.
    pub fn decode(bytes: &[u8]) -> Option<FetchedPartition> {
        let mut reader = PayloadReader::new(bytes);
        let partition = TopicPartition::new(TopicId(reader.u32()?), reader.u16()?);
        let error = match reader.u16()? {
            0 => None,
            code => Some(ErrorCode::from_code(code)?),
        };
        let leader_epoch = reader.u32()?;
        let encoding = match reader.u8()? {
            0 => DataEncoding::Plain,
            1 => DataEncoding::StoredBatches,
            _ => return None,
        };
        reader.u8()?;
        Some(FetchedPartition {
            partition,
            error,
            leader_epoch,
            encoding,
            leader: reader.u16()?,
            high_watermark: reader.u64()?,
            log_start: reader.u64()?,
            next_offset: reader.u64()?,
            timestamp: reader.u64()?,
            record_count: reader.u32()?,
            data_len: reader.u32()?,
        })
    }
}

/// A reply to FetchPartitions in one piece, as a client receives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchPartitionsResponse {
    /// Each partition with its data, in the order asked.
    pub partitions: Vec<(FetchedPartition, Bytes)>,
}

impl FetchPartitionsResponse {
    pub(super) fn decode(payload: &Bytes) -> Option<FetchPartitionsResponse> {
        let mut reader = PayloadReader::new(payload);
        let count = reader.u32()? as usize;
        if count > reader.remaining() / FETCHED_PARTITION_LEN {
            return None;
        }
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            let fetched = FetchedPartition::decode(reader.bytes(FETCHED_PARTITION_LEN)?)?;
            let data = reader.bytes(fetched.data_len as usize)?;
            partitions.push((fetched, payload.slice_ref(data)));
        }
        Some(FetchPartitionsResponse { partitions })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.partitions.len() as u32);
        for (fetched, data) in &self.partitions {
            out.put_slice(&FetchedPartition { data_len: data.len() as u32, ..*fetched }.encode());
            out.put_slice(data);
        }
    }
}

/// Header and prefix of a FetchResponse whose `data_len` bytes of data with CRC `data_crc` the caller sends after it.
pub fn fetch_response_head(
    next_offset: u64,
    record_count: u32,
    data_len: u32,
    data_crc: u32,
    correlation: u64,
    crc: HeaderCrc,
) -> [u8; HEADER_LEN + FETCH_RESPONSE_PREFIX_LEN] {
    let mut head = [0u8; HEADER_LEN + FETCH_RESPONSE_PREFIX_LEN];
    let prefix = &mut head[HEADER_LEN..];
    prefix[0..8].copy_from_slice(&next_offset.to_le_bytes());
    prefix[8..12].copy_from_slice(&data_len.to_le_bytes());
    prefix[12..16].copy_from_slice(&record_count.to_le_bytes());
    let mut payload = Hasher::new();
    payload.update(prefix);
    payload.combine(&Hasher::new_with_initial_len(data_crc, u64::from(data_len)));
    let header = control_header(
        Command::FETCH_RESPONSE,
        FETCH_RESPONSE_PREFIX_LEN as u32 + data_len,
        payload.finalize(),
        correlation,
    );
    head[..HEADER_LEN].copy_from_slice(&header.encode(crc));
    head
}

/// Header and first bytes of a FetchPartitionsResponse. `partitions` are what follows, each with the CRC of its data;
/// after the head the caller sends, for each, [`FetchedPartition::encode`] and then the data.
pub fn fetch_partitions_head<'a>(
    partitions: impl ExactSizeIterator<Item = (&'a FetchedPartition, u32)>,
    correlation: u64,
    crc: HeaderCrc,
) -> [u8; HEADER_LEN + FETCH_PARTITIONS_PREFIX_LEN] {
    let mut head = [0u8; HEADER_LEN + FETCH_PARTITIONS_PREFIX_LEN];
    let count = (partitions.len() as u32).to_le_bytes();
    head[HEADER_LEN..].copy_from_slice(&count);
    let mut payload = Hasher::new();
    payload.update(&count);
    let mut payload_len = FETCH_PARTITIONS_PREFIX_LEN as u32;
    for (fetched, data_crc) in partitions {
        payload.update(&fetched.encode());
        if fetched.data_len > 0 {
            payload.combine(&Hasher::new_with_initial_len(data_crc, u64::from(fetched.data_len)));
        }
        payload_len = payload_len.saturating_add(FETCHED_PARTITION_LEN as u32).saturating_add(fetched.data_len);
    }
    let header = control_header(Command::FETCH_PARTITIONS_RESPONSE, payload_len, payload.finalize(), correlation);
    head[..HEADER_LEN].copy_from_slice(&header.encode(crc));
    head
}

pub(super) fn control_header(command: Command, payload_len: u32, payload_crc: u32, correlation: u64) -> Header {
    Header {
        flags: Flags::CONTROL,
        batch_id: u64::from(command.0),
        timestamp: correlation,
        payload_len,
        payload_crc,
        ..Header::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{FrameLimits, next_frame};
    use super::super::features::Features;
    use super::super::response::{Response, ResponseFrame};
    use super::*;

    fn fetched(partition: u16, data_len: u32) -> FetchedPartition {
        FetchedPartition {
            partition: TopicPartition::new(TopicId(7), partition),
            error: None,
            leader_epoch: 3,
            encoding: DataEncoding::Plain,
            leader: 1,
            high_watermark: 100,
            log_start: 2,
            next_offset: 40,
            timestamp: 9,
            record_count: 1,
            data_len,
        }
    }

    #[test]
    fn a_reply_sent_in_pieces_reads_like_one_sent_whole() {
        let data = [Bytes::from_static(b"first data"), Bytes::new(), Bytes::from_static(b"third")];
        let parts: Vec<_> = data.iter().zip(0..).map(|(data, at)| fetched(at, data.len() as u32)).collect();
        let crcs = data.iter().map(|data| crc32fast::hash(data));
        let head = fetch_partitions_head(parts.iter().zip(crcs.collect::<Vec<_>>()), 55, HeaderCrc::Whole);
        let mut stream = BytesMut::from(&head[..]);
        for (part, data) in parts.iter().zip(&data) {
            stream.extend_from_slice(&part.encode());
            stream.extend_from_slice(data);
        }
        let limits = FrameLimits { header_crc: HeaderCrc::Whole, ..FrameLimits::default() };
        let frame = next_frame(&mut stream, &limits).unwrap().unwrap();
        let reply = ResponseFrame::decode(frame, Some(Features::LONG_POLL)).unwrap();
        assert_eq!(reply.correlation, 55);
        let partitions = parts.into_iter().zip(data).collect();
        assert_eq!(reply.response, Response::FetchPartitions(FetchPartitionsResponse { partitions }));
    }

    #[test]
    fn a_1_0_fetch_reply_in_pieces_has_its_golden_payload() {
        let head = fetch_response_head(12, 1, 5, crc32fast::hash(b"hello"), 0, HeaderCrc::Prefix);
        let mut stream = BytesMut::from(&head[..]);
        stream.extend_from_slice(b"hello");
        let frame = next_frame(&mut stream, &FrameLimits::default()).unwrap().unwrap();
        assert_eq!(frame.header.batch_id, 0x11);
        assert_eq!(
            &frame.payload[..],
            &[&[12, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0][..], b"hello"].concat()[..]
        );
    }

    #[test]
    fn a_count_larger_than_the_payload_allocates_nothing() {
        let payload = Bytes::from_static(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0]);
        assert_eq!(FetchPartitionsResponse::decode(&payload), None);
    }
}

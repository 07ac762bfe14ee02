//! The frames of the data plane.
//!
//! ```text
//! Append 0x62                           AppendAnswer 0xE2: u32 count, and that many of
//!   0  4 topic id                         0  4 topic id
//!   4  2 partition                        4  2 partition
//!   6  2 traced batches                   6  1 outcome
//!   8  4 epoch                            7  1 zero
//!  12  4 epoch of the batch before        8  4 epoch
//!  16  8 position where the first begins 12  4 damage count of the replica
//!  24  8 high watermark                  16  8 incarnation of its node
//!  32  8 log start                       24    of outcome 1, Appended:
//!  40  4 batches                                 8 durable end, 4 p99 of syncs, µs
//!  44  … each traced: 4 index of its           of outcome 2, Fenced: 4 promised epoch
//!        batch, trace context (25)             of outcome 3, Diverged:
//!     … each: header (104), records              4 last epoch, 8 log start, 8 log end,
//!                                                4 epochs, each: 4 epoch, 8 where it begins
//! Truncate 0x63                                of outcome 4, Unavailable: nothing
//!   0  4 topic id
//!   4  2 partition                      Version 2 knows no traced batches: there are none.
//!   6  1 1 to a position, 2 restart,
//!        3 restart, and what lay below
//!   7  1 zero                           A truncation answers a log that is named by
//!   8  4 epoch                          incarnation, last epoch and end.
//!  12  4 last epoch there
//!  16  4 damage count of the replica
//!  20  8 incarnation of its node
//!  28  8 log end there
//!  36  8 position                      Versions 2 to 4 know no 3 in a Truncate.
//!  44 16 of a restart: offset, record
//!  60    and what lay below: 1 whether
//!        the next two are known, 3 zero,
//!        4 last epoch, 8 where it began,
//!        4 bytes of producers, and those
//! ```

use super::super::header::HEADER_LEN;
use super::super::payload::PayloadReader;
use super::super::trace::{TRACE_CONTEXT_LEN, TraceContext};
use super::{MAX_DATA_PAYLOAD_BYTES, PeerCommand, PeerFrameError, frame_header, sealed};
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchSeed};
use crate::id::{LeaderEpoch, ReplicaIncarnation, TopicId, TopicPartition};
use crate::peer::{
    AppendOutcome, AppendRequest, AppendResponse, BelowStart, DivergedLog, LogPlace, ReplicaBatch, TracedBatch,
    TruncateRequest, TruncateTo,
};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of an Append in front of its traced batches. Its payload CRC covers these and those.
pub const APPEND_HEAD_BYTES: usize = 44;
/// Bytes that name one traced batch.
const TRACED_BYTES: usize = 4 + TRACE_CONTEXT_LEN;
/// Most batches of one frame.
pub const MAX_FRAME_BATCHES: usize = 16 * 1024;
/// Most epochs of a diverged log that are told, the newest; a log has one for each change of its leader.
pub const MAX_HISTORY_EPOCHS: usize = 1024 * 1024;
/// A frame of answers that has reached this is closed.
const ANSWER_FRAME_BYTES: usize = 1024 * 1024;
/// Shortest answer.
const MIN_ANSWER_BYTES: usize = 28;
/// Bytes of one epoch of a history.
const HISTORY_ENTRY_BYTES: usize = 12;

/// Appends the frames of `request`: one, or as many as its batches need.
pub(super) fn encode_append(request: &AppendRequest, out: &mut Vec<Bytes>) {
    let (mut prev_end, mut prev_epoch) = (request.prev_end, request.prev_epoch);
    let mut rest = &request.batches[..];
    let mut traced = &request.traced[..];
    let mut first = 0;
    loop {
        let (batches, behind) = rest.split_at(batches_that_fit(rest, traced.len()));
        let next = first + batches.len() as u32;
        let (now, later) = traced.split_at(traced.iter().take_while(|traced| traced.index < next).count());
        encode_append_frame(request, (prev_end, prev_epoch), batches, (now, first), out);
        (traced, first) = (later, next);
        match batches.last() {
            Some(last) if !behind.is_empty() => {
                (prev_end, prev_epoch) = (last.header.end_position(), last.header.leader_epoch);
                rest = behind;
            }
            _ => return,
        }
    }
}

fn batches_that_fit(batches: &[ReplicaBatch], traced: usize) -> usize {
    let mut bytes = APPEND_HEAD_BYTES + traced * TRACED_BYTES;
    let fits = |batch: &&ReplicaBatch| {
        bytes += BATCH_HEADER_BYTES + batch.records.len();
        bytes <= MAX_DATA_PAYLOAD_BYTES
    };
    let count = batches.iter().take(MAX_FRAME_BATCHES).take_while(fits).count();
    // A batch alone always fits: its records have a limit of their own.
    count.max(usize::from(!batches.is_empty()))
}

/// `first` is the index of the first of `batches` in the request.
fn encode_append_frame(
    request: &AppendRequest,
    (prev_end, prev_epoch): (u64, LeaderEpoch),
    batches: &[ReplicaBatch],
    (traced, first): (&[TracedBatch], u32),
    out: &mut Vec<Bytes>,
) {
    let headers_bytes = batches.len() * BATCH_HEADER_BYTES;
    let records_bytes: usize = batches.iter().map(|batch| batch.records.len()).sum();
    let checked_bytes = APPEND_HEAD_BYTES + traced.len() * TRACED_BYTES;
    let payload_bytes = checked_bytes + headers_bytes + records_bytes;
    let mut head = [0u8; APPEND_HEAD_BYTES];
    head[0..4].copy_from_slice(&request.partition.topic.0.to_le_bytes());
    head[4..6].copy_from_slice(&request.partition.partition.to_le_bytes());
    head[6..8].copy_from_slice(&(traced.len() as u16).to_le_bytes());
    head[8..12].copy_from_slice(&request.epoch.0.to_le_bytes());
    head[12..16].copy_from_slice(&prev_epoch.0.to_le_bytes());
    head[16..24].copy_from_slice(&prev_end.to_le_bytes());
    head[24..32].copy_from_slice(&request.high_watermark.to_le_bytes());
    head[32..40].copy_from_slice(&request.log_start.to_le_bytes());
    head[40..44].copy_from_slice(&(batches.len() as u32).to_le_bytes());
    // Everything but the records lies in one allocation; the pieces are cut out of it.
    let mut block = BytesMut::with_capacity(HEADER_LEN + checked_bytes + headers_bytes);
    block.put_bytes(0, HEADER_LEN);
    block.put_slice(&head);
    for TracedBatch { index, context } in traced {
        block.put_u32_le(index - first);
        block.put_slice(&context.encode());
    }
    let header = frame_header(PeerCommand::Append, payload_bytes, &block[HEADER_LEN..]);
    block[..HEADER_LEN].copy_from_slice(&header);
    batches.iter().for_each(|batch| block.put_slice(&batch.raw_header));
    let mut block = block.freeze();
    for (index, batch) in batches.iter().enumerate() {
        let in_front = if index == 0 { HEADER_LEN + checked_bytes } else { 0 };
        out.push(block.split_to(in_front + BATCH_HEADER_BYTES));
        if !batch.records.is_empty() {
            out.push(batch.records.clone());
        }
    }
    if batches.is_empty() {
        out.push(block);
    }
}

/// What the payload CRC of an Append covers; everything where it is cut short.
pub(super) fn append_checked(payload: &[u8]) -> &[u8] {
    let traced = payload.get(6..8).and_then(|bytes| bytes.first_chunk()).map_or(0, |count| u16::from_le_bytes(*count));
    payload.get(..APPEND_HEAD_BYTES + usize::from(traced) * TRACED_BYTES).unwrap_or(payload)
}

/// Reads an Append; every batch must be one of the partition and follow the one before it.
pub(super) fn decode_append(payload: &Bytes) -> Result<AppendRequest, PeerFrameError> {
    let malformed = || PeerFrameError::Malformed { command: PeerCommand::Append, bytes: payload.len() };
    let mut reader = PayloadReader::new(payload);
    let (mut request, traced, count) = decode_head(&mut reader).ok_or_else(malformed)?;
    if count as usize > MAX_FRAME_BATCHES || u32::from(traced) > count {
        return Err(malformed());
    }
    request.traced = decode_traced(&mut reader, traced, count).ok_or_else(malformed)?;
    let seed = BatchSeed::new(request.partition);
    let mut at = APPEND_HEAD_BYTES + usize::from(traced) * TRACED_BYTES;
    request.batches.reserve(count as usize);
    for index in 0..count {
        let raw: &[u8; BATCH_HEADER_BYTES] = payload.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(malformed)?;
        let wrong = |source| PeerFrameError::Batch { partition: request.partition, index, source };
        let header = BatchHeader::decode(raw, seed).map_err(wrong)?;
        check_chain(&request, index, &header)?;
        let records_at = at + BATCH_HEADER_BYTES;
        at = records_at + header.stored_len as usize;
        if at > payload.len() {
            return Err(malformed());
        }
        request.batches.push(ReplicaBatch { raw_header: *raw, header, records: payload.slice(records_at..at) });
    }
    if at == payload.len() { Ok(request) } else { Err(malformed()) }
}

fn decode_head(reader: &mut PayloadReader<'_>) -> Option<(AppendRequest, u16, u32)> {
    let partition = TopicPartition::new(TopicId(reader.u32()?), reader.u16()?);
    let traced = reader.u16()?;
    let request = AppendRequest {
        partition,
        epoch: LeaderEpoch(reader.u32()?),
        prev_epoch: LeaderEpoch(reader.u32()?),
        prev_end: reader.u64()?,
        high_watermark: reader.u64()?,
        log_start: reader.u64()?,
        batches: Vec::new(),
        traced: Vec::new(),
    };
    Some((request, traced, reader.u32()?))
}

/// Each batch is named at most once, in order.
fn decode_traced(reader: &mut PayloadReader<'_>, traced: u16, batches: u32) -> Option<Vec<TracedBatch>> {
    let mut next = 0;
    let mut one = || {
        let index = reader.u32().filter(|index| (next..batches).contains(index))?;
        next = index + 1;
        Some(TracedBatch { index, context: TraceContext::decode(reader.bytes(TRACE_CONTEXT_LEN)?)? })
    };
    (0..traced).map(|_| one()).collect()
}

/// A batch begins where the one before it ended, in every count, and epochs never go back nor beyond the leader's.
fn check_chain(request: &AppendRequest, index: u32, header: &BatchHeader) -> Result<(), PeerFrameError> {
    let partition = request.partition;
    let chain = |field, found, expected| PeerFrameError::Chain { partition, index, field, found, expected };
    let before = request.batches.last().map(|batch| &batch.header);
    let begins = before.map_or(request.prev_end, BatchHeader::end_position);
    if header.position != begins {
        return Err(chain("position", header.position, begins));
    }
    if let Some(before) = before {
        if header.base_offset != before.end_offset() {
            return Err(chain("offset", header.base_offset, before.end_offset()));
        }
        if header.base_record != before.end_record() {
            return Err(chain("record", header.base_record, before.end_record()));
        }
    }
    let (epoch, least) = (header.leader_epoch, before.map_or(request.prev_epoch, |before| before.leader_epoch));
    match (epoch < least, epoch > request.epoch) {
        (false, false) => Ok(()),
        (true, _) => Err(chain("epoch", epoch.0.into(), least.0.into())),
        (_, true) => Err(chain("epoch", epoch.0.into(), request.epoch.0.into())),
    }
}

pub(super) fn encode_truncate(request: &TruncateRequest, out: &mut BytesMut) {
    let (kind, place) = match request.to {
        TruncateTo::Position(position) => (1, LogPlace { position, ..LogPlace::default() }),
        TruncateTo::Restart(place) if request.below.is_empty() => (2, place),
        TruncateTo::Restart(place) => (3, place),
    };
    out.put_u32_le(request.partition.topic.0);
    out.put_u16_le(request.partition.partition);
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u32_le(request.epoch.0);
    out.put_u32_le(request.answers.last_epoch.0);
    put_incarnation(request.answers.incarnation, out);
    out.put_u64_le(request.answers.log_end);
    out.put_u64_le(place.position);
    if kind >= 2 {
        out.put_u64_le(place.offset);
        out.put_u64_le(place.record);
    }
    if kind == 3 {
        put_below(&request.below, out);
    }
}

fn put_below(below: &BelowStart, out: &mut BytesMut) {
    let (epoch, began) = below.last_epoch.unwrap_or((LeaderEpoch(0), 0));
    out.put_u32_le(below.last_epoch.is_some().into());
    out.put_u32_le(epoch.0);
    out.put_u64_le(began);
    out.put_u32_le(below.producers.len() as u32);
    out.put_slice(&below.producers);
}

fn read_below(reader: &mut PayloadReader<'_>) -> Option<BelowStart> {
    let (known, epoch, began) = (reader.u32()?, LeaderEpoch(reader.u32()?), reader.u64()?);
    let length = reader.u32()?;
    let producers = Bytes::copy_from_slice(reader.bytes(length as usize)?);
    let last_epoch = match known {
        0 if epoch == LeaderEpoch(0) && began == 0 => None,
        1 => Some((epoch, began)),
        _ => return None,
    };
    Some(BelowStart { last_epoch, producers }).filter(|below| !below.is_empty())
}

fn put_incarnation(incarnation: ReplicaIncarnation, out: &mut BytesMut) {
    out.put_u32_le(incarnation.copy_version);
    out.put_u32_le(incarnation.damage_count);
    out.put_u64_le(incarnation.node);
}

fn read_incarnation(reader: &mut PayloadReader<'_>) -> Option<ReplicaIncarnation> {
    let (copy_version, damage_count) = (reader.u32()?, reader.u32()?);
    Some(ReplicaIncarnation { node: reader.u64()?, copy_version, damage_count })
}

pub(super) fn decode_truncate(reader: &mut PayloadReader<'_>) -> Option<TruncateRequest> {
    let partition = TopicPartition::new(TopicId(reader.u32()?), reader.u16()?);
    let (kind, zero) = (reader.u8()?, reader.u8()?);
    let epoch = LeaderEpoch(reader.u32()?);
    let last_epoch = LeaderEpoch(reader.u32()?);
    let incarnation = read_incarnation(reader)?;
    let answers = DivergedLog { incarnation, last_epoch, log_end: reader.u64()? };
    let position = reader.u64()?;
    let to = match kind {
        1 => TruncateTo::Position(position),
        2 | 3 => TruncateTo::Restart(LogPlace { position, offset: reader.u64()?, record: reader.u64()? }),
        _ => return None,
    };
    let below = if kind == 3 { read_below(reader)? } else { BelowStart::default() };
    (zero == 0).then_some(TruncateRequest { partition, epoch, answers, to, below })
}

/// Appends the frames of `responses`: one, or as many as they need.
pub(super) fn encode_answers(responses: &[AppendResponse], out: &mut Vec<Bytes>) {
    let mut payload = BytesMut::new();
    let mut count = 0u32;
    let mut close = |payload: &mut BytesMut, count: &mut u32| {
        payload[..4].copy_from_slice(&count.to_le_bytes());
        out.push(sealed(PeerCommand::AppendAnswer, payload));
        payload.clear();
        *count = 0;
    };
    for response in responses {
        if payload.is_empty() {
            payload.put_u32_le(0);
        }
        encode_answer(response, &mut payload);
        count += 1;
        if payload.len() >= ANSWER_FRAME_BYTES {
            close(&mut payload, &mut count);
        }
    }
    if count > 0 {
        close(&mut payload, &mut count);
    }
}

fn encode_answer(response: &AppendResponse, out: &mut BytesMut) {
    out.put_u32_le(response.partition.topic.0);
    out.put_u16_le(response.partition.partition);
    out.put_u8(match response.outcome {
        AppendOutcome::Appended { .. } => 1,
        AppendOutcome::Fenced { .. } => 2,
        AppendOutcome::Diverged { .. } => 3,
        AppendOutcome::Unavailable => 4,
    });
    out.put_u8(0);
    out.put_u32_le(response.epoch.0);
    put_incarnation(response.incarnation, out);
    match &response.outcome {
        AppendOutcome::Appended { durable_end, sync_p99_micros } => {
            out.put_u64_le(*durable_end);
            out.put_u32_le(*sync_p99_micros);
        }
        AppendOutcome::Fenced { promised } => out.put_u32_le(promised.0),
        AppendOutcome::Diverged { last_epoch, log_start, log_end, history } => {
            out.put_u32_le(last_epoch.0);
            out.put_u64_le(*log_start);
            out.put_u64_le(*log_end);
            let told = &history[history.len().saturating_sub(MAX_HISTORY_EPOCHS)..];
            out.put_u32_le(told.len() as u32);
            for (epoch, begins) in told {
                out.put_u32_le(epoch.0);
                out.put_u64_le(*begins);
            }
        }
        AppendOutcome::Unavailable => {}
    }
}

pub(super) fn decode_answers(reader: &mut PayloadReader<'_>) -> Option<Vec<AppendResponse>> {
    let count = reader.u32()? as usize;
    // Nobody sends a frame without answers, and a false count reserves no memory.
    if count == 0 || count > reader.remaining() / MIN_ANSWER_BYTES {
        return None;
    }
    let mut responses = Vec::with_capacity(count);
    for _ in 0..count {
        responses.push(decode_answer(reader)?);
    }
    Some(responses)
}

fn decode_answer(reader: &mut PayloadReader<'_>) -> Option<AppendResponse> {
    let partition = TopicPartition::new(TopicId(reader.u32()?), reader.u16()?);
    let (kind, zero) = (reader.u8()?, reader.u8()?);
    let epoch = LeaderEpoch(reader.u32()?);
    let incarnation = read_incarnation(reader)?;
    let outcome = match kind {
        1 => AppendOutcome::Appended { durable_end: reader.u64()?, sync_p99_micros: reader.u32()? },
        2 => AppendOutcome::Fenced { promised: LeaderEpoch(reader.u32()?) },
        3 => AppendOutcome::Diverged {
            last_epoch: LeaderEpoch(reader.u32()?),
            log_start: reader.u64()?,
            log_end: reader.u64()?,
            history: decode_history(reader)?,
        },
        4 => AppendOutcome::Unavailable,
        _ => return None,
    };
    (zero == 0).then_some(AppendResponse { partition, epoch, incarnation, outcome })
}

fn decode_history(reader: &mut PayloadReader<'_>) -> Option<Vec<(LeaderEpoch, u64)>> {
    let count = reader.u32()? as usize;
    if count > MAX_HISTORY_EPOCHS || count > reader.remaining() / HISTORY_ENTRY_BYTES {
        return None;
    }
    (0..count).map(|_| Some((LeaderEpoch(reader.u32()?), reader.u64()?))).collect()
}

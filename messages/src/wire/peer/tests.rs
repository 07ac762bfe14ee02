//! Golden bytes, round trips and hostile input of peer frames.

use super::*;
use crate::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, BatchSeed};
use crate::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicId, TopicPartition};
use crate::peer::{
    AppendOutcome, AppendRequest, AppendResponse, BelowStart, DivergedLog, LinkKind, LogPlace, PeerIdentity,
    ReplicaBatch, TracedBatch, TruncateRequest, TruncateTo,
};
use crate::sort_key::SortKey;
use crate::wire::TraceContext;
use crate::wire::codec::FrameError;
use proptest::prelude::*;

const PARTITION: TopicPartition = TopicPartition::new(TopicId(0x0102_0304), 0x0506);

fn identity() -> PeerIdentity {
    PeerIdentity { node: NodeId(2), incarnation: 0x1122_3344_5566_7788, boot_number: 9 }
}

fn hello() -> PeerHello {
    PeerHello {
        min_version: 1,
        max_version: 3,
        purpose: PeerPurpose::Link(LinkKind::Data),
        cluster_id: 0xC1,
        identity: identity(),
        nonce: [7; 32],
        address: "n2:9".to_owned(),
    }
}

fn hello_response() -> PeerHelloResponse {
    PeerHelloResponse { version: 1, cluster_id: 0xC1, identity: identity(), nonce: [8; 32], proof: Some([9; 32]) }
}

/// A batch of `len` bytes of `fill` behind `place`.
fn batch(place: LogPlace, epoch: u32, len: usize, fill: u8) -> ReplicaBatch {
    let records = Bytes::from(vec![fill; len]);
    let header = BatchHeader {
        flags: BatchFlags::RECORDS,
        records_crc: crc32fast::hash(&records),
        position: place.position,
        base_offset: place.offset,
        base_record: place.record,
        stored_len: len as u32,
        plain_len: len as u32,
        record_count: 1,
        leader_epoch: LeaderEpoch(epoch),
        committed_through: 0,
        sort_key: SortKey(1),
        max_timestamp_ns: 2,
        producer: None,
    };
    ReplicaBatch { raw_header: header.encode(BatchSeed::new(PARTITION)), header, records }
}

fn place_behind(batch: &ReplicaBatch) -> LogPlace {
    let header = &batch.header;
    LogPlace { position: header.end_position(), offset: header.end_offset(), record: header.end_record() }
}

/// Batches of these lengths, one behind the other.
fn append(lengths: &[usize]) -> AppendRequest {
    let mut place = LogPlace { position: 1000, offset: 100, record: 10 };
    let mut batches = Vec::new();
    for (index, &len) in lengths.iter().enumerate() {
        let next = batch(place, 5, len, index as u8);
        place = place_behind(&next);
        batches.push(next);
    }
    AppendRequest {
        partition: PARTITION,
        epoch: LeaderEpoch(5),
        prev_end: 1000,
        prev_epoch: LeaderEpoch(4),
        high_watermark: 900,
        log_start: 100,
        batches,
        traced: Vec::new(),
    }
}

fn traced(index: u32) -> TracedBatch {
    TracedBatch { index, context: TraceContext { trace_id: [0x11; 16], span_id: [0x22; 8], flags: 1 } }
}

fn answers() -> Vec<AppendResponse> {
    let of = |outcome| AppendResponse {
        partition: PARTITION,
        epoch: LeaderEpoch(5),
        incarnation: ReplicaIncarnation { node: 0xAB, copy_version: 3, damage_count: 1 },
        outcome,
    };
    vec![
        of(AppendOutcome::Appended { durable_end: 0x11, sync_p99_micros: 0x22 }),
        of(AppendOutcome::Fenced { promised: LeaderEpoch(6) }),
        of(AppendOutcome::Diverged {
            last_epoch: LeaderEpoch(4),
            log_start: 1,
            log_end: 2,
            history: vec![(LeaderEpoch(3), 1), (LeaderEpoch(4), 2)],
        }),
        of(AppendOutcome::Unavailable),
    ]
}

fn truncate(to: TruncateTo) -> TruncateRequest {
    let incarnation = ReplicaIncarnation { node: 0xAB, copy_version: 3, damage_count: 1 };
    let answers = DivergedLog { incarnation, last_epoch: LeaderEpoch(4), log_end: 0x33 };
    TruncateRequest { partition: PARTITION, epoch: LeaderEpoch(5), answers, to, below: BelowStart::default() }
}

fn restart_and_below() -> TruncateRequest {
    let to = TruncateTo::Restart(LogPlace { position: 0x44, offset: 0x55, record: 0x66 });
    let producers = Bytes::from_static(b"who wrote");
    TruncateRequest { below: BelowStart { last_epoch: Some((LeaderEpoch(3), 0x22)), producers }, ..truncate(to) }
}

fn bytes_of(frame: &PeerFrame) -> BytesMut {
    let mut pieces = Vec::new();
    frame.encode(&mut pieces).unwrap();
    pieces.iter().fold(BytesMut::new(), |mut all, piece| {
        all.extend_from_slice(piece);
        all
    })
}

fn decode_all(mut bytes: BytesMut) -> Vec<PeerFrame> {
    let mut frames = Vec::new();
    while let Some(frame) = next_peer_frame(&mut bytes, PeerStage::Open).unwrap() {
        frames.push(frame);
    }
    assert!(bytes.is_empty());
    frames
}

fn every_kind() -> Vec<PeerFrame> {
    vec![
        PeerFrame::Hello(hello()),
        PeerFrame::Proof(PeerProof { proof: Some([6; 32]) }),
        PeerFrame::Append(append(&[3])),
        PeerFrame::Append(AppendRequest { traced: vec![traced(0)], ..append(&[3]) }),
        PeerFrame::Truncate(truncate(TruncateTo::Position(0x44))),
        PeerFrame::Truncate(truncate(TruncateTo::Restart(LogPlace { position: 0x44, offset: 0x55, record: 0x66 }))),
        PeerFrame::Truncate(restart_and_below()),
        PeerFrame::Control(Bytes::from_static(b"raft")),
        PeerFrame::Formation(Bytes::from_static(b"who")),
        PeerFrame::HelloResponse(hello_response()),
        PeerFrame::Welcome,
        PeerFrame::AppendAnswer(answers()),
        PeerFrame::ControlAnswer(Bytes::from_static(b"tfar")),
        PeerFrame::FormationAnswer(Bytes::from_static(b"me")),
        PeerFrame::Refused("no".to_owned()),
    ]
}

/// One line for each of [`every_kind`]; checksums were computed apart from this code, with Python's `zlib.crc32`.
const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn every_frame_kind_has_its_golden_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let golden: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(golden.len(), every_kind().len());
    for (frame, golden) in every_kind().iter().zip(golden) {
        assert_eq!(hex(&bytes_of(frame)), golden, "{:?}", frame.command());
    }
}

#[test]
fn every_frame_kind_comes_back() {
    for frame in every_kind() {
        assert_eq!(decode_all(bytes_of(&frame)), [frame]);
    }
}

#[test]
fn every_flipped_bit_outside_of_records_is_noticed() {
    for frame in every_kind() {
        let bytes = bytes_of(&frame);
        // The records of an append have a checksum of their own, which the receiver's log checks; a refusal's header is
        // that of 1.0.
        let checked = match &frame {
            PeerFrame::Append(_) => {
                HEADER_LEN + replica::append_checked(&bytes[HEADER_LEN..]).len() + BATCH_HEADER_BYTES
            }
            PeerFrame::Refused(_) => 12,
            _ => bytes.len(),
        };
        for bit in 0..checked * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let decoded = next_peer_frame(&mut flipped, PeerStage::Open);
            // Until its length is known to be right, a frame may seem to be longer.
            assert!(!matches!(decoded, Ok(Some(_))), "{:?} bit {bit}", frame.command());
        }
    }
}

#[test]
fn records_are_neither_copied_to_be_sent_nor_when_they_arrive() {
    let request = append(&[100, 0, 200]);
    let mut pieces = Vec::new();
    PeerFrame::Append(request.clone()).encode(&mut pieces).unwrap();
    assert_eq!(pieces.len(), 5, "head and header, records, header, header, records: {pieces:?}");
    assert_eq!(pieces[1].as_ptr(), request.batches[0].records.as_ptr());
    assert_eq!(pieces[4].as_ptr(), request.batches[2].records.as_ptr());
    let mut bytes = bytes_of(&PeerFrame::Append(request));
    let range = bytes.as_ptr_range();
    let Some(PeerFrame::Append(decoded)) = next_peer_frame(&mut bytes, PeerStage::Open).unwrap() else {
        panic!("no append");
    };
    assert!(range.contains(&decoded.batches[2].records.as_ptr()));
}

#[test]
fn an_append_above_the_limit_of_a_frame_becomes_several_that_mean_the_same() {
    let mut request = append(&[9 * 1024 * 1024, 16 * 1024 * 1024, 1, 2]);
    request.traced = vec![traced(0), traced(3)];
    let frames = decode_all(bytes_of(&PeerFrame::Append(request.clone())));
    let (mut batches, mut names) = (Vec::new(), Vec::new());
    let (mut end, mut epoch) = (request.prev_end, request.prev_epoch);
    for frame in &frames {
        let PeerFrame::Append(part) = frame else { panic!("{frame:?}") };
        assert_eq!((part.prev_end, part.prev_epoch), (end, epoch));
        assert_eq!((part.epoch, part.high_watermark, part.log_start), (request.epoch, 900, 100));
        (end, epoch) = (part.end_position(), LeaderEpoch(5));
        let first = batches.len() as u32;
        names.extend(part.traced.iter().map(|one| TracedBatch { index: first + one.index, ..*one }));
        batches.extend(part.batches.iter().cloned());
    }
    assert_eq!(frames.len(), 2);
    assert_eq!((batches, names), (request.batches, request.traced));
}

#[test]
fn traced_batches_are_named_once_in_order_and_exist() {
    let request = AppendRequest { traced: vec![traced(0), traced(1)], ..append(&[3, 3]) };
    let payload = bytes_of(&PeerFrame::Append(request)).split_off(HEADER_LEN);
    let named = |first: u32, second: u32| {
        let mut payload = payload.clone();
        payload[44..48].copy_from_slice(&first.to_le_bytes());
        payload[73..77].copy_from_slice(&second.to_le_bytes());
        decode_payload(PeerCommand::Append, payload.freeze())
    };
    assert!(named(0, 1).is_ok());
    for (first, second) in [(0, 0), (1, 0), (1, 1), (0, 2), (0, u32::MAX), (u32::MAX, 1)] {
        assert!(matches!(named(first, second), Err(PeerFrameError::Malformed { .. })), "{first}, {second}");
    }
}

#[test]
fn a_probe_has_no_batches() {
    assert_eq!(decode_all(bytes_of(&PeerFrame::Append(append(&[])))), [PeerFrame::Append(append(&[]))]);
}

#[test]
fn answers_beyond_a_frame_go_into_the_next() {
    let history: Vec<_> = (0..100_000).map(|epoch| (LeaderEpoch(epoch), u64::from(epoch))).collect();
    let outcome = AppendOutcome::Diverged { last_epoch: LeaderEpoch(1), log_start: 0, log_end: 1, history };
    let long = AppendResponse { outcome, ..answers()[0].clone() };
    let sent = vec![long.clone(), answers()[0].clone(), long];
    let frames = decode_all(bytes_of(&PeerFrame::AppendAnswer(sent.clone())));
    assert_eq!(frames.len(), 2);
    let received = frames.into_iter().flat_map(|frame| match frame {
        PeerFrame::AppendAnswer(answers) => answers,
        other => panic!("{other:?}"),
    });
    assert_eq!(received.collect::<Vec<_>>(), sent);
}

fn refusal(frame: &PeerFrame, stage: PeerStage) -> PeerFrameError {
    next_peer_frame(&mut bytes_of(frame), stage).unwrap_err()
}

#[test]
fn batches_that_do_not_follow_each_other_are_refused() {
    let refused = |request: AppendRequest| match refusal(&PeerFrame::Append(request), PeerStage::Open) {
        PeerFrameError::Chain { index, field, .. } => (index, field),
        other => panic!("{other}"),
    };
    let mut gap = append(&[3, 3]);
    gap.batches[1] = batch(LogPlace { position: 1, ..place_behind(&gap.batches[0]) }, 5, 3, 1);
    assert_eq!(refused(gap), (1, "position"));
    let mut gap = append(&[3, 3]);
    gap.batches[1] = batch(LogPlace { offset: 1, ..place_behind(&gap.batches[0]) }, 5, 3, 1);
    assert_eq!(refused(gap), (1, "offset"));
    let mut gap = append(&[3, 3]);
    gap.batches[1] = batch(LogPlace { record: 1, ..place_behind(&gap.batches[0]) }, 5, 3, 1);
    assert_eq!(refused(gap), (1, "record"));
    assert_eq!(refused(AppendRequest { prev_end: 0, ..append(&[3]) }), (0, "position"));
    assert_eq!(refused(AppendRequest { prev_epoch: LeaderEpoch(6), ..append(&[3]) }), (0, "epoch"));
    assert_eq!(refused(AppendRequest { epoch: LeaderEpoch(4), ..append(&[3]) }), (0, "epoch"));
}

#[test]
fn a_batch_of_another_partition_is_refused() {
    let foreign = AppendRequest { partition: TopicPartition::new(TopicId(1), 0), ..append(&[3]) };
    let refused = refusal(&PeerFrame::Append(foreign), PeerStage::Open);
    assert!(matches!(refused, PeerFrameError::Batch { index: 0, .. }), "{refused}");
}

#[test]
fn a_stranger_may_only_open_a_connection() {
    for frame in every_kind() {
        let decoded = next_peer_frame(&mut bytes_of(&frame), PeerStage::Opening);
        let opens = frame.command().is_opening();
        assert_eq!(decoded.is_ok(), opens, "{:?}", frame.command());
    }
    let header = frame_header(PeerCommand::Hello, MAX_OPENING_PAYLOAD_BYTES + 1, b"x");
    let refused = next_peer_frame(&mut BytesMut::from(&header[..]), PeerStage::Opening);
    assert!(matches!(refused, Err(PeerFrameError::TooLarge { .. })));
}

#[test]
fn a_body_above_its_limit_is_neither_sent_nor_awaited() {
    let body = Bytes::from(vec![0; MAX_CONTROL_PAYLOAD_BYTES + 1]);
    let mut pieces = Vec::new();
    assert!(matches!(PeerFrame::Control(body).encode(&mut pieces), Err(PeerFrameError::TooLarge { .. })));
    assert!(pieces.is_empty());
    let header = frame_header(PeerCommand::Append, MAX_DATA_PAYLOAD_BYTES + 1, b"x");
    let refused = next_peer_frame(&mut BytesMut::from(&header[..]), PeerStage::Open);
    assert!(matches!(refused, Err(PeerFrameError::TooLarge { .. })));
}

#[test]
fn unknown_values_are_errors() {
    let with = |change: fn(&mut Header)| {
        let mut header = Header { flags: Flags::CONTROL, batch_id: 0xE1, ..Header::default() };
        change(&mut header);
        next_peer_frame(&mut BytesMut::from(&header.encode(HeaderCrc::Whole)[..]), PeerStage::Open)
    };
    assert_eq!(with(|_| {}), Ok(Some(PeerFrame::Welcome)));
    assert!(matches!(with(|header| header.batch_id = 0x6F), Err(PeerFrameError::UnknownCommand { code: 0x6F })));
    assert!(matches!(with(|header| header.batch_id = 0x1E1), Err(PeerFrameError::UnknownCommand { code: 0x1E1 })));
    assert!(matches!(with(|header| header.flags = Flags(0xC0)), Err(PeerFrameError::Flags { found: 0xC0 })));
    assert!(matches!(with(|header| header.topic_id = 1), Err(PeerFrameError::Reserved { field: "topic id", .. })));
    assert!(matches!(with(|header| header.timestamp = 1), Err(PeerFrameError::Reserved { field: "timestamp", .. })));
    let http = next_peer_frame(&mut BytesMut::from(&[b'G'; HEADER_LEN][..]), PeerStage::Opening);
    assert!(matches!(http, Err(PeerFrameError::Header(FrameError::BadMagic { .. }))));
}

#[test]
fn payloads_that_are_too_short_too_long_or_impossible_are_refused() {
    for frame in every_kind() {
        let command = frame.command();
        let opaque = matches!(
            frame,
            PeerFrame::Control(_)
                | PeerFrame::Formation(_)
                | PeerFrame::ControlAnswer(_)
                | PeerFrame::FormationAnswer(_)
                | PeerFrame::Refused(_)
        );
        if opaque {
            continue;
        }
        let payload = bytes_of(&frame).split_off(HEADER_LEN).freeze();
        for len in 0..payload.len() {
            assert!(decode_payload(command, payload.slice(..len)).is_err(), "{command:?} of {len} bytes");
        }
        let longer = Bytes::from([&payload[..], b"x"].concat());
        assert!(decode_payload(command, longer).is_err(), "{command:?} and a byte");
    }
    let hello_with = |at: usize, value: u8| {
        let mut payload = bytes_of(&PeerFrame::Hello(hello())).split_off(HEADER_LEN);
        payload[at] = value;
        decode_payload(PeerCommand::Hello, payload.freeze())
    };
    assert!(hello_with(4, 4).is_err(), "an unknown purpose");
    assert!(hello_with(2, 0).is_err(), "a newest version below the oldest");
    assert!(hello_with(6, 0).is_err(), "node 0");
}

#[test]
fn a_peer_is_recognised_by_its_first_bytes() {
    let bytes = bytes_of(&PeerFrame::Hello(hello()));
    for known in 0..RECOGNISED_BYTES {
        assert_eq!(begins_with_peer_hello(&bytes[..known]), None, "{known} bytes");
    }
    assert_eq!(begins_with_peer_hello(&bytes), Some(true));
    assert_eq!(begins_with_peer_hello(b"GET"), Some(false));
    assert_eq!(begins_with_peer_hello(&bytes_of(&PeerFrame::Welcome)), Some(false));
    let ingest = Header { flags: Flags::BATCH_MODE, batch_id: 0x60, ..Header::default() };
    assert_eq!(begins_with_peer_hello(&ingest.encode(HeaderCrc::Prefix)), Some(false));
}

#[test]
fn a_transcript_covers_everything_but_the_proof() {
    let said = hello_response().transcript(&hello());
    assert_eq!(said, PeerHelloResponse { proof: None, ..hello_response() }.transcript(&hello()));
    let others = [
        PeerHelloResponse { nonce: [1; 32], ..hello_response() }.transcript(&hello()),
        PeerHelloResponse { cluster_id: 1, ..hello_response() }.transcript(&hello()),
        hello_response().transcript(&PeerHello { nonce: [1; 32], ..hello() }),
        hello_response().transcript(&PeerHello { purpose: PeerPurpose::Formation, ..hello() }),
        hello_response().transcript(&PeerHello { address: "n2:8".to_owned(), ..hello() }),
    ];
    assert!(others.iter().all(|other| *other != said));
}

#[test]
fn a_refusal_is_an_error_response_of_1_0() {
    use crate::wire::{FrameLimits, Response, ResponseFrame, next_frame};
    let mut bytes = bytes_of(&PeerFrame::Refused("no".to_owned()));
    let frame = next_frame(&mut bytes, &FrameLimits::default()).unwrap().unwrap();
    let response = ResponseFrame::decode(frame, None).unwrap().response;
    assert!(matches!(&response, Response::ErrorText(text) if text == "no"), "{response:?}");
}

proptest! {
    #[test]
    fn appends_survive_any_cut_of_the_stream(
        lengths in prop::collection::vec(0usize..300, 0..6),
        cuts in prop::collection::vec(1usize..200, 1..20),
        high_watermark: u64, log_start: u64, names in any::<u8>(),
    ) {
        let traced = (0..lengths.len() as u32).filter(|index| names >> index & 1 == 1).map(traced).collect();
        let request = AppendRequest { high_watermark, log_start, traced, ..append(&lengths) };
        let sent = [PeerFrame::Append(request), PeerFrame::AppendAnswer(answers()), PeerFrame::Control(Bytes::new())];
        let stream: Vec<u8> = sent.iter().flat_map(|frame| bytes_of(frame).to_vec()).collect();
        let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
        let (mut at, mut turn) = (0, 0);
        while at < stream.len() {
            let end = (at + cuts[turn % cuts.len()]).min(stream.len());
            buffer.extend_from_slice(&stream[at..end]);
            while let Some(frame) = next_peer_frame(&mut buffer, PeerStage::Open).unwrap() {
                received.push(frame);
            }
            (at, turn) = (end, turn + 1);
        }
        prop_assert_eq!(&received[..], &sent[..]);
    }

    #[test]
    fn hellos_come_back(
        node in 1u16.., incarnation: u64, boot_number: u64, cluster_id: u64, nonce: [u8; 32],
        versions in (0u16..9, 0u16..9), address in "[a-z0-9.:]{0,60}", data: bool,
    ) {
        let hello = PeerHello {
            min_version: versions.0,
            max_version: versions.0 + versions.1,
            purpose: if data { PeerPurpose::Link(LinkKind::Data) } else { PeerPurpose::Link(LinkKind::Control) },
            cluster_id,
            identity: PeerIdentity { node: NodeId(node), incarnation, boot_number },
            nonce,
            address,
        };
        let frame = PeerFrame::Hello(hello);
        prop_assert_eq!(decode_all(bytes_of(&frame)), [frame]);
    }

    #[test]
    fn answers_come_back(
        outcomes in prop::collection::vec((0u8..4, any::<u32>(), any::<u64>(), any::<u64>(), 0usize..5), 1..20),
    ) {
        let sent: Vec<AppendResponse> = outcomes.into_iter().map(|(kind, epoch, first, second, count)| {
            let outcome = match kind {
                0 => AppendOutcome::Appended { durable_end: first, sync_p99_micros: epoch },
                1 => AppendOutcome::Fenced { promised: LeaderEpoch(epoch) },
                2 => AppendOutcome::Diverged {
                    last_epoch: LeaderEpoch(epoch),
                    log_start: first,
                    log_end: second,
                    history: (0..count as u32).map(|n| (LeaderEpoch(n), first)).collect(),
                },
                _ => AppendOutcome::Unavailable,
            };
            AppendResponse { epoch: LeaderEpoch(epoch), outcome, ..answers()[0].clone() }
        }).collect();
        prop_assert_eq!(decode_all(bytes_of(&PeerFrame::AppendAnswer(sent.clone()))), [PeerFrame::AppendAnswer(sent)]);
    }

    #[test]
    fn arbitrary_payloads_never_panic(index in 0usize..12, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let command = PeerCommand::ALL[index];
        let mut frame = BytesMut::from(&sealed(command, &payload)[..]);
        let _ = next_peer_frame(&mut frame, PeerStage::Open);
    }
}

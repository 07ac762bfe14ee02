//! Golden bytes and hostile input of batch headers.

use super::*;
use crate::id::TopicId;
use proptest::prelude::*;

fn partition() -> TopicPartition {
    TopicPartition::new(TopicId(0x0102_0304), 0x0506)
}

fn header() -> BatchHeader {
    BatchHeader {
        flags: BatchFlags::STARTS_SEGMENT,
        records_crc: 0xA1A2_A3A4,
        position: 0x11,
        base_offset: 0x22,
        base_record: 0x33,
        stored_len: 0x44,
        plain_len: 0x44,
        record_count: 2,
        leader_epoch: LeaderEpoch(7),
        committed_through: 0x10,
        sort_key: SortKey(0x0F0E_0D0C_0B0A_0908_0706_0504_0302_0100),
        max_timestamp_ns: 0x77,
        producer: Some(ProducerSequence { id: ProducerId(0x88), epoch: 9, sequence: 10 }),
    }
}

#[test]
fn a_header_has_golden_bytes() {
    let bytes = header().encode(BatchSeed::new(partition()));
    let mut golden = Vec::new();
    golden.extend_from_slice(b"\x0f\x63\0\0\0\x01\x04\0");
    golden.extend_from_slice(&GOLDEN_CRC.to_le_bytes());
    golden.extend_from_slice(b"\xa4\xa3\xa2\xa1");
    golden.extend_from_slice(b"\x11\0\0\0\0\0\0\0\x22\0\0\0\0\0\0\0\x33\0\0\0\0\0\0\0");
    golden.extend_from_slice(b"\x44\0\0\0\x44\0\0\0\x02\0\0\0\x07\0\0\0\x10\0\0\0\0\0\0\0");
    golden.extend_from_slice(b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f");
    golden.extend_from_slice(b"\x77\0\0\0\0\0\0\0\x88\0\0\0\0\0\0\0\x09\0\0\0\x0a\0\0\0");
    assert_eq!(bytes.as_slice(), golden);
}

/// Computed apart from this code: Python's `zlib.crc32` over the table above.
const GOLDEN_CRC: u32 = 0xADA3_5CE1;

#[test]
fn a_header_of_another_partition_never_checks() {
    let bytes = header().encode(BatchSeed::new(partition()));
    for other in [TopicPartition::new(TopicId(1), 0x0506), TopicPartition::new(TopicId(0x0102_0304), 0)] {
        let decoded = BatchHeader::decode(&bytes, BatchSeed::new(other));
        assert!(matches!(decoded, Err(BatchError::Checksum { .. })));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let seed = BatchSeed::new(partition());
    let bytes = header().encode(seed);
    for bit in 0..BATCH_HEADER_BYTES * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(BatchHeader::decode(&flipped, seed).is_err(), "bit {bit}");
    }
}

#[test]
fn unwritten_and_short_bytes_are_told_apart() {
    let seed = BatchSeed::new(partition());
    assert_eq!(BatchHeader::decode(&[0; 104], seed), Err(BatchError::Empty));
    assert_eq!(BatchHeader::decode(&[0x0F; 103], seed), Err(BatchError::Short { found: 103 }));
    assert_eq!(BatchHeader::decode(&[0x01; 104], seed), Err(BatchError::NotABatch { found: 1 }));
}

#[test]
fn bytes_that_are_no_tlvs_belong_to_the_tlv_of_the_header() {
    let seed = BatchSeed::new(partition());
    let opaque = BatchHeader { flags: BatchFlags::OPAQUE, record_count: 1, ..header() };
    assert_eq!(u32_at(&opaque.encode(seed), 1), 99 + 0x44);
    let packed = BatchHeader { flags: BatchFlags::RECORDS.with_codec(Some(Codec::Zstd)), plain_len: 999, ..header() };
    assert_eq!(u32_at(&packed.encode(seed), 1), 99 + 0x44);
    assert_eq!(BatchHeader::decode(&packed.encode(seed), seed), Ok(packed));
}

#[test]
fn contradicting_fields_are_refused() {
    let seed = BatchSeed::new(partition());
    let refuse = |header: BatchHeader, field| {
        let decoded = BatchHeader::decode(&header.encode(seed), seed);
        assert!(matches!(decoded, Err(BatchError::Inconsistent { field: f, .. }) if f == field), "{decoded:?}");
    };
    refuse(BatchHeader { plain_len: 1, ..header() }, "plain_len");
    refuse(BatchHeader { flags: BatchFlags::CONTROL, ..header() }, "plain_len");
    refuse(BatchHeader { flags: BatchFlags::CONTROL, plain_len: 0, ..header() }, "record_count");
    refuse(BatchHeader { stored_len: MAX_BATCH_BYTES + 1, plain_len: MAX_BATCH_BYTES + 1, ..header() }, "stored_len");
    refuse(BatchHeader { position: u64::MAX, ..header() }, "position");
    assert_eq!(BatchFlags::from_bits(0x0030), None);
    assert_eq!(BatchFlags::from_bits(0x0100), None);
}

#[test]
fn a_control_batch_has_golden_bytes() {
    let start = ControlBatch::EpochStart { leader: NodeId(0x0203) };
    assert_eq!(start.encode(), [1, 1, 3, 2]);
    assert_eq!(ControlBatch::decode(&start.encode()), Ok(start));
    assert_eq!(ControlBatch::decode(&[9, 1, 0]), Err(ControlBatchError::Unknown { kind: 9, version: 1 }));
    assert_eq!(ControlBatch::decode(&[1, 1, 0]), Err(ControlBatchError::Length { found: 3, expected: 4 }));
    assert!(ControlBatch::decode(&[]).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..220)) {
        prop_assert!(BatchHeader::decode(&bytes, BatchSeed::new(partition())).is_err());
    }

    #[test]
    fn headers_come_back(
        position in 0u64..1 << 62, base_offset in 0u64..1 << 62, stored_len in 0..=MAX_BATCH_BYTES,
        record_count: u32, epoch: u32, key: u128, crc: u32, producer in prop::option::of((1u64.., any::<u16>(), any::<u32>()))
    ) {
        let producer = producer.map(|(id, epoch, sequence)| ProducerSequence { id: ProducerId(id), epoch, sequence });
        let header = BatchHeader { position, base_offset, stored_len, plain_len: stored_len, record_count, records_crc: crc,
            leader_epoch: LeaderEpoch(epoch), sort_key: SortKey(key), producer, ..header() };
        let seed = BatchSeed::new(partition());
        prop_assert_eq!(BatchHeader::decode(&header.encode(seed), seed), Ok(header));
    }
}

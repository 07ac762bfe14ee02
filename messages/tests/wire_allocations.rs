//! The produce and ack path of the codec allocates nothing once its buffers are warm.

use bytes::BytesMut;
use lance_messages::id::TopicId;
use lance_messages::wire::produce::{AckOffsets, ProduceHeader, put_ack};
use lance_messages::wire::{Features, FrameLimits, HeaderCrc, Request, RequestFrame, next_frame};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system allocator unchanged; the counter is a plain thread-local cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn produce_and_ack_allocate_nothing_after_warm_up() {
    let features = Features::PARTITIONS | Features::HEADER_CRC | Features::ACK_OFFSETS;
    let limits = FrameLimits { header_crc: HeaderCrc::Whole, ..FrameLimits::default() };
    let payload = [7u8; 1024];
    let mut input = BytesMut::with_capacity(1 << 20);
    let mut output = BytesMut::with_capacity(1 << 16);
    let mut before = 0;
    for batch_id in 0..10_000u64 {
        if batch_id == 1_000 {
            before = ALLOCATIONS.with(Cell::get);
        }
        let header = ProduceHeader {
            topic: TopicId(1),
            partition: 3,
            batch_id,
            timestamp: 5,
            record_count: 1,
            compressed: false,
            traced: false,
            payload_len: payload.len() as u32,
            payload_crc: crc32fast::hash(&payload),
        };
        input.reserve(2048);
        input.extend_from_slice(&header.encode(HeaderCrc::Whole));
        input.extend_from_slice(&payload);
        let frame = next_frame(&mut input, &limits).unwrap().unwrap();
        let request = RequestFrame::decode(frame, Some(features)).unwrap();
        assert_eq!(request.partition, 3);
        let Request::Produce(produce) = request.request else { panic!("not a produce request") };
        let offsets = AckOffsets { base_offset: batch_id * 1024, record_count: 1, duplicate: false };
        output.clear();
        put_ack(&mut output, produce.batch_id, &offsets, features);
        assert_eq!(output.len(), 57);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
}

//! The produce path of a log allocates nothing once it is warm, and an idle log is small.

use lance_messages::batch::BatchFlags;
use lance_messages::id::{LeaderEpoch, ProducerId, TopicId, TopicPartition};
use lance_messages::sort_key::SortKey;
use lance_storage::disk::memory::MemoryDisk;
use lance_storage::disk::{Arena, BLOCK, Chunk, Disk, DiskCompletion, OpKind, SlotPool};
use lance_storage::log::{Log, LogOptions, NewBatch, OpenContext};
use lance_storage::tail::TailRing;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

struct Counting;

thread_local! {
    /// Allocations and bytes in use of this thread alone: tests run beside each other.
    static ALLOCATIONS: Cell<(u64, i64)> = const { Cell::new((0, 0)) };
}

fn count(calls: u64, bytes: i64) {
    let _ = ALLOCATIONS.try_with(|counter| {
        let (all, used) = counter.get();
        counter.set((all + calls, used + bytes));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn options(number: u16) -> LogOptions {
    LogOptions {
        dir: PathBuf::from(format!("/data/logs/1-{number}")),
        partition: TopicPartition::new(TopicId(1), number),
        segment_bytes: 256 << 20,
        index_interval_bytes: 64 * 1024,
        zero_ahead_bytes: 0,
    }
}

fn batch(records: &[u8], turn: u64) -> NewBatch<'_> {
    NewBatch {
        records,
        records_crc: 1,
        plain_len: records.len() as u32,
        record_count: 1,
        flags: BatchFlags::RECORDS,
        leader_epoch: LeaderEpoch(1),
        committed_through: 0,
        sort_key: SortKey::at_time(turn),
        max_timestamp_ns: turn,
        producer: Some(lance_messages::batch::ProducerSequence { id: ProducerId(1), epoch: 0, sequence: turn as u32 }),
    }
}

/// Completes the step as a disk would; the file is not written.
fn flush(log: &mut Log, pool: &mut SlotPool) {
    let Some(step) = log.take_flush(true) else { return };
    let OpKind::Write { chunks, .. } = step.kind else { panic!("{:?}", step.kind) };
    let chunks: Vec<Chunk> = chunks;
    let completion = DiskCompletion { token: 0, result: Ok(()), chunks, file: None, times: Default::default() };
    let completed = log.complete(completion, pool).unwrap();
    log.advance_high_watermark(completed.durable_end);
}

#[test]
fn appending_and_flushing_allocate_nothing_once_warm() {
    let disk = MemoryDisk::new(Default::default()).as_disk();
    let mut pool = SlotPool::new(Arena::new(64 * BLOCK, 64).unwrap());
    let mut tail = TailRing::new(4 << 20);
    let (mut log, _) = Log::open(&disk, options(0), OpenContext::default()).unwrap();
    let mut turn = 0;
    for (bytes, batches) in [(100, 5_000), (1_000, 3_000), (20_000, 100)] {
        let records = vec![1; bytes];
        let mut run = |batches: u64, log: &mut Log| {
            for _ in 0..batches {
                log.append(&batch(&records, turn), &mut pool, &mut tail).unwrap();
                turn += 1;
                if turn % 3 == 0 {
                    flush(log, &mut pool);
                }
            }
        };
        run(batches / 2, &mut log);
        let before = ALLOCATIONS.get().0;
        // The index doubles its table now and then: less than once in a thousand batches of this size.
        run(batches / 2, &mut log);
        let allocations = ALLOCATIONS.get().0 - before;
        assert!(allocations <= 1, "{allocations} allocations in {} batches of {bytes} bytes", batches / 2);
    }
}

#[test]
fn ten_thousand_idle_logs_are_cheap() {
    let disk: Arc<dyn Disk> = MemoryDisk::new(Default::default()).as_disk();
    let mut pool = SlotPool::new(Arena::new(64 * BLOCK, 64).unwrap());
    let mut tail = TailRing::new(1 << 20);
    let records = vec![1; 500];
    let mut logs = Vec::with_capacity(10_000);
    let mut bytes = 0;
    for number in 0..10_000 {
        let (mut log, _) = Log::open(&disk, options(number), OpenContext::default()).unwrap();
        // What opening leaves on the memory disk is not the log's: measured once, around use and rest of one log.
        log.append(&batch(&records, 0), &mut pool, &mut tail).unwrap();
        flush(&mut log, &mut pool);
        log.release_idle();
        assert!(!log.has_open_file());
        if number == 0 {
            bytes = used_by_reopening(&disk, number);
        }
        logs.push(log);
    }
    assert_eq!(pool.free_count(), pool.capacity());
    // Most of it is the partial last block, which the next group writes again.
    let bytes = bytes + size_of::<Log>() as i64;
    assert!(bytes < BLOCK as i64 + 2_500, "{bytes} bytes");
}

/// Heap bytes a log keeps that was opened, used and left alone.
fn used_by_reopening(disk: &Arc<dyn Disk>, number: u16) -> i64 {
    let mut pool = SlotPool::new(Arena::new(64 * BLOCK, 64).unwrap());
    let mut tail = TailRing::new(1 << 20);
    let records = vec![1; 500];
    let options = LogOptions { partition: TopicPartition::new(TopicId(2), number), ..options(number) };
    let options = LogOptions { dir: PathBuf::from("/data/logs/2-0"), ..options };
    let (first, _) = Log::open(disk, options.clone(), OpenContext::default()).unwrap();
    drop(first);
    let before = ALLOCATIONS.get().1;
    let (mut log, _) = Log::open(disk, options, OpenContext::default()).unwrap();
    for turn in 0..100 {
        log.append(&batch(&records, turn), &mut pool, &mut tail).unwrap();
        flush(&mut log, &mut pool);
    }
    log.release_idle();
    let used = ALLOCATIONS.get().1 - before;
    drop(log);
    used
}

//! The same log on a real file system: every home of the disk this machine has, mapped indexes included.

use crate::rig::{options, partition, records};
use lance_messages::batch::BatchFlags;
use lance_messages::id::LeaderEpoch;
use lance_messages::sort_key::SortKey;
use lance_storage::disk::{Arena, BackendChoice, DiskOptions, SlotPool, WriteQueue, open_disk};
use lance_storage::index::Index;
use lance_storage::log::{Log, LogOptions, LogRead, NewBatch, OpenContext};
use lance_storage::reader::Reader;
use lance_storage::segment::SegmentFiles;
use lance_storage::tail::TailRing;
use std::sync::Arc;
use std::time::Duration;

fn settle(log: &mut Log, pool: &mut SlotPool, queue: &mut dyn WriteQueue) {
    let mut done = Vec::new();
    while let Some(step) = log.take_flush(true) {
        queue.submit(step.into_op(0)).unwrap();
        while done.is_empty() {
            queue.wait(Duration::from_secs(20));
            queue.completions(&mut done);
        }
        for completion in done.drain(..) {
            let completed = log.complete(completion, pool).unwrap();
            log.advance_high_watermark(completed.durable_end);
        }
    }
}

/// Every byte that readers may have, read through plans.
fn read_all(log: &Log, disk: &Arc<dyn lance_storage::disk::Disk>) -> u64 {
    let mut reader = Reader::new(disk, 8);
    let tail = TailRing::new(0);
    let mut offset = 0;
    loop {
        match log.read(offset, 1 << 20, &tail, &mut bytes::BytesMut::new()) {
            LogRead::Segments(slice) => {
                let plan = reader.plan(&[slice], offset, 1 << 20).unwrap();
                assert!(plan.next_offset > offset);
                offset = plan.next_offset;
            }
            LogRead::Empty => return offset,
            other => panic!("{other:?} at {offset}"),
        }
    }
}

fn write_roll_and_read_again(backend: BackendChoice) {
    let folder = tempfile::tempdir().unwrap();
    let disk = open_disk(DiskOptions { backend, ..DiskOptions::default() }).unwrap();
    let options = LogOptions { dir: folder.path().join("9-3"), ..options(1 << 20, 128 * 1024) };
    let mut pool = SlotPool::new(Arena::new(64 * 1024, 64).unwrap());
    let mut queue = disk.write_queue(&Default::default(), pool.arena()).unwrap();
    let mut tail = TailRing::new(0);
    let (mut log, report) = Log::open(&disk, options.clone(), OpenContext::default()).unwrap();
    assert!(report.created);
    for turn in 0..60u64 {
        let bytes = records(2, if turn % 3 == 0 { 40_000 } else { 700 }, turn as u8);
        let batch = NewBatch {
            records: &bytes,
            records_crc: crc32fast::hash(&bytes),
            plain_len: bytes.len() as u32,
            record_count: 2,
            flags: BatchFlags::RECORDS,
            leader_epoch: LeaderEpoch(1),
            committed_through: log.high_watermark().position,
            sort_key: SortKey::at_time(turn),
            max_timestamp_ns: turn,
            producer: None,
        };
        log.append(&batch, &mut pool, &mut tail).unwrap();
        if turn % 2 == 0 {
            settle(&mut log, &mut pool, &mut *queue);
        }
    }
    settle(&mut log, &mut pool, &mut *queue);
    assert_eq!(read_all(&log, &disk), log.end_offset());
    let (end, record) = (log.log_end(), log.end_record());
    drop(log);
    let context = OpenContext { flushed_position: Some(end), ..OpenContext::default() };
    let (mut log, report) = Log::open(&disk, options, context).unwrap();
    assert_eq!((report.log_end, report.truncated_bytes, report.offline), (end, 0, None));
    assert_eq!((log.end_record(), log.partition()), (record, partition()));
    log.advance_high_watermark(end);
    assert_eq!(read_all(&log, &disk), log.end_offset());
    let closed: Vec<_> = log.closed_segments().cloned().collect();
    assert!(!closed.is_empty());
    let mut files = SegmentFiles::new(Arc::clone(&disk), 1);
    for segment in &closed {
        let mapped = Index::load(&*disk, segment).unwrap();
        let file = files.get(segment).unwrap();
        assert_eq!(mapped.len(), Index::rebuild(segment, &*file).unwrap().len());
    }
}

#[test]
fn a_log_on_the_best_home_of_this_machine() {
    write_roll_and_read_again(BackendChoice::Auto);
}

#[test]
fn a_log_on_blocking_calls() {
    write_roll_and_read_again(BackendChoice::Blocking);
}

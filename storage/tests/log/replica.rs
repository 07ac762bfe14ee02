//! A follower's log against its leader's: what is read, what is taken, and that both are the same bytes.

use crate::rig::{Dice, Rig, dir, options, partition, records};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, BatchSeed, Codec};
use lance_messages::id::LeaderEpoch;
use lance_messages::peer::ReplicaBatch;
use lance_storage::disk::memory::MemoryDisk;
use lance_storage::log::{Log, NewBatch, OpenContext, ReplicaAppendError, ReplicaRead};
use lance_storage::reader::{BatchFlaw, ReadError, Reader, split_batches};
use lance_storage::segment::{MAX_SEGMENT_BYTES, file_name};
use lance_storage::tail::TailRing;

/// Appends a bit of everything, written or not.
fn fill(rig: &mut Rig, dice: &mut Dice, turns: u64) {
    for turn in 0..turns {
        let bytes = records(1 + dice.below(4) as usize, [10, 900, 30_000, 250_000][dice.below(4) as usize], turn as u8);
        match dice.below(6) {
            0 => {
                let epoch = rig.log.last_epoch().0 + 1;
                rig.append_control(epoch);
            }
            1 => {
                let sequence = rig.sequence;
                rig.sequence += 1;
                rig.append_as(&bytes, sequence).unwrap();
            }
            2 => {
                let stored = Codec::Lz4.compress(&bytes).unwrap();
                let flags = BatchFlags::RECORDS.with_codec(Some(Codec::Lz4));
                let epoch = rig.log.last_epoch().0.max(1);
                let batch = NewBatch { flags, plain_len: bytes.len() as u32, ..rig.batch(&stored, epoch) };
                rig.log.append(&batch, &mut rig.pool, &mut rig.tail).unwrap();
            }
            _ => {
                rig.append(&bytes);
            }
        }
        for _ in 0..dice.below(4) {
            rig.step(dice.below(3) > 0);
        }
        rig.log.advance_high_watermark(rig.log.durable_end());
    }
}

#[test]
fn a_followers_log_is_its_leaders_byte_for_byte() {
    for seed in 0..12u64 {
        let (mut dice, mut leader) = (Dice(seed), Rig::new());
        leader.tail = TailRing::new([0, 1 << 16, 1 << 20, 16 << 20][seed as usize % 4]);
        // Where segments end is the leader's affair, whatever the follower's own limit is.
        let mut follower = Rig::on(MemoryDisk::default(), MAX_SEGMENT_BYTES, [0, 1 << 20][seed as usize % 2]);
        let mut reader = Reader::new(&leader.disk, 2);
        for _ in 0..30 {
            fill(&mut leader, &mut dice, 4);
            for _ in 0..dice.below(6) {
                let max_bytes = 1 + dice.below(400_000) as usize;
                let batches = leader.batches_at(follower.log.log_end(), max_bytes, &mut reader);
                follower.append_batches(&batches);
                (0..dice.below(3)).for_each(|_| drop(follower.step(dice.below(3) > 0)));
            }
        }
        settle(&mut leader);
        loop {
            let batches = leader.batches_at(follower.log.log_end(), 1 << 20, &mut reader);
            if batches.is_empty() {
                break;
            }
            follower.append_batches(&batches);
        }
        for reopened in [false, true] {
            if reopened {
                follower.reopen().unwrap();
            }
            settle(&mut follower);
            assert!(leader.same_closed_segments(&follower) > 3, "seed {seed}");
            assert_eq!(leader.log.closed_segments().count(), follower.log.closed_segments().count());
            assert_same_state(&leader.log, &follower.log);
            let name = dir().join(file_name(leader.log.segments().last().unwrap().base_position));
            let (ours, theirs) = (leader.memory.read_file(&name).unwrap(), follower.memory.read_file(&name).unwrap());
            let len = (leader.log.log_end() - leader.log.segments().last().unwrap().base_position) as usize;
            assert!(ours[..len] == theirs[..len]);
        }
    }
}

fn settle(rig: &mut Rig) {
    while let Some(done) = rig.step(true) {
        done.unwrap();
    }
}

fn assert_same_state(leader: &Log, follower: &Log) {
    assert_eq!(leader.log_end_place(), follower.log_end_place());
    assert_eq!(leader.epoch_history(), follower.epoch_history());
    assert_eq!(leader.last_sort_key(), follower.last_sort_key());
    assert_eq!(leader.producers(), follower.producers());
}

/// A leader with three batches of records behind a control batch, and those.
fn led() -> (Rig, Vec<ReplicaBatch>) {
    let mut leader = Rig::new();
    leader.append_control(3);
    for turn in 0..3 {
        leader.append(&records(2, 100, turn));
    }
    let batches = leader.batches_at(0, 1 << 20, &mut Reader::new(&leader.disk, 1));
    assert_eq!(batches.len(), 4);
    (leader, batches)
}

#[test]
fn what_does_not_continue_a_followers_log_is_refused() {
    let (_, batches) = led();
    let mut follower = Rig::new();
    let give = |follower: &mut Rig, batch: &ReplicaBatch| {
        follower.log.append_replica(&batch.raw_header, &batch.header, &batch.records, &mut follower.pool)
    };
    let chain = |field, found, expected| Err(ReplicaAppendError::Chain { field, found, expected });
    assert_eq!(give(&mut follower, &batches[1]), chain("position", 108, 0));
    give(&mut follower, &batches[0]).unwrap();
    assert_eq!(give(&mut follower, &batches[0]), chain("position", 0, 108));
    let seed = BatchSeed::new(partition());
    let changed = |change: fn(&mut BatchHeader)| {
        let mut batch = batches[1].clone();
        change(&mut batch.header);
        batch.raw_header = batch.header.encode(seed);
        batch
    };
    assert_eq!(give(&mut follower, &changed(|header| header.base_offset = 7)), chain("base offset", 7, 0));
    assert_eq!(give(&mut follower, &changed(|header| header.base_record = 7)), chain("base record", 7, 0));
    let stale = Err(ReplicaAppendError::StaleEpoch { last: LeaderEpoch(3), got: LeaderEpoch(2) });
    assert_eq!(give(&mut follower, &changed(|header| header.leader_epoch = LeaderEpoch(2))), stale);
    let crc = changed(|header| header.records_crc = 7);
    assert!(matches!(give(&mut follower, &crc), Err(ReplicaAppendError::Records { stored: 7, .. })));
    let other = ReplicaBatch { raw_header: batches[0].raw_header, ..batches[1].clone() };
    assert_eq!(give(&mut follower, &other), Err(ReplicaAppendError::HeaderDiffers { position: 108 }));
    let mut foreign = batches[1].clone();
    foreign.raw_header[20] ^= 1;
    assert!(matches!(give(&mut follower, &foreign), Err(ReplicaAppendError::Header { position: 108, .. })));
    let short = ReplicaBatch { records: batches[1].records.slice(1..), ..batches[1].clone() };
    let refused = Err(ReplicaAppendError::Length { position: 108, found: 209, expected: 210 });
    assert_eq!(give(&mut follower, &short), refused);
    assert_eq!(follower.log.log_end(), 108);
    give(&mut follower, &batches[1]).unwrap();
    let mut empty = Rig::new();
    let mut unmarked = batches[0].clone();
    unmarked.header.flags = BatchFlags::CONTROL;
    unmarked.raw_header = unmarked.header.encode(seed);
    assert_eq!(give(&mut empty, &unmarked), Err(ReplicaAppendError::NoSegmentStart { position: 0 }));
}

#[test]
fn what_a_batch_calls_committed_is_durable_before_the_batch_is_written() {
    let (mut leader, mut batches) = led();
    settle(&mut leader);
    let committed = leader.log.log_end();
    leader.log.advance_high_watermark(committed);
    leader.append(&records(2, 100, 7));
    batches.extend(leader.batches_at(committed, 1 << 20, &mut Reader::new(&leader.disk, 1)));
    assert_eq!(batches.last().map(|batch| batch.header.committed_through), Some(committed));
    let mut follower = Rig::new();
    follower.append_batches(&batches);
    let ends: Vec<u64> = std::iter::from_fn(|| {
        follower.step(true)?.unwrap();
        Some(follower.log.durable_end())
    })
    .collect();
    assert!(ends.contains(&committed), "{ends:?}");
    assert_eq!(follower.log.durable_end(), leader.log.log_end());
}

#[test]
fn without_a_slot_a_leaders_batch_is_given_again() {
    let (leader, batches) = led();
    let mut follower = Rig::new();
    let taken: Vec<_> = std::iter::from_fn(|| follower.pool.take()).collect();
    let ReplicaBatch { raw_header, header, records } = &batches[0];
    let refused = follower.log.append_replica(raw_header, header, records, &mut follower.pool);
    assert_eq!(refused, Err(ReplicaAppendError::PoolExhausted { bytes: 108 }));
    assert_eq!(follower.log.log_end(), 0);
    drop(taken);
    follower.append_batches(&batches);
    assert_same_state(&leader.log, &follower.log);
}

#[test]
fn places_that_no_batch_begins_at_are_told_apart() {
    let mut leader = Rig::new();
    leader.tail = TailRing::new(1000);
    for turn in 0..30 {
        leader.append(&records(1, 90_000, turn));
    }
    settle(&mut leader);
    let last = leader.append(&records(1, 10, 1));
    let mut reader = Reader::new(&leader.disk, 2);
    let read = |position| leader.log.replica_read(position, 1, &leader.tail);
    assert!(matches!(read(last.end_position), ReplicaRead::AtEnd));
    assert!(matches!(read(last.end_position + 1), ReplicaRead::NotABoundary));
    assert!(matches!(read(last.position + 1), ReplicaRead::NotABoundary));
    assert!(matches!(read(last.position), ReplicaRead::Batches { .. }), "in the ring before it is written");
    let without_ring = leader.log.replica_read(last.position, 1, &TailRing::new(0));
    assert!(matches!(without_ring, ReplicaRead::AtEnd), "not written yet");
    for known in &leader.known[..30] {
        for inside in [known.position + 1, known.end_position() - 1] {
            let ReplicaRead::Segments(slice) = read(inside) else { panic!("{inside}") };
            let refused = slice.read(&mut reader, 1000).unwrap_err();
            assert!(
                matches!(refused, ReadError::NotABoundary { batch_position, .. } if batch_position == known.position),
                "{refused}"
            );
        }
    }
    settle(&mut leader);
    leader.log.remove_segments_before(leader.known[15].position);
    let log_start = leader.log.log_start_place();
    assert!(log_start.position > 0);
    let below = leader.log.replica_read(0, 1, &leader.tail);
    assert!(matches!(below, ReplicaRead::BelowStart { log_start: there } if there == log_start));
}

#[test]
fn a_damaged_batch_is_never_given_to_a_follower() {
    let mut leader = Rig::new();
    leader.tail = TailRing::new(0);
    for turn in 0..30 {
        leader.append(&records(1, 90_000, turn));
    }
    settle(&mut leader);
    let bad = leader.known[4].clone();
    for byte in [bad.position + 30, bad.position + BATCH_HEADER_BYTES as u64 + 5] {
        assert!(leader.memory.flip_bit(&dir().join(file_name(0)), byte, 1));
        let mut reader = Reader::new(&leader.disk, 2);
        let good = leader.batches_at(0, 1 << 20, &mut reader);
        assert_eq!(good.last().unwrap().header.end_position(), bad.position);
        let ReplicaRead::Segments(slice) = leader.log.replica_read(bad.position, 1 << 20, &leader.tail) else {
            panic!("not in a segment")
        };
        let error = slice.read(&mut reader, 1 << 20).unwrap_err();
        assert_eq!(error.good_end(), Some(bad.position), "{error}");
        assert!(leader.memory.flip_bit(&dir().join(file_name(0)), byte, 1));
    }
}

#[test]
fn what_is_no_run_of_whole_batches_is_not_taken_apart() {
    let (leader, batches) = led();
    let ReplicaRead::Batches { bytes, .. } = leader.log.replica_read(0, 1 << 20, &leader.tail) else { panic!() };
    assert_eq!(split_batches(&bytes, partition()).unwrap(), batches);
    let cut = split_batches(&bytes.slice(..bytes.len() - 1), partition()).unwrap_err();
    assert_eq!((cut.number, cut.flaw), (3, BatchFlaw::Cut { needed: 210, left: 209 }));
    let gap = [&bytes[..108], &bytes[108 + 314..]].concat().into();
    let gap = split_batches(&gap, partition()).unwrap_err();
    assert!(matches!(gap.flaw, BatchFlaw::Chain { field: "position", .. }));
    assert!(split_batches(&bytes.slice(..50), partition()).is_err());
}

#[test]
fn epochs_of_batches_are_known_by_where_they_end() {
    let mut leader = Rig::new();
    let ends: Vec<u64> = (1..5).map(|epoch| leader.append_control(epoch * 2).end_position).collect();
    assert_eq!(leader.log.epoch_before(0), Some(LeaderEpoch(0)));
    for (number, end) in ends.iter().enumerate() {
        let epoch = LeaderEpoch(2 * number as u32 + 2);
        assert_eq!(leader.log.epoch_before(*end), Some(epoch));
        assert_eq!(leader.log.epoch_before(*end - 1), Some(epoch));
    }
    assert_eq!(leader.log.epoch_before(ends[3] + 1), None);
}

#[test]
fn the_high_watermark_finds_batches_inside_a_group_through_the_ring() {
    let mut leader = Rig::new();
    let ends: Vec<_> = (0..9).map(|turn| leader.append(&records(2, 50, turn))).collect();
    let step = leader.log.take_flush(true).unwrap();
    let completion = leader.perform(step);
    leader.log.complete(completion, &mut leader.pool).unwrap();
    assert_eq!(leader.log.advance_high_watermark(ends[3].end_position).position, 0);
    for (position, reached) in [(ends[3].end_position, 3), (ends[5].end_position - 1, 4), (ends[4].end_position, 4)] {
        let mark = leader.log.advance_high_watermark_in(position, &leader.tail);
        let expected = (ends[reached].end_position, ends[reached].end_offset, 2 * reached as u64 + 2);
        assert_eq!((mark.position, mark.offset, mark.record), expected);
    }
    assert_eq!(leader.log.advance_high_watermark_in(u64::MAX, &leader.tail).position, ends[8].end_position);
}

#[test]
fn a_follower_drops_segments_below_its_high_watermark_only() {
    let mut leader = Rig::new();
    (0..60).for_each(|turn| {
        leader.append(&records(1, 90_000, turn));
        leader.step(true);
    });
    settle(&mut leader);
    let mut follower = Rig::new();
    let mut reader = Reader::new(&leader.disk, 2);
    while follower.log.log_end() < leader.log.log_end() {
        let batches = leader.batches_at(follower.log.log_end(), 1 << 20, &mut reader);
        follower.append_batches(&batches);
        while let Some(step) = follower.log.take_flush(true) {
            let completion = follower.perform(step);
            follower.log.complete(completion, &mut follower.pool).unwrap();
        }
    }
    let segments = follower.log.segments();
    assert!(follower.log.remove_segments_before(u64::MAX).is_empty(), "nothing is known to be committed");
    follower.log.advance_high_watermark(segments[2].base_position);
    assert_eq!(follower.log.remove_segments_before(u64::MAX).len(), 1, "what stays begins with what is committed");
    follower.log.advance_high_watermark(segments[3].base_position);
    assert_eq!(follower.log.remove_segments_before(u64::MAX).len(), 1);
    let start = follower.log.log_start_place();
    assert_eq!(start.position, segments[2].base_position);
    assert_eq!(follower.log.epoch_before(start.position), Some(LeaderEpoch(1)));
    let context = OpenContext { flushed_position: Some(follower.log.durable_end()), ..OpenContext::default() };
    let (again, report) = Log::open(&follower.disk, options(1 << 20, 0), context).unwrap();
    assert_eq!((report.offline, again.log_start().position), (None, 0), "their files were not removed here");
}

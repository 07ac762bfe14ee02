//! Scrubs of sound and damaged segments, and their pace.

use super::*;
use crate::disk::{Disk, OpenMode};
use crate::reader::tests::maker::Maker;

/// A closed segment of ten batches of different sizes.
fn maker() -> Maker {
    let mut maker = Maker::new();
    maker.control();
    for len in [10, 300, 70_000, 5, 400_000, 20, 20] {
        maker.batch(&[len, 1], None);
    }
    maker.opaque(100).batch(&[7], None);
    maker.roll();
    maker
}

fn scrub(maker: &Maker, budget_bytes: u64, change: impl FnOnce(&mut Vec<u8>)) -> (ScrubReport, bool) {
    let (files, slice) = maker.changed(true, change);
    slice.segment.set_verified(true);
    let file = files.open(slice.segment.path(), OpenMode::Read).unwrap();
    let mut scrub = SegmentScrub::new(&slice.segment, file).unwrap();
    for _ in 0..1_000_000 {
        if let Some(report) = scrub.step(budget_bytes).unwrap() {
            return (report, slice.segment.is_verified());
        }
    }
    panic!("no end");
}

#[test]
fn a_sound_segment_is_verified_whatever_the_step() {
    let maker = maker();
    for budget_bytes in [1, 1_000, 100_000, u64::MAX] {
        let (report, verified) = scrub(&maker, budget_bytes, |_| {});
        let bytes = maker.parts[0].bytes.len() as u64;
        assert_eq!(report, ScrubReport { bytes, batches: 10, damages: vec![] });
        assert!(verified);
    }
}

#[test]
fn every_flipped_byte_is_found_and_only_its_batch_named() {
    let maker = maker();
    let bytes = maker.parts[0].bytes.clone();
    let mut starts: Vec<u64> = maker.positions.clone();
    starts.push(bytes.len() as u64);
    for at in (0..bytes.len()).filter(|at| at % 1_009 == 0 || at % 70_000 < 900) {
        let (report, verified) = scrub(&maker, u64::MAX, |bytes| bytes[at] ^= 0x10);
        assert!(!verified);
        assert_eq!((report.damages.len(), report.batches), (1, 9), "{at}: {report:?}");
        let batch = starts.partition_point(|start| *start <= at as u64);
        assert_eq!(report.damages[0].file_offsets, starts[batch - 1]..starts[batch], "{at}");
    }
}

#[test]
fn several_damages_are_named_apart() {
    let maker = maker();
    let starts = maker.positions.clone();
    let (report, _) = scrub(&maker, 5_000, |bytes| {
        bytes[starts[1] as usize + 50] ^= 1;
        bytes[starts[5] as usize + 300_000] ^= 1;
        bytes[starts[9] as usize + 3] ^= 1;
    });
    let found: Vec<_> = report.damages.iter().map(|damage| damage.file_offsets.start).collect();
    assert_eq!(found, [starts[1], starts[5], starts[9]]);
    assert_eq!(report.batches, 7);
}

#[test]
fn a_shortened_file_is_damaged_to_its_end() {
    let maker = maker();
    let len = maker.parts[0].bytes.len() as u64;
    let starts = maker.positions.clone();
    for cut in [0, 50, starts[3] + 10, starts[5] + 104 + 9, starts[9]] {
        let (report, _) = scrub(&maker, 10_000, |bytes| bytes.truncate(cut as usize));
        let first = report.damages.first().unwrap();
        assert!(starts.contains(&first.file_offsets.start) && first.file_offsets.start <= cut, "{cut}: {first:?}");
        assert_eq!(report.damages.last().unwrap().file_offsets.end, len, "{cut}");
    }
}

#[test]
fn garbage_is_one_bounded_report() {
    let maker = maker();
    let (report, _) = scrub(&maker, u64::MAX, |bytes| bytes.fill(0x0F));
    assert_eq!((report.damages.len(), report.batches), (1, 0));
    assert_eq!(report.damages[0].positions, 0..maker.parts[0].bytes.len() as u64);
    let mut many = Maker::new();
    for _ in 0..200 {
        many.batch(&[50], None);
    }
    many.roll();
    let starts = many.positions.clone();
    let (report, _) = scrub(&many, u64::MAX, |bytes| starts.iter().for_each(|start| bytes[*start as usize + 110] ^= 1));
    assert_eq!(report.damages.len(), DAMAGES);
    assert_eq!(report.damages.last().unwrap().positions.end, many.parts[0].bytes.len() as u64);
}

#[test]
fn a_pace_saves_up_one_second_and_loses_nothing_in_between() {
    let mut pace = ScrubPace::new(1_000, 0);
    assert_eq!(pace.budget_bytes(0), 0);
    let mut read = 0;
    for step in 0..=40_000 {
        let bytes = pace.budget_bytes(step * 100_000);
        pace.spend(bytes);
        read += bytes;
    }
    assert!((3_990..=4_000).contains(&read), "{read}");
    assert_eq!(pace.budget_bytes(100_000_000_000), 1_000);
    pace.spend(5_000);
    assert_eq!(pace.budget_bytes(90_000_000_000), 0);
    assert_eq!(pace.budget_bytes(90_500_000_000), 500);
}

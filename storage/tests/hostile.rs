//! Hostile bytes in the files of a data dir, with checksums that are right: refused, or read without anything that was not
//! there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod sealed;

use lance_messages::sort_key::SortKey;
use lance_storage::checkpoint::{Checkpoint, FlushedMarks};
use lance_storage::index::Index;
use lance_storage::log::{Log, OpenContext};
use lance_storage::segment::{Mark, Segment, file_name};
use lance_storage::sync_log::SyncLog;
use proptest::prelude::*;
use sealed::{FOLDER, PARTITION};
use sealed::{disk_with, framed, index_page, log_options, log_state, sync_log_options, with_sealed_header};
use std::path::Path;

/// A state's body: places, then counts that may be true, then whatever.
fn state_body() -> impl Strategy<Value = Vec<u8>> {
    let places = prop::collection::vec(prop_oneof![0u64..4096, any::<u64>()], 8);
    let counts = prop::collection::vec(prop_oneof![0u32..4, any::<u32>()], 3);
    (places, counts, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(places, counts, rest)| {
        let mut body: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
        body.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        body.extend(rest);
        body
    })
}

proptest! {
    #[test]
    fn a_small_file_gives_its_body_or_nothing(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let path = Path::new(FOLDER).join("checkpoint");
        let disk = disk_with(&[("checkpoint", &framed(b"LNCK", &body))]);
        prop_assert_eq!(Checkpoint::new(&disk, &path, 1).read().unwrap(), Some(body.clone()));
        let disk = disk_with(&[("checkpoint", &body)]);
        prop_assert!(Checkpoint::new(&disk, &path, 1).read().is_err());
    }

    #[test]
    fn marks_are_no_more_than_the_file_holds(body in prop::collection::vec(any::<u8>(), 0..300), entries in 0u32..20) {
        let mut body = body;
        if body.len() >= 16 {
            body[12..16].copy_from_slice(&entries.to_le_bytes());
        }
        let slot = framed(b"LNCF", &body);
        for bytes in [[&slot[..], &slot].concat(), body.clone()] {
            let disk = disk_with(&[("flushed-0", &bytes)]);
            let (marks, _) = FlushedMarks::open(&disk, Path::new(FOLDER), 1, |_| 0).unwrap();
            prop_assert!(marks.positions.len() * 16 <= body.len());
        }
    }

    #[test]
    fn a_log_beside_a_hostile_state_ends_within_its_segment(
        body in state_body(),
        segment in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let segment = with_sealed_header(&segment);
        let disk = disk_with(&[(&file_name(0), &segment), ("producers", &log_state(&body))]);
        if let Ok((log, _)) = Log::open(&disk, log_options(), OpenContext::default()) {
            prop_assert!(log.log_end() <= segment.len() as u64);
        }
    }

    #[test]
    fn a_hostile_index_is_refused_or_searched_within_its_entries(
        pages in prop::collection::vec((prop_oneof![Just(170u16), 0..200u16], prop::collection::vec(any::<u8>(), 0..4080)), 0..3),
        wanted in any::<u32>(),
        rest in 0usize..2,
    ) {
        let page = |(count, entries): &(u16, Vec<u8>)| index_page(&[&[1, 0][..], &count.to_le_bytes(), &[0; 8], entries].concat());
        let mut bytes: Vec<u8> = pages.iter().flat_map(page).collect();
        bytes.truncate(bytes.len().saturating_sub(rest));
        let segment = Segment::new(Path::new(FOLDER), PARTITION, Mark::default());
        let disk = disk_with(&[(segment.index_path().file_name().unwrap().to_str().unwrap(), &bytes)]);
        if let Ok(index) = Index::load(&*disk, &segment) {
            prop_assert_eq!(index.len(), pages.iter().map(|(count, _)| usize::from(*count)).sum::<usize>());
            prop_assert!(index.entry(index.len()).is_none());
            let _ = (index.by_offset(wanted), index.by_position(wanted), index.before_key(SortKey(wanted.into())));
        }
    }

    #[test]
    fn a_hostile_log_of_entries_is_refused_or_ends_within_its_segment(
        segment in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let segment = with_sealed_header(&segment);
        let disk = disk_with(&[(&file_name(0), &segment)]);
        if let Ok((log, entries, _)) = SyncLog::open(&disk, sync_log_options()) {
            prop_assert!(log.end_position() <= segment.len() as u64);
            prop_assert!(entries.iter().map(|entry| entry.data.len()).sum::<usize>() <= segment.len());
        }
    }
}

//! Hostile bytes where a node reads back what it or another one wrote: metadata, what Raft keeps, control messages, and
//! the small files and logs of a data dir. Whatever decodes is encoded to bytes that decode to the same.
#![no_main]

#[path = "../../../cluster/tests/cluster/decoders.rs"]
mod decoders;
#[path = "../../../storage/tests/sealed/mod.rs"]
mod sealed;

use lance_cluster::metadata::{FeatureLevel, MetadataCommand, MetadataState};
use lance_messages::sort_key::SortKey;
use lance_storage::checkpoint::{Checkpoint, FlushedMarks};
use lance_storage::index::{INDEX_PAGE_BYTES, Index};
use lance_storage::log::{Log, OpenContext};
use lance_storage::segment::{Mark, Segment, file_name};
use lance_storage::sync_log::SyncLog;
use libfuzzer_sys::fuzz_target;
use sealed::{FOLDER, PARTITION};
use sealed::{disk_with, framed, index_page, log_options, log_state, sync_log_options, with_sealed_header};
use std::path::Path;

fn decode_values(data: &[u8]) {
    decoders::decode_all(data);
    let _ = MetadataCommand::decode_up_to(FeatureLevel::FIRST, data);
    let _ = MetadataState::decode_snapshot_up_to(FeatureLevel::FIRST, data);
}

fn read_small_files(data: &[u8]) {
    let sealed = framed(b"LNCK", data);
    for (bytes, is_sealed) in [(data, false), (&sealed[..], true)] {
        let disk = disk_with(&[("checkpoint", bytes)]);
        let body = Checkpoint::new(&disk, Path::new(FOLDER).join("checkpoint"), 1).read();
        assert!(!is_sealed || body.is_ok_and(|body| body.as_deref() == Some(data)));
    }
    let slot = framed(b"LNCF", data);
    for bytes in [data, &[&slot[..], &slot].concat()] {
        let disk = disk_with(&[("flushed-0", bytes)]);
        if let Ok((marks, _)) = FlushedMarks::open(&disk, Path::new(FOLDER), 1, |_| 0) {
            assert!(marks.positions.len() * 16 <= data.len());
        }
    }
}

/// An index of pages from the input, padded, their checksums right.
fn load_index(data: &[u8]) {
    let pages: Vec<u8> = data.chunks(INDEX_PAGE_BYTES - 4).flat_map(index_page).collect();
    let segment = Segment::new(Path::new(FOLDER), PARTITION, Mark::default());
    let name = segment.index_path();
    let name = name.file_name().and_then(|name| name.to_str()).expect("it is text");
    let disk = disk_with(&[(name, &pages)]);
    if let Ok(index) = Index::load(&*disk, &segment) {
        assert!(index.entry(index.len()).is_none());
        let wanted = index.len() as u32;
        let _ = (index.by_offset(wanted), index.by_position(wanted), index.before_key(SortKey(wanted.into())));
    }
}

fn open_logs(data: &[u8]) {
    // The first byte says where the file of the state ends and the segment begins.
    let Some((&first, data)) = data.split_first() else { return };
    let (state, segment) = data.split_at((usize::from(first) * 8).min(data.len()));
    let (state, segment) = (log_state(state), with_sealed_header(segment));
    let disk = disk_with(&[(&file_name(0), &segment), ("producers", &state)]);
    if let Ok((log, _)) = Log::open(&disk, log_options(), OpenContext::default()) {
        assert!(log.log_end() <= segment.len() as u64);
    }
    let disk = disk_with(&[(&file_name(0), &segment)]);
    if let Ok((log, entries, _)) = SyncLog::open(&disk, sync_log_options()) {
        assert!(log.end_position() <= segment.len() as u64);
        assert!(entries.iter().map(|entry| entry.data.len()).sum::<usize>() <= segment.len());
    }
}

fuzz_target!(|data: &[u8]| {
    decode_values(data);
    read_small_files(data);
    load_index(data);
    open_logs(data);
});

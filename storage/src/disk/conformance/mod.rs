//! One suite for all homes: what a disk promises, whoever serves it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::memory::{MemoryConfig, MemoryDisk};
use super::*;

mod kernel;

use kernel::a_full_disk_is_told_and_writing_goes_on_when_there_is_space;

/// Far beyond what any operation takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The homes the suite runs against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    IoUring,
    TokioUring,
    Blocking,
    BlockingInline,
    BlockingBuffered,
    Memory,
}

/// A disk, a folder on it, and a queue with its buffers.
struct Rig {
    queue: Box<dyn WriteQueue>,
    pool: SlotPool,
    disk: Arc<dyn Disk>,
    root: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Rig {
    /// `None` where the kernel refuses the home.
    fn new(home: Home, slot_bytes: usize, depth: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        Self::in_folder(home, slot_bytes, depth, root, Some(folder))
    }

    fn in_folder(
        home: Home,
        slot_bytes: usize,
        depth: usize,
        root: PathBuf,
        folder: Option<tempfile::TempDir>,
    ) -> Option<Self> {
        let (backend, threads) = match home {
            Home::IoUring => (BackendChoice::IoUring, 0),
            Home::TokioUring => (BackendChoice::TokioUring, 0),
            Home::Blocking | Home::BlockingBuffered => (BackendChoice::Blocking, 3),
            Home::BlockingInline | Home::Memory => (BackendChoice::Blocking, 0),
        };
        let disk = if home == Home::Memory {
            let disk = MemoryDisk::new(MemoryConfig::default());
            disk.create_dir_all(&root).unwrap();
            disk.as_disk()
        } else {
            match open_disk(DiskOptions { backend, o_direct: home != Home::BlockingBuffered }) {
                Ok(disk) => disk,
                Err(error) => {
                    eprintln!("not run: {error}");
                    return None;
                }
            }
        };
        let arena = Arena::new(slot_bytes, 64).unwrap();
        let queue = disk.write_queue(&QueueOptions { depth, threads }, &arena).unwrap();
        Some(Self { queue, pool: SlotPool::new(arena), disk, root, _folder: folder })
    }

    fn file(&self, name: &str) -> Arc<dyn DiskFile> {
        self.disk.open(&self.root.join(name), OpenMode::CreateOrOpen).unwrap()
    }

    /// A slot full of one value, to be written at a place.
    fn chunk(&mut self, value: u8, file_offset: u64) -> Chunk {
        let mut slot = self.pool.take().unwrap();
        slot.fill(value);
        let len = slot.len() as u32;
        Chunk { slot, slot_start: 0, len, file_offset }
    }

    fn submit(&mut self, token: u64, file: &Arc<dyn DiskFile>, kind: OpKind) {
        self.queue.submit(DiskOp { token, file: Arc::clone(file), kind }).unwrap();
    }

    /// Kicks and collects until nothing is in flight; by token.
    fn finish(&mut self) -> Vec<DiskCompletion> {
        let mut done = Vec::new();
        self.queue.kick().unwrap();
        while self.queue.in_flight() > 0 {
            let before = done.len();
            self.queue.wait(PATIENCE);
            self.queue.completions(&mut done);
            assert!(done.len() > before, "{} in flight, none completed", self.queue.in_flight());
        }
        done.sort_by_key(|completion| completion.token);
        done
    }

    /// Does one operation that succeeds; the chunks go back to the pool.
    fn run(&mut self, file: &Arc<dyn DiskFile>, kind: OpKind) -> DiskCompletion {
        self.submit(7, file, kind);
        let mut done = self.finish().remove(0);
        assert_eq!((done.token, &done.result), (7, &Ok(())));
        self.put_back(&mut done);
        done
    }

    fn put_back(&mut self, done: &mut DiskCompletion) {
        done.chunks.drain(..).for_each(|chunk| self.pool.put(chunk.slot));
    }
}

fn content(file: &Arc<dyn DiskFile>) -> Vec<u8> {
    let len = file.len().unwrap() as usize;
    let (mut cached, mut uncached) = (vec![0; len + 10], vec![0; len + 10]);
    assert_eq!(file.read_uncached_at(&mut uncached, 0).unwrap(), len);
    assert_eq!(file.read_at(&mut cached, 0).unwrap(), len);
    assert!(cached == uncached, "cached and uncached reads differ");
    cached.truncate(len);
    cached
}

fn a_group_is_written_as_one(home: Home) {
    let Some(mut rig) = Rig::new(home, 2 * BLOCK, 8) else {
        return;
    };
    let file = rig.file("a");
    let slot = 2 * BLOCK as u64;
    // Two that continue each other, and one apart, in front.
    let chunks = vec![rig.chunk(1, slot), rig.chunk(2, 2 * slot), rig.chunk(3, 0)];
    rig.submit(1, &file, OpKind::Write { chunks, sync: true });
    assert_eq!(rig.queue.in_flight(), 1);
    let done = rig.finish();
    assert_eq!((done.len(), done[0].result.is_ok(), done[0].chunks.len()), (1, true, 3));
    let expected = [[3u8; 2 * BLOCK], [1; 2 * BLOCK], [2; 2 * BLOCK]].concat();
    assert!(content(&file) == expected);
}

fn a_write_is_told_from_its_sync(home: Home) {
    let Some(mut rig) = Rig::new(home, 2 * BLOCK, 8) else {
        return;
    };
    let file = rig.file("a");
    let before = Instant::now();
    // Apart: no home syncs both with the call that writes them.
    let chunks = vec![rig.chunk(1, 4 * BLOCK as u64), rig.chunk(2, 0)];
    let OpTimes { started, written } = rig.run(&file, OpKind::Write { chunks, sync: true }).times;
    match (started, written) {
        (Some(started), Some(written)) => assert!(before <= started && started <= written),
        times => assert_eq!((home, times), (Home::Memory, (None, None)), "only this one has no clock"),
    }
    let synced = rig.run(&file, OpKind::Sync).times;
    assert_eq!((synced.started.is_some(), synced.written), (home != Home::Memory, None));
}

fn parts_of_slots_are_written(home: Home) {
    let Some(mut rig) = Rig::new(home, 4 * BLOCK, 8) else {
        return;
    };
    let file = rig.file("a");
    for sync in [false, true] {
        let mut chunk = rig.chunk(5, BLOCK as u64);
        chunk.slot[..BLOCK].fill(9);
        chunk.slot[2 * BLOCK..].fill(9);
        (chunk.slot_start, chunk.len) = (BLOCK as u32, BLOCK as u32);
        rig.run(&file, OpKind::Write { chunks: vec![chunk], sync });
        assert!(content(&file) == [[0u8; BLOCK], [5; BLOCK]].concat());
    }
}

fn many_files_are_written_at_once(home: Home) {
    let Some(mut rig) = Rig::new(home, BLOCK, 64) else {
        return;
    };
    let files: Vec<_> = (0..16).map(|name| rig.file(&name.to_string())).collect();
    for round in 0..20u64 {
        for (number, file) in files.iter().enumerate() {
            let chunks = vec![rig.chunk(number as u8 + 1, round * BLOCK as u64)];
            rig.submit(number as u64, file, OpKind::Write { chunks, sync: round % 3 != 0 });
        }
        let mut done = rig.finish();
        assert!(done.iter().enumerate().all(|(at, done)| done.token == at as u64 && done.result.is_ok()));
        done.iter_mut().for_each(|done| rig.put_back(done));
    }
    for (number, file) in files.iter().enumerate() {
        assert!(content(file) == vec![number as u8 + 1; 20 * BLOCK]);
    }
}

fn more_buffers_than_one_call_takes_are_written(home: Home) {
    let Some(mut rig) = Rig::new(home, BLOCK, 4) else {
        return;
    };
    let arena = Arena::new(BLOCK, 2500).unwrap();
    rig.queue = rig.disk.write_queue(&QueueOptions { depth: 4, threads: 2 }, &arena).unwrap();
    rig.pool = SlotPool::new(arena);
    let file = rig.file("a");
    let chunks = (0..2500u64).map(|at| rig.chunk((at % 251) as u8, at * BLOCK as u64)).collect();
    let done = rig.run(&file, OpKind::Write { chunks, sync: true });
    assert!(done.chunks.is_empty());
    let content = content(&file);
    assert!(content.chunks(BLOCK).enumerate().all(|(at, block)| block.iter().all(|b| *b == (at % 251) as u8)));
    assert_eq!((content.len(), rig.pool.free_count()), (2500 * BLOCK, 2500));
}

fn a_full_queue_hands_the_operation_back(home: Home) {
    let Some(mut rig) = Rig::new(home, BLOCK, 3) else {
        return;
    };
    let file = rig.file("a");
    for at in 0..3u64 {
        let chunks = vec![rig.chunk(1, at * BLOCK as u64)];
        rig.submit(at, &file, OpKind::Write { chunks, sync: false });
    }
    let chunks = vec![rig.chunk(1, 3 * BLOCK as u64)];
    let op = DiskOp { token: 3, file: Arc::clone(&file), kind: OpKind::Write { chunks, sync: true } };
    let refused = rig.queue.submit(op).unwrap_err();
    assert_eq!(refused.token, 3);
    assert_eq!(rig.finish().len(), 3);
    rig.queue.submit(refused).unwrap();
    assert_eq!(rig.finish().len(), 1);
    assert!(content(&file) == vec![1; 4 * BLOCK]);
}

fn files_are_created_zeroed_synced_and_cut(home: Home) {
    let Some(mut rig) = Rig::new(home, BLOCK, 4) else {
        return;
    };
    let (any, path) = (rig.file("any"), rig.root.join("new"));
    let made = rig.run(&any, OpKind::Create { path: path.clone() }).file.unwrap();
    assert_eq!((made.path(), made.len().unwrap()), (path.as_path(), 0));
    let chunks = vec![rig.chunk(4, 0)];
    rig.run(&made, OpKind::Write { chunks, sync: true });
    // More than one run of zeroes, over data and beyond the end.
    let len = (5 * 1024 * 1024 / 2) as u64;
    rig.run(&made, OpKind::Zero { file_offset: BLOCK as u64, len });
    rig.run(&made, OpKind::Sync);
    let mut expected = vec![0; BLOCK + len as usize];
    expected[..BLOCK].fill(4);
    assert!(content(&made) == expected);
    rig.run(&made, OpKind::SetLen { len: 100 });
    assert!(content(&made) == [4; 100]);
    rig.run(&made, OpKind::SetLen { len: 200 });
    assert!(content(&made) == [[4; 100], [0; 100]].concat());
    rig.submit(1, &any, OpKind::Create { path });
    assert!(rig.finish()[0].result.as_ref().unwrap_err().is_already_exists());
    let nowhere = rig.root.join("missing/new");
    rig.submit(1, &any, OpKind::Create { path: nowhere });
    assert!(rig.finish()[0].result.as_ref().unwrap_err().is_not_found());
}

fn operations_that_are_not_whole_blocks_are_refused(home: Home) {
    let Some(mut rig) = Rig::new(home, 2 * BLOCK, 8) else {
        return;
    };
    let (file, block) = (rig.file("a"), BLOCK as u32);
    for (slot_start, len, file_offset) in
        [(1, block, 0), (0, 100, 0), (0, block, 7), (block, 2 * block, 0), (0, 0, 0), (u32::MAX - 4095, block, 0)]
    {
        let mut chunk = rig.chunk(1, file_offset);
        (chunk.slot_start, chunk.len) = (slot_start, len);
        rig.submit(1, &file, OpKind::Write { chunks: vec![chunk], sync: true });
        let mut done = rig.finish().remove(0);
        assert!(matches!(done.result, Err(DiskError::Misaligned { .. })), "{slot_start} {len} {file_offset}");
        assert_eq!(done.chunks.len(), 1);
        rig.put_back(&mut done);
    }
    rig.submit(1, &file, OpKind::Zero { file_offset: 1, len: 1 });
    assert!(matches!(rig.finish()[0].result, Err(DiskError::Misaligned { .. })));
    assert_eq!(file.len().unwrap(), 0);
}

fn a_dropped_queue_finishes_what_is_in_flight(home: Home) {
    let Some(mut rig) = Rig::new(home, 16 * BLOCK, 64) else {
        return;
    };
    let files: Vec<_> = (0..8).map(|name| rig.file(&name.to_string())).collect();
    for file in &files {
        let chunks = (0..4).map(|at| rig.chunk(8, at * 16 * BLOCK as u64)).collect();
        rig.submit(1, file, OpKind::Write { chunks, sync: true });
    }
    let path = rig.root.join("made");
    rig.submit(2, &files[0], OpKind::Create { path: path.clone() });
    rig.queue.kick().unwrap();
    let Rig { queue, pool, disk, .. } = &mut rig;
    let other = disk.write_queue(&QueueOptions::default(), pool.arena()).unwrap();
    drop(std::mem::replace(queue, other));
    assert_eq!(rig.pool.free_count(), 64);
    assert!(files.iter().all(|file| content(file) == [8; 64 * BLOCK]));
    assert!(rig.disk.open(&path, OpenMode::Read).is_ok());
}

fn files_of_another_disk_are_refused(home: Home) {
    let Some(mut rig) = Rig::new(home, BLOCK, 4) else {
        return;
    };
    let foreign = Rig::new(if home == Home::Memory { Home::Blocking } else { Home::Memory }, BLOCK, 4).unwrap();
    let file = foreign.file("a");
    let chunks = vec![rig.chunk(1, 0)];
    rig.submit(1, &file, OpKind::Write { chunks, sync: true });
    let done = rig.finish().remove(0);
    assert!(matches!(done.result, Err(DiskError::ForeignFile { .. })));
    assert_eq!(done.chunks.len(), 1);
}

fn the_descriptor_is_readable_while_completions_wait(home: Home) {
    let Some(mut rig) = Rig::new(home, BLOCK, 4) else {
        return;
    };
    let readable = |fd: RawFd, millis| {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, millis) == 1 }
    };
    let (fd, file) = (rig.queue.notify_fd().unwrap(), rig.file("a"));
    assert!(!readable(fd, 0));
    for round in 0..20 {
        let kind = match round % 3 {
            0 => OpKind::Create { path: rig.root.join(format!("new{round}")) },
            other => OpKind::Write { chunks: vec![rig.chunk(1, round * BLOCK as u64)], sync: other == 1 },
        };
        rig.submit(round, &file, kind);
        rig.queue.kick().unwrap();
        let mut done = Vec::new();
        while done.is_empty() {
            assert!(readable(fd, 30_000), "round {round}");
            rig.queue.completions(&mut done);
        }
        assert!(done[0].result.is_ok());
        assert!(!readable(fd, 0), "round {round}: nothing waits any more");
        rig.put_back(&mut done[0]);
    }
}

fn blocking_file_operations_do_what_they_say(home: Home) {
    let Some(rig) = Rig::new(home, BLOCK, 4) else { return };
    let (disk, dir) = (&rig.disk, rig.root.join("deep/er"));
    disk.create_dir_all(&dir).unwrap();
    disk.create_dir_all(&dir).unwrap();
    let (first, second) = (dir.join("first"), dir.join("second"));
    assert!(disk.open(&first, OpenMode::Read).unwrap_err().is_not_found());
    let file = disk.open(&first, OpenMode::Create).unwrap();
    assert!(disk.open(&first, OpenMode::Create).unwrap_err().is_already_exists());
    let data: Vec<u8> = (0..20_000u32).map(|at| (at % 253) as u8).collect();
    file.write_all_at(&data, 0).unwrap();
    file.sync().unwrap();
    for (start, len) in [(0, 20_000), (1, 100), (4095, 2), (4096, 4096), (19_999, 1), (12_000, 9_000), (20_000, 5)] {
        let mut out = vec![0; len];
        let expected = &data[start..data.len().min(start + len)];
        assert_eq!(file.read_uncached_at(&mut out, start as u64).unwrap(), expected.len(), "{start} {len}");
        assert!(out[..expected.len()] == *expected, "{start} {len}");
    }
    // Whole blocks into aligned memory take no detour; the file ends inside one.
    let mut memory = vec![0u8; 8 * BLOCK];
    let aligned = memory.as_ptr().align_offset(BLOCK);
    for (start, blocks) in [(0, 4), (BLOCK, 2), (2 * BLOCK, 5), (5 * BLOCK, 1)] {
        let out = &mut memory[aligned..aligned + blocks * BLOCK];
        let expected = &data[start.min(data.len())..data.len().min(start + blocks * BLOCK)];
        assert_eq!(file.read_uncached_at(out, start as u64).unwrap(), expected.len(), "{start} {blocks}");
        assert!(out[..expected.len()] == *expected, "{start} {blocks}");
    }
    // A hint about any range, also one behind the end, changes nothing.
    for (start, len) in [(0, 20_000), (4_000, 1 << 20), (1 << 30, 10), (0, 0), (u64::MAX, 5)] {
        file.will_need(start, len);
    }
    assert_eq!(file.len().unwrap(), 20_000);
    disk.rename(&first, &second).unwrap();
    disk.sync_dir(&dir).unwrap();
    let entry = |name: &str, len, is_dir| DirEntry { name: name.to_owned(), len, is_dir };
    assert_eq!(disk.list(&dir).unwrap(), [entry("second", 20_000, false)]);
    assert_eq!(disk.list(&rig.root.join("deep")).unwrap(), [entry("er", 0, true)]);
    assert!(disk.list(&first).is_err());
    let reader = disk.open(&second, OpenMode::Read).unwrap();
    assert!(reader.write_all_at(b"x", 0).is_err());
    file.set_len(10).unwrap();
    assert_eq!(reader.len().unwrap(), 10);
    disk.remove_file(&second).unwrap();
    assert!(disk.remove_file(&second).unwrap_err().is_not_found());
    assert_eq!(reader.read_at(&mut [0; 20], 0).unwrap(), 10, "an open file outlives its name");
    disk.remove_dir_all(&rig.root.join("deep")).unwrap();
    assert!(disk.list(&dir).unwrap_err().is_not_found());
    let space = disk.space(&rig.root).unwrap();
    assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
}

fn random_groups_leave_what_a_model_says(home: Home) {
    let Some(mut rig) = Rig::new(home, 4 * BLOCK, 32) else {
        return;
    };
    let files: Vec<_> = (0..5).map(|name| rig.file(&name.to_string())).collect();
    let mut models = vec![Vec::new(); files.len()];
    let mut dice = 1u64;
    let mut roll = move |bound: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % bound
    };
    for round in 0..60u64 {
        for (number, (file, model)) in files.iter().zip(&mut models).enumerate() {
            let mut put = |start: u64, bytes: &[u8]| {
                let end = start as usize + bytes.len();
                if Vec::len(model) < end {
                    model.resize(end, 0u8);
                }
                model[start as usize..end].copy_from_slice(bytes);
            };
            let kind = if roll(6) == 0 {
                let (file_offset, len) = (roll(20) * BLOCK as u64, (1 + roll(5)) * BLOCK as u64);
                put(file_offset, &vec![0; len as usize]);
                OpKind::Zero { file_offset, len }
            } else {
                let mut file_offset = roll(20) * BLOCK as u64;
                let mut chunks = Vec::new();
                for _ in 0..=roll(3) {
                    let mut chunk = rig.chunk((round * 5 + number as u64) as u8, file_offset);
                    chunk.slot_start = roll(3) as u32 * BLOCK as u32;
                    chunk.len = BLOCK as u32;
                    put(file_offset, chunk.data());
                    file_offset += (1 + roll(2)) * BLOCK as u64;
                    chunks.push(chunk);
                }
                OpKind::Write { chunks, sync: roll(2) == 0 }
            };
            rig.submit(number as u64, file, kind);
        }
        for mut done in rig.finish() {
            assert_eq!(done.result, Ok(()));
            rig.put_back(&mut done);
        }
    }
    assert!(files.iter().zip(&models).all(|(file, model)| content(file) == *model));
}

macro_rules! suite {
    ($($module:ident: $home:expr;)*) => {$(
        mod $module {
            use super::Home;
            suite!(@tests $home;
                a_group_is_written_as_one
                a_write_is_told_from_its_sync
                parts_of_slots_are_written
                many_files_are_written_at_once
                more_buffers_than_one_call_takes_are_written
                a_full_queue_hands_the_operation_back
                files_are_created_zeroed_synced_and_cut
                operations_that_are_not_whole_blocks_are_refused
                a_dropped_queue_finishes_what_is_in_flight
                files_of_another_disk_are_refused
                the_descriptor_is_readable_while_completions_wait
                blocking_file_operations_do_what_they_say
                random_groups_leave_what_a_model_says
                a_full_disk_is_told_and_writing_goes_on_when_there_is_space
            );
        }
    )*};
    (@tests $home:expr; $($name:ident)*) => {$(
        #[test]
        fn $name() {
            super::$name($home);
        }
    )*};
}

suite! {
    io_uring: Home::IoUring;
    tokio_uring: Home::TokioUring;
    blocking: Home::Blocking;
    blocking_inline: Home::BlockingInline;
    blocking_buffered: Home::BlockingBuffered;
    memory: Home::Memory;
}

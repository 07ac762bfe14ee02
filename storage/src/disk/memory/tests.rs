//! The memory disk forgets exactly what a device may forget.

use std::time::Duration;

use super::super::{BLOCK, Chunk, DiskCompletion, DiskOp, OpKind, SlotPool};
use super::*;

const ROOT: &str = "/data";

fn disk(config: MemoryConfig) -> MemoryDisk {
    let disk = MemoryDisk::new(config);
    disk.create_dir_all(Path::new(ROOT)).unwrap();
    disk
}

fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// A file whose name is durable, holding `content`, synced.
fn durable(disk: &MemoryDisk, name: &str, content: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(&path(name), OpenMode::Create).unwrap();
    file.write_all_at(content, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new(ROOT)).unwrap();
    file
}

struct Rig {
    pool: SlotPool,
    queue: Box<dyn WriteQueue>,
}

impl Rig {
    fn new(disk: &MemoryDisk) -> Self {
        let arena = Arena::new(BLOCK, 64).unwrap();
        let queue = disk.write_queue(&QueueOptions::default(), &arena).unwrap();
        Self { pool: SlotPool::new(arena), queue }
    }

    fn write(&mut self, file: &Arc<dyn DiskFile>, token: u64, block: u64, sync: bool) {
        let mut slot = self.pool.take().unwrap();
        slot.fill(token as u8);
        let chunk = Chunk { slot, slot_start: 0, len: BLOCK as u32, file_offset: block * BLOCK as u64 };
        let kind = OpKind::Write { chunks: vec![chunk], sync };
        self.queue.submit(DiskOp { token, file: Arc::clone(file), kind }).unwrap();
        self.queue.kick().unwrap();
    }

    fn collect(&mut self) -> Vec<DiskCompletion> {
        let mut out = Vec::new();
        self.queue.completions(&mut out);
        out
    }
}

#[test]
fn unsynced_bytes_are_read_before_a_power_cut_and_gone_after() {
    let disk = disk(MemoryConfig::default());
    let file = durable(&disk, "a", b"old");
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!(disk.read_file(&path("a")).unwrap(), b"new");
    disk.crash(CrashPolicy::DropUnsynced);
    assert_eq!(disk.read_file(&path("a")).unwrap(), b"old");
}

#[test]
fn a_synced_file_whose_folder_was_not_synced_is_gone() {
    let disk = disk(MemoryConfig::default());
    let file = disk.open(&path("a"), OpenMode::Create).unwrap();
    file.write_all_at(b"data", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.durable_file(&path("a")), None);
    disk.crash(CrashPolicy::DropUnsynced);
    assert!(disk.open(&path("a"), OpenMode::Read).unwrap_err().is_not_found());
}

#[test]
fn a_rename_needs_the_folder_synced() {
    let disk = disk(MemoryConfig::default());
    durable(&disk, "target", b"old");
    durable(&disk, "temp", b"new");
    disk.rename(&path("temp"), &path("target")).unwrap();
    let image = disk.snapshot();
    assert_eq!(
        MemoryDisk::from_snapshot(&image, CrashPolicy::DropUnsynced).read_file(&path("target")).unwrap(),
        b"old"
    );
    disk.sync_dir(Path::new(ROOT)).unwrap();
    disk.crash(CrashPolicy::DropUnsynced);
    assert_eq!(disk.read_file(&path("target")).unwrap(), b"new");
    assert_eq!(disk.files(), [path("target")]);
}

#[test]
fn handles_of_before_a_power_cut_fail_after_it() {
    let disk = disk(MemoryConfig::default());
    let file = durable(&disk, "a", b"x");
    let mut rig = Rig::new(&disk);
    disk.crash(CrashPolicy::KeepAll);
    assert!(matches!(file.read_at(&mut [0; 1], 0), Err(DiskError::Stale { .. })));
    assert!(matches!(file.write_all_at(b"y", 0), Err(DiskError::Stale { .. })));
    rig.write(&file, 1, 0, true);
    assert!(matches!(rig.collect()[0].result, Err(DiskError::Stale { .. })));
}

#[test]
fn random_power_cuts_keep_any_subset_and_tear_at_sectors() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let disk = disk(MemoryConfig::default());
        let file = durable(&disk, "a", &[0; 2 * BLOCK]);
        file.write_all_at(&[1; BLOCK], 0).unwrap();
        file.write_all_at(&[2; BLOCK], BLOCK as u64).unwrap();
        let image = disk.snapshot();
        let content = MemoryDisk::from_snapshot(&image, CrashPolicy::Random { seed }).read_file(&path("a")).unwrap();
        let again = MemoryDisk::from_snapshot(&image, CrashPolicy::Random { seed }).read_file(&path("a")).unwrap();
        assert_eq!(content, again, "seed {seed}");
        let state = |block: &[u8], new: u8| match block.iter().filter(|byte| **byte == new).count() {
            0 => "old",
            BLOCK => "new",
            _ => "torn",
        };
        seen.insert((state(&content[..BLOCK], 1), state(&content[BLOCK..], 2)));
    }
    assert_eq!(seen.len(), 9, "every pair of old, new and torn: {seen:?}");
}

#[test]
fn a_failed_sync_loses_the_data_for_ever_though_reads_still_show_it() {
    let disk = disk(MemoryConfig::default());
    let file = durable(&disk, "a", b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.inject(Fault::new(Operation::Sync, FaultKind::Errno(libc::EIO)));
    assert_eq!(file.sync().unwrap_err().errno(), Some(libc::EIO));
    file.sync().unwrap();
    let mut out = [0; 3];
    file.read_at(&mut out, 0).unwrap();
    assert_eq!(&out, b"new");
    file.read_uncached_at(&mut out, 0).unwrap();
    assert_eq!(&out, b"old");
    disk.crash(CrashPolicy::DropUnsynced);
    assert_eq!(disk.read_file(&path("a")).unwrap(), b"old");
}

#[test]
fn faults_hit_the_chosen_operation_path_and_count() {
    let disk = disk(MemoryConfig::default());
    let (first, second) = (durable(&disk, "first", b""), durable(&disk, "second", b""));
    disk.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::EIO)).on("second").after(1).times(2));
    let results: Vec<bool> = (0..4).map(|_| second.write_all_at(b"x", 0).is_ok()).collect();
    assert_eq!(results, [true, false, false, true]);
    assert!(first.write_all_at(b"x", 0).is_ok());
    disk.inject(Fault::new(Operation::Write, FaultKind::Torn { bytes: 2, errno: libc::EIO }));
    assert!(first.write_all_at(b"abcd", 0).is_err());
    assert_eq!(disk.read_file(&path("first")).unwrap(), b"ab");
}

#[test]
fn a_full_disk_refuses_growth_and_recovers_when_space_is_there() {
    let disk = disk(MemoryConfig { capacity_bytes: Some(10), ..MemoryConfig::default() });
    let file = durable(&disk, "a", &[1; 8]);
    assert!(file.write_all_at(&[2; 8], 4).unwrap_err().is_no_space());
    file.write_all_at(&[2; 8], 0).unwrap();
    assert_eq!(disk.space(Path::new(ROOT)).unwrap(), Space { free_bytes: 2, total_bytes: 10 });
    disk.set_capacity(Some(12));
    file.write_all_at(&[2; 8], 4).unwrap();
}

#[test]
fn manual_completions_happen_one_a_step_in_order() {
    let disk = disk(MemoryConfig { completion: Completion::Manual, ..MemoryConfig::default() });
    let file = durable(&disk, "a", b"");
    let mut rig = Rig::new(&disk);
    (1..=3).for_each(|token| rig.write(&file, token, token, false));
    rig.queue.wait(Duration::from_secs(60));
    assert!(rig.collect().is_empty());
    for expected in 1..=3 {
        assert!(disk.step());
        assert_eq!(rig.collect().iter().map(|done| done.token).collect::<Vec<_>>(), [expected]);
    }
    assert!(!disk.step());
}

#[test]
fn reordered_completions_follow_the_seed() {
    let order = |seed| {
        let disk = disk(MemoryConfig { seed, completion: Completion::Manual, reorder: true, capacity_bytes: None });
        let file = durable(&disk, "a", b"");
        let mut rig = Rig::new(&disk);
        (0..8).for_each(|token| rig.write(&file, token, token, false));
        while disk.step() {}
        rig.collect().iter().map(|done| done.token).collect::<Vec<_>>()
    };
    assert_eq!(order(7), order(7));
    assert!((0..10).any(|seed| order(seed) != order(seed + 1)));
}

#[test]
fn a_delayed_operation_completes_after_its_steps() {
    let disk = disk(MemoryConfig { completion: Completion::Manual, ..MemoryConfig::default() });
    let (slow, fast) = (durable(&disk, "slow", b""), durable(&disk, "fast", b""));
    disk.inject(Fault::new(Operation::Write, FaultKind::Delay { steps: 5 }).on("slow"));
    let mut rig = Rig::new(&disk);
    rig.write(&slow, 1, 0, true);
    rig.write(&fast, 2, 0, true);
    let mut happened = Vec::new();
    for step in 1..=6 {
        disk.step();
        happened.extend(rig.collect().iter().map(|done| (step, done.token)));
    }
    assert_eq!(happened, [(1, 2), (5, 1)]);
}

#[test]
fn writes_in_flight_at_a_power_cut_may_or_may_not_be_there_and_their_slots_come_home() {
    let mut kept = [0; 2];
    for seed in 0..40 {
        let disk = disk(MemoryConfig { completion: Completion::Manual, ..MemoryConfig::default() });
        let file = durable(&disk, "a", b"");
        let mut rig = Rig::new(&disk);
        rig.write(&file, 9, 0, true);
        assert_eq!(rig.pool.free_count(), 63);
        disk.crash(CrashPolicy::Random { seed });
        assert_eq!((rig.pool.free_count(), rig.queue.in_flight()), (64, 0));
        kept[usize::from(disk.read_file(&path("a")).unwrap() == [9; BLOCK])] += 1;
    }
    assert!(kept[0] > 5 && kept[1] > 5, "{kept:?}");
}

#[test]
fn the_power_goes_off_at_the_chosen_change() {
    for cut in 0..4 {
        let disk = MemoryDisk::default();
        disk.create_dir_all(Path::new(ROOT)).unwrap();
        disk.power_off_at(disk.mutations() + cut);
        let run = || -> Result<(), DiskError> {
            let file = disk.open(&path("a"), OpenMode::Create)?;
            file.write_all_at(b"data", 0)?;
            file.sync()?;
            disk.sync_dir(Path::new(ROOT))
        };
        assert!(matches!(run(), Err(DiskError::Stale { .. })), "cut {cut}");
        disk.crash(CrashPolicy::DropUnsynced);
        assert!(disk.files().is_empty(), "cut {cut}");
        assert!(run().is_ok());
    }
}

#[test]
fn a_flipped_bit_is_read_everywhere() {
    let disk = disk(MemoryConfig::default());
    let file = durable(&disk, "a", &[0; 4]);
    assert!(disk.flip_bit(&path("a"), 2, 3));
    assert!(!disk.flip_bit(&path("a"), 4, 0));
    let mut out = [0; 4];
    file.read_uncached_at(&mut out, 0).unwrap();
    assert_eq!(out, [0, 0, 8, 0]);
}

#[test]
fn zeroes_and_lengths_are_changes_like_others() {
    let disk = disk(MemoryConfig { completion: Completion::OnKick, ..MemoryConfig::default() });
    let file = durable(&disk, "a", &[7; 100]);
    let mut rig = Rig::new(&disk);
    let zero = OpKind::Zero { file_offset: 0, len: BLOCK as u64 };
    rig.queue.submit(DiskOp { token: 1, file: Arc::clone(&file), kind: zero }).unwrap();
    rig.queue.kick().unwrap();
    assert_eq!(disk.read_file(&path("a")).unwrap(), [0; BLOCK]);
    assert_eq!(disk.durable_file(&path("a")).unwrap(), [7; 100]);
    rig.queue.submit(DiskOp { token: 2, file, kind: OpKind::SetLen { len: 10 } }).unwrap();
    rig.queue.kick().unwrap();
    assert_eq!(disk.durable_file(&path("a")).unwrap(), [0; 10]);
}

#[test]
fn what_a_failed_sync_lost_never_comes_up_over_a_later_synced_write() {
    for seed in 0..20 {
        let disk = disk(MemoryConfig::default());
        let file = durable(&disk, "a", &[7; 100]);
        disk.inject(Fault::new(Operation::Sync, FaultKind::Errno(libc::EIO)));
        file.write_all_at(&[1; 100], 0).unwrap();
        assert!(file.sync().is_err());
        file.write_all_at(&[2; 100], 0).unwrap();
        file.sync().unwrap();
        disk.crash(CrashPolicy::Random { seed });
        assert_eq!(disk.read_file(&path("a")).unwrap(), [2; 100], "seed {seed}");
    }
}

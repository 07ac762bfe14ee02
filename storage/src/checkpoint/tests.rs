//! Small files against power cuts, flipped bits, full disks and foreign owners.

use super::*;
use crate::disk::memory::{CrashPolicy, Fault, FaultKind, MemoryDisk};
use crate::disk::{BackendChoice, DiskOptions, Operation, open_disk};
use lance_messages::id::{NodeId, TopicId, TopicPartition};

const DIR: &str = "data";
const NODE: NodeId = NodeId(3);

fn with_dir(disk: &MemoryDisk) -> Arc<dyn Disk> {
    let shared = disk.as_disk();
    shared.create_dir_all(Path::new(DIR)).unwrap();
    shared
}

fn policies() -> impl Iterator<Item = CrashPolicy> {
    let random = (0..8).map(|seed| CrashPolicy::Random { seed });
    [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll].into_iter().chain(random)
}

#[test]
fn a_checkpoint_is_old_or_new_after_any_power_cut() {
    for step in 0..12 {
        for policy in policies() {
            let disk = MemoryDisk::default();
            let checkpoint = Checkpoint::new(&with_dir(&disk), "data/hard-state", 4);
            assert_eq!(checkpoint.read().unwrap(), None);
            checkpoint.write(b"old").unwrap();
            disk.power_off_at(disk.mutations() + step);
            let written = checkpoint.write(b"much newer").is_ok();
            disk.crash(policy);
            let found = checkpoint.read().unwrap().unwrap();
            assert!(found == b"much newer" || (found == b"old" && !written), "{step} {policy:?}");
            checkpoint.write(b"newest").unwrap();
            assert_eq!(checkpoint.read().unwrap().unwrap(), b"newest");
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_with_its_path() {
    let disk = MemoryDisk::default();
    let checkpoint = Checkpoint::new(&with_dir(&disk), "data/snapshot", 1);
    checkpoint.write(b"content").unwrap();
    disk.flip_bit(checkpoint.path(), 27, 3);
    let text = checkpoint.read().unwrap_err().to_string();
    assert!(text.starts_with("data/snapshot: damaged: body checksum"), "{text}");
}

#[test]
fn a_checkpoint_of_another_version_is_refused() {
    let disk = MemoryDisk::default();
    Checkpoint::new(&with_dir(&disk), "data/snapshot", 2).write(b"content").unwrap();
    let text = Checkpoint::new(&disk.as_disk(), "data/snapshot", 1).read().unwrap_err().to_string();
    assert_eq!(text, "data/snapshot: the content is version 2, this program reads 1");
}

#[test]
fn every_start_counts_and_the_incarnation_stays() {
    let disk = MemoryDisk::default();
    for boot_number in 1..5 {
        let data = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 1000 + boot_number).unwrap();
        let expected = NodeRecord { cluster_id: 0, node_id: NODE, incarnation: 1001, boot_number };
        assert_eq!((*data.record(), data.created()), (expected, boot_number == 1));
        disk.crash(CrashPolicy::DropUnsynced);
    }
    let text = String::from_utf8(disk.read_file(Path::new("data/node.json")).unwrap()).unwrap();
    assert!(text.contains("\"incarnation\": \"00000000000003e9\""), "{text}");
}

#[test]
fn a_boot_number_is_never_given_out_twice() {
    for step in 0..20 {
        for policy in policies() {
            let disk = MemoryDisk::default();
            let mut given = vec![DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 5).unwrap().record().boot_number];
            disk.power_off_at(disk.mutations() + step);
            given.extend(DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 6).map(|data| data.record().boot_number));
            disk.crash(policy);
            let next = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 7).unwrap();
            assert!(given.iter().all(|number| *number < next.record().boot_number));
            assert_eq!(next.record().incarnation, 5);
        }
    }
}

#[test]
fn another_node_or_cluster_is_refused_and_both_are_named() {
    let disk = MemoryDisk::default();
    let mut data = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 5).unwrap();
    data.adopt_cluster(0xABC).unwrap();
    data.adopt_cluster(0xABC).unwrap();
    let text = data.adopt_cluster(0xDEF).unwrap_err().to_string();
    assert!(text.contains("cluster id is 0000000000000abc, but this node was started as 0000000000000def"), "{text}");
    let Err(refused) = DataDir::open(&disk.as_disk(), Path::new(DIR), NodeId(4), 5) else { panic!("accepted") };
    let text = refused.to_string();
    assert!(text.starts_with("data/node.json: node id is 3, but this node was started as 4"), "{text}");
    assert_eq!(DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 5).unwrap().record().cluster_id, 0xABC);
}

#[test]
fn an_ordered_renewal_ends_the_life_wherever_power_fails() {
    for step in 0..30 {
        for policy in policies() {
            let disk = MemoryDisk::default();
            let data = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 5).unwrap();
            disk.as_disk().create_dir_all(&data.meta_dir()).unwrap();
            let kept = Checkpoint::new(&disk.as_disk(), data.meta_dir().join("hard_state"), 1);
            kept.write(b"vote").unwrap();
            disk.as_disk().sync_dir(Path::new(DIR)).unwrap();
            order_renewal(&disk.as_disk(), Path::new(DIR), 5, "an older image").unwrap();
            disk.power_off_at(disk.mutations() + step);
            let first = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 6).map(|data| *data.record());
            disk.crash(policy);
            // The old life is never lived on, and what it kept never belongs to the new one.
            let next = *DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 7).unwrap().record();
            assert_ne!(next.incarnation, 5, "{step} {policy:?}");
            assert_eq!(kept.read().unwrap(), None, "{step} {policy:?}");
            let aside = Checkpoint::new(&disk.as_disk(), "data/meta.0000000000000005/hard_state", 1);
            assert_eq!(aside.read().unwrap().as_deref(), Some(&b"vote"[..]), "{step} {policy:?}");
            if let Ok(first) = first {
                assert_eq!(next.incarnation, first.incarnation);
                assert_eq!(next.boot_number, first.boot_number + 1);
            }
            // It is carried out once.
            kept.write(b"new life").unwrap();
            let last = *DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 8).unwrap().record();
            assert_eq!((last.incarnation, last.boot_number), (next.incarnation, next.boot_number + 1));
            assert!(kept.read().unwrap().is_some());
        }
    }
}

#[test]
fn starts_are_told_apart_by_their_nonces_and_an_older_image_does_not_know_later_ones() {
    let disk = MemoryDisk::default();
    let start = |disk: &MemoryDisk, randomness| {
        let data = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, randomness).unwrap();
        assert_eq!(data.starts().nonce_of(data.record().boot_number), Some(data.nonce()));
        data
    };
    let first = start(&disk, 100).nonce();
    let image = disk.snapshot();
    let second = start(&disk, 200);
    assert_eq!((second.record().boot_number, second.starts().nonce_of(1)), (2, Some(first)));
    let older = MemoryDisk::from_snapshot(&image, CrashPolicy::DropUnsynced);
    for boot_number in 2..8 {
        let again = start(&older, 300 + boot_number);
        assert_eq!((again.record().boot_number, again.starts().nonce_of(1)), (boot_number, Some(first)));
        assert!(again.starts().nonce_of(2).is_some_and(|nonce| nonce != second.nonce()));
        assert_eq!(again.starts().nonce_of(boot_number + 1), None);
    }
    // A damaged list costs only itself.
    disk.flip_bit(Path::new("data/starts"), 30, 1);
    let third = start(&disk, 400);
    assert_eq!((third.record().boot_number, third.starts().nonce_of(2)), (3, None));
}

#[test]
fn no_start_has_a_number_without_a_nonce_wherever_power_fails() {
    for step in 0..20 {
        for policy in policies() {
            let disk = MemoryDisk::default();
            let first = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 5).unwrap().nonce();
            disk.power_off_at(disk.mutations() + step);
            let second = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 6).map(|data| data.nonce());
            disk.crash(policy);
            let next = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 7).unwrap();
            assert_eq!(next.starts().nonce_of(1), Some(first));
            for number in 1..=next.record().boot_number {
                assert!(next.starts().nonce_of(number).is_some(), "{step} {policy:?}");
            }
            if let Ok(second) = second {
                assert_eq!(next.starts().nonce_of(2), Some(second));
            }
        }
    }
}

#[test]
fn a_changed_node_file_is_never_taken_for_another_identity() {
    let disk = MemoryDisk::default();
    DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 0x1234_5678_9ABC_DEF0).unwrap();
    let path = Path::new("data/node.json");
    let snapshot = disk.snapshot();
    for bit in 0..disk.read_file(path).unwrap().len() as u64 * 8 {
        let flipped = MemoryDisk::from_snapshot(&snapshot, CrashPolicy::DropUnsynced);
        flipped.flip_bit(path, bit / 8, (bit % 8) as u8);
        if let Ok(data) = DataDir::open(&flipped.as_disk(), Path::new(DIR), NODE, 1) {
            let expected = (NODE, 0x1234_5678_9ABC_DEF0, 2);
            let record = data.record();
            assert_eq!((record.node_id, record.incarnation, record.boot_number), expected, "bit {bit}");
        }
    }
}

#[test]
fn a_newer_node_file_is_refused_as_such() {
    let disk = MemoryDisk::default();
    let file = with_dir(&disk).open(Path::new("data/node.json"), OpenMode::Create).unwrap();
    file.write_all_at(b"{\"format_version\": 3, \"something\": []}", 0).unwrap();
    let Err(refused) = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 5) else { panic!("accepted") };
    assert_eq!(refused.to_string(), "data/node.json: the file is version 3, this program reads 2");
}

#[test]
fn a_raised_format_stays_and_keeps_programs_out_that_do_not_know_it() {
    let disk = MemoryDisk::default();
    let open = |newest| DataDir::open_up_to(&disk.as_disk(), Path::new(DIR), NODE, 5, newest);
    drop(open(FIRST_FORMAT).unwrap());
    raise_format(&disk.as_disk(), Path::new(DIR), NEWEST_FORMAT).unwrap();
    let Err(refused) = open(FIRST_FORMAT) else { panic!("accepted") };
    assert_eq!(refused.to_string(), "data/node.json: the file is version 2, this program reads 1");
    for boot_number in 2..4 {
        assert_eq!(open(NEWEST_FORMAT).unwrap().record().boot_number, boot_number);
    }
    assert!(open(FIRST_FORMAT).is_err(), "no start lowers it");
}

#[test]
fn data_without_an_identity_is_refused() {
    let disk = MemoryDisk::default();
    with_dir(&disk).create_dir_all(Path::new("data/logs/1-0")).unwrap();
    let Err(refused) = DataDir::open(&disk.as_disk(), Path::new(DIR), NODE, 5) else { panic!("accepted") };
    assert!(matches!(refused, CheckpointError::IdentityMissing { .. }), "{refused}");
}

#[test]
fn two_servers_never_share_a_data_dir() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let backend = BackendChoice::Blocking;
    let disk = open_disk(DiskOptions { backend, ..DiskOptions::default() }).unwrap();
    let first = DataDir::open(&disk, &path, NODE, 5).unwrap();
    let Err(refused) = DataDir::open(&disk, &path, NODE, 5) else { panic!("shared") };
    let holder = std::process::id().to_string();
    assert!(matches!(&refused, CheckpointError::Locked { holder: found, .. } if *found == holder), "{refused}");
    drop(first);
    assert_eq!(DataDir::open(&disk, &path, NODE, 5).unwrap().record().boot_number, 2);
}

fn partition(number: u16) -> TopicPartition {
    TopicPartition::new(TopicId(1), number)
}

fn shard_of(shards: u32) -> impl Fn(TopicPartition) -> u32 {
    move |partition| u32::from(partition.partition) % shards
}

fn marks(count: u16, position: u64) -> Vec<(TopicPartition, u64)> {
    (0..count).map(|number| (partition(number), position)).collect()
}

#[test]
fn marks_survive_any_power_cut_and_never_run_ahead() {
    for step in 0..40 {
        for policy in policies() {
            let disk = MemoryDisk::default();
            let (_, mut files) = FlushedMarks::open(&with_dir(&disk), Path::new(DIR), 1, shard_of(1)).unwrap();
            files[0].store(&marks(3, 100)).unwrap();
            disk.power_off_at(disk.mutations() + step);
            let (mut confirmed, mut tried) = (100, 100);
            for position in [200, 300, 400, 500] {
                // More partitions than the slot has room for, at the third store.
                let count = if position == 400 { 2_000 } else { 3 };
                tried = position;
                if files[0].store(&marks(count, position)).is_err() {
                    break;
                }
                confirmed = position;
            }
            disk.crash(policy);
            let (found, _) = FlushedMarks::open(&disk.as_disk(), Path::new(DIR), 1, shard_of(1)).unwrap();
            let position = found.positions[&partition(0)];
            assert!(position >= confirmed && position <= tried, "{position} {confirmed} {tried} {policy:?}");
            assert!(found.damaged.is_empty());
        }
    }
}

#[test]
fn marks_move_with_their_partitions_to_other_shards() {
    let disk = MemoryDisk::default();
    let dir = Path::new(DIR);
    let (_, mut files) = FlushedMarks::open(&with_dir(&disk), dir, 4, shard_of(4)).unwrap();
    for (shard, file) in files.iter_mut().enumerate() {
        file.store(&[(partition(shard as u16), 10 + shard as u64)]).unwrap();
    }
    let (found, mut files) = FlushedMarks::open(&disk.as_disk(), dir, 2, shard_of(2)).unwrap();
    let expected: Vec<_> = (0..4).map(|shard| (partition(shard), 10 + u64::from(shard))).collect();
    let mut all: Vec<_> = found.positions.into_iter().collect();
    all.sort_unstable();
    assert_eq!(all, expected);
    // A mark that is lowered stays low, also where a second shard once knew it.
    files[1].store_everywhere(&[(partition(1), 11), (partition(3), 5)]).unwrap();
    let (found, _) = FlushedMarks::open(&disk.as_disk(), dir, 4, shard_of(4)).unwrap();
    assert_eq!(found.positions[&partition(3)], 5);
}

#[test]
fn one_damaged_slot_costs_one_store_and_two_cost_the_marks() {
    let disk = MemoryDisk::default();
    let dir = Path::new(DIR);
    let (_, mut files) = FlushedMarks::open(&with_dir(&disk), dir, 1, shard_of(1)).unwrap();
    files[0].store(&marks(3, 100)).unwrap();
    files[0].store(&marks(3, 200)).unwrap();
    let (path, len) = (files[0].path().to_owned(), disk.read_file(files[0].path()).unwrap().len() as u64);
    let snapshot = disk.snapshot();
    for half in [0, len / 2] {
        let flipped = MemoryDisk::from_snapshot(&snapshot, CrashPolicy::DropUnsynced);
        flipped.flip_bit(&path, half + 50, 0);
        let (found, _) = FlushedMarks::open(&flipped.as_disk(), dir, 1, shard_of(1)).unwrap();
        assert!(found.positions[&partition(0)] >= 100);
    }
    disk.flip_bit(&path, 50, 0);
    disk.flip_bit(&path, len / 2 + 50, 0);
    let (found, mut files) = FlushedMarks::open(&disk.as_disk(), dir, 1, shard_of(1)).unwrap();
    assert_eq!((found.positions.len(), &found.damaged), (0, &vec![path]));
    files[0].store(&marks(3, 300)).unwrap();
    let (found, _) = FlushedMarks::open(&disk.as_disk(), dir, 1, shard_of(1)).unwrap();
    assert_eq!(found.positions[&partition(2)], 300);
}

#[test]
fn the_reserve_is_given_back_and_taken_again() {
    let disk = MemoryDisk::default();
    let shared = with_dir(&disk);
    let path = Path::new("data/reserve");
    let mut reserve = Reserve::open(&shared, path, 5 << 20).unwrap();
    assert!(reserve.is_held());
    disk.set_capacity(Some(6 << 20));
    let other = shared.open(Path::new("data/other"), OpenMode::Create).unwrap();
    assert!(other.write_all_at(&[1; 2 << 20], 0).unwrap_err().is_no_space());
    assert!(reserve.release().unwrap());
    other.write_all_at(&[1; 2 << 20], 0).unwrap();
    // Not while that would leave nothing free.
    assert!(!reserve.refill().unwrap());
    assert!(!reserve.release().unwrap());
    disk.set_capacity(Some(20 << 20));
    assert!(reserve.refill().unwrap());
    disk.crash(CrashPolicy::DropUnsynced);
    assert!(Reserve::open(&shared, path, 5 << 20).unwrap().is_held());
    assert_eq!(disk.durable_file(path).unwrap().len(), 5 << 20);
}

#[test]
fn a_disk_too_full_for_the_reserve_still_opens() {
    let disk = MemoryDisk::default();
    let shared = with_dir(&disk);
    disk.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::ENOSPC)).after(2));
    let mut reserve = Reserve::open(&shared, Path::new("data/reserve"), 5 << 20).unwrap();
    assert!(!reserve.is_held());
    assert!(reserve.refill().unwrap());
}

#[test]
fn a_start_on_a_full_disk_gets_the_reserve_and_one_more_gets_the_rest() {
    let disk = MemoryDisk::default();
    let shared = disk.as_disk();
    let path = Path::new("data");
    let reserve_path = DataDir::open(&shared, path, NodeId(1), 7).unwrap().reserve_path();
    assert!(Reserve::open(&shared, &reserve_path, 16 << 20).unwrap().is_held());
    // Others take every byte, then those of the reserve, then those of its last part.
    let other = shared.open(Path::new("data/other"), OpenMode::CreateOrOpen).unwrap();
    let used =
        |disk: &MemoryDisk| disk.space(Path::new("data")).map(|space| space.total_bytes - space.free_bytes).unwrap();
    disk.set_capacity(Some(used(&disk)));
    let mut boots = 1;
    for left in [1 << 20, 0] {
        let opened = DataDir::open(&shared, path, NodeId(1), 7).unwrap();
        boots += 1;
        assert_eq!(opened.record().boot_number, boots);
        drop(opened);
        assert_eq!(shared.open(&reserve_path, OpenMode::Read).unwrap().len().unwrap(), left);
        let free = disk.space(Path::new("data")).unwrap().free_bytes;
        let end = other.len().unwrap();
        other.write_all_at(&vec![1; free as usize], end).unwrap();
        assert_eq!(disk.space(Path::new("data")).unwrap().free_bytes, 0);
    }
}

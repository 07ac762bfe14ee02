//! Faults on a real disk: what fails, what is slow, and that everybody is woken up.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::notify::wait_readable;
use super::super::*;
use super::*;

/// Far beyond what any operation takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    disk: Arc<dyn Disk>,
    switch: Arc<FaultSwitch>,
    queue: Box<dyn WriteQueue>,
    pool: SlotPool,
    root: PathBuf,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new(backend: BackendChoice, threads: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let options = DiskOptions { backend, o_direct: true };
        let inner = match open_disk(options) {
            Ok(disk) => disk,
            Err(error) => {
                eprintln!("not run: {error}");
                return None;
            }
        };
        let switch = Arc::new(FaultSwitch::new(root.clone()));
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(inner, Arc::clone(&switch)));
        disk.create_dir_all(&root.join("logs/1-0")).unwrap();
        disk.create_dir_all(&root.join("meta")).unwrap();
        let arena = Arena::new(BLOCK, 16).unwrap();
        let queue = disk.write_queue(&QueueOptions { depth: 8, threads }, &arena).unwrap();
        Some(Self { disk, switch, queue, pool: SlotPool::new(arena), root, _folder: folder })
    }

    fn blocking() -> Self {
        Self::new(BackendChoice::Blocking, 2).unwrap()
    }

    fn file(&self, name: &str) -> Arc<dyn DiskFile> {
        self.disk.open(&self.root.join(name), OpenMode::CreateOrOpen).unwrap()
    }

    fn command(&self, json: &str) {
        self.switch.apply(&serde_json::from_str(json).unwrap()).unwrap();
    }

    fn submit(&mut self, token: u64, file: &Arc<dyn DiskFile>, fill: u8) {
        let mut slot = self.pool.take().unwrap();
        slot.fill(fill);
        let chunks = vec![Chunk { slot, slot_start: 0, len: BLOCK as u32, file_offset: 0 }];
        let kind = OpKind::Write { chunks, sync: true };
        let file = Arc::clone(file);
        self.queue.submit(DiskOp { token, file, kind }).unwrap();
    }

    /// Collects by the descriptor alone, as a shard does.
    fn collect(&mut self, count: usize) -> Vec<DiskCompletion> {
        self.queue.kick().unwrap();
        let (fd, started) = (self.queue.notify_fd().unwrap(), Instant::now());
        let mut done = Vec::new();
        while done.len() < count {
            assert!(started.elapsed() < PATIENCE, "{} of {count} completed", done.len());
            wait_readable(fd, PATIENCE);
            self.queue.completions(&mut done);
        }
        done
    }

    fn put_back(&mut self, done: Vec<DiskCompletion>) {
        let slots = done.into_iter().flat_map(|done| done.chunks).map(|chunk| chunk.slot);
        slots.for_each(|slot| self.pool.put(slot));
    }
}

fn readable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd that lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

#[test]
fn without_faults_everything_passes() {
    for (backend, threads) in [(BackendChoice::Blocking, 2), (BackendChoice::Blocking, 0), (BackendChoice::IoUring, 0)]
    {
        let Some(mut rig) = Rig::new(backend, threads) else { continue };
        let file = rig.file("logs/1-0/a");
        rig.submit(7, &file, 1);
        let done = rig.collect(1);
        assert_eq!((done[0].token, done[0].result.clone()), (7, Ok(())));
        rig.put_back(done);
        assert_eq!(rig.queue.in_flight(), 0);
        assert!(!readable(rig.queue.notify_fd().unwrap()));
        let mut back = [0; 16];
        assert_eq!(file.read_at(&mut back, 0), Ok(16));
        assert_eq!(back, [1; 16]);
    }
}

#[test]
fn a_sync_error_hits_as_often_as_asked_and_only_its_path() {
    let mut rig = Rig::blocking();
    rig.command(r#"{"kind":"sync_error","path":"logs/1-0","count":2}"#);
    let (hit, spared) = (rig.file("logs/1-0/a"), rig.file("meta/a"));
    for (token, expected) in [(1, Some(libc::EIO)), (2, Some(libc::EIO)), (3, None)] {
        rig.submit(token, &hit, token as u8);
        let done = rig.collect(1);
        assert_eq!(done[0].token, token);
        assert_eq!(done[0].result.as_ref().err().and_then(DiskError::errno), expected);
        assert_eq!(done[0].chunks.len(), 1, "the slots come back");
        rig.put_back(done);
    }
    rig.command(r#"{"kind":"sync_error","path":"logs/1-0"}"#);
    assert_eq!(spared.sync(), Ok(()));
    assert_eq!(hit.sync().unwrap_err().errno(), Some(libc::EIO));
    assert_eq!(hit.sync(), Ok(()));
}

#[test]
fn a_refused_write_leaves_nothing_behind() {
    let mut rig = Rig::blocking();
    let file = rig.file("logs/1-0/a");
    rig.command(r#"{"kind":"write_error"}"#);
    rig.submit(1, &file, 9);
    let done = rig.collect(1);
    assert_eq!(done[0].result.as_ref().unwrap_err().errno(), Some(libc::EIO));
    rig.put_back(done);
    assert_eq!(file.len(), Ok(0));
}

#[test]
fn a_full_disk_spares_what_a_reserve_would_keep_alive() {
    let mut rig = Rig::blocking();
    let (log, raft) = (rig.file("logs/1-0/a"), rig.file("meta/raft"));
    rig.command(r#"{"kind":"no_space","on":true}"#);
    rig.submit(1, &log, 1);
    let done = rig.collect(1);
    assert!(done[0].result.as_ref().unwrap_err().is_no_space());
    rig.put_back(done);
    assert_eq!(raft.write_all_at(b"entry", 0), Ok(()));
    assert_eq!(rig.disk.space(&rig.root).unwrap().free_bytes, 0);
    rig.command(r#"{"kind":"no_space","on":false}"#);
    assert!(rig.disk.space(&rig.root).unwrap().free_bytes > 0);
    rig.submit(2, &log, 1);
    let done = rig.collect(1);
    assert_eq!(done[0].result, Ok(()));
    rig.put_back(done);
}

#[test]
fn a_slow_disk_reports_late_and_wakes_up_whoever_waits() {
    for (backend, threads) in [(BackendChoice::Blocking, 2), (BackendChoice::Blocking, 0), (BackendChoice::IoUring, 0)]
    {
        let Some(mut rig) = Rig::new(backend, threads) else { continue };
        let (slow, fast) = (rig.file("logs/1-0/a"), rig.file("meta/b"));
        rig.command(r#"{"kind":"slow","millis":80,"path":"logs/"}"#);
        let started = Instant::now();
        rig.submit(1, &slow, 1);
        rig.submit(2, &fast, 1);
        let submitted = started.elapsed();
        assert!(submitted < Duration::from_millis(80), "submitting does not wait: {submitted:?}");
        let done = rig.collect(2);
        assert!(started.elapsed() >= Duration::from_millis(80));
        assert_eq!(done.iter().map(|done| done.token).collect::<Vec<_>>(), [2, 1]);
        rig.put_back(done);
        rig.command(r#"{"kind":"clear"}"#);
        rig.submit(3, &slow, 1);
        rig.queue.wait(PATIENCE);
        let mut done = Vec::new();
        rig.queue.completions(&mut done);
        assert_eq!(done.len(), 1, "waiting ends with a completion");
        rig.put_back(done);
    }
}

#[test]
fn created_files_have_faults_too_and_depth_is_kept() {
    let mut rig = Rig::blocking();
    let any = rig.file("meta/any");
    let path = rig.root.join("logs/1-0/new");
    let kind = OpKind::Create { path };
    let file = Arc::clone(&any);
    rig.queue.submit(DiskOp { token: 1, file, kind }).unwrap();
    let created = rig.collect(1).remove(0).file.unwrap();
    rig.command(r#"{"kind":"sync_error","path":"logs/1-0/new"}"#);
    assert!(created.sync().is_err());
    rig.command(r#"{"kind":"slow","millis":20}"#);
    for token in 0..8 {
        rig.submit(token, &created, 0);
    }
    let (file, kind) = (Arc::clone(&any), OpKind::Sync);
    let refused = rig.queue.submit(DiskOp { token: 8, file, kind }).unwrap_err();
    assert_eq!(refused.token, 8);
    let done = rig.collect(8);
    rig.put_back(done);
    assert_eq!(rig.queue.in_flight(), 0);
}

#[test]
fn commands_that_make_no_sense_are_refused() {
    for json in [
        r#"{"kind":"sync_error","paht":"logs"}"#,
        r#"{"kind":"flip"}"#,
        r#"{"kind":"no_space"}"#,
        r#"{"kind":"clear","path":"x"}"#,
    ] {
        assert!(serde_json::from_str::<FaultCommand>(json).is_err(), "{json}");
    }
    let switch = FaultSwitch::new(PathBuf::from("/data"));
    let slow = FaultCommand::Slow { millis: 60_001, path: String::new() };
    assert_eq!(switch.apply(&slow), Err(FaultRefused::TooSlow { millis: 60_001 }));
    let error = FaultCommand::SyncError { path: String::new(), count: 1 };
    for _ in 0..MAX_RULES {
        switch.apply(&error).unwrap();
    }
    assert_eq!(switch.apply(&error), Err(FaultRefused::TooMany));
    switch.apply(&FaultCommand::Clear {}).unwrap();
    assert_eq!(switch.apply(&error), Ok(()));
}

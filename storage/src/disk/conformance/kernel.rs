//! What the suite needs the kernel for: full file systems, refused system calls, time.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use super::*;

/// A file system of one megabyte, gone with the guard; `None` where mounting is not allowed.
struct TinyFileSystem(tempfile::TempDir);

impl TinyFileSystem {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let target = CString::new(folder.path().as_os_str().as_bytes()).unwrap();
        let (name, options) = (c"tmpfs".as_ptr(), c"size=1m".as_ptr().cast());
        // SAFETY: terminated strings that live through the call.
        let mounted = unsafe { libc::mount(name, target.as_ptr(), name, 0, options) };
        (mounted == 0).then_some(Self(folder))
    }
}

impl Drop for TinyFileSystem {
    fn drop(&mut self) {
        let target = CString::new(self.0.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: a terminated string that lives through the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

pub(super) fn a_full_disk_is_told_and_writing_goes_on_when_there_is_space(home: Home) {
    let Some(tiny) = TinyFileSystem::mount() else {
        eprintln!("not run: mounting is not allowed");
        return;
    };
    let (slot_bytes, root) = (64 * BLOCK, tiny.0.path().to_owned());
    let Some(mut rig) = Rig::in_folder(home, slot_bytes, 8, root.clone(), None) else {
        return;
    };
    rig.disk.create_dir_all(&root).unwrap();
    if home == Home::Memory {
        let disk = MemoryDisk::new(MemoryConfig { capacity_bytes: Some(1 << 20), ..MemoryConfig::default() });
        disk.create_dir_all(&root).unwrap();
        rig.queue = disk.write_queue(&QueueOptions::default(), rig.pool.arena()).unwrap();
        rig.disk = disk.as_disk();
    }
    let (ballast, file) = (rig.file("ballast"), rig.file("log"));
    let chunks = (0..2).map(|at| rig.chunk(1, at * slot_bytes as u64)).collect();
    rig.run(&ballast, OpKind::Write { chunks, sync: true });
    let chunks = (0..3).map(|at| rig.chunk(2, at * slot_bytes as u64)).collect();
    rig.submit(1, &file, OpKind::Write { chunks, sync: true });
    let refused = rig.finish().remove(0);
    let error = refused.result.unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(refused.chunks.len(), 3);
    rig.submit(1, &file, OpKind::Zero { file_offset: 0, len: 2 << 20 });
    assert!(rig.finish().remove(0).result.unwrap_err().is_no_space());
    rig.run(&ballast, OpKind::SetLen { len: 0 });
    rig.run(&file, OpKind::SetLen { len: 0 });
    rig.run(&file, OpKind::Write { chunks: refused.chunks, sync: true });
    assert!(content(&file) == vec![2; 3 * slot_bytes]);
    drop((rig, ballast, file));
}

/// Nothing but [`WriteQueue::kick`] submits: no parked thread is needed.
#[test]
fn a_write_beside_an_always_ready_task_completes_in_a_millisecond() {
    let Some(mut rig) = Rig::new(Home::IoUring, BLOCK, 4) else {
        return;
    };
    let file = rig.file("a");
    let chunks = vec![rig.chunk(1, 0)];
    rig.run(&file, OpKind::Write { chunks, sync: true });
    // The best quarter: a machine that runs other tests may be slow, a queue that needs a parked thread always is.
    let mut times: Vec<Duration> = (0..100)
        .map(|round| {
            let chunks = vec![rig.chunk(round, 0)];
            rig.submit(1, &file, OpKind::Write { chunks, sync: true });
            let started = Instant::now();
            rig.queue.kick().unwrap();
            let mut done = Vec::new();
            while done.is_empty() && started.elapsed() < PATIENCE {
                std::hint::spin_loop();
                rig.queue.completions(&mut done);
            }
            let took = started.elapsed();
            rig.put_back(&mut done[0]);
            took
        })
        .collect();
    times.sort();
    assert!(times[25] < Duration::from_millis(1), "{:?}", times[25]);
}

/// Set in the process that runs without io_uring.
const REFUSED: &str = "LANCE_TEST_IO_URING_REFUSED";

#[test]
fn where_the_kernel_refuses_io_uring_auto_falls_back_and_says_so() {
    if std::env::var_os(REFUSED).is_some() {
        return without_io_uring();
    }
    let me = "where_the_kernel_refuses_io_uring_auto_falls_back_and_says_so";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([me, "--nocapture"]).env(REFUSED, "1");
    // SAFETY: the hook makes system calls only, and allocates nothing.
    unsafe { child.pre_exec(refuse_io_uring) };
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Makes `io_uring_setup` answer EPERM in this process, as containers do.
fn refuse_io_uring() -> std::io::Result<()> {
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let filter = |code, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: a filter program that lives through the calls; they touch this process only.
    let result = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        } else {
            -1
        }
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn without_io_uring() {
    for backend in [BackendChoice::IoUring, BackendChoice::TokioUring] {
        let error = open_disk(DiskOptions { backend, o_direct: true }).err().unwrap();
        assert_eq!(error.errno(), Some(libc::EPERM), "{error}");
    }
    let disk = open_disk(DiskOptions::default()).unwrap();
    let backend = disk.backend();
    assert_eq!((backend.kind, backend.refused), (BackendKind::Blocking, Some(libc::EPERM)));
    assert_eq!(backend.to_string(), "blocking");
    let folder = tempfile::tempdir().unwrap();
    let arena = Arena::new(BLOCK, 64).unwrap();
    let queue = disk.write_queue(&QueueOptions::default(), &arena).unwrap();
    let (pool, root) = (SlotPool::new(arena), folder.path().to_owned());
    let mut rig = Rig { queue, pool, disk, root, _folder: Some(folder) };
    let file = rig.file("a");
    let chunks = vec![rig.chunk(3, 0)];
    rig.run(&file, OpKind::Write { chunks, sync: true });
    assert!(content(&file) == [3; BLOCK]);
}

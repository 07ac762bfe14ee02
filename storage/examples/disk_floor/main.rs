//! Measures what the disk under the temporary folder can do, and through which calls: the floor for `docs/Disk.md`.
//!
//! `cargo run --release -p lance-storage --example disk_floor [-- latency|groups|window|homes|busy] [folder]`

mod homes;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use io_uring::{IoUring, opcode, squeue, types};
use lance_storage::disk::{Arena, Slot, SlotPool};

const KB: usize = 1 << 10;
const MB: usize = 1 << 20;
/// Rounds over all variants, so that a noisy minute hits all of them alike.
const ROUNDS: usize = 8;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let part = arguments.next().unwrap_or_else(|| "all".to_owned());
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("disk_floor.{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let measured = measure(&part, &folder);
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn measure(part: &str, folder: &Path) -> Result<(), Failure> {
    let wanted = |name: &str| part == name || part == "all";
    if wanted("latency") {
        latency(folder)?;
    }
    if wanted("groups") {
        groups(folder)?;
    }
    if wanted("window") {
        window(folder)?;
    }
    if wanted("homes") {
        homes::measure(folder, false)?;
        homes::measure(folder, true)?;
    }
    if wanted("busy") {
        busy(folder)?;
    }
    Ok(())
}

/// How one group is written and synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    InlineDsync,
    InlineDirectSync,
    InlineBufferedSync,
    RingDsync,
    RingDsyncFixed,
    RingLinked,
    RingLinkedFixed,
    RingLinkedAsync,
    RingSequence,
    RingBufferedLinked,
}

impl Way {
    const ALL: [Self; 10] = [
        Self::InlineDsync,
        Self::InlineDirectSync,
        Self::InlineBufferedSync,
        Self::RingDsync,
        Self::RingDsyncFixed,
        Self::RingLinked,
        Self::RingLinkedFixed,
        Self::RingLinkedAsync,
        Self::RingSequence,
        Self::RingBufferedLinked,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::InlineDsync => "blocking inline, O_DIRECT + RWF_DSYNC",
            Self::InlineDirectSync => "blocking inline, O_DIRECT, then fdatasync",
            Self::InlineBufferedSync => "blocking inline, buffered, then fdatasync",
            Self::RingDsync => "io_uring + poll, O_DIRECT + RWF_DSYNC",
            Self::RingDsyncFixed => "io_uring + poll, O_DIRECT + RWF_DSYNC, registered",
            Self::RingLinked => "io_uring + poll, O_DIRECT linked to fdatasync",
            Self::RingLinkedFixed => "io_uring + poll, O_DIRECT linked to fdatasync, registered",
            Self::RingLinkedAsync => "io_uring + poll, O_DIRECT linked to fdatasync, IOSQE_ASYNC",
            Self::RingSequence => "io_uring + poll, O_DIRECT, wake, fdatasync",
            Self::RingBufferedLinked => "io_uring + poll, buffered linked to fdatasync",
        }
    }
}

/// A file with both descriptors, a buffer, and a ring.
struct Bench {
    direct: File,
    buffered: File,
    slot: Slot,
    ring: IoUring,
}

impl Bench {
    fn new(folder: &Path, name: &str) -> Result<Self, Failure> {
        let path = folder.join(name);
        let buffered = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path)?;
        let mut slot = SlotPool::new(Arena::new(4 * MB, 1)?).take().ok_or("no slot")?;
        slot.fill(0xA5);
        let ring = IoUring::builder().build(64)?;
        let vectors = [libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() }];
        // SAFETY: the slot lives in `Bench` beside the ring, and every write is awaited.
        unsafe { ring.submitter().register_buffers(&vectors)? };
        Ok(Self { direct, buffered, slot, ring })
    }

    /// Writes `bytes` at `offset` and syncs.
    fn group(&mut self, way: Way, bytes: usize, offset: u64) -> io::Result<()> {
        let (direct, buffered) = (self.direct.as_raw_fd(), self.buffered.as_raw_fd());
        match way {
            Way::InlineDsync => pwrite(direct, &self.slot[..bytes], offset, libc::RWF_DSYNC),
            Way::InlineDirectSync => {
                pwrite(direct, &self.slot[..bytes], offset, 0)?;
                self.direct.sync_data()
            }
            Way::InlineBufferedSync => {
                pwrite(buffered, &self.slot[..bytes], offset, 0)?;
                self.buffered.sync_data()
            }
            Way::RingSequence => {
                self.ring_write(way, direct, bytes, offset, 0, squeue::Flags::empty())?;
                drain(&mut self.ring, 1)?;
                push(&mut self.ring, sync_entry(direct))?;
                drain(&mut self.ring, 1)
            }
            Way::RingLinked | Way::RingLinkedFixed | Way::RingLinkedAsync | Way::RingBufferedLinked => {
                let fd = if way == Way::RingBufferedLinked { buffered } else { direct };
                let apart = if way == Way::RingLinkedAsync { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
                self.ring_write(way, fd, bytes, offset, 0, squeue::Flags::IO_LINK | apart)?;
                push(&mut self.ring, sync_entry(fd))?;
                drain(&mut self.ring, 2)
            }
            Way::RingDsync | Way::RingDsyncFixed => {
                self.ring_write(way, direct, bytes, offset, libc::RWF_DSYNC, squeue::Flags::empty())?;
                drain(&mut self.ring, 1)
            }
        }
    }

    fn ring_write(
        &mut self,
        way: Way,
        fd: RawFd,
        bytes: usize,
        offset: u64,
        flags: i32,
        link: squeue::Flags,
    ) -> io::Result<()> {
        let (data, len) = (self.slot.as_ptr(), bytes as u32);
        let entry = if matches!(way, Way::RingDsyncFixed | Way::RingLinkedFixed) {
            opcode::WriteFixed::new(types::Fd(fd), data, len, 0).offset(offset).rw_flags(flags).build()
        } else {
            opcode::Write::new(types::Fd(fd), data, len).offset(offset).rw_flags(flags).build()
        };
        push(&mut self.ring, entry.flags(link))
    }
}

fn sync_entry(fd: RawFd) -> squeue::Entry {
    opcode::Fsync::new(types::Fd(fd)).flags(types::FsyncFlags::DATASYNC).build()
}

fn push(ring: &mut IoUring, entry: squeue::Entry) -> io::Result<()> {
    // SAFETY: buffers and files of the entry live until `drain` has seen its completion.
    unsafe { ring.submission().push(&entry) }.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))
}

/// Submits, then sleeps on the ring's descriptor like an event loop, until `count` completions came.
fn drain(ring: &mut IoUring, mut count: usize) -> io::Result<()> {
    ring.submit()?;
    while count > 0 {
        let mut poll = libc::pollfd { fd: ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, -1) };
        for completion in ring.completion() {
            count -= 1;
            if completion.result() < 0 {
                return Err(io::Error::from_raw_os_error(-completion.result()));
            }
        }
    }
    Ok(())
}

fn pwrite(fd: RawFd, data: &[u8], offset: u64, flags: i32) -> io::Result<()> {
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the vector covers `data`, which outlives the call.
    let written = unsafe { libc::pwritev2(fd, &raw const vector, 1, offset as i64, flags) };
    match usize::try_from(written) {
        Ok(written) if written == data.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Microseconds, sorted on demand.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn time<T>(&mut self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let started = Instant::now();
        let result = work()?;
        self.0.push(started.elapsed().as_nanos() as f64 / 1000.0);
        Ok(result)
    }

    fn quantile(&mut self, quantile: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let last = self.0.len().saturating_sub(1) as f64;
        self.0.get((last * quantile) as usize).copied().unwrap_or(0.0)
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }
}

/// Small groups, one after the other.
fn latency(folder: &Path) -> Result<(), Failure> {
    const AREA: usize = 32 * MB;
    for bytes in [4 * KB, 64 * KB] {
        let mut table = Vec::new();
        for way in Way::ALL {
            let mut bench = Bench::new(folder, &format!("latency {way:?}"))?;
            for at in (0..AREA).step_by(MB) {
                bench.group(Way::InlineDirectSync, MB, at as u64)?;
            }
            table.push((way, bench, [Samples::default(), Samples::default()], AREA as u64));
        }
        for round in 0..ROUNDS {
            for (way, bench, [over, append], end) in &mut table {
                for step in 0..100 {
                    let at = ((round * 100 + step) * bytes % AREA) as u64;
                    over.time(|| bench.group(*way, bytes, at))?;
                }
                for _ in 0..50 {
                    append.time(|| bench.group(*way, bytes, *end))?;
                    *end += bytes as u64;
                }
            }
        }
        println!("\n| {} KB, µs | written blocks p50 | p99 | append p50 | p99 |\n|---|---|---|---|---|", bytes / KB);
        for (way, _, [over, append], _) in &mut table {
            let figures = [over.quantile(0.5), over.quantile(0.99), append.quantile(0.5), append.quantile(0.99)];
            println!(
                "| {} | {:.0} | {:.0} | {:.0} | {:.0} |",
                way.name(),
                figures[0],
                figures[1],
                figures[2],
                figures[3]
            );
        }
    }
    Ok(())
}

/// Large groups: whole, or in parts side by side.
fn groups(folder: &Path) -> Result<(), Failure> {
    println!(
        "\n| groups, each synced | append p50 µs | append MB/s | written blocks p50 µs | MB/s |\n|---|---|---|---|---|"
    );
    for (bytes, parts) in [(256 * KB, 1), (MB, 1), (MB, 4), (4 * MB, 1), (4 * MB, 4), (4 * MB, 16)] {
        let whole =
            [Way::InlineDsync, Way::InlineDirectSync, Way::RingLinked, Way::RingLinkedFixed, Way::RingLinkedAsync];
        let both = [Way::RingDsync, Way::RingSequence];
        for way in whole.into_iter().filter(|_| parts == 1).chain(both) {
            let mut bench = Bench::new(folder, "groups")?;
            let (mut append, mut over) = (Samples::default(), Samples::default());
            let count = (64 * MB / bytes) as u64;
            for samples in [&mut append, &mut over] {
                for number in 0..count {
                    let at = number * bytes as u64;
                    samples.time(|| parallel(&mut bench, way, bytes, parts, at))?;
                }
            }
            std::fs::remove_file(folder.join("groups"))?;
            let rate = |samples: &Samples| bytes as f64 / samples.mean() * 1e6 / MB as f64;
            println!(
                "| {} KB in {parts}: {} | {:.0} | {:.0} | {:.0} | {:.0} |",
                bytes / KB,
                way.name(),
                append.quantile(0.5),
                rate(&append),
                over.quantile(0.5),
                rate(&over)
            );
        }
    }
    Ok(())
}

/// A group in equal parts side by side: each synced by itself, or all by one sync behind them.
fn parallel(bench: &mut Bench, way: Way, bytes: usize, parts: usize, offset: u64) -> io::Result<()> {
    if parts == 1 {
        return bench.group(way, bytes, offset);
    }
    let (fd, part) = (bench.direct.as_raw_fd(), bytes / parts);
    let flags = if way == Way::RingDsync { libc::RWF_DSYNC } else { 0 };
    for number in 0..parts {
        let data = bench.slot[number * part..].as_ptr();
        let entry = opcode::Write::new(types::Fd(fd), data, part as u32).offset(offset + (number * part) as u64);
        push(&mut bench.ring, entry.rw_flags(flags).build())?;
    }
    drain(&mut bench.ring, parts)?;
    if way == Way::RingSequence {
        push(&mut bench.ring, sync_entry(fd))?;
        drain(&mut bench.ring, 1)?;
    }
    Ok(())
}

/// Does a zeroed-ahead window pay? Appending, against zeroing first (unsynced) and writing over it.
fn window(folder: &Path) -> Result<(), Failure> {
    println!(
        "\n| group | append p50 µs | into the window p50 µs | zeroing it, mean µs | append mean µs | window + zeroing mean µs |\n|---|---|---|---|---|---|"
    );
    for bytes in [4 * KB, 16 * KB, 64 * KB, 128 * KB, 256 * KB, 512 * KB, MB] {
        let [mut append, mut over, mut zero] = [Samples::default(), Samples::default(), Samples::default()];
        for round in 0..ROUNDS {
            let total = (8 * MB).min(bytes * 64) as u64;
            for windowed in [false, true] {
                let mut bench = Bench::new(folder, "window")?;
                let way = if bytes <= 64 * KB || !windowed { Way::RingDsync } else { Way::RingLinked };
                let mut zeroed = 0;
                for at in (0..total).step_by(bytes) {
                    if windowed && at + bytes as u64 > zeroed {
                        let fd = bench.direct.as_raw_fd();
                        let started = Instant::now();
                        pwrite(fd, &bench.slot[..MB.min(total as usize)], zeroed, 0)?;
                        let window = MB.min(total as usize);
                        zero.0.push(started.elapsed().as_nanos() as f64 / 1000.0 * bytes as f64 / window as f64);
                        zeroed += window as u64;
                    }
                    let samples = if windowed { &mut over } else { &mut append };
                    samples.time(|| bench.group(way, bytes, at))?;
                }
                std::fs::remove_file(folder.join("window"))?;
            }
            let _ = round;
        }
        println!(
            "| {} KB | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            bytes / KB,
            append.quantile(0.5),
            over.quantile(0.5),
            zero.mean(),
            append.mean(),
            over.mean() + zero.mean()
        );
    }
    Ok(())
}

/// The same while the thread never sleeps, as an event loop with an always-ready task.
fn busy(folder: &Path) -> Result<(), Failure> {
    println!(
        "\n| 4 KB over written blocks, thread busy, µs | p50 | p99 | after a `sched_yield` each turn p50 | p99 |\n|---|---|---|---|---|"
    );
    let area = 4 * MB;
    for way in [Way::RingDsync, Way::RingLinked, Way::RingSequence] {
        let mut bench = Bench::new(folder, "busy")?;
        for at in (0..area).step_by(MB) {
            bench.group(Way::InlineDirectSync, MB, at as u64)?;
        }
        let mut figures = Vec::new();
        for yields in [false, true] {
            let mut samples = Samples::default();
            for number in 0..300 {
                let at = (number * 4 * KB % area) as u64;
                let fd = bench.direct.as_raw_fd();
                let flags = if way == Way::RingDsync { libc::RWF_DSYNC } else { 0 };
                let link = if way == Way::RingLinked { squeue::Flags::IO_LINK } else { squeue::Flags::empty() };
                samples.time(|| {
                    bench.ring_write(way, fd, 4 * KB, at, flags, link)?;
                    if way == Way::RingLinked {
                        push(&mut bench.ring, sync_entry(fd))?;
                    }
                    spin(&mut bench.ring, if way == Way::RingLinked { 2 } else { 1 }, yields)?;
                    if way == Way::RingSequence {
                        push(&mut bench.ring, sync_entry(fd))?;
                        spin(&mut bench.ring, 1, yields)?;
                    }
                    Ok(())
                })?;
            }
            figures.extend([samples.quantile(0.5), samples.quantile(0.99)]);
        }
        println!("| {} | {:.0} | {:.0} | {:.0} | {:.0} |", way.name(), figures[0], figures[1], figures[2], figures[3]);
    }
    Ok(())
}

/// Submits, then looks for `count` completions without ever sleeping.
fn spin(ring: &mut IoUring, mut count: usize, yields: bool) -> io::Result<()> {
    ring.submit()?;
    while count > 0 {
        let mut poll = libc::pollfd { fd: ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call, and a call without arguments.
        unsafe {
            libc::poll(&raw mut poll, 1, 0);
            if yields {
                libc::sched_yield();
            }
        }
        for completion in ring.completion() {
            count -= 1;
            if completion.result() < 0 {
                return Err(io::Error::from_raw_os_error(-completion.result()));
            }
        }
    }
    Ok(())
}

//! What goes wrong: a seed picks some kinds of faults, and when each strikes.

use super::disk::FileKind;
use super::node::{DATA_DIR, Node};
use super::rng::Rng;
use lance_messages::id::TopicPartition;
use lance_storage::disk::memory::{Fault, FaultKind};
use lance_storage::disk::{Disk, Operation};
use std::path::{Path, PathBuf};

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The power fails at a change of a given kind of file.
    CutAtFile(FileKind),
    /// The power fails after so many changes.
    CutAfter,
    /// The process is killed; the disk keeps what was written.
    Kill,
    /// A sync fails.
    SyncError,
    /// A write fails, maybe in the middle.
    WriteError,
    /// The disk is full for a while.
    NoSpace,
    /// The disk stalls.
    Stall,
    /// An actor fails.
    ActorFailure,
    /// A wall clock jumps.
    ClockJump,
    /// A bit flips in a closed segment.
    BitFlip,
    /// Connections break.
    Disconnect,
}

/// The faults of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    kinds: Vec<Trouble>,
    interval_ns: (u64, u64),
}

impl Plan {
    /// What the seed picks; with `durable_acks` also what loses the content of caches.
    pub fn new(rng: &mut Rng, durable_acks: bool) -> Self {
        let mut all = vec![
            Trouble::Kill,
            Trouble::NoSpace,
            Trouble::Stall,
            Trouble::ActorFailure,
            Trouble::ClockJump,
            Trouble::BitFlip,
            Trouble::Disconnect,
        ];
        if durable_acks {
            all.extend([Trouble::SyncError, Trouble::WriteError]);
            all.push(Trouble::CutAfter);
            all.extend(FileKind::ALL.map(Trouble::CutAtFile));
        }
        let mut kinds: Vec<Trouble> = all.into_iter().filter(|_| rng.once_in(2)).collect();
        if kinds.is_empty() {
            kinds.push(Trouble::Kill);
        }
        let shortest = rng.range(20_000_000, 300_000_000);
        Self { kinds, interval_ns: (shortest, shortest * 4) }
    }

    /// A plan of these faults only.
    pub fn of(kinds: &[Trouble]) -> Self {
        Self { kinds: kinds.to_vec(), interval_ns: (60_000_000, 300_000_000) }
    }

    /// What strikes now.
    pub fn pick(&self, rng: &mut Rng) -> Option<Trouble> {
        rng.pick(&self.kinds)
    }

    /// How long until the next.
    pub fn pause_ns(&self, rng: &mut Rng) -> u64 {
        rng.range(self.interval_ns.0, self.interval_ns.1)
    }
}

const PLACES: [&str; 6] = ["/logs/", "/meta/", "promises", "flushed", "node.json", ""];

/// A failing sync, somewhere.
pub fn sync_error(node: &Node, rng: &mut Rng) {
    let place = rng.pick(&PLACES).unwrap_or_default();
    let operation = if rng.once_in(5) { Operation::SyncDir } else { Operation::Sync };
    node.disk.memory().inject(Fault::new(operation, FaultKind::Errno(libc_errno::EIO)).on(place).after(rng.below(6)));
}

/// A failing write, maybe one that got some of its bytes down.
pub fn write_error(node: &Node, rng: &mut Rng) {
    let place = rng.pick(&PLACES).unwrap_or_default();
    let kind = if rng.once_in(2) {
        FaultKind::Torn { bytes: rng.below(9_000), errno: libc_errno::EIO }
    } else {
        FaultKind::Errno(libc_errno::EIO)
    };
    node.disk.memory().inject(Fault::new(Operation::Write, kind).on(place).after(rng.below(6)));
}

/// A few operations that take long.
pub fn stall(node: &Node, rng: &mut Rng) {
    let operation = rng.pick(&[Operation::Write, Operation::Sync, Operation::Create]).unwrap_or(Operation::Write);
    let fault = Fault::new(operation, FaultKind::Delay { steps: rng.range(1, 8) });
    node.disk.memory().inject(fault.after(rng.below(4)).times(rng.range(1, 4)));
}

/// A full disk has room again, any other one none from now on but a little.
pub fn toggle_space(node: &Node, rng: &mut Rng) {
    let memory = node.disk.memory();
    let Ok(space) = memory.space(Path::new(DATA_DIR)) else { return };
    let full = space.total_bytes < 1 << 40;
    let room = rng.below(60_000);
    memory.set_capacity((!full).then_some(space.total_bytes - space.free_bytes + room));
}

/// A flipped bit, to be flipped back when faults end.
pub fn flip_bit(
    node: &Node,
    closed: &[(TopicPartition, u64)],
    logs_dir: &Path,
    rng: &mut Rng,
) -> Option<(PathBuf, u64, u8)> {
    let (partition, _) = rng.pick(closed)?;
    let dir = logs_dir.join(partition.to_string());
    let memory = node.disk.memory();
    let active = closed.iter().find(|(of, _)| *of == partition).map(|(_, base)| *base)?;
    let is_closed = |path: &PathBuf| {
        let base = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        path.parent() == Some(dir.as_path())
            && path.extension().is_some_and(|extension| extension == "lnc")
            && base.is_some_and(|base| base < active)
    };
    let files: Vec<PathBuf> = memory.files().into_iter().filter(is_closed).collect();
    let path = files.get(rng.below(files.len() as u64) as usize)?.clone();
    let len = memory.read_file(&path)?.len() as u64;
    let (at, bit) = (rng.below(len), rng.below(8) as u8);
    memory.flip_bit(&path, at, bit).then_some((path, at, bit))
}

/// Error numbers of Linux.
mod libc_errno {
    /// Input/output error.
    pub const EIO: i32 = 5;
}

//! The content of one file: what the device holds for sure, what the cache shows, and the changes between them.

use std::sync::Arc;

use super::fault::Dice;

/// What a device writes as a whole.
const SECTOR: usize = 512;

/// One change of a file.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Bytes at a place.
    Write { file_offset: u64, data: Arc<[u8]> },
    /// Zeroes at a place.
    Zero { file_offset: u64, len: u64 },
    /// A new length.
    SetLen(u64),
}

impl Change {
    /// The length of a file of `len` bytes after this change.
    pub(super) fn len_after(&self, len: u64) -> u64 {
        match self {
            Self::Write { data, .. } if data.is_empty() => len,
            Self::Write { file_offset, data } => len.max(file_offset + data.len() as u64),
            Self::Zero { file_offset, len: zeroes } => len.max(file_offset + zeroes),
            Self::SetLen(new) => *new,
        }
    }

    /// Applies all of it.
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { file_offset, data } => put(content, *file_offset as usize, data),
            Self::Zero { file_offset, len } => {
                let (start, end) = (*file_offset as usize, (file_offset + len) as usize);
                content.resize(content.len().max(end), 0);
                content[start..end].fill(0);
            }
            Self::SetLen(len) => content.resize(*len as usize, 0),
        }
    }

    /// The part of a write that got through before it failed.
    pub(super) fn cut(self, bytes: u64) -> Self {
        match self {
            Self::Write { file_offset, data } => {
                let kept = usize::try_from(bytes).map_or(data.len(), |bytes| bytes.min(data.len()));
                Self::Write { file_offset, data: data[..kept].into() }
            }
            Self::Zero { file_offset, len } => Self::Zero { file_offset, len: len.min(bytes) },
            Self::SetLen(len) => Self::SetLen(len),
        }
    }

    /// Applies what a power cut in the middle of it leaves: each sector old or new, or cut at a byte.
    fn apply_torn(&self, content: &mut Vec<u8>, dice: &mut Dice) {
        let Self::Write { file_offset, data } = self else {
            if dice.coin() {
                self.apply(content);
            }
            return;
        };
        if dice.below(4) == 0 {
            let kept = dice.below(data.len() as u64 + 1) as usize;
            put(content, *file_offset as usize, &data[..kept]);
            return;
        }
        let mut start = 0;
        while start < data.len() {
            let at = *file_offset as usize + start;
            let end = data.len().min(start + SECTOR - at % SECTOR);
            if dice.coin() {
                put(content, at, &data[start..end]);
            }
            start = end;
        }
    }
}

/// Writes bytes at a place; a gap before it reads as zeroes.
fn put(content: &mut Vec<u8>, start: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let end = start + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(data);
}

/// One file, whatever names it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    /// What reads see.
    pub(super) live: Arc<Vec<u8>>,
    /// What survives every power cut.
    pub(super) durable: Arc<Vec<u8>>,
    /// Changes from durable to live, oldest first.
    pub(super) unsynced: Vec<(Change, Fate)>,
}

/// What is to become of a change that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The next sync makes it durable.
    Pending,
    /// A failed sync lost it to later syncs; some of it may have reached the device.
    Lost,
    /// Lost, and since then a sync has succeeded: whatever reached the device lies below what that one wrote.
    Gone,
}

impl Inode {
    /// Bytes readers see.
    pub(super) fn len(&self) -> u64 {
        self.live.len() as u64
    }

    /// Applies a change to the cache only.
    pub(super) fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.live));
        self.unsynced.push((change, Fate::Pending));
    }

    /// Makes every change durable but those a failed sync lost.
    pub(super) fn sync(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        self.unsynced.retain_mut(|(change, fate)| {
            if *fate == Fate::Pending {
                change.apply(durable);
                return false;
            }
            *fate = Fate::Gone;
            true
        });
    }

    /// Marks every unsynced change as lost to later syncs.
    pub(super) fn lose_unsynced(&mut self) {
        for (_, fate) in self.unsynced.iter_mut().filter(|(_, fate)| *fate == Fate::Pending) {
            *fate = Fate::Lost;
        }
    }

    /// What a read through the cache finds.
    pub(super) fn read_cache(&self, out: &mut [u8], file_offset: u64) -> usize {
        read(&self.live, out, file_offset)
    }

    /// What survives every power cut.
    pub(super) fn read_durable(&self, out: &mut [u8], file_offset: u64) -> usize {
        read(&self.durable, out, file_offset)
    }

    /// What a read past the cache finds: everything but what a failed sync lost.
    pub(super) fn read_device(&self, out: &mut [u8], file_offset: u64) -> usize {
        if self.unsynced.iter().all(|(_, fate)| *fate == Fate::Pending) {
            return read(&self.live, out, file_offset);
        }
        let mut content = self.durable.as_ref().clone();
        for (change, _) in self.unsynced.iter().filter(|(_, fate)| *fate == Fate::Pending) {
            change.apply(&mut content);
        }
        read(&content, out, file_offset)
    }

    /// The power cut: `dice` decides per change whether it is kept, dropped or torn; without dice `keep` does.
    pub(super) fn crash(&mut self, keep: bool, dice: Option<&mut Dice>) {
        let durable = Arc::make_mut(&mut self.durable);
        self.unsynced.retain(|(_, fate)| *fate != Fate::Gone);
        if let Some(dice) = dice {
            for (change, _) in self.unsynced.drain(..) {
                match dice.below(3) {
                    0 => {}
                    1 => change.apply(durable),
                    _ => change.apply_torn(durable, dice),
                }
            }
        } else if keep {
            self.unsynced.drain(..).for_each(|(change, _)| change.apply(durable));
        }
        self.unsynced.clear();
        self.live = Arc::clone(&self.durable);
    }
}

/// Copies what `content` holds from `file_offset`.
fn read(content: &[u8], out: &mut [u8], file_offset: u64) -> usize {
    let from = usize::try_from(file_offset).ok().and_then(|start| content.get(start..));
    let from = from.unwrap_or_default();
    let count = from.len().min(out.len());
    out[..count].copy_from_slice(&from[..count]);
    count
}

//! The open segment files of one reader thread: least recently used ones are closed first.

use super::Segment;
use crate::disk::{Disk, DiskError, DiskFile};
use std::sync::{Arc, Weak};

/// A bounded cache of descriptors; each reader thread has its own, so that no lock is needed.
pub struct SegmentFiles {
    disk: Arc<dyn Disk>,
    capacity: usize,
    clock: u64,
    entries: Vec<Entry>,
}

struct Entry {
    segment: Weak<Segment>,
    file: Arc<dyn DiskFile>,
    last_used: u64,
}

impl SegmentFiles {
    /// A cache of at most `capacity` (at least 1) open files.
    pub fn new(disk: Arc<dyn Disk>, capacity: usize) -> Self {
        Self { disk, capacity: capacity.max(1), clock: 0, entries: Vec::new() }
    }

    /// The disk the files live on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The open file of `segment`.
    pub fn get(&mut self, segment: &Arc<Segment>) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.clock += 1;
        let wanted = Arc::as_ptr(segment);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.segment.as_ptr() == wanted) {
            entry.last_used = self.clock;
            return Ok(Arc::clone(&entry.file));
        }
        let file = segment.open(&*self.disk)?;
        self.make_room();
        self.entries.push(Entry { segment: Arc::downgrade(segment), file: Arc::clone(&file), last_used: self.clock });
        Ok(file)
    }

    /// Closes the files of segments that retention removed, whose space the file system still keeps.
    pub fn sweep(&mut self) {
        self.entries.retain(|entry| entry.segment.strong_count() > 0);
    }

    fn make_room(&mut self) {
        self.sweep();
        while self.entries.len() >= self.capacity {
            let oldest = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.last_used);
            let Some((at, _)) = oldest else { return };
            self.entries.swap_remove(at);
        }
    }
}

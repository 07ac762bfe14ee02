//! What waits to be written to one socket: bytes, and ranges of files that go out without a copy.

use crate::sendfile::FileRange;
use bytes::{Buf, Bytes, BytesMut};
use lance_storage::disk::DiskFile;
use std::collections::VecDeque;
use std::sync::Arc;

/// One thing to write.
#[derive(Debug)]
pub enum OutputItem {
    /// Bytes.
    Bytes(Bytes),
    /// A range of a closed, verified segment.
    File {
        /// The segment.
        file: Arc<dyn DiskFile>,
        /// Where the range starts.
        file_offset: u64,
        /// Its length.
        len: u64,
    },
}

/// The write queue of one connection.
#[derive(Debug, Default)]
pub struct Output {
    items: VecDeque<OutputItem>,
    /// Small replies gather here and are written together.
    pub tail: BytesMut,
    queued_bytes: usize,
    /// Bytes of files that wait.
    file_bytes: u64,
    /// Bytes ever written.
    written_bytes: u64,
}

impl Output {
    /// Adds bytes that are already in a buffer of their own.
    pub fn push_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < 4096 {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        self.seal();
        self.queued_bytes += bytes.len();
        self.items.push_back(OutputItem::Bytes(bytes));
    }

    /// Adds a range of a file.
    pub fn push_file(&mut self, file: Arc<dyn DiskFile>, file_offset: u64, len: u64) {
        self.seal();
        self.file_bytes += len;
        self.items.push_back(OutputItem::File { file, file_offset, len });
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            self.queued_bytes += bytes.len();
            self.items.push_back(OutputItem::Bytes(bytes));
        }
    }

    /// Bytes ever written.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// What [`Self::written_bytes`] will be once everything that waits now is written.
    pub fn mark(&self) -> u64 {
        self.written_bytes + self.file_bytes + self.memory_bytes() as u64
    }

    /// Bytes held in memory.
    pub fn memory_bytes(&self) -> usize {
        self.queued_bytes + self.tail.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.tail.is_empty()
    }

    /// What is to be written next.
    pub fn front(&mut self) -> Option<&OutputItem> {
        if self.items.is_empty() {
            self.seal();
        }
        self.items.front()
    }

    /// The ranges of files at the front, up to the next piece of memory.
    pub fn file_ranges(&self) -> Vec<FileRange> {
        let ranges = self.items.iter().map_while(|item| match item {
            OutputItem::File { file, file_offset, len } => {
                Some(FileRange { file: Arc::clone(file), file_offset: *file_offset, len: *len })
            }
            OutputItem::Bytes(_) => None,
        });
        ranges.collect()
    }

    /// The next pieces of memory to be written in one call; stops at a file.
    pub fn slices<'a>(&'a self, out: &mut Vec<std::io::IoSlice<'a>>, most: usize) {
        for item in self.items.iter().take(most) {
            match item {
                OutputItem::Bytes(bytes) => out.push(std::io::IoSlice::new(bytes)),
                OutputItem::File { .. } => return,
            }
        }
        if self.items.len() < most && !self.tail.is_empty() {
            out.push(std::io::IoSlice::new(&self.tail));
        }
    }

    /// `count` bytes of the front were written.
    pub fn advance(&mut self, mut count: usize) {
        self.written_bytes += count as u64;
        while count > 0 {
            match self.items.front_mut() {
                Some(OutputItem::Bytes(bytes)) => {
                    let taken = count.min(bytes.len());
                    bytes.advance(taken);
                    self.queued_bytes -= taken;
                    count -= taken;
                    if bytes.is_empty() {
                        self.items.pop_front();
                    }
                }
                Some(OutputItem::File { file_offset, len, .. }) => {
                    let taken = (count as u64).min(*len);
                    *file_offset += taken;
                    *len -= taken;
                    self.file_bytes -= taken;
                    count -= taken as usize;
                    if *len == 0 {
                        self.items.pop_front();
                    }
                }
                None => {
                    let taken = count.min(self.tail.len());
                    self.tail.advance(taken);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut output = Output::default();
        output.tail.extend_from_slice(b"abc");
        output.push_bytes(Bytes::from(vec![b'x'; 5000]));
        output.tail.extend_from_slice(b"def");
        assert_eq!((output.memory_bytes(), output.mark()), (5006, 5006));
        let mut written = Vec::new();
        while !output.is_empty() {
            let mut slices = Vec::new();
            output.slices(&mut slices, 8);
            let first: Vec<u8> = slices[0].iter().take(700).copied().collect();
            drop(slices);
            output.advance(first.len());
            written.extend(first);
        }
        assert_eq!(&written[..3], b"abc");
        assert_eq!(&written[5003..], b"def");
        assert_eq!((written.len(), output.written_bytes(), output.mark()), (5006, 5006, 5006));
    }
}

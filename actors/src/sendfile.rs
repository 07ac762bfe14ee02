//! Ranges of files to sockets, inside the kernel; blocking where the disk has to be read.

use actix::prelude::*;
use lance_storage::disk::DiskFile;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// How long a sender waits for a socket before it gives the rest of a file back.
const SOCKET_WAIT_MS: i32 = 2;

/// A range of a file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Where the range starts.
    pub file_offset: u64,
    /// Its length.
    pub len: u64,
}

/// Some of a file was sent.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FileSent {
    /// Bytes sent.
    pub sent: u64,
    /// The socket took no more for now.
    pub blocked: bool,
    /// Why it cannot go on.
    pub error: Option<String>,
}

/// Sends ranges one after the other to a socket that does not block, until all are sent or it takes no more.
pub fn send_files(socket: &OwnedFd, ranges: &[FileRange]) -> FileSent {
    let mut total = FileSent { sent: 0, blocked: false, error: None };
    for range in ranges {
        let part = send_file(socket, range);
        total.sent += part.sent;
        if part.blocked || part.error.is_some() {
            return FileSent { sent: total.sent, ..part };
        }
    }
    total
}

fn send_file(socket: &OwnedFd, range: &FileRange) -> FileSent {
    let failed = |sent, error: String| FileSent { sent, blocked: false, error: Some(error) };
    let Some(from) = range.file.raw_fd() else {
        return failed(0, "this disk has no descriptors".to_owned());
    };
    let mut sent = 0u64;
    while sent < range.len {
        let Ok(mut at) = libc::off_t::try_from(range.file_offset + sent) else {
            return failed(sent, "file offset out of range".to_owned());
        };
        let most = usize::try_from(range.len - sent).unwrap_or(usize::MAX).min(1 << 30);
        // SAFETY: both descriptors are open for as long as their owners, which this function borrows; `at` is a local.
        let count = unsafe { libc::sendfile(socket.as_raw_fd(), from, &mut at, most) };
        if count > 0 {
            sent += count as u64;
            continue;
        }
        if count == 0 {
            return failed(sent, "the segment is shorter than its batches say".to_owned());
        }
        let error = std::io::Error::last_os_error();
        match error.kind() {
            std::io::ErrorKind::Interrupted => {}
            std::io::ErrorKind::WouldBlock => {
                if !wait_writable(socket.as_raw_fd(), SOCKET_WAIT_MS) {
                    return FileSent { sent, blocked: true, error: None };
                }
            }
            _ => return failed(sent, error.to_string()),
        }
    }
    FileSent { sent, blocked: false, error: None }
}

/// Whether a write to the socket would be taken now.
pub fn is_writable(socket: &impl AsRawFd) -> bool {
    wait_writable(socket.as_raw_fd(), 0)
}

fn wait_writable(socket: RawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: socket, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, owned by this frame, for a descriptor the caller keeps open.
    unsafe { libc::poll(&mut poll, 1, timeout_ms) > 0 }
}

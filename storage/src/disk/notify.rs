//! An eventfd that tells a polling thread that completions wait, written at most once a wake-up.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Raised by the threads that complete operations, lowered by the thread that collects them.
///
/// The order matters: publish, then [`Notify::raise`]; [`Notify::lower`], then collect.
#[derive(Debug)]
pub(super) struct Notify {
    fd: OwnedFd,
    raised: AtomicBool,
}

impl Notify {
    /// A lowered one.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: plain system call; the result is checked before use.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, raised: AtomicBool::new(false) })
    }

    /// Makes the descriptor readable; free when it is already.
    pub(super) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight bytes that live through the call. The counter cannot overflow: one write a lowering.
            unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Makes the descriptor unreadable; what was published before the next raise is collected by the caller.
    pub(super) fn lower(&self) {
        if self.raised.load(Ordering::Acquire) {
            let mut count = [0u8; 8];
            // Read before the flag falls: a raise that comes between writes again, at worst one wake-up too many.
            // SAFETY: eight bytes that live through the call; the descriptor never blocks.
            unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
            self.raised.store(false, Ordering::Release);
            std::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    /// Blocks until raised or until `timeout` has passed.
    pub(super) fn wait(&self, timeout: Duration) {
        wait_readable(self.fd.as_raw_fd(), timeout);
    }

    /// The descriptor to poll.
    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Blocks until `fd` is readable or `timeout` has passed; signals do not shorten the wait.
pub(super) fn wait_readable(fd: RawFd, timeout: Duration) {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up: a rest below a millisecond must not become a busy loop.
        let millis = i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        let interrupted = ready < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if !interrupted {
            return;
        }
    }
}

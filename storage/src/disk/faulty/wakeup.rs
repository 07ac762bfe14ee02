//! One descriptor for two reasons to wake up: another one is readable, or a moment has come.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// An epoll instance, which itself can be polled, over a foreign descriptor and a timer of its own.
#[derive(Debug)]
pub(super) struct Wakeup {
    epoll: OwnedFd,
    timer: OwnedFd,
}

impl Wakeup {
    /// Wakes up when `other` does; the timer is not set.
    pub(super) fn new(other: RawFd) -> io::Result<Self> {
        // SAFETY: plain system call; the result is checked before use.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: as above.
        let timer = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        let wakeup = Self { epoll, timer };
        wakeup.watch(other)?;
        wakeup.watch(wakeup.timer.as_raw_fd())?;
        Ok(wakeup)
    }

    /// The descriptor to poll.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Sets the timer anew, and with `None` switches it off; what it has reported is forgotten.
    pub(super) fn set(&self, after: Option<Duration>) -> io::Result<()> {
        // A timer of zero would be off: what is due at once is due in a nanosecond.
        let after = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(after.subsec_nanos() as i32),
        };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: never, it_value: value };
        // SAFETY: the descriptor is ours, the structure lives through the call, the old value is not asked for.
        let set = unsafe { libc::timerfd_settime(self.timer.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn watch(&self, fd: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: both descriptors are open, the structure lives through the call.
        let added = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

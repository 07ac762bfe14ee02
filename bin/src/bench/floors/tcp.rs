//! Loopback: an echo between two blocking threads, and one sendfile stream.

use super::super::clock::now_ns;
use super::super::generator::new_histogram;
use super::Floors;
use crate::cli::failure::Failure;
use hdrhistogram::Histogram;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// A request of 1 KB, a reply as long as an ack.
const REQUEST_BYTES: usize = 1024;
const REPLY_BYTES: usize = 44;
/// Size of the file that is sent again and again.
const FILE_BYTES: usize = 64 * 1024 * 1024;

fn failed(error: io::Error) -> Failure {
    Failure::failed(format!("loopback floor: {error}"))
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Round trips between two blocking threads: where the scheduler puts them, and pinned to two cores.
pub(super) fn echo(floors: &mut Floors<'_>) -> Result<(), Failure> {
    let times = round_trips(floors.time, [None, None])?;
    floors.add_times("tcp_echo", &times);
    if thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        let times = round_trips(floors.time, [Some(0), Some(1)])?;
        floors.add_times("tcp_echo_two_cores", &times);
    }
    Ok(())
}

fn round_trips(time: Duration, cores: [Option<usize>; 2]) -> Result<Histogram<u64>, Failure> {
    let (near, mut far) = pair().map_err(failed)?;
    thread::scope(|scope| {
        scope.spawn(move || {
            pin(cores[1]);
            let (mut request, reply) = ([0u8; REQUEST_BYTES], [0u8; REPLY_BYTES]);
            while far.read_exact(&mut request).is_ok() && far.write_all(&reply).is_ok() {}
        });
        let asking = scope.spawn(move || {
            pin(cores[0]);
            ask(near, time)
        });
        asking.join().map_err(|_| Failure::failed("loopback floor: a thread panicked"))?
    })
}

fn ask(mut near: TcpStream, time: Duration) -> Result<Histogram<u64>, Failure> {
    let mut times = new_histogram()?;
    let (request, mut reply) = ([7u8; REQUEST_BYTES], [0u8; REPLY_BYTES]);
    let warm = now_ns() + time.as_nanos() as u64 / 5;
    let end = warm + time.as_nanos() as u64;
    loop {
        let sent = now_ns();
        near.write_all(&request).map_err(failed)?;
        near.read_exact(&mut reply).map_err(failed)?;
        let now = now_ns();
        if sent >= warm {
            times.saturating_record((now - sent).max(1));
        }
        if now >= end {
            return Ok(times);
        }
    }
}

/// Keeps the calling thread on a core; where that is refused it stays free.
fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    // SAFETY: an all-zero cpu_set_t is an empty set; CPU_SET checks its bounds; the set outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// One sender with sendfile from the page cache, one receiver that reads into a warm buffer.
pub(super) fn sendfile_stream(floors: &mut Floors<'_>, dir: &Path) -> Result<(), Failure> {
    let mut file = match super::disk::scratch_file(dir, "sendfile") {
        Ok(file) => file,
        Err(error) => {
            floors.skip("sendfile_stream", error);
            return Ok(());
        }
    };
    file.write_all(&vec![5u8; FILE_BYTES]).and_then(|()| file.rewind()).map_err(failed)?;
    let (near, mut far) = pair().map_err(failed)?;
    let time = floors.time;
    let receiver = thread::spawn(move || {
        let mut buffer = vec![0u8; 256 * 1024];
        let (mut bytes, mut begin) = (0u64, now_ns());
        while let Ok(count) = far.read(&mut buffer) {
            if count == 0 {
                break;
            }
            if bytes == 0 {
                begin = now_ns();
            }
            bytes += count as u64;
        }
        bytes as f64 / (now_ns() - begin).max(1) as f64
    });
    let end = now_ns() + time.as_nanos() as u64;
    while now_ns() < end {
        send_whole(&file, &near).map_err(failed)?;
    }
    drop(near);
    let rate = receiver.join().map_err(|_| Failure::failed("loopback floor: the receiver panicked"))?;
    floors.add("sendfile_stream", rate * 1e3, "MB_per_s");
    Ok(())
}

fn send_whole(file: &File, socket: &TcpStream) -> io::Result<()> {
    let mut at: libc::off_t = 0;
    while (at as usize) < FILE_BYTES {
        let left = (FILE_BYTES - at as usize).min(1 << 20);
        // SAFETY: both descriptors are open during the call; `at` is valid for reading and writing.
        let sent = unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut at, left) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

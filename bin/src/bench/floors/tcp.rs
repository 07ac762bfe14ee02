//! Loopback: an echo between two blocking threads, and one sendfile stream.

use super::super::clock::now_ns;
use super::super::generator::new_histogram;
use super::Floors;
use crate::cli::failure::Failure;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

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

/// Round trips between two parked threads.
pub(super) fn echo(floors: &mut Floors<'_>) -> Result<(), Failure> {
    let (mut near, mut far) = pair().map_err(failed)?;
    let server = thread::spawn(move || {
        let (mut request, reply) = ([0u8; REQUEST_BYTES], [0u8; REPLY_BYTES]);
        while far.read_exact(&mut request).is_ok() && far.write_all(&reply).is_ok() {}
    });
    let mut times = new_histogram()?;
    let (request, mut reply) = ([7u8; REQUEST_BYTES], [0u8; REPLY_BYTES]);
    let begin = now_ns();
    let warm = begin + floors.time.as_nanos() as u64 / 5;
    let end = warm + floors.time.as_nanos() as u64;
    loop {
        let sent = now_ns();
        near.write_all(&request).map_err(failed)?;
        near.read_exact(&mut reply).map_err(failed)?;
        let now = now_ns();
        if sent >= warm {
            times.saturating_record((now - sent).max(1));
        }
        if now >= end {
            break;
        }
    }
    drop(near);
    _ = server.join();
    floors.add_times("tcp_echo", &times);
    Ok(())
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
    file.write_all(&vec![5u8; FILE_BYTES])
        .and_then(|()| file.rewind())
        .map_err(failed)?;
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
    let rate = receiver
        .join()
        .map_err(|_| Failure::failed("loopback floor: the receiver panicked"))?;
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

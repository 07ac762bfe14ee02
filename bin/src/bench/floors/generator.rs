//! The generator by itself: the same load against a thread that does nothing but ack.

use super::super::epoll::Epoll;
use super::super::frames::{BATCH_ID, FrameRun};
use super::super::produce::{Pace, load};
use super::Floors;
use crate::cli::failure::Failure;
use bytes::BytesMut;
use lance_client::TopicId;
use lance_client::wire::Features;
use lance_client::wire::header::HEADER_LEN;
use lance_client::wire::produce::{AckOffsets, put_ack};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Acks built once.
const ACKS: usize = 4096;

/// A load, flat out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// Frames in flight on each.
    pub in_flight: usize,
    /// Records in a frame.
    pub records: u32,
    /// Bytes of a record.
    pub record_bytes: usize,
}

/// Runs the load for a moment and reports what the generator alone reaches and adds.
pub(super) fn measure(floors: &mut Floors<'_>, name: &str, shape: &Shape) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("generator floor: {error}"));
    let run = Arc::new(FrameRun::new(TopicId(1), 0, shape.records, shape.record_bytes));
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..shape.connections {
        let socket = TcpStream::connect(address).map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        near.push(socket);
        far.push(listener.accept().map_err(failed)?.0);
    }
    let pace = Pace {
        in_flight: shape.in_flight,
        frames_per_second: None,
        threads: 1,
        warm_up: floors.time / 5,
        duration: floors.time,
    };
    let stop = AtomicBool::new(false);
    let frame_len = run.frame_len();
    let measured = thread::scope(|scope| {
        let acker = scope.spawn(|| ack_all(far, frame_len, &stop));
        let measured = load(&pace, near, &[run]);
        stop.store(true, Ordering::Relaxed);
        match acker.join() {
            Ok(Ok(())) => measured,
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Failure::failed("generator floor: the acking thread panicked")),
        }
    })?;
    let seconds = floors.time.as_secs_f64();
    floors.add(&format!("{name}_frames"), measured.frames as f64 / seconds, "per_s");
    floors.add(name, measured.payload_bytes as f64 / 1e6 / seconds, "MB_per_s");
    floors.add(&format!("{name}_cpu"), measured.cpu.as_secs_f64() / seconds, "cores");
    floors.add_times(&format!("{name}_ack"), &measured.latency);
    Ok(())
}

struct Acked {
    socket: TcpStream,
    /// Bytes of the frame that is not whole yet.
    rest: usize,
    /// Ack bytes owed.
    owed: usize,
}

/// Reads frames of a known length and writes as many acks.
fn ack_all(sockets: Vec<TcpStream>, frame_len: usize, stop: &AtomicBool) -> io::Result<()> {
    let mut acks = BytesMut::new();
    let offsets = AckOffsets { base_offset: 0, record_count: 0, duplicate: false };
    for _ in 0..ACKS {
        put_ack(&mut acks, BATCH_ID, &offsets, Features::NONE);
    }
    let mut epoll = Epoll::new(sockets.len())?;
    let mut connections = Vec::with_capacity(sockets.len());
    for (token, socket) in sockets.into_iter().enumerate() {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        epoll.add(&socket, token)?;
        connections.push(Acked { socket, rest: 0, owed: 0 });
    }
    let mut buffer = vec![0u8; 256 * 1024];
    let mut ready = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ready.clear();
        ready.extend(epoll.wait(Duration::from_millis(50))?);
        for &token in &ready {
            serve(&mut connections[token], frame_len, &mut buffer, &acks)?;
        }
    }
    Ok(())
}

fn serve(connection: &mut Acked, frame_len: usize, buffer: &mut [u8], acks: &[u8]) -> io::Result<()> {
    loop {
        let count = match connection.socket.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Ok(()),
        };
        connection.rest += count;
        connection.owed += connection.rest / frame_len * HEADER_LEN;
        connection.rest %= frame_len;
        while connection.owed > 0 {
            // Acks are all alike, but one that was cut must go on where it was.
            let start = (HEADER_LEN - connection.owed % HEADER_LEN) % HEADER_LEN;
            let end = (start + connection.owed).min(acks.len());
            match connection.socket.write(&acks[start..end]) {
                Ok(written) => connection.owed -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Ok(()),
            }
        }
        if count < buffer.len() {
            return Ok(());
        }
    }
}

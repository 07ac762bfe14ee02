//! The loop of a generator thread: many connections, one epoll, one clock reading a turn.

use super::clock::{now_ns, tighten_timers};
use super::epoll::Epoll;
use super::lane::Lane;
use super::schedule::Schedule;
use super::usage::thread_cpu;
use crate::cli::failure::Failure;
use hdrhistogram::Histogram;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest wait for the last acks.
const DRAIN_NS: u64 = 20_000_000_000;
/// Room for replies.
const READ_BYTES: usize = 64 * 1024;

/// When a thread sends and measures.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Measuring begins.
    pub start_ns: u64,
    /// Measuring and sending end.
    pub end_ns: u64,
    /// Frames a second of this thread; `None`: flat out.
    pub frames_per_second: Option<f64>,
}

/// What a thread measured.
#[derive(Debug)]
pub struct Measured {
    /// Nanoseconds from the intended, or when flat out the actual, send time to the ack.
    pub latency: Histogram<u64>,
    /// Frames answered within the window.
    pub frames: u64,
    /// Payload bytes of those.
    pub payload_bytes: u64,
    /// Records in those.
    pub records: u64,
    /// Frames refused.
    pub errors: u64,
    /// Longest time from when a refused frame was due to the next ack of its connection, ns.
    pub outage_ns: u64,
    /// The first refusal.
    pub complaint: Option<String>,
    /// CPU time of the thread within the window.
    pub cpu: Duration,
}

/// A histogram from a nanosecond to minutes.
pub fn new_histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).map_err(|error| Failure::failed(error.to_string()))
}

/// Loads the lanes through the window; counts answers into `progress` as it goes.
pub fn drive(mut lanes: Vec<Lane>, window: Window, progress: &AtomicU64) -> Result<Measured, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("epoll: {error}"));
    tighten_timers();
    let mut epoll = Epoll::new(lanes.len()).map_err(failed)?;
    for (token, lane) in lanes.iter().enumerate() {
        epoll.add(lane.socket(), token).map_err(failed)?;
    }
    let mut schedule = window.frames_per_second.map(|rate| Schedule::new(now_ns(), rate));
    let mut measured = Measured {
        latency: new_histogram()?,
        frames: 0,
        payload_bytes: 0,
        records: 0,
        errors: 0,
        outage_ns: 0,
        complaint: None,
        cpu: Duration::ZERO,
    };
    let mut buffer = vec![0u8; READ_BYTES];
    let mut ready: Vec<usize> = Vec::with_capacity(lanes.len());
    let mut cpu_at_start = None;
    let mut cpu_at_end = None;
    let mut now = now_ns();
    for lane in &mut lanes {
        lane.send(now, false)?;
    }
    loop {
        now = now_ns();
        let stopped = now >= window.end_ns;
        if now >= window.start_ns && cpu_at_start.is_none() {
            cpu_at_start = Some(thread_cpu());
        }
        if stopped && cpu_at_end.is_none() {
            cpu_at_end = Some(thread_cpu());
        }
        if !stopped && let Some(schedule) = &mut schedule {
            release(schedule, &mut lanes, now)?;
        }
        let waiting: usize = lanes.iter().map(Lane::unanswered).sum();
        if stopped && (waiting == 0 || now > window.end_ns + DRAIN_NS) {
            measured.errors += waiting as u64;
            break;
        }
        let wake = match &schedule {
            Some(schedule) if !stopped => schedule.next_due_ns().min(window.end_ns),
            _ if stopped => now + 100_000_000,
            _ => window.end_ns.max(now),
        };
        ready.clear();
        ready.extend(epoll.wait(Duration::from_nanos(wake.saturating_sub(now))).map_err(failed)?);
        for &token in &ready {
            let lane = &mut lanes[token];
            lane.unblock();
            serve(lane, &window, &mut buffer, &mut measured, progress)?;
        }
    }
    let cpu = cpu_at_end.unwrap_or_default();
    measured.cpu = cpu.saturating_sub(cpu_at_start.unwrap_or_default());
    measured.complaint = measured.complaint.or_else(|| lanes.iter().find_map(Lane::complaint));
    Ok(measured)
}

/// Hands the frames that are due to the lanes in turn, and sends them.
fn release(schedule: &mut Schedule, lanes: &mut [Lane], now: u64) -> Result<(), Failure> {
    let count = lanes.len() as u64;
    while let Some((number, due)) = schedule.take(now) {
        let lane = &mut lanes[(number % count) as usize];
        lane.schedule(due);
        lane.send(now, false)?;
    }
    Ok(())
}

/// Reads a lane's answers and sends what they make room for.
fn serve(
    lane: &mut Lane,
    window: &Window,
    buffer: &mut [u8],
    measured: &mut Measured,
    progress: &AtomicU64,
) -> Result<(), Failure> {
    let now = now_ns();
    let counts = now >= window.start_ns && now < window.end_ns;
    let latency = &mut measured.latency;
    let answered = lane.receive(buffer, now, |due| {
        if counts || due >= window.start_ns {
            latency.saturating_record(now.saturating_sub(due).max(1));
        }
    })?;
    let frames = answered.acks + answered.errors;
    measured.errors += answered.errors;
    measured.outage_ns = measured.outage_ns.max(answered.outage_ns);
    if counts {
        measured.frames += answered.acks;
        measured.payload_bytes += answered.acks * lane.run().payload_len() as u64;
        measured.records += answered.acks * u64::from(lane.run().records());
    }
    if frames > 0 {
        progress.fetch_add(answered.acks * lane.run().payload_len() as u64, Ordering::Relaxed);
    }
    lane.send(now, now >= window.end_ns)
}

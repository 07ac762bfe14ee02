//! `lnc-bench produce`.

use super::args::{LoadArgs, ProduceArgs};
use super::clock::now_ns;
use super::floors::{self, Shape};
use super::frames::FrameRun;
use super::generator::{Measured, Window, drive, new_histogram};
use super::lane::Lane;
use super::raw::{RawConnection, prepare_topic};
use super::report::Report;
use super::usage::{ProcessUsage, process_usage};
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use crate::cli::output::Progress;
use crate::cli::units::show_bytes;
use lance_client::wire::Features;
use serde_json::json;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Runs the load and, when asked, the floors.
pub fn run(args: &ProduceArgs, common: &Common) -> Result<Report, Failure> {
    check(args)?;
    let topic = prepare_topic(common, &args.load.topic, args.load.partitions)?;
    let runs: Vec<Arc<FrameRun>> = (0..args.load.partitions)
        .map(|partition| FrameRun::new(topic.id, partition, args.batch_records, args.load.record_bytes as usize))
        .map(Arc::new)
        .collect();
    let mut sockets = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let connection = RawConnection::open(common, Features::PARTITIONS, args.plain)?;
        if args.load.partitions > 1 && !connection.features().unwrap_or_default().contains(Features::PARTITIONS) {
            return Err(Failure::failed("the connection has no partitions").with_hint("leave out --partitions"));
        }
        sockets.push(connection.into_socket());
    }
    let before = args.load.server_pid.and_then(process_usage);
    let pace = Pace {
        in_flight: args.in_flight,
        frames_per_second: (args.rate > 0.0).then(|| args.rate / f64::from(args.batch_records)),
        threads: args.threads,
        warm_up: args.load.warm_up,
        duration: args.load.duration,
    };
    let measured = load(&pace, sockets, &runs)?;
    let after = args.load.server_pid.and_then(process_usage);
    let mut report = summarize(args, &measured);
    add_server(&mut report, &args.load, before, after, measured.payload_bytes);
    if args.load.floors {
        floors::add_all(&mut report, &args.load.floor)?;
        let shape = Shape {
            connections: args.connections,
            in_flight: args.in_flight,
            records: args.batch_records,
            record_bytes: args.load.record_bytes as usize,
        };
        floors::add_generator(&mut report, &shape, args.load.floor.floor_time)?;
        report.compare("ack_p50", &["tcp_echo_p50", "direct_dsync_4k_p50"]);
        report.compare("ack_p99", &["tcp_echo_p99", "direct_dsync_4k_p99"]);
        report.compare("throughput", &["append_1m_direct"]);
    }
    Ok(report)
}

fn check(args: &ProduceArgs) -> Result<(), Failure> {
    let payload = u64::from(args.batch_records) * (args.load.record_bytes + 5);
    if payload > 16 * 1024 * 1024 {
        return Err(Failure::usage(format!("a frame of {} is over 16 MiB", show_bytes(payload))));
    }
    if args.connections == 0 || args.in_flight == 0 || args.batch_records == 0 || args.threads == 0 {
        return Err(Failure::usage("--connections, --in-flight, --batch-records and --threads start at 1"));
    }
    Ok(())
}

/// How connections are driven.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Frames without an ack on each connection.
    pub in_flight: usize,
    /// Over all connections; `None`: flat out.
    pub frames_per_second: Option<f64>,
    /// Generator threads.
    pub threads: usize,
    /// Load before measuring.
    pub warm_up: Duration,
    /// How long to measure.
    pub duration: Duration,
}

/// Drives connections with frames of these runs; each connection takes the next run in turn.
pub fn load(pace: &Pace, sockets: Vec<TcpStream>, runs: &[Arc<FrameRun>]) -> Result<Measured, Failure> {
    let threads = pace.threads.clamp(1, sockets.len().max(1));
    let paced = pace.frames_per_second.is_some();
    let mut by_thread: Vec<Vec<Lane>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, socket) in sockets.into_iter().enumerate() {
        let lane = Lane::new(socket, Arc::clone(&runs[at % runs.len()]), pace.in_flight, paced);
        by_thread[at % threads].push(lane.map_err(|error| Failure::failed(format!("socket: {error}")))?);
    }
    let start_ns = now_ns() + 10_000_000 + pace.warm_up.as_nanos() as u64;
    let end_ns = start_ns + pace.duration.as_nanos() as u64;
    let frames_per_second = pace.frames_per_second.map(|rate| rate / threads as f64);
    let window = Window { start_ns, end_ns, frames_per_second };
    let counters: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    let parts = thread::scope(|scope| {
        let handles: Vec<_> = by_thread
            .into_iter()
            .zip(&counters)
            .map(|(lanes, counter)| scope.spawn(move || drive(lanes, window, counter)))
            .collect();
        show_progress(&counters, end_ns, || handles.iter().all(|handle| handle.is_finished()));
        handles
            .into_iter()
            .map(|handle| handle.join().map_err(|_| Failure::failed("a generator thread panicked")))
            .collect::<Result<Result<Vec<_>, _>, _>>()
    })??;
    merge(parts)
}

fn show_progress(counters: &[AtomicU64], end_ns: u64, done: impl Fn() -> bool) {
    let mut progress = Progress::new();
    let (mut seen, mut seen_at) = (0, now_ns());
    while !done() {
        thread::sleep(Duration::from_millis(20));
        progress.show(|| {
            let (bytes, now) = (counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum::<u64>(), now_ns());
            let rate = (bytes - seen) as f64 / (now - seen_at).max(1) as f64 * 1e9;
            (seen, seen_at) = (bytes, now);
            let left = end_ns.saturating_sub(now) / 1_000_000_000;
            format!("{}/s, {} acked, {left} s left", show_bytes(rate as u64), show_bytes(bytes))
        });
    }
}

fn merge(parts: Vec<Measured>) -> Result<Measured, Failure> {
    let mut sum = Measured {
        latency: new_histogram()?,
        frames: 0,
        payload_bytes: 0,
        records: 0,
        errors: 0,
        outage_ns: 0,
        complaint: None,
        cpu: Duration::ZERO,
    };
    for part in parts {
        sum.latency.add(&part.latency).map_err(|error| Failure::failed(error.to_string()))?;
        sum.frames += part.frames;
        sum.payload_bytes += part.payload_bytes;
        sum.records += part.records;
        sum.errors += part.errors;
        sum.outage_ns = sum.outage_ns.max(part.outage_ns);
        sum.complaint = sum.complaint.or(part.complaint);
        sum.cpu += part.cpu;
    }
    Ok(sum)
}

fn summarize(args: &ProduceArgs, measured: &Measured) -> Report {
    let seconds = args.load.duration.as_secs_f64();
    let pace = if args.rate > 0.0 {
        format!("{} records/s, latency from the intended send time", args.rate)
    } else {
        "flat out".to_owned()
    };
    let mut report = Report {
        title: format!(
            "produce: {} connections x {} in flight, {} x {} B a frame, {} partitions, {pace}; acks: {}",
            args.connections,
            args.in_flight,
            args.batch_records,
            args.load.record_bytes,
            args.load.partitions,
            args.load.durability
        ),
        ..Report::default()
    };
    let setup = json!({
        "connections": args.connections,
        "in_flight": args.in_flight,
        "batch_records": args.batch_records,
        "record_bytes": args.load.record_bytes,
        "partitions": args.load.partitions,
        "rate": args.rate,
        "seconds": seconds,
        "threads": args.threads,
        "durability": args.load.durability,
    });
    report.setup = setup.as_object().cloned().unwrap_or_default();
    report.add("frames", measured.frames as f64 / seconds, "per_s");
    report.add("records", measured.records as f64 / seconds, "per_s");
    report.add("throughput", measured.payload_bytes as f64 / 1e6 / seconds, "MB_per_s");
    report.add_latency("ack", &measured.latency);
    report.add("generator_cpu", measured.cpu.as_secs_f64() / seconds, "cores");
    report.add("errors", measured.errors as f64, "frames");
    if measured.errors > 0 {
        report.add("refused_until_ack", measured.outage_ns as f64 / 1e3, "us");
    }
    if let Some(complaint) = &measured.complaint {
        report.warnings.push(format!("the server said: {complaint}"));
    }
    report
}

/// What the server used for it.
pub fn add_server(
    report: &mut Report,
    load: &LoadArgs,
    before: Option<ProcessUsage>,
    after: Option<ProcessUsage>,
    bytes: u64,
) {
    let (Some(before), Some(after)) = (before, after) else {
        if let Some(pid) = load.server_pid {
            report.warnings.push(format!("process {pid} could not be observed"));
        }
        return;
    };
    let cpu = (after.cpu.saturating_sub(before.cpu)).as_secs_f64();
    report.add("server_cpu", cpu / (load.duration + load.warm_up).as_secs_f64(), "cores");
    if bytes > 0 {
        let share = load.duration.as_secs_f64() / (load.duration + load.warm_up).as_secs_f64();
        report.add("server_cpu_per_gb", cpu * share / (bytes as f64 / 1e9), "s_per_GB");
    }
    report.add("server_peak_rss", after.peak_rss_bytes as f64 / 1e6, "MB");
}

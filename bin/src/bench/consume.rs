//! `lnc-bench consume`: fetches as fast as the server answers.

use super::args::ConsumeArgs;
use super::clock::now_ns;
use super::floors;
use super::frames::FrameRun;
use super::generator::new_histogram;
use super::produce::{Pace, add_server, load};
use super::raw::{RawConnection, prepare_topic};
use super::reader::{ReadPart, Reader};
use super::report::Report;
use super::usage::process_usage;
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use crate::cli::output::Progress;
use crate::cli::units::show_bytes;
use lance_client::wire::fetch::{END_OFFSET, Fetch, FetchList, FetchPartition, FetchPartitions};
use lance_client::wire::{Features, Request, Response};
use lance_client::{TopicId, TopicPartition};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Runs the load and, when asked, the floors.
pub fn run(args: &ConsumeArgs, common: &Common) -> Result<Report, Failure> {
    if args.connections == 0 || args.fetch_bytes == 0 {
        return Err(Failure::usage("--connections and --fetch-bytes start at 1"));
    }
    let topic = prepare_topic(common, &args.load.topic, args.load.partitions)?;
    if args.fill > 0 {
        for partition in 0..args.load.partitions {
            fill(common, TopicPartition::new(topic.id, partition), args.load.record_bytes, args.fill)?;
        }
    }
    let mut readers = Vec::new();
    for number in 0..args.connections {
        let partition = (number % usize::from(args.load.partitions)) as u16;
        if !holds_records(common, topic.id, partition)? {
            let topic = &args.load.topic;
            return Err(Failure::failed(format!("partition {partition} of topic '{topic}' is empty"))
                .with_hint("fill it with --fill 1GiB"));
        }
        let partition = TopicPartition::new(topic.id, partition);
        readers.push(Reader::open(common, partition, args.fetch_bytes, args.verify)?);
    }
    let begin = now_ns();
    let start_ns = begin + args.load.warm_up.as_nanos() as u64;
    let end_ns = start_ns + args.load.duration.as_nanos() as u64;
    let before = args.load.server_pid.and_then(process_usage);
    let progress = AtomicU64::new(0);
    let parts = thread::scope(|scope| {
        let handles: Vec<_> =
            readers.into_iter().map(|reader| scope.spawn(|| reader.run(start_ns, end_ns, &progress))).collect();
        let mut shown = Progress::new();
        while !handles.iter().all(|handle| handle.is_finished()) {
            thread::sleep(Duration::from_millis(20));
            shown.show(|| format!("{} read", show_bytes(progress.load(Ordering::Relaxed))));
        }
        let joined = handles.into_iter().map(|handle| handle.join());
        joined
            .map(|part| part.unwrap_or_else(|_| Err(Failure::failed("a reader thread panicked"))))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let after = args.load.server_pid.and_then(process_usage);
    let mut report = summarize(args, &parts)?;
    let bytes = parts.iter().map(|part| part.bytes).sum();
    add_server(&mut report, &args.load, before, after, bytes);
    if args.load.floors {
        floors::add_all(&mut report, &args.load.floor)?;
        report.compare("throughput", &["sendfile_stream"]);
    }
    Ok(report)
}

/// Produces batches of 64 KiB until the partition is that large.
pub fn fill(common: &Common, partition: TopicPartition, record_bytes: u64, bytes: u64) -> Result<(), Failure> {
    let TopicPartition { topic, partition } = partition;
    let mut connection = RawConnection::open(common, wanted(), false)?;
    let mut missing = bytes.saturating_sub(end_offset(&mut connection, topic, partition)?);
    let run = Arc::new(FrameRun::new(topic, partition, batch_records(record_bytes), record_bytes as usize));
    while missing > 0 {
        let connection = RawConnection::open(common, Features::PARTITIONS, false)?;
        let pace = Pace {
            in_flight: 64,
            frames_per_second: None,
            threads: 1,
            warm_up: Duration::ZERO,
            duration: Duration::from_millis(200),
        };
        let measured = load(&pace, vec![connection.into_socket()], &[Arc::clone(&run)])?;
        if let Some(complaint) = measured.complaint {
            return Err(Failure::failed(format!("cannot fill the topic: {complaint}")));
        }
        missing = missing.saturating_sub(measured.payload_bytes);
    }
    Ok(())
}

fn holds_records(common: &Common, topic: TopicId, partition: u16) -> Result<bool, Failure> {
    let mut connection = RawConnection::open(common, wanted(), false)?;
    Ok(end_offset(&mut connection, topic, partition)? > 0)
}

fn batch_records(record_bytes: u64) -> u32 {
    ((64 * 1024) / (record_bytes + 5)).clamp(1, 1 << 20) as u32
}

/// What a connection that fetches asks for.
pub fn wanted() -> Features {
    Features::PARTITIONS | Features::LONG_POLL
}

/// The end of a partition, by a fetch past it.
pub fn end_offset(connection: &mut RawConnection, topic: TopicId, partition: u16) -> Result<u64, Failure> {
    if connection.features().is_some_and(|granted| granted.contains(Features::LONG_POLL)) {
        let asked = FetchPartition {
            partition: TopicPartition::new(topic, partition),
            offset: END_OFFSET,
            max_bytes: 1,
            near: false,
        };
        let partitions = FetchList::new(&[asked]);
        let fetch = FetchPartitions { max_wait_ms: 0, min_bytes: 0, max_bytes: 1, partitions, rack: String::new() };
        return match connection.ask(Request::FetchPartitions(fetch), partition)? {
            Response::FetchPartitions(reply) if !reply.partitions.is_empty() => {
                Ok(reply.partitions[0].0.high_watermark)
            }
            _ => Err(connection.surprised()),
        };
    }
    match connection.ask(Request::Fetch(Fetch { topic, offset: END_OFFSET, max_bytes: 0 }), partition)? {
        Response::Fetch { next_offset, .. } => Ok(next_offset),
        Response::CatchingUp { end_offset } => Ok(end_offset),
        _ => Err(connection.surprised()),
    }
}

fn summarize(args: &ConsumeArgs, parts: &[ReadPart]) -> Result<Report, Failure> {
    let seconds = args.load.duration.as_secs_f64();
    let mut latency = new_histogram()?;
    for part in parts {
        latency.add(&part.latency).map_err(|error| Failure::failed(error.to_string()))?;
    }
    let sum = |of: fn(&ReadPart) -> u64| parts.iter().map(of).sum::<u64>() as f64;
    let mut report = Report {
        title: format!(
            "consume: {} connections, fetches of {}, {} partitions",
            args.connections,
            show_bytes(args.fetch_bytes),
            args.load.partitions
        ),
        ..Report::default()
    };
    let setup = json!({
        "connections": args.connections,
        "fetch_bytes": args.fetch_bytes,
        "partitions": args.load.partitions,
        "verify": args.verify,
        "seconds": seconds,
    });
    report.setup = setup.as_object().cloned().unwrap_or_default();
    report.add("throughput", sum(|part| part.bytes) / 1e6 / seconds, "MB_per_s");
    report.add("records", sum(|part| part.records) / seconds, "per_s");
    report.add("fetches", sum(|part| part.fetches) / seconds, "per_s");
    report.add_latency("fetch", &latency);
    let cpu: Duration = parts.iter().map(|part| part.cpu).sum();
    report.add("generator_cpu", cpu.as_secs_f64() / seconds, "cores");
    Ok(report)
}

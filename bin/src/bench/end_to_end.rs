//! `lnc-bench end-to-end`: from the intended send time to the arrival at a consumer, one pair a partition.

use super::args::EndToEndArgs;
use super::clock::{now_ns, tighten_timers};
use super::consume::end_offset;
use super::floors;
use super::frames::FrameRun;
use super::generator::new_histogram;
use super::raw::{RawConnection, prepare_topic};
use super::report::Report;
use super::schedule::Schedule;
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use hdrhistogram::Histogram;
use lance_client::TopicPartition;
use lance_client::wire::fetch::{FetchList, FetchPartition, FetchPartitions};
use lance_client::wire::{Features, Request, Response};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Longest wait of a poll.
const POLL_MS: u32 = 500;
/// Longest wait for the last records.
const DRAIN_NS: u64 = 10_000_000_000;

/// Runs producer and consumer of every partition.
pub fn run(args: &EndToEndArgs, common: &Common) -> Result<Report, Failure> {
    let topic = prepare_topic(common, &args.load.topic, args.load.partitions)?;
    let begin = now_ns() + 200_000_000;
    let start_ns = begin + args.load.warm_up.as_nanos() as u64;
    let end_ns = start_ns + args.load.duration.as_nanos() as u64;
    let schedule = Schedule::new(begin, args.rate.max(0.001) / f64::from(args.load.partitions));
    let mut pairs = Vec::new();
    for number in 0..args.load.partitions {
        let partition = TopicPartition::new(topic.id, number);
        let run = FrameRun::new(topic.id, number, 1, args.load.record_bytes as usize);
        let producer = RawConnection::open(common, Features::PARTITIONS, false)?.into_socket();
        let mut consumer = RawConnection::open(common, Features::PARTITIONS | Features::LONG_POLL, false)?;
        if !consumer.features().unwrap_or_default().contains(Features::LONG_POLL) {
            return Err(Failure::failed("the server knows no long poll, which end-to-end needs"));
        }
        let offset = end_offset(&mut consumer, topic.id, number)?;
        pairs.push((run, producer, Arrivals { consumer, partition, offset, schedule, start_ns, end_ns }));
    }
    let parts = thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for (run, producer, arrivals) in pairs {
            senders.push(scope.spawn(move || send(producer, &run, schedule, end_ns)));
            receivers.push(scope.spawn(move || arrivals.measure()));
        }
        let panicked = |_| Err(Failure::failed("a thread panicked"));
        for sender in senders {
            sender.join().unwrap_or_else(panicked)?;
        }
        let parts = receivers
            .into_iter()
            .map(|receiver| receiver.join().unwrap_or_else(|_| Err(Failure::failed("a thread panicked"))));
        parts.collect::<Result<Vec<_>, _>>()
    })?;
    summarize(args, &parts)
}

/// Sends each record when it is due, and drains the acks on the side.
fn send(mut socket: TcpStream, run: &FrameRun, mut schedule: Schedule, end_ns: u64) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("producing connection lost: {error}"));
    tighten_timers();
    let mut acks = socket.try_clone().map_err(failed)?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0u8; 16 * 1024];
            while acks.read(&mut buffer).is_ok_and(|count| count > 0) {}
        });
        let sent = loop {
            let now = now_ns();
            if now >= end_ns {
                break Ok(());
            }
            if schedule.take(now).is_none() {
                thread::sleep(Duration::from_nanos(schedule.next_due_ns().min(end_ns).saturating_sub(now)));
                continue;
            }
            if let Err(error) = socket.write_all(run.slice(0, run.frame_len() as u64)) {
                break Err(failed(error));
            }
        };
        // The last acks may still be on their way; closing our half ends the reading thread after them.
        _ = socket.shutdown(std::net::Shutdown::Write);
        sent
    })
}

/// A consumer that knows when each record was due: they come in the order of the schedule.
struct Arrivals {
    consumer: RawConnection,
    partition: TopicPartition,
    offset: u64,
    schedule: Schedule,
    start_ns: u64,
    end_ns: u64,
}

struct Arrived {
    latency: Histogram<u64>,
    records: u64,
    missing: u64,
}

impl Arrivals {
    fn measure(mut self) -> Result<Arrived, Failure> {
        let mut arrived = Arrived { latency: new_histogram()?, records: 0, missing: 0 };
        let mut number = 0;
        loop {
            let last_is_here = self.schedule.due_ns(number) >= self.end_ns;
            let now = now_ns();
            if last_is_here || now > self.end_ns + DRAIN_NS {
                while self.schedule.due_ns(number) < self.end_ns {
                    number += 1;
                    arrived.missing += 1;
                }
                return Ok(arrived);
            }
            let asked =
                FetchPartition { partition: self.partition, offset: self.offset, max_bytes: 1 << 20, near: false };
            let partitions = FetchList::new(&[asked]);
            let fetch = FetchPartitions {
                max_wait_ms: POLL_MS,
                min_bytes: 1,
                max_bytes: 1 << 20,
                partitions,
                rack: String::new(),
            };
            let Response::FetchPartitions(reply) = self.consumer.ask(Request::FetchPartitions(fetch), 0)? else {
                return Err(self.consumer.surprised());
            };
            let now = now_ns();
            for (fetched, _) in &reply.partitions {
                if let Some(error) = fetched.error {
                    return Err(Failure::failed(format!("fetch refused: {error}")));
                }
                self.offset = fetched.next_offset;
                for _ in 0..fetched.record_count {
                    let due = self.schedule.due_ns(number);
                    number += 1;
                    if due >= self.start_ns {
                        arrived.records += 1;
                        arrived.latency.saturating_record(now.saturating_sub(due).max(1));
                    }
                }
            }
        }
    }
}

fn summarize(args: &EndToEndArgs, parts: &[Arrived]) -> Result<Report, Failure> {
    let mut latency = new_histogram()?;
    for part in parts {
        latency.add(&part.latency).map_err(|error| Failure::failed(error.to_string()))?;
    }
    let seconds = args.load.duration.as_secs_f64();
    let mut report = Report {
        title: format!(
            "end-to-end: {} records/s of {} B over {} partitions, latency from the intended send time",
            args.rate, args.load.record_bytes, args.load.partitions
        ),
        ..Report::default()
    };
    let setup = json!({
        "rate": args.rate,
        "record_bytes": args.load.record_bytes,
        "partitions": args.load.partitions,
        "seconds": seconds,
    });
    report.setup = setup.as_object().cloned().unwrap_or_default();
    report.add("records", parts.iter().map(|part| part.records).sum::<u64>() as f64 / seconds, "per_s");
    report.add_latency("end_to_end", &latency);
    report.add("missing", parts.iter().map(|part| part.missing).sum::<u64>() as f64, "records");
    if args.load.floors {
        floors::add_all(&mut report, &args.load.floor)?;
        report.compare("end_to_end_p50", &["tcp_echo_p50", "direct_dsync_4k_p50"]);
    }
    Ok(report)
}

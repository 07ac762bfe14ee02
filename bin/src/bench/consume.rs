//! `lnc-bench consume`: fetches as fast as the server answers.

use super::args::ConsumeArgs;
use super::clock::now_ns;
use super::floors;
use super::frames::FrameRun;
use super::generator::new_histogram;
use super::produce::{Pace, add_server, load};
use super::raw::{RawConnection, prepare_topic};
use super::report::Report;
use super::usage::{process_usage, thread_cpu};
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use crate::cli::output::Progress;
use crate::cli::units::show_bytes;
use bytes::BytesMut;
use hdrhistogram::Histogram;
use lance_client::wire::fetch::{
    END_OFFSET, FETCHED_PARTITION_LEN, Fetch, FetchList, FetchPartition, FetchPartitions, FetchedPartition,
};
use lance_client::wire::header::{HEADER_LEN, Header, HeaderCrc};
use lance_client::wire::{Features, Request, RequestFrame, Response};
use lance_client::{TopicId, TopicPartition};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Bytes read at a time: they stay in the cache.
const READ_BYTES: usize = 256 * 1024;

/// Runs the load and, when asked, the floors.
pub fn run(args: &ConsumeArgs, common: &Common) -> Result<Report, Failure> {
    if args.connections == 0 || args.fetch_bytes == 0 {
        return Err(Failure::usage("--connections and --fetch-bytes start at 1"));
    }
    let topic = prepare_topic(common, &args.load.topic, args.load.partitions)?;
    if args.fill > 0 {
        fill(args, common, topic.id)?;
    }
    let mut readers = Vec::new();
    for number in 0..args.connections {
        let partition = (number % usize::from(args.load.partitions)) as u16;
        readers.push(Reader::open(args, common, TopicPartition::new(topic.id, partition))?);
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

/// Produces batches of 64 KiB until every partition is large enough.
fn fill(args: &ConsumeArgs, common: &Common, topic: TopicId) -> Result<(), Failure> {
    for partition in 0..args.load.partitions {
        let mut connection = RawConnection::open(common, wanted(), false)?;
        let mut missing = args.fill.saturating_sub(end_offset(&mut connection, topic, partition)?);
        let run =
            FrameRun::new(topic, partition, batch_records(args.load.record_bytes), args.load.record_bytes as usize);
        let run = Arc::new(run);
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
    }
    Ok(())
}

fn batch_records(record_bytes: u64) -> u32 {
    ((64 * 1024) / (record_bytes + 5)).clamp(1, 1 << 20) as u32
}

fn wanted() -> Features {
    Features::PARTITIONS | Features::LONG_POLL
}

/// The end of a partition, by a fetch past it.
pub fn end_offset(connection: &mut RawConnection, topic: TopicId, partition: u16) -> Result<u64, Failure> {
    if connection.features().is_some_and(|granted| granted.contains(Features::LONG_POLL)) {
        let asked =
            FetchPartition { partition: TopicPartition::new(topic, partition), offset: END_OFFSET, max_bytes: 1 };
        let partitions = FetchList::new(&[asked]);
        let fetch = FetchPartitions { max_wait_ms: 0, min_bytes: 0, max_bytes: 1, partitions };
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

/// A connection that reads one partition over and over.
struct Reader {
    socket: TcpStream,
    partition: TopicPartition,
    features: Option<Features>,
    fetch_bytes: u32,
    verify: bool,
}

/// What a reader measured.
struct ReadPart {
    /// Nanoseconds from a request to the last byte of its answer.
    latency: Histogram<u64>,
    bytes: u64,
    records: u64,
    fetches: u64,
    cpu: Duration,
}

/// The part of an answer that says what follows.
struct Head {
    next_offset: u64,
    records: u64,
    data_len: u64,
    /// CRC of the payload as sent, and of what was read of it so far.
    sent_crc: u32,
    read_crc: u32,
    error: Option<String>,
}

impl Reader {
    fn open(args: &ConsumeArgs, common: &Common, partition: TopicPartition) -> Result<Self, Failure> {
        let mut connection = RawConnection::open(common, wanted(), false)?;
        if end_offset(&mut connection, partition.topic, partition.partition)? == 0 {
            let topic = &args.load.topic;
            return Err(Failure::failed(format!("partition {} of topic '{topic}' is empty", partition.partition))
                .with_hint("fill it with --fill 1GiB"));
        }
        let features = connection.features().filter(|granted| granted.contains(Features::LONG_POLL));
        Ok(Self {
            features,
            socket: connection.into_socket(),
            partition,
            fetch_bytes: args.fetch_bytes.min(16 * 1024 * 1024 - 60) as u32,
            verify: args.verify,
        })
    }

    fn run(mut self, start_ns: u64, end_ns: u64, progress: &AtomicU64) -> Result<ReadPart, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("connection lost: {error}"));
        let mut part = ReadPart { latency: new_histogram()?, bytes: 0, records: 0, fetches: 0, cpu: Duration::ZERO };
        let mut buffer = vec![0u8; READ_BYTES];
        let mut cpu_at_start = None;
        let mut sent = now_ns();
        self.request(0).map_err(failed)?;
        loop {
            let head = self.read_head(&mut buffer).map_err(failed)?;
            if let Some(error) = head.error {
                return Err(Failure::failed(format!("fetch refused: {error}")));
            }
            // The next request leaves before this answer is read: the server is never idle.
            let next = if head.data_len == 0 { 0 } else { head.next_offset };
            let sent_next = now_ns();
            self.request(next).map_err(failed)?;
            self.read_data(&head, &mut buffer).map_err(failed)?;
            let now = now_ns();
            progress.fetch_add(head.data_len, Ordering::Relaxed);
            if now >= end_ns {
                part.cpu = thread_cpu().saturating_sub(cpu_at_start.unwrap_or_default());
                return Ok(part);
            }
            if now >= start_ns {
                if cpu_at_start.is_none() {
                    cpu_at_start = Some(thread_cpu());
                } else {
                    part.bytes += head.data_len;
                    part.records += head.records;
                    part.fetches += 1;
                    part.latency.saturating_record((now - sent).max(1));
                }
            }
            sent = sent_next;
        }
    }

    fn request(&mut self, offset: u64) -> std::io::Result<()> {
        let request = match self.features {
            Some(_) => {
                let max_bytes = self.fetch_bytes;
                let partitions = FetchList::new(&[FetchPartition { partition: self.partition, offset, max_bytes }]);
                Request::FetchPartitions(FetchPartitions { max_wait_ms: 0, min_bytes: 0, max_bytes, partitions })
            }
            None => Request::Fetch(Fetch { topic: self.partition.topic, offset, max_bytes: self.fetch_bytes }),
        };
        let mut frame = BytesMut::new();
        RequestFrame { correlation: 1, partition: 0, trace: None, request }.encode(&mut frame, self.features);
        self.socket.write_all(&frame)
    }

    /// Reads up to the first byte of data.
    fn read_head(&mut self, buffer: &mut [u8]) -> std::io::Result<Head> {
        let mut header = [0u8; HEADER_LEN];
        self.socket.read_exact(&mut header)?;
        let header = Header::decode(&header, HeaderCrc::Prefix, u32::MAX).map_err(std::io::Error::other)?;
        let length = header.payload_len as usize;
        let expected = if self.features.is_some() { 0xC2 } else { 0x11 };
        let prefix_len = if self.features.is_some() { 4 + FETCHED_PARTITION_LEN } else { 16 };
        if header.batch_id != expected || length < prefix_len {
            let text_len = length.min(buffer.len());
            self.socket.read_exact(&mut buffer[..text_len])?;
            let text = String::from_utf8_lossy(&buffer[..text_len]).into_owned();
            return Ok(Head { next_offset: 0, records: 0, data_len: 0, sent_crc: 0, read_crc: 0, error: Some(text) });
        }
        let prefix = &mut buffer[..prefix_len];
        self.socket.read_exact(prefix)?;
        let data_len = (length - prefix_len) as u64;
        let (sent_crc, read_crc) = (header.payload_crc, crc32fast::hash(prefix));
        if self.features.is_some() {
            let fetched =
                FetchedPartition::decode(&prefix[4..]).ok_or_else(|| std::io::Error::other("bad fetch reply"))?;
            return Ok(Head {
                next_offset: fetched.next_offset,
                records: u64::from(fetched.record_count),
                data_len,
                sent_crc,
                read_crc,
                error: fetched.error.map(|error| error.text().to_owned()),
            });
        }
        let mut next_offset = [0u8; 8];
        next_offset.copy_from_slice(&prefix[..8]);
        Ok(Head { next_offset: u64::from_le_bytes(next_offset), records: 0, data_len, sent_crc, read_crc, error: None })
    }

    fn read_data(&mut self, head: &Head, buffer: &mut [u8]) -> std::io::Result<()> {
        let mut hasher = crc32fast::Hasher::new_with_initial(head.read_crc);
        let mut left = head.data_len;
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            let count = self.socket.read(&mut buffer[..most])?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if self.verify {
                hasher.update(&buffer[..count]);
            }
            left -= count as u64;
        }
        if self.verify && hasher.finalize() != head.sent_crc {
            return Err(std::io::Error::other("an answer's checksum is wrong"));
        }
        Ok(())
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

//! A connection that fetches one partition, with the next request always on its way.

use super::clock::now_ns;
use super::consume::wanted;
use super::generator::new_histogram;
use super::raw::RawConnection;
use super::usage::thread_cpu;
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use bytes::BytesMut;
use hdrhistogram::Histogram;
use lance_client::TopicPartition;
use lance_client::wire::fetch::{
    FETCHED_PARTITION_LEN, Fetch, FetchList, FetchPartition, FetchPartitions, FetchedPartition,
};
use lance_client::wire::header::{HEADER_LEN, Header, HeaderCrc};
use lance_client::wire::{Features, Request, RequestFrame};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes read at a time: they stay in the cache.
const READ_BYTES: usize = 256 * 1024;

/// A connection that reads one partition over and over.
pub struct Reader {
    socket: TcpStream,
    partition: TopicPartition,
    features: Option<Features>,
    fetch_bytes: u32,
    verify: bool,
}

/// What a reader measured.
pub struct ReadPart {
    /// Nanoseconds from a request to the last byte of its answer.
    pub latency: Histogram<u64>,
    /// Bytes of records.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Answers.
    pub fetches: u64,
    /// CPU time of the thread.
    pub cpu: Duration,
}

/// One pass over a partition.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Bytes of records.
    pub bytes: u64,
    /// How long it took.
    pub nanos: u64,
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
    /// Connects; the partition is read in answers of at most `fetch_bytes`.
    pub fn open(common: &Common, partition: TopicPartition, fetch_bytes: u64, verify: bool) -> Result<Self, Failure> {
        let connection = RawConnection::open(common, wanted(), false)?;
        let features = connection.features().filter(|granted| granted.contains(Features::LONG_POLL));
        let fetch_bytes = fetch_bytes.min(16 * 1024 * 1024 - 60) as u32;
        Ok(Self { features, socket: connection.into_socket(), partition, fetch_bytes, verify })
    }

    /// Reads once from the start of the partition up to `until` or a little further.
    pub fn pass(&mut self, until: u64) -> Result<Pass, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("connection lost: {error}"));
        let mut buffer = vec![0u8; READ_BYTES];
        let begin = now_ns();
        let mut bytes = 0;
        self.request(0).map_err(failed)?;
        loop {
            let head = self.read_head(&mut buffer).map_err(failed)?;
            if let Some(error) = head.error {
                return Err(Failure::failed(format!("fetch refused: {error}")));
            }
            if head.data_len == 0 {
                let end = head.next_offset;
                return Err(Failure::failed(format!("the partition ends at offset {end}, not at {until}")));
            }
            // The next request leaves before this answer is read: the server is never idle.
            if head.next_offset < until {
                self.request(head.next_offset).map_err(failed)?;
            }
            self.read_data(&head, &mut buffer).map_err(failed)?;
            bytes += head.data_len;
            if head.next_offset >= until {
                return Ok(Pass { bytes, nanos: (now_ns() - begin).max(1) });
            }
        }
    }

    /// Reads over and over until `end_ns`, and measures from `start_ns` on.
    pub fn run(mut self, start_ns: u64, end_ns: u64, progress: &AtomicU64) -> Result<ReadPart, Failure> {
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
                let partitions =
                    FetchList::new(&[FetchPartition { partition: self.partition, offset, max_bytes, near: false }]);
                Request::FetchPartitions(FetchPartitions {
                    max_wait_ms: 0,
                    min_bytes: 0,
                    max_bytes,
                    partitions,
                    rack: String::new(),
                })
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

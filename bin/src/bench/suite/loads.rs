//! The loads of the scenarios.

use super::super::args::{EndToEndArgs, FloorArgs, LoadArgs, ProduceArgs};
use super::super::clock::now_ns;
use super::super::consume::{end_offset, fill, wanted};
use super::super::floors::Shape;
use super::super::raw::{RawConnection, prepare_topic};
use super::super::reader::{Pass, Reader};
use super::super::usage::{resident_bytes, threads_cpu};
use super::super::{end_to_end, produce};
use super::Bench;
use super::panics::panics;
use super::scenario::{Load, Scenario};
use super::scratch::sync_file_system;
use super::server::Server;
use super::tally::Figures;
use crate::cli::failure::Failure;
use lance_client::TopicPartition;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "bench";
const RECORD_BYTES: u64 = 1024;
const FETCH_BYTES: u64 = 4 << 20;
/// Longest wait for a restarted server to have everything again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Puts the load of a scenario on a server.
pub fn run(bench: &Bench<'_>, scenario: &Scenario, server: &mut Server<'_>) -> Result<Figures, Failure> {
    let mut figures = match scenario.load {
        Load::Produce(shape, rate) => produce_load(bench, scenario, server, &shape, rate)?,
        Load::CatchUp => catch_up(bench, scenario, server)?,
        Load::EndToEnd(rate) => end_to_end_load(bench, scenario, server, rate)?,
        Load::Idle => idle(bench, server)?,
        Load::Start(segments) => start(scenario, bench, server, segments)?,
        Load::Panic(partitions) => panics(&load_args(bench, scenario, server), server, partitions)?,
    };
    figures.add("server_peak_rss", server.usage()?.peak_rss_bytes as f64 / 1e6);
    Ok(figures)
}

fn load_args(bench: &Bench<'_>, scenario: &Scenario, server: &Server<'_>) -> LoadArgs {
    LoadArgs {
        topic: TOPIC.to_owned(),
        partitions: 1,
        duration: bench.args.measure_time(),
        warm_up: bench.args.warm_up(),
        record_bytes: RECORD_BYTES,
        server_pid: Some(server.pid()),
        durability: scenario.sync.text().to_owned(),
        floors: false,
        floor: FloorArgs { floor_dir: bench.scratch.path().to_owned(), floor_time: bench.args.floor_time() },
    }
}

fn produce_load(
    bench: &Bench<'_>,
    scenario: &Scenario,
    server: &Server<'_>,
    shape: &Shape,
    rate: Option<f64>,
) -> Result<Figures, Failure> {
    let args = ProduceArgs {
        load: LoadArgs { record_bytes: shape.record_bytes as u64, ..load_args(bench, scenario, server) },
        connections: shape.connections,
        in_flight: shape.in_flight,
        batch_records: shape.records,
        rate: rate.unwrap_or(0.0),
        threads: 1,
        plain: false,
    };
    let report = produce::run(&args, &server.common())?;
    let mut figures = Figures::of(report.figures, report.warnings);
    let refused = figures.values.get("errors").copied().unwrap_or_default();
    if refused > 0.0 {
        figures.warnings.push(format!("{refused} frames were refused or never answered"));
    }
    // At so low a rate the cost of a gigabyte says nothing.
    if rate.is_some() {
        figures.values.remove("server_cpu_per_gb");
    }
    Ok(figures)
}

fn end_to_end_load(bench: &Bench<'_>, scenario: &Scenario, server: &Server<'_>, rate: f64) -> Result<Figures, Failure> {
    let args = EndToEndArgs { load: load_args(bench, scenario, server), rate };
    let report = end_to_end::run(&args, &server.common())?;
    let mut figures = Figures::of(report.figures, report.warnings);
    let missing = figures.values.get("missing").copied().unwrap_or_default();
    if missing > 0.0 {
        figures.warnings.push(format!("{missing} records never arrived"));
    }
    Ok(figures)
}

/// Fills a partition, drops it from the page cache, and reads its closed segments: once, then until the time is up.
fn catch_up(bench: &Bench<'_>, scenario: &Scenario, server: &Server<'_>) -> Result<Figures, Failure> {
    let common = server.common();
    let partition = TopicPartition::new(prepare_topic(&common, TOPIC, 1)?.id, 0);
    let until = scenario.log_bytes(bench.args);
    // Two segments more than are read: the one that is written to stays out of it.
    fill(&common, partition, RECORD_BYTES, until + 2 * scenario.segment_bytes(bench.args).unwrap_or_default())?;
    drop_from_page_cache(&server.data())?;
    let mut reader = Reader::open(&common, partition, FETCH_BYTES, false)?;
    let rate = |pass: Pass| pass.bytes as f64 / pass.nanos as f64 * 1e3;
    let mut figures = Figures::default();
    figures.add("first_pass", rate(reader.pass(until)?));
    let before = server.usage()?.cpu;
    let end = now_ns() + bench.args.measure_time().as_nanos() as u64;
    let mut sum = reader.pass(until)?;
    while now_ns() < end {
        let pass = reader.pass(until)?;
        sum = Pass { bytes: sum.bytes + pass.bytes, nanos: sum.nanos + pass.nanos };
    }
    figures.add("later_passes", rate(sum));
    let cpu = server.usage()?.cpu.saturating_sub(before);
    figures.add("server_cpu_per_gb", cpu.as_secs_f64() / (sum.bytes as f64 / 1e9));
    Ok(figures)
}

fn idle(bench: &Bench<'_>, server: &Server<'_>) -> Result<Figures, Failure> {
    let gone = || Failure::failed("the server ended while it was idle");
    thread::sleep(bench.args.warm_up());
    let (before, begin) = (threads_cpu(server.pid()).ok_or_else(gone)?, Instant::now());
    thread::sleep(bench.args.measure_time());
    let used = threads_cpu(server.pid()).ok_or_else(gone)?.saturating_sub(before);
    let share = used.as_secs_f64() / begin.elapsed().as_secs_f64();
    let mut figures = Figures::default();
    figures.add("rss", resident_bytes(server.pid()).ok_or_else(gone)? as f64 / 1e6);
    figures.add("idle_cpu", share * 100.0);
    Ok(figures)
}

/// Makes closed segments, then starts the server over them: after a drain, and after a kill.
fn start(scenario: &Scenario, bench: &Bench<'_>, server: &mut Server<'_>, segments: usize) -> Result<Figures, Failure> {
    let common = server.common();
    let partition = TopicPartition::new(prepare_topic(&common, TOPIC, 1)?.id, 0);
    let segment_bytes = scenario.segment_bytes(bench.args).unwrap_or(1 << 20);
    let mut bytes = segment_bytes * segments as u64;
    let closed = loop {
        fill(&common, partition, RECORD_BYTES, bytes)?;
        // One is being written to.
        let closed = segment_files(&server.data()).map_err(unreadable)?.len().saturating_sub(1);
        if closed >= segments {
            break closed;
        }
        bytes += segment_bytes * (segments - closed) as u64;
    };
    let end = end_offset(&mut RawConnection::open(&common, wanted(), false)?, partition.topic, 0)?;
    server.stop()?;
    let mut figures = Figures::default();
    figures.add("closed_segments", closed as f64);
    figures.add("start", start_to_fetch(server, partition, end)?);
    server.kill();
    figures.add("start_killed", start_to_fetch(server, partition, end)?);
    Ok(figures)
}

/// Milliseconds from the start of the process to a fetch that sees everything there was.
fn start_to_fetch(server: &mut Server<'_>, partition: TopicPartition, end: u64) -> Result<f64, Failure> {
    drop_from_page_cache(&server.data())?;
    server.start_again()?;
    let common = server.common();
    let mut last = "nothing was answered".to_owned();
    while server.started.elapsed() < RECOVERY_TIMEOUT {
        let seen = RawConnection::open(&common, wanted(), false)
            .and_then(|mut connection| end_offset(&mut connection, partition.topic, partition.partition));
        match seen {
            Ok(seen) if seen >= end => return Ok(server.started.elapsed().as_secs_f64() * 1e3),
            Ok(seen) => last = format!("the log ends at offset {seen}, not at {end}"),
            Err(failure) => last = format!("{failure:?}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(Failure::failed(format!("after a restart: {last}")))
}

fn unreadable(error: io::Error) -> Failure {
    Failure::failed(format!("the server's files: {error}"))
}

/// Makes the next reads of all segments come from the device.
fn drop_from_page_cache(data: &Path) -> Result<(), Failure> {
    let dropped = || {
        // Only clean pages can be dropped.
        sync_file_system(data)?;
        for path in segment_files(data)? {
            let file = File::open(path)?;
            // SAFETY: the descriptor is open during the call.
            match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
                0 => {}
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
        Ok(())
    };
    dropped().map_err(unreadable)
}

/// The segments of all partitions.
fn segment_files(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("logs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "lnc") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_all_partitions_are_found_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        for folder in ["logs/1/0", "logs/1/1", "meta"] {
            fs::create_dir_all(data.path().join(folder)).unwrap();
            fs::write(data.path().join(folder).join("0.lnc"), "x").unwrap();
            fs::write(data.path().join(folder).join("0.idx"), "x").unwrap();
        }
        assert_eq!(segment_files(data.path()).unwrap().len(), 2);
        drop_from_page_cache(data.path()).unwrap();
    }
}

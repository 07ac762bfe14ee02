//! How long clients wait when an actor panics: an open load on many partitions, and the longest ack over the restart.

use super::super::args::{LoadArgs, ProduceArgs};
use super::super::produce;
use super::server::Server;
use super::tally::Figures;
use crate::cli::failure::Failure;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Longest wait for the admin interface.
const ADMIN_PATIENCE: Duration = Duration::from_secs(10);
/// Records a second over all partitions while an actor panics.
const RATE: f64 = 3000.0;
/// Load before the panic, and after it.
const AROUND: Duration = Duration::from_secs(1);
/// The log is filled for so many times the time of a measurement.
const FILLING: u32 = 4;

/// Fills the partitions of a topic, then panics the actors that hold them, one after the other.
pub fn panics(load: &LoadArgs, server: &Server<'_>, partitions: u16) -> Result<Figures, Failure> {
    let args = |duration, in_flight, rate| ProduceArgs {
        load: LoadArgs { partitions, duration, record_bytes: 1024, ..load.clone() },
        connections: usize::from(partitions),
        in_flight,
        batch_records: 1,
        rate,
        threads: 1,
        plain: false,
    };
    produce::run(&args(load.duration * FILLING, 16, 0.0), &server.common())?;
    let mut figures = Figures::default();
    for (actor, figure) in [("ingestion-0", "outage_ingestion"), ("poller-0", "outage_poller")] {
        let loaded = args(AROUND * 2, 64, RATE);
        let report = thread::scope(|scope| {
            let producing = scope.spawn(|| produce::run(&loaded, &server.common()));
            thread::sleep(loaded.load.warm_up + AROUND);
            panic_of(&server.admin, actor)
                .map_err(|error| Failure::failed(format!("a panic of {actor} cannot be injected: {error}")))?;
            producing.join().map_err(|_| Failure::failed("the load panicked"))?
        })?;
        let measured = Figures::of(report.figures, report.warnings);
        let value = |name| measured.values.get(name).copied().unwrap_or_default();
        if value("frames") <= 0.0 {
            return Err(Failure::failed(format!("nothing was acked around the panic of {actor}")));
        }
        // A frame that was refused meanwhile waits until the next one of its connection is acked.
        figures.add(figure, value("ack_max").max(value("refused_until_ack")) / 1e3);
        figures.warnings.extend(measured.warnings);
    }
    Ok(figures)
}

/// Has an actor panic over the admin interface.
fn panic_of(admin: &str, actor: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(ADMIN_PATIENCE))?;
    let request = format!(
        "POST /v1/actors/{actor}/panic HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status)?;
    match status.split_whitespace().nth(1) {
        Some("202") => Ok(()),
        _ => Err(io::Error::other(format!("the server answers {}", status.trim_end()))),
    }
}

//! What the machine itself can do, measured in the same run as what is compared with it.

mod disk;
mod generator;
mod memory;
mod tcp;

use super::args::FloorArgs;
use super::report::{Figure, Report};
use crate::cli::failure::Failure;
use hdrhistogram::Histogram;
use std::time::Duration;

pub use generator::Shape;

/// Runs the floors alone.
pub fn run(args: &FloorArgs) -> Result<Report, Failure> {
    let mut report = Report { title: "floors of this machine".to_owned(), ..Report::default() };
    add_all(&mut report, args)?;
    let mut floors = Floors { figures: &mut report.floors, warnings: &mut report.warnings, time: args.floor_time };
    generator::measure(
        &mut floors,
        "generator_8x64_1k",
        &Shape { connections: 8, in_flight: 64, records: 1, record_bytes: 1024 },
    )?;
    generator::measure(
        &mut floors,
        "generator_8x16_64k",
        &Shape { connections: 8, in_flight: 16, records: 63, record_bytes: 1024 },
    )?;
    Ok(report)
}

/// Measures the floors into a report.
pub fn add_all(report: &mut Report, args: &FloorArgs) -> Result<(), Failure> {
    let mut floors = Floors { figures: &mut report.floors, warnings: &mut report.warnings, time: args.floor_time };
    tcp::echo(&mut floors)?;
    tcp::sendfile_stream(&mut floors, &args.floor_dir)?;
    disk::overwrites(&mut floors, &args.floor_dir)?;
    disk::appends(&mut floors, &args.floor_dir)?;
    memory::measure(&mut floors);
    Ok(())
}

/// Measures the generator itself, with such a load against a thread that only acks.
pub fn add_generator(report: &mut Report, shape: &Shape, time: Duration) -> Result<(), Failure> {
    let mut floors = Floors { figures: &mut report.floors, warnings: &mut report.warnings, time };
    generator::measure(&mut floors, "generator_alone", shape)
}

/// Where floors are collected.
struct Floors<'a> {
    figures: &'a mut Vec<Figure>,
    warnings: &'a mut Vec<String>,
    /// How long each is measured.
    time: Duration,
}

impl Floors<'_> {
    fn add(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.to_owned(), value, unit, floor: None });
    }

    fn add_times(&mut self, name: &str, times: &Histogram<u64>) {
        self.add(&format!("{name}_p50"), times.value_at_quantile(0.5) as f64 / 1e3, "us");
        self.add(&format!("{name}_p99"), times.value_at_quantile(0.99) as f64 / 1e3, "us");
    }

    fn skip(&mut self, what: &str, why: impl std::fmt::Display) {
        self.warnings.push(format!("floor {what} not measured: {why}"));
    }
}

//! The load generator `lnc-bench`: prebuilt frames, few threads, large writes, latency from the intended send time.

pub mod args;
pub mod clock;
pub mod consume;
pub mod encrypted;
mod end_to_end;
pub mod epoll;
pub mod floors;
pub mod frames;
pub mod generator;
pub mod lane;
pub mod output_to;
pub mod produce;
pub mod raw;
pub mod reader;
pub mod replies;
pub mod report;
pub mod schedule;
pub mod suite;
pub mod usage;

use crate::cli::failure::Failure;
use crate::cli::traces;
use args::{BenchCli, BenchCommand};
use clap::Parser;
use opentelemetry::trace::{Status, TraceContextExt as _, Tracer as _};
use std::process::ExitCode;

/// Runs `lnc-bench` with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = BenchCli::parse();
    let _traces = traces::begin("lnc-bench");
    match run_traced(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report("lnc-bench");
            failure.exit_code()
        }
    }
}

/// The whole run is one span: its frames are built once and sent again and again, so they name no trace.
fn run_traced(cli: &BenchCli) -> Result<(), Failure> {
    let name = match cli.command {
        BenchCommand::Produce(_) => "produce",
        BenchCommand::Consume(_) => "consume",
        BenchCommand::EndToEnd(_) => "end-to-end",
        BenchCommand::Floors(_) => "floors",
        BenchCommand::Suite(_) => "suite",
    };
    opentelemetry::global::tracer("lnc-bench").in_span(name, |context| {
        let failed = |failure: &Failure| context.span().set_status(Status::error(failure.message().to_owned()));
        run(cli).inspect_err(failed)
    })
}

fn run(cli: &BenchCli) -> Result<(), Failure> {
    let output = &cli.flags.output;
    output.check()?;
    let common = cli.flags.common();
    let report = match &cli.command {
        BenchCommand::Produce(args) => produce::run(args, &common)?,
        BenchCommand::Consume(args) => consume::run(args, &common)?,
        BenchCommand::EndToEnd(args) => end_to_end::run(args, &common)?,
        BenchCommand::Floors(args) => floors::run(args)?,
        BenchCommand::Suite(args) => return suite::run(args, output),
    };
    output.write(&report.render(output.format()))
}

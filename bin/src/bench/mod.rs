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
use args::{BenchCli, BenchCommand};
use clap::Parser;
use std::process::ExitCode;

/// Runs `lnc-bench` with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = BenchCli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report("lnc-bench");
            failure.exit_code()
        }
    }
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

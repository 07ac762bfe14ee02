//! The client program `lnc`: one module a command.

pub mod args;
pub mod backup;
pub mod cluster;
pub mod cluster_args;
pub mod consume;
pub mod consume_group;
pub mod failure;
pub mod format;
pub mod group;
pub mod group_args;
pub mod log;
pub mod output;
pub mod produce;
pub mod secret_args;
pub mod secrets;
pub mod session;
pub mod stdin;
pub mod tee;
pub mod topic;
pub mod topic_args;
pub mod traces;
pub mod units;

use args::{Cli, Command};
use backup::{BackupArgs, BackupCommand};
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::process::ExitCode;

/// Runs `lnc` with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log();
    let _traces = traces::begin("lnc");
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report("lnc");
            failure.exit_code()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "lnc", &mut std::io::stdout());
            return Ok(());
        }
        Command::Log(command) => return log::run(command, cli.common.output),
        Command::Backup(BackupArgs { command: Some(BackupCommand::Verify { dir }), .. }) => {
            return backup::run_verify(dir, cli.common.output);
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        match &cli.command {
            Command::Produce(args) => produce::run(args, &cli.common).await,
            Command::Consume(args) => consume::run(args, &cli.common).await,
            Command::Topic(command) => topic::run(command, &cli.common).await,
            Command::Group(command) => group::run(command, &cli.common).await,
            Command::Cluster(command) => cluster::run(command, &cli.common).await,
            Command::User(command) => secrets::run_user(command, &cli.common).await,
            Command::Acl(command) => secrets::run_acl(command, &cli.common).await,
            Command::Backup(args) => backup::run_backup(args, &cli.common).await,
            Command::Restore(args) => backup::run_restore(args, &cli.common).await,
            Command::Log(_) | Command::Completions { .. } => Ok(()),
        }
    })
}

/// Logs go to stderr, and only when `RUST_LOG` asks for them.
fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

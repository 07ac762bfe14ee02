//! `lnc-bench suite`: the whole set against servers of its own, floors in the same run, one table.

mod around;
mod loads;
mod machine;
mod panics;
mod scenario;
mod scratch;
mod server;
mod table;
mod tally;

use super::output_to::OutputTo;
use crate::cli::failure::Failure;
use clap::Args;
use machine::Machine;
use scenario::{SCENARIOS, Scenario, Sync};
use scratch::Scratch;
use server::Server;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use table::Table;
use tally::{Figures, Tally};

/// Arguments of `lnc-bench suite`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  lnc-bench suite --output benchmarks.md
  lnc-bench suite --only ack,small-8x64 --sync always --seconds 2 --repeat 5

Every scenario gets a fresh server and a fresh folder; both are gone afterwards. The floors of the machine are measured
before and after each scenario, and the middle of the two is what its figures are compared with. With --repeat the rounds go
through all scenarios in turn. The whole set writes some 10 GB at a time, and needs room for it in --data-dir.

The exit code tells whether everything was measured, not whether every target was met.")]
pub struct SuiteArgs {
    /// The server program; without it the one beside this program.
    #[arg(long, value_name = "PATH")]
    pub lance: Option<PathBuf>,
    /// Folder on the device to measure; without it the system's temporary one. Only what the suite made there is removed.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long each scenario is measured.
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Only scenarios with this durability; those that are not about durability run synced.
    #[arg(long, value_enum)]
    pub sync: Option<Sync>,
    /// Only these scenarios.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = scenario::parse_name)]
    pub only: Vec<&'static str>,
    /// Rounds; the table shows the median, the least and the most.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
}

fn parse_seconds(given: &str) -> Result<f64, String> {
    match given.parse() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0.05 to 3600".to_owned()),
    }
}

impl SuiteArgs {
    fn measure_time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64((self.seconds / 5.0).clamp(0.1, 1.0))
    }

    fn floor_time(&self) -> Duration {
        Duration::from_secs_f64((self.seconds / 10.0).clamp(0.03, 0.5))
    }

    fn chosen(&self) -> Vec<&'static Scenario> {
        let wanted = |scenario: &&Scenario| {
            (self.only.is_empty() || self.only.contains(&scenario.name))
                && self.sync.is_none_or(|sync| sync == scenario.sync)
        };
        SCENARIOS.iter().filter(wanted).collect()
    }

    fn lance(&self) -> Result<PathBuf, Failure> {
        let path = match &self.lance {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|error| Failure::failed(format!("this program's own path is unknown: {error}")))?
                .with_file_name("lance"),
        };
        let missing = || {
            Failure::failed(format!("there is no server program at {}", path.display()))
                .with_hint("build it with `cargo build --release -p lance-bin`, or name it with --lance PATH")
        };
        // The server runs in another folder.
        path.canonicalize().map_err(|_| missing())
    }
}

/// What every scenario works with.
struct Bench<'a> {
    args: &'a SuiteArgs,
    lance: PathBuf,
    scratch: Scratch,
}

/// Runs the set and writes the table.
pub fn run(args: &SuiteArgs, output: &OutputTo) -> Result<(), Failure> {
    let chosen = args.chosen();
    if chosen.is_empty() {
        return Err(Failure::usage("no scenario is left by --only and --sync"));
    }
    let bench = Bench { args, lance: args.lance()?, scratch: Scratch::create(args.data_dir.as_deref())? };
    let mut machine = Machine::read(bench.scratch.path());
    let mut tallies: Vec<Tally> = chosen.iter().map(|scenario| Tally::new(scenario)).collect();
    let begin = Instant::now();
    for round in 1..=args.repeat {
        measure_round(&bench, round, &mut tallies, &mut machine)?;
    }
    let table = Table { machine: &machine, args, tallies: &tallies, took: begin.elapsed() };
    output.write(&table.render(output.format()))?;
    match tallies.iter().map(|tally| tally.failures.len()).sum::<usize>() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("{failed} measurements failed; the table says which"))),
    }
}

/// One round through all scenarios; the floors after one are those before the next.
fn measure_round(bench: &Bench<'_>, round: u32, tallies: &mut [Tally], machine: &mut Machine) -> Result<(), Failure> {
    let count = tallies.len();
    eprintln!("round {round} of {}: floors", bench.args.repeat);
    let mut before = around::common(bench)?;
    for (at, tally) in tallies.iter_mut().enumerate() {
        let scenario = tally.scenario;
        eprintln!("round {round} of {}, {} of {count}: {}", bench.args.repeat, at + 1, scenario.title());
        let measured = measure(bench, scenario, machine);
        bench.scratch.clear()?;
        let after = around::common(bench)?;
        match measured {
            Ok(measured) => {
                let [mut floors_before, mut floors_after] = [before, after.clone()];
                floors_before.extend(measured.before);
                floors_after.extend(measured.after);
                for line in tally.add(&measured.figures, &floors_before, &floors_after) {
                    eprintln!("  {line}");
                }
            }
            Err(failure) => {
                eprintln!("  failed: {failure:?}");
                tally.failures.push(format!("round {round}: {failure:?}"));
            }
        }
        before = after;
    }
    Ok(())
}

/// A load, and the floors only its scenario has.
struct Around {
    before: Figures,
    figures: Figures,
    after: Figures,
}

/// One scenario.
fn measure(bench: &Bench<'_>, scenario: &'static Scenario, machine: &mut Machine) -> Result<Around, Failure> {
    let before = around::own(bench, scenario)?;
    let mut server = Server::start(bench, &scenario.settings(bench.args))?;
    machine.served(&server);
    let figures = loads::run(bench, scenario, &mut server)?;
    server.stop()?;
    Ok(Around { before, figures, after: around::own(bench, scenario)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Suite {
        #[command(flatten)]
        args: SuiteArgs,
    }

    fn parse(arguments: &[&str]) -> Result<SuiteArgs, clap::Error> {
        Suite::try_parse_from([&["suite"], arguments].concat()).map(|suite| suite.args)
    }

    #[test]
    fn only_and_sync_choose_scenarios() {
        let names = |arguments: &[&str]| -> Vec<(&str, Sync)> {
            parse(arguments).unwrap().chosen().iter().map(|scenario| (scenario.name, scenario.sync)).collect()
        };
        assert_eq!(names(&[]).len(), SCENARIOS.len());
        assert_eq!(names(&["--only", "ack"]), [("ack", Sync::Always), ("ack", Sync::Interval)]);
        assert_eq!(names(&["--only", "ack,idle", "--sync", "always"]), [("ack", Sync::Always), ("idle", Sync::Always)]);
        assert!(names(&["--only", "idle", "--sync", "interval"]).is_empty());
    }

    #[test]
    fn wrong_arguments_say_what_is_allowed() {
        let refused = parse(&["--only", "akc"]).unwrap_err().to_string();
        assert!(refused.contains("small-8x64") && refused.contains("idle"), "{refused}");
        assert!(parse(&["--seconds", "0"]).is_err());
        assert!(parse(&["--seconds", "NaN"]).is_err());
        assert!(parse(&["--repeat", "0"]).is_err());
    }

    #[test]
    fn times_shrink_with_the_measurement() {
        let long = parse(&[]).unwrap();
        assert_eq!((long.warm_up(), long.floor_time()), (Duration::from_secs(1), Duration::from_millis(500)));
        let short = parse(&["--seconds", "0.3"]).unwrap();
        assert_eq!((short.warm_up(), short.floor_time()), (Duration::from_millis(100), Duration::from_millis(30)));
    }
}

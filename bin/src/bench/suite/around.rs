//! The floors around a scenario: measured right before and right after it.

use super::super::args::FloorArgs;
use super::super::floors;
use super::super::report::Report;
use super::Bench;
use super::scenario::Scenario;
use super::tally::Figures;
use crate::cli::failure::Failure;

/// The floors every scenario may be compared with; a floor this file system has not got is absent.
pub fn common(bench: &Bench<'_>) -> Result<Figures, Failure> {
    let mut report = Report::default();
    let args = FloorArgs { floor_dir: bench.scratch.path().to_owned(), floor_time: bench.args.floor_time() };
    floors::add_all(&mut report, &args)?;
    Ok(Figures::of(report.floors, report.warnings))
}

/// The floors only this scenario is compared with.
pub fn own(bench: &Bench<'_>, scenario: &Scenario) -> Result<Figures, Failure> {
    let mut report = Report::default();
    if let Some(shape) = scenario.generator_shape() {
        floors::add_generator(&mut report, shape, bench.args.floor_time())?;
    }
    Ok(Figures::of(report.floors, report.warnings))
}

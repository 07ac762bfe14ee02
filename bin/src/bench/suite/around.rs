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

/// What lies in the middle of two measurements; a floor that only one has is left out.
pub fn mean(before: &Figures, after: &Figures) -> Figures {
    let both = |(name, value): (&String, &f64)| {
        let other = after.values.get(name)?;
        Some((name.clone(), f64::midpoint(*value, *other)))
    };
    let mut warnings = before.warnings.clone();
    warnings.extend(after.warnings.iter().filter(|warning| !before.warnings.contains(warning)).cloned());
    Figures { values: before.values.iter().filter_map(both).collect(), warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_what_both_have() {
        let figures = |values: &[(&str, f64)]| Figures {
            values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            warnings: vec!["same".to_owned()],
        };
        let mean = mean(&figures(&[("echo", 10.0), ("sync", 5.0)]), &figures(&[("echo", 14.0), ("crc", 1.0)]));
        assert_eq!(mean.values.into_iter().collect::<Vec<_>>(), [("echo".to_owned(), 12.0)]);
        assert_eq!(mean.warnings, ["same"]);
    }
}

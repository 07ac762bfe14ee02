//! What the rounds of a scenario gave, and the verdict.

use super::super::report::{Figure, show};
use super::scenario::{Line, Scenario, Target};
use std::collections::BTreeMap;

/// Named numbers of a load or of the floors.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// By name.
    pub values: BTreeMap<String, f64>,
    /// What went wrong without ending the run.
    pub warnings: Vec<String>,
}

impl Figures {
    /// Takes those of a report.
    pub fn of(figures: Vec<Figure>, warnings: Vec<String>) -> Self {
        Self { values: figures.into_iter().map(|figure| (figure.name, figure.value)).collect(), warnings }
    }

    /// Adds one.
    pub fn add(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: Self) {
        self.values.extend(other.values);
        self.warnings.extend(other.warnings);
    }

    /// The sum of these; `None` when one was not measured or there are none.
    fn sum(&self, names: &[&str]) -> Option<f64> {
        let values: Option<Vec<f64>> = names.iter().map(|name| self.values.get(*name).copied()).collect();
        values.filter(|values| !values.is_empty()).map(|values| values.iter().sum())
    }
}

/// A figure and its floor in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The figure.
    pub value: f64,
    /// Its floor, where it has one: the middle of before and after.
    pub floor: Option<f64>,
    /// The larger of the floors before and after over the smaller.
    pub moved: Option<f64>,
}

/// From here on a floor says more about the neighbours than about the machine.
const MOVED: f64 = 1.5;
/// A stream that is so many times as fast as its floor was not measured under the same conditions.
const BEATEN: f64 = 1.25;

impl Measured {
    /// Figure over floor.
    pub fn ratio(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.value / floor)
    }

    fn new(line: &Line, value: f64, before: &Figures, after: &Figures) -> Self {
        let (floor, moved) = match (before.sum(line.floors), after.sum(line.floors)) {
            (Some(before), Some(after)) => {
                (Some(f64::midpoint(before, after)), Some(before.max(after) / before.min(after).max(f64::MIN_POSITIVE)))
            }
            _ => (None, None),
        };
        Self { value, floor, moved }
    }
}

/// Whether a target is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By the median, and in so many rounds.
    Pass,
    /// Not by the median.
    Fail,
    /// There is no target.
    NoTarget,
    /// The figure or its floor was not measured.
    NotMeasured,
}

impl Target {
    fn met(self, value: f64, ratio: Option<f64>) -> Verdict {
        let met = match (self, ratio) {
            (Self::Shown, _) => return Verdict::NoTarget,
            (Self::AtLeast(least), _) => value >= least,
            (Self::Below(most), _) => value < most,
            (Self::RatioAtMost(most), Some(ratio)) => ratio <= most,
            (Self::RatioAtLeast(least), Some(ratio)) => ratio >= least,
            (Self::RatioAtMost(_) | Self::RatioAtLeast(_), None) => return Verdict::NotMeasured,
        };
        if met { Verdict::Pass } else { Verdict::Fail }
    }

    /// As the table shows it.
    pub fn text(self, unit: &str) -> String {
        let unit = if unit.starts_with('/') { unit.to_owned() } else { format!(" {unit}") };
        match self {
            Self::RatioAtMost(ratio) => format!("≤ {ratio} × floor"),
            Self::RatioAtLeast(ratio) => format!("≥ {:.0} % of floor", ratio * 100.0),
            Self::AtLeast(least) => format!("≥ {}{unit}", show(least)),
            Self::Below(most) => format!("< {most}{unit}"),
            Self::Shown => "–".to_owned(),
        }
    }
}

/// Least, middle and most of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle, or between the two in the middle.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of some numbers; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { min, median, max })
    }
}

/// All rounds of one scenario.
#[derive(Debug)]
pub struct Tally {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Rounds of each of its lines; a round in which it was not measured is absent.
    pub rounds: Vec<Vec<Measured>>,
    /// Server CPU seconds for a GB, peak resident set in MB.
    pub server: [Vec<f64>; 2],
    /// The floors around it.
    pub floors: BTreeMap<String, Vec<f64>>,
    /// What went wrong without ending a round.
    pub warnings: Vec<String>,
    /// Why rounds are missing.
    pub failures: Vec<String>,
}

impl Tally {
    /// Without any round.
    pub fn new(scenario: &'static Scenario) -> Self {
        Self {
            scenario,
            rounds: vec![Vec::new(); scenario.lines.len()],
            server: [Vec::new(), Vec::new()],
            floors: BTreeMap::new(),
            warnings: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a round, and gives what to say about it.
    pub fn add(&mut self, figures: &Figures, before: &Figures, after: &Figures) -> Vec<String> {
        let mut said = Vec::new();
        for (line, rounds) in self.scenario.lines.iter().zip(&mut self.rounds) {
            let Some(&value) = figures.values.get(line.figure) else {
                self.failures.push(format!("{} was not measured", line.what));
                continue;
            };
            let measured = Measured::new(line, value, before, after);
            rounds.push(measured);
            said.push(describe(line, &measured));
        }
        for (values, name) in self.server.iter_mut().zip(["server_cpu_per_gb", "server_peak_rss"]) {
            values.extend(figures.values.get(name));
        }
        for (name, value) in before.values.iter().chain(&after.values) {
            self.floors.entry(name.clone()).or_default().push(*value);
        }
        for warning in figures.warnings.iter().chain(&before.warnings).chain(&after.warnings) {
            if !self.warnings.contains(warning) {
                self.warnings.push(warning.clone());
            }
        }
        said
    }

    /// By the median of the rounds, and in how many of them.
    pub fn verdict(&self, line: usize) -> (Verdict, usize) {
        let (rounds, target) = (&self.rounds[line], self.scenario.lines[line].target);
        let Some(value) = Spread::of(rounds.iter().map(|round| round.value)) else {
            return (Verdict::NotMeasured, 0);
        };
        let ratio = Spread::of(rounds.iter().filter_map(Measured::ratio)).map(|ratio| ratio.median);
        let passed = rounds.iter().filter(|round| target.met(round.value, round.ratio()) == Verdict::Pass).count();
        (target.met(value.median, ratio), passed)
    }

    /// Why a verdict on a line should not be trusted, if there is a reason.
    pub fn doubt(&self, line: usize) -> Option<String> {
        let rounds = &self.rounds[line];
        let moved = Spread::of(rounds.iter().filter_map(|round| round.moved))?.median;
        let ratio = Spread::of(rounds.iter().filter_map(Measured::ratio))?.median;
        // Nothing is faster than what it consists of: the floor was measured in a worse moment. Streams get some room, as
        // a floor has one request at a time.
        let line = &self.scenario.lines[line];
        let beaten = match line.unit {
            "µs" => ratio < 1.0,
            "MB/s" => ratio > BEATEN,
            _ => false,
        };
        match (moved > MOVED, beaten) {
            (true, _) => Some(format!("floor moved × {moved:.1}")),
            (false, true) => Some("better than its floor".to_owned()),
            (false, false) => None,
        }
    }
}

fn describe(line: &Line, measured: &Measured) -> String {
    let mut text = format!("{}: {} {}", line.what, show(measured.value), line.unit);
    if let (Some(floor), Some(ratio)) = (measured.floor, measured.ratio()) {
        text += &format!(", {ratio:.2} × {} ({})", line.floor, show(floor));
    }
    match line.target.met(measured.value, measured.ratio()) {
        Verdict::Pass => text + ", pass",
        Verdict::Fail => format!("{text}, misses {}", line.target.text(line.unit)),
        Verdict::NoTarget | Verdict::NotMeasured => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::SCENARIOS;
    use super::*;

    fn figures(values: &[(&str, f64)]) -> Figures {
        Figures { values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(), warnings: vec![] }
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn targets_are_held_against_the_figure_or_its_ratio() {
        assert_eq!(Target::RatioAtMost(1.3).met(130.0, Some(1.3)), Verdict::Pass);
        assert_eq!(Target::RatioAtMost(1.3).met(131.0, Some(1.31)), Verdict::Fail);
        assert_eq!(Target::RatioAtLeast(0.8).met(1.0, Some(0.79)), Verdict::Fail);
        assert_eq!(Target::RatioAtLeast(0.8).met(1.0, None), Verdict::NotMeasured);
        assert_eq!(Target::AtLeast(280_000.0).met(280_000.0, None), Verdict::Pass);
        assert_eq!(Target::Below(64.0).met(64.0, None), Verdict::Fail);
        assert_eq!(Target::Shown.met(1.0, None), Verdict::NoTarget);
    }

    #[test]
    fn the_verdict_is_the_medians_and_counts_rounds() {
        let ack = &SCENARIOS[0];
        let mut tally = Tally::new(ack);
        let floors = figures(&[("tcp_echo_two_cores_p50", 60.0), ("direct_dsync_4k_p50", 40.0)]);
        for p50 in [120.0, 125.0, 500.0] {
            tally.add(&figures(&[("ack_p50", p50), ("ack_p99", 900.0), ("server_peak_rss", 20.0)]), &floors, &floors);
        }
        assert_eq!(tally.doubt(0), None);
        assert_eq!(tally.verdict(0), (Verdict::Pass, 2));
        // The echo where the scheduler puts it was not measured.
        assert_eq!(tally.verdict(1), (Verdict::NotMeasured, 0));
        assert_eq!(tally.verdict(2), (Verdict::NoTarget, 0));
        assert_eq!(tally.server[1], [20.0, 20.0, 20.0]);
        assert!(tally.failures.is_empty());
    }

    #[test]
    fn a_floor_that_moved_or_was_beaten_casts_doubt_on_the_verdict() {
        let floors =
            |sync: f64| figures(&[("tcp_echo_two_cores_p50", 60.0), ("direct_dsync_4k_p50", sync), ("crc32_1k", 1.0)]);
        let doubt = |p50: f64, before: f64, after: f64| {
            let mut tally = Tally::new(&SCENARIOS[0]);
            tally.add(&figures(&[("ack_p50", p50), ("ack_p99", 900.0)]), &floors(before), &floors(after));
            assert_eq!(tally.rounds[0][0].floor, Some(f64::midpoint(before, after) + 60.0));
            tally.doubt(0)
        };
        assert_eq!(doubt(200.0, 100.0, 110.0), None);
        assert_eq!(doubt(1900.0, 100.0, 3940.0).as_deref(), Some("floor moved × 25.0"));
        assert_eq!(doubt(100.0, 100.0, 100.0).as_deref(), Some("better than its floor"));
    }

    #[test]
    fn a_figure_that_is_missing_is_a_failure() {
        let mut tally = Tally::new(&SCENARIOS[0]);
        assert!(tally.add(&figures(&[]), &figures(&[]), &figures(&[])).is_empty());
        assert_eq!(tally.failures.len(), SCENARIOS[0].lines.len());
        assert_eq!(tally.verdict(0), (Verdict::NotMeasured, 0));
    }
}

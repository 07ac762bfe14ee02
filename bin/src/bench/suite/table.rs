//! The table: Markdown, or the same as JSON.

use super::super::report::show;
use super::SuiteArgs;
use super::machine::Machine;
use super::scenario::Line;
use super::tally::{Measured, Spread, Tally, Verdict};
use crate::cli::args::OutputFormat;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const HEAD: [&str; 10] = [
    "scenario",
    "figure",
    "durability",
    "measured",
    "floor",
    "ratio",
    "target",
    "verdict",
    "server CPU s/GB",
    "peak RSS MB",
];

/// Everything a run gave.
pub struct Table<'a> {
    /// Where.
    pub machine: &'a Machine,
    /// How.
    pub args: &'a SuiteArgs,
    /// What.
    pub tallies: &'a [Tally],
    /// How long the run took.
    pub took: Duration,
}

impl Table<'_> {
    /// What is written.
    pub fn render(&self, format: OutputFormat) -> String {
        match format {
            OutputFormat::Text => self.markdown(),
            OutputFormat::Json => self.json().to_string(),
        }
    }

    fn markdown(&self) -> String {
        let mut text = vec![
            format!("**Machine:** {}.", self.machine.line()),
            String::new(),
            format!(
                "**Run:** `lnc-bench suite`, version {}{}, {} × {} s a scenario, interleaved, {} s in all. Figures \
                 are medians (least – most). Floors are measured before and after each scenario; ratios are those of \
                 single rounds. A verdict is the median's; in brackets the rounds that met the target. \
                 *Unsteady*: the floor moved by more than half between before and after, or the figure is better \
                 than its floor: something else kept the machine busy, and the verdict says little.",
                env!("CARGO_PKG_VERSION"),
                if cfg!(debug_assertions) { " (**debug build**)" } else { "" },
                self.args.repeat,
                self.args.seconds,
                self.took.as_secs(),
            ),
            String::new(),
            row(&HEAD.map(str::to_owned)),
            row(&HEAD.map(|_| "---".to_owned())),
        ];
        for tally in self.tallies {
            let lines = tally.scenario.lines.iter().enumerate();
            text.extend(lines.map(|(at, line)| row(&cells(tally, at, line))));
        }
        text.extend([String::new(), "Floors over the whole run:".to_owned(), String::new()]);
        text.extend([
            row(&["floor", "median (least – most)"].map(str::to_owned)),
            row(&["---", "---"].map(str::to_owned)),
        ]);
        for (name, spread) in self.floors() {
            text.push(row(&[format!("`{name}`"), format!("{} {}", spread_text(Some(spread)), floor_unit(&name))]));
        }
        let notes = self.tallies.iter().flat_map(|tally| {
            let warnings = tally.warnings.iter().map(|text| format!("- {}: {text}", tally.scenario.title()));
            let failures =
                tally.failures.iter().map(|text| format!("- {}: **failed**: {text}", tally.scenario.title()));
            warnings.chain(failures)
        });
        let notes: Vec<String> = notes.collect();
        if !notes.is_empty() {
            text.extend([String::new(), "Notes:".to_owned(), String::new()]);
            text.extend(notes);
        }
        text.join("\n")
    }

    /// Those of the scenarios' surroundings, by name.
    fn floors(&self) -> BTreeMap<String, Spread> {
        let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, values) in self.tallies.iter().flat_map(|tally| &tally.floors) {
            // The generator is measured with another load in each scenario.
            if !name.starts_with("generator_") {
                all.entry(name.clone()).or_default().extend(values);
            }
        }
        all.into_iter().filter_map(|(name, values)| Some((name, Spread::of(values)?))).collect()
    }

    fn json(&self) -> Value {
        let lines = self.tallies.iter().flat_map(|tally| {
            tally.scenario.lines.iter().enumerate().map(|(at, line)| {
                let rounds = &tally.rounds[at];
                let (verdict, passed) = tally.verdict(at);
                json!({
                    "scenario": tally.scenario.name,
                    "durability": tally.scenario.sync.text(),
                    "figure": line.what,
                    "unit": line.unit,
                    "values": rounds.iter().map(|round| round.value).collect::<Vec<_>>(),
                    "floor": line.floor,
                    "floors": rounds.iter().map(|round| round.floor).collect::<Vec<_>>(),
                    "ratios": rounds.iter().map(Measured::ratio).collect::<Vec<_>>(),
                    "target": line.target.text(line.unit),
                    "verdict": verdict_word(verdict),
                    "rounds_passed": passed,
                    "doubt": tally.doubt(at),
                    "server_cpu_s_per_gb": tally.server[0],
                    "server_peak_rss_mb": tally.server[1],
                })
            })
        });
        let said = |of: fn(&Tally) -> &Vec<String>| -> Vec<String> {
            let texts = |tally: &Tally| -> Vec<String> {
                of(tally).iter().map(|text| format!("{}: {text}", tally.scenario.title())).collect()
            };
            self.tallies.iter().flat_map(texts).collect()
        };
        json!({
            "machine": self.machine.line(),
            "repeat": self.args.repeat,
            "seconds": self.args.seconds,
            "lines": lines.collect::<Vec<_>>(),
            "warnings": said(|tally| &tally.warnings),
            "failures": said(|tally| &tally.failures),
        })
    }
}

fn cells(tally: &Tally, at: usize, line: &Line) -> [String; 10] {
    let rounds = &tally.rounds[at];
    let value = Spread::of(rounds.iter().map(|round| round.value));
    let ratio = Spread::of(rounds.iter().filter_map(Measured::ratio));
    let floor = match Spread::of(rounds.iter().filter_map(|round| round.floor)) {
        Some(floor) => format!("{} {} ({})", show(floor.median), line.unit, line.floor),
        None if line.floors.is_empty() => "–".to_owned(),
        None => format!("not measured ({})", line.floor),
    };
    let verdict = match tally.verdict(at) {
        (verdict @ (Verdict::Pass | Verdict::Fail), passed) => {
            let said = format!("**{}** ({passed} of {})", verdict_word(verdict), rounds.len());
            match tally.doubt(at) {
                Some(doubt) => format!("unsteady: {doubt}; by the numbers {}", said.replace("**", "")),
                None => said,
            }
        }
        (verdict, _) => verdict_word(verdict).to_owned(),
    };
    let [cpu, rss] = [0, 1].map(|of| Spread::of(tally.server[of].iter().copied()).map(|spread| show(spread.median)));
    [
        tally.scenario.name.to_owned(),
        line.what.to_owned(),
        tally.scenario.sync.text().to_owned(),
        value.map_or_else(|| "–".to_owned(), |value| format!("{} {}", spread_text(Some(value)), line.unit)),
        floor,
        spread_text(ratio),
        line.target.text(line.unit),
        verdict,
        cpu.unwrap_or_else(|| "–".to_owned()),
        rss.unwrap_or_else(|| "–".to_owned()),
    ]
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::NoTarget => "–",
        Verdict::NotMeasured => "not measured",
    }
}

fn spread_text(spread: Option<Spread>) -> String {
    match spread {
        None => "–".to_owned(),
        Some(Spread { min, median, max }) if min == max => show(median),
        Some(Spread { min, median, max }) => format!("{} ({} – {})", show(median), show(min), show(max)),
    }
}

fn floor_unit(name: &str) -> &'static str {
    if name.ends_with("_p50") || name.ends_with("_p99") { "µs" } else { "MB/s" }
}

fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::super::scenario::SCENARIOS;
    use super::super::tally::Figures;
    use super::*;

    fn figures(values: &[(&str, f64)]) -> Figures {
        Figures { values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(), warnings: vec![] }
    }

    fn with_tallies(test: impl FnOnce(&Table<'_>)) {
        let mut ack = Tally::new(&SCENARIOS[0]);
        let floors = figures(&[("tcp_echo_two_cores_p50", 60.0), ("direct_dsync_4k_p50", 100.0)]);
        for p50 in [180.0, 190.0, 250.0] {
            ack.add(&figures(&[("ack_p50", p50), ("ack_p99", 1234.5), ("server_peak_rss", 21.0)]), &floors, &floors);
        }
        let mut idle = Tally::new(SCENARIOS.iter().find(|scenario| scenario.name == "idle").unwrap());
        idle.failures.push("round 1: no | server".to_owned());
        let machine = Machine::read(std::path::Path::new("/"));
        let args = SuiteArgs { lance: None, data_dir: None, seconds: 5.0, sync: None, only: vec![], repeat: 3 };
        test(&Table { machine: &machine, args: &args, tallies: &[ack, idle], took: Duration::from_secs(9) });
    }

    #[test]
    fn every_row_has_all_columns() {
        with_tallies(|table| {
            let text = table.render(OutputFormat::Text);
            let rows: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("| scenario")).collect();
            let rows: Vec<&str> = rows.into_iter().take_while(|line| line.starts_with('|')).collect();
            assert_eq!(rows.len(), 2 + 3 + 2);
            assert!(rows.iter().all(|row| row.matches('|').count() == HEAD.len() + 1), "{text}");
        });
    }

    #[test]
    fn figures_stand_beside_floor_ratio_target_and_verdict() {
        with_tallies(|table| {
            let text = table.render(OutputFormat::Text);
            let row = text.lines().find(|line| line.starts_with("| ack |")).unwrap();
            for part in [
                "synced before ack",
                "190.0 (180.0 – 250.0) µs",
                "160.0 µs (echo on two cores",
                "1.19 (1.12 – 1.56)",
                "≤ 1.3 × floor",
                "**pass** (2 of 3)",
                "21.0",
            ] {
                assert!(row.contains(part), "{part}: {row}");
            }
            assert!(text.contains("not measured (echo where the scheduler puts it"), "{text}");
            assert!(text.contains("- idle, synced before ack: **failed**: round 1: no | server"), "{text}");
            assert!(text.contains("| `tcp_echo_two_cores_p50` | 60.0 µs |"), "{text}");
        });
    }

    #[test]
    fn json_keeps_every_round() {
        with_tallies(|table| {
            let value: Value = serde_json::from_str(&table.render(OutputFormat::Json)).unwrap();
            assert_eq!(value["lines"][0]["values"], json!([180.0, 190.0, 250.0]));
            assert_eq!(value["lines"][0]["verdict"], "pass");
            assert_eq!(value["lines"][3]["verdict"], "not measured");
            assert_eq!(value["failures"].as_array().unwrap().len(), 1);
        });
    }
}

//! The verdict, for people and for programs.

use crate::cli::args::OutputFormat;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Findings of one promise that are shown.
const SHOWN: usize = 10;

/// Whether a promise was kept.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Of which invariant it is a part, by its number in docs/Recovery.md.
    pub invariant: u8,
    /// The promise.
    pub promise: &'static str,
    /// How often it was checked and held.
    pub held: u64,
    /// How often it did not.
    pub broken: u64,
    /// The first of these.
    pub findings: Vec<String>,
}

impl Verdict {
    /// Nothing is known yet.
    pub fn new(invariant: u8, promise: &'static str) -> Self {
        Self { invariant, promise, held: 0, broken: 0, findings: Vec::new() }
    }

    /// The verdict. What was never looked at is not called kept.
    pub fn word(&self) -> &'static str {
        match (self.broken, self.held) {
            (0, 0) => "unseen",
            (0, _) => "kept  ",
            _ => "BROKEN",
        }
    }

    /// It held once more.
    pub fn held(&mut self) {
        self.held_by(1);
    }

    /// It held so many times more.
    pub fn held_by(&mut self, times: u64) {
        self.held += times;
    }

    /// It did not hold.
    pub fn broken(&mut self, finding: String) {
        self.broken += 1;
        if self.findings.len() < SHOWN {
            self.findings.push(finding);
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What brings the same faults again.
    pub seed: u64,
    /// Nodes.
    pub nodes: u16,
    /// Seconds of faults.
    pub duration_seconds: f64,
    /// Records handed to producers.
    pub produced: u64,
    /// Records acked.
    pub acked: u64,
    /// Records given up.
    pub failed: u64,
    /// Records read by all consumers together.
    pub consumed: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// The most faults that lasted at the same time.
    pub faults_at_once: u64,
    /// What connected the nodes.
    pub network: String,
    /// Longest time a partition was without an ack.
    pub longest_unavailability_seconds: f64,
    /// When that ended, in seconds, as in the history.
    pub longest_unavailability_ended_at: f64,
    /// In which partition.
    pub longest_unavailability_partition: u16,
    /// Every promise.
    pub verdicts: Vec<Verdict>,
    /// Whether all were kept.
    pub passed: bool,
    /// Where the folders and logs of the nodes are, if they stay.
    pub folder: Option<String>,
    /// What was done, and when, in seconds.
    pub history: Vec<(f64, String)>,
}

impl Report {
    /// As text or JSON.
    pub fn render(&self, format: OutputFormat) -> String {
        match format {
            OutputFormat::Json => serde_json::to_string(self).unwrap_or_default(),
            OutputFormat::Text => self.text(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for verdict in &self.verdicts {
            let Verdict { invariant, promise, held, broken, .. } = verdict;
            // Writing to a String does not fail.
            _ = writeln!(text, "{}  {invariant:>2}  {promise} (held {held}, broken {broken})", verdict.word());
            verdict.findings.iter().for_each(|finding| _ = writeln!(text, "              {finding}"));
        }
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let total: u64 = self.faults.values().sum();
        let pause = Duration::from_secs_f64(self.longest_unavailability_seconds);
        _ = writeln!(text, "records: {} produced, {} acked, {} given up", self.produced, self.acked, self.failed);
        _ = writeln!(text, "         {} consumed", self.consumed);
        _ = writeln!(text, "faults:  {total} ({}) in {:.0} s", faults.join(", "), self.duration_seconds);
        _ = writeln!(text, "         up to {} at the same time", self.faults_at_once);
        _ = writeln!(text, "network: {}", self.network);
        let (partition, ended) = (self.longest_unavailability_partition, self.longest_unavailability_ended_at);
        _ = writeln!(text, "longest time without an ack: {pause:.1?}, in partition {partition}, until {ended:.1} s");
        if let Some(folder) = &self.folder {
            _ = writeln!(text, "folders and logs of the nodes: {folder}");
        }
        let word = if self.passed { "passed" } else { "FAILED" };
        _ = write!(text, "{word}; again with --nodes {} --seed {}", self.nodes, self.seed);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_only_if_it_was_looked_at_and_never_broken() {
        let mut verdict = Verdict::new(1, "something");
        assert_eq!(verdict.word(), "unseen");
        verdict.held();
        assert_eq!(verdict.word(), "kept  ");
        (0..20).for_each(|number| verdict.broken(format!("finding {number}")));
        assert_eq!((verdict.word(), verdict.broken, verdict.findings.len()), ("BROKEN", 20, SHOWN));
    }
}

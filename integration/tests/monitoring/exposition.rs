//! Reads OpenMetrics text as far as names, types and labels go.

use std::collections::{BTreeMap, BTreeSet};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only rises; its series ends in `_total`.
    Counter,
    /// Series that end in `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Always 1; its series ends in `_info`.
    Info,
}

impl Kind {
    /// By the word that names it.
    pub fn of(word: &str) -> Kind {
        match word {
            "gauge" => Kind::Gauge,
            "counter" => Kind::Counter,
            "histogram" => Kind::Histogram,
            "info" => Kind::Info,
            other => panic!("unknown type {other}"),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Kind::Gauge | Kind::Histogram => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        }
    }
}

/// What several nodes show together.
#[derive(Debug, Default)]
pub struct Exposition {
    kinds: BTreeMap<String, Kind>,
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Exposition {
    /// Adds what one node shows.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect(line);
                let kind = Kind::of(kind);
                self.kinds.insert(format!("{name}{}", kind.suffix()), kind);
            } else if let Some((name, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
                let (labels, _) = rest.rsplit_once('}').expect(line);
                let known = self.labels.entry(name.to_owned()).or_default();
                known.extend(
                    labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name.to_owned()),
                );
            }
        }
    }

    /// Every metric, by the name a person looks for: that of its series; of a histogram the common part.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.kinds.keys()
    }

    /// Type of a metric.
    pub fn kind_of(&self, name: &str) -> Kind {
        self.kinds[name]
    }

    /// Labels its samples were seen with.
    pub fn labels_of(&self, name: &str) -> BTreeSet<String> {
        self.labels.get(name).cloned().unwrap_or_default()
    }

    /// Whether a query may name this series.
    pub fn has_series(&self, name: &str) -> bool {
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .any(|part| name.strip_suffix(part).is_some_and(|family| self.kinds.get(family) == Some(&Kind::Histogram)));
        of_histogram || self.kinds.get(name).is_some_and(|kind| *kind != Kind::Histogram)
    }
}

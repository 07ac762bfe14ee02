//! What a run measured, beside the floors of the machine.

use crate::cli::args::OutputFormat;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// A figure with a unit, and the floor it is compared with.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name in JSON.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it is compared with: name and value in the same unit.
    pub floor: Option<(String, f64)>,
}

/// A run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One line: what ran.
    pub title: String,
    /// The parameters.
    pub setup: Map<String, Value>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// The machine's floors.
    pub floors: Vec<Figure>,
    /// What went wrong without ending the run.
    pub warnings: Vec<String>,
}

impl Report {
    /// Adds a figure without a floor.
    pub fn add(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.to_owned(), value, unit, floor: None });
    }

    /// Adds the usual percentiles of a histogram of nanoseconds, in microseconds.
    pub fn add_latency(&mut self, name: &str, latency: &Histogram<u64>) {
        let points = [("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999)];
        for (point, quantile) in points {
            self.add(&format!("{name}_{point}"), latency.value_at_quantile(quantile) as f64 / 1e3, "us");
        }
        self.add(&format!("{name}_max"), latency.max() as f64 / 1e3, "us");
    }

    /// Compares a figure with a sum of floors, all in the figure's unit.
    pub fn compare(&mut self, figure: &str, floors: &[&str]) {
        let mut sum = 0.0;
        for name in floors {
            match self.floors.iter().find(|floor| floor.name == *name) {
                Some(floor) => sum += floor.value,
                None => return,
            }
        }
        if let Some(figure) = self.figures.iter_mut().find(|candidate| candidate.name == figure) {
            figure.floor = Some((floors.join(" + "), sum));
        }
    }

    /// What is printed.
    pub fn render(&self, format: OutputFormat) -> String {
        match format {
            OutputFormat::Json => self.json().to_string(),
            OutputFormat::Text => self.text(),
        }
    }

    fn json(&self) -> Value {
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|figure| (format!("{}_{}", figure.name, figure.unit), json!(figure.value)))
            .collect();
        let floors: Map<String, Value> =
            self.floors.iter().map(|floor| (format!("{}_{}", floor.name, floor.unit), json!(floor.value))).collect();
        let ratios: Map<String, Value> = self
            .figures
            .iter()
            .filter_map(|figure| {
                let (floor, value) = figure.floor.as_ref()?;
                Some((figure.name.clone(), json!({ "floor": floor, "ratio": figure.value / value })))
            })
            .collect();
        json!({
            "run": self.title,
            "setup": self.setup,
            "figures": figures,
            "floors": floors,
            "ratios": ratios,
            "warnings": self.warnings,
        })
    }

    fn text(&self) -> String {
        let mut lines = vec![self.title.clone()];
        for figure in &self.figures {
            let mut line = format!("  {:<26} {:>14} {:<10}", figure.name, show(figure.value), figure.unit);
            if let Some((floor, value)) = &figure.floor {
                line += &format!(" {:>7.2} x {floor} ({} {})", figure.value / value, show(*value), figure.unit);
            }
            lines.push(line.trim_end().to_owned());
        }
        if !self.floors.is_empty() {
            lines.push("floors of this machine, measured in the same run".to_owned());
        }
        for floor in &self.floors {
            lines.push(format!("  {:<26} {:>14} {}", floor.name, show(floor.value), floor.unit));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines.join("\n")
    }
}

/// Three digits are enough.
pub fn show(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 && digit.is_ascii_digit() {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_their_ratio_to_the_floor() {
        let mut report = Report { title: "run".to_owned(), ..Report::default() };
        report.add("ack_p50", 150.0, "us");
        for (name, value) in [("echo", 50.0), ("sync", 70.0)] {
            report.floors.push(Figure { name: name.to_owned(), value, unit: "us", floor: None });
        }
        report.compare("ack_p50", &["echo", "sync"]);
        assert!(report.text().contains("1.25 x echo + sync"));
        assert_eq!(report.json()["ratios"]["ack_p50"]["ratio"], 1.25);
        assert_eq!(report.json()["figures"]["ack_p50_us"], 150.0);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(show(1_234_567.0), "1,234,567");
        assert_eq!(show(12.34), "12.3");
        assert_eq!(show(1.234), "1.23");
    }
}

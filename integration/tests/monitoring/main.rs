//! What a real cluster shows at `/metrics`, held against `docs/Monitoring.md`, the dashboard and the alert rules.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod exposition;

use exposition::{Exposition, Kind};
use lance_integration::harness::{ThreeNodes, eventually, http, process::lnc};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs")
}

fn read(path: &str) -> String {
    let path = docs().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What all nodes show together, once records were produced and replicated, and a group has committed.
fn scraped() -> Exposition {
    let cluster = ThreeNodes::start();
    let servers = cluster.servers();
    lnc(&servers, &["topic", "create", "watched", "--partitions", "3"], b"").ok();
    lnc(&servers, &["produce", "--topic", "watched"], "one\ntwo\nthree\n".repeat(100).as_bytes()).ok();
    lnc(&servers, &["consume", "--topic", "watched", "--group", "readers", "--offset", "earliest", "-c", "300"], b"")
        .ok();
    let elsewhere = format!("{}/copy", cluster.nodes[0].address());
    lnc(&servers, &["topic", "tee", "add", "watched", "--to", &elsewhere], b"").ok();
    eventually("followers, a group and a rule are shown", || {
        let mut all = Exposition::default();
        cluster.nodes.iter().for_each(|node| all.add(&http::get(&node.admin(), "/metrics").body));
        let seen = |name: &str| !all.labels_of(name).is_empty();
        let awaited = [
            "lance_replication_lag_bytes",
            "lance_group_lag_records",
            "lance_tee_lag_records",
            "lance_follower_ack_p99_seconds",
        ];
        awaited.iter().all(|name| seen(name)).then_some(all)
    })
}

/// A row of the table of metrics: type and labels by name.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = read("Monitoring.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `lance_")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{line}");
        let labels = cells[3].split(", ").filter(|label| *label != "–").map(|label| label.trim_matches('`').to_owned());
        let name = cells[0].trim_matches('`').to_owned();
        let row = (cells[1].to_owned(), labels.collect());
        assert!(rows.insert(name, row).is_none(), "twice: {line}");
    }
    rows
}

/// Every word of a text that is, or pretends to be, the name of a metric.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("lance_")).map(str::to_owned).collect()
}

fn dashboard_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str().filter(|_| ["expr", "definition", "query"].contains(&name.as_str())) {
                    Some(text) => texts.push(text.to_owned()),
                    None => dashboard_texts(field, texts),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| dashboard_texts(item, texts)),
        _ => {}
    }
}

#[test]
fn documentation_dashboard_and_alerts_name_what_a_cluster_shows() {
    let shown = scraped();
    let documented = documented();
    let real: BTreeSet<&String> = shown.names().collect();
    let written: BTreeSet<&String> = documented.keys().collect();
    assert_eq!(real, written, "left: shown by a cluster, right: documented");
    for (name, (kind, labels)) in &documented {
        assert_eq!(Kind::of(kind), shown.kind_of(name), "type of {name}");
        let seen = shown.labels_of(name);
        assert!(seen.is_empty() || seen == *labels, "labels of {name}: shown {seen:?}, documented {labels:?}");
    }

    let mut texts = Vec::new();
    dashboard_texts(&serde_json::from_str(&read("monitoring/lance-dashboard.json")).unwrap(), &mut texts);
    assert!(texts.len() > 40, "queries of the dashboard: {}", texts.len());
    let sources = [("dashboard", texts.join("\n")), ("alerts", read("monitoring/lance-alerts.yml"))];
    for (source, text) in sources {
        for name in metric_names(&text) {
            assert!(shown.has_series(&name), "{source}: no node shows {name}");
        }
    }
}

/// What a heading is called in a link, as GitHub has it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|letter| letter.is_alphanumeric() || ['-', '_'].contains(letter)).collect()
}

#[test]
fn every_alert_names_a_section_that_exists() {
    let alerts = read("monitoring/lance-alerts.yml");
    let named = |key: &'static str| {
        alerts.lines().filter_map(move |line| line.trim().trim_start_matches("- ").strip_prefix(key)).map(str::trim)
    };
    let (rules, runbooks): (Vec<&str>, Vec<&str>) = (named("alert:").collect(), named("runbook:").collect());
    assert!(rules.len() > 20 && rules.len() == runbooks.len(), "{} rules, {} runbooks", rules.len(), runbooks.len());
    let explained = read("Monitoring.md");
    for (rule, runbook) in rules.iter().zip(runbooks) {
        let (place, advice) = runbook.trim_matches('"').split_once(": ").expect(runbook);
        assert!(!advice.is_empty(), "{rule}");
        let (file, section) = place.strip_prefix("docs/").and_then(|place| place.split_once('#')).expect(place);
        let text = read(file);
        let mut headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
        assert!(headings.any(|heading| anchor(heading) == section), "{rule}: {place} is not there");
        assert!(explained.contains(&format!("`{rule}`")), "{rule} is not in Monitoring.md");
    }
}

/// The manifests are rendered from the chart, which links to these files; whoever changes one renders anew.
#[test]
fn the_kubernetes_manifests_hold_the_rules_and_the_dashboard_as_they_are() {
    let manifests = read("../deploy/kubernetes/monitoring.yaml");
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    };
    let rendered = lines(&manifests);
    for source in ["monitoring/lance-alerts.yml", "monitoring/lance-dashboard.json"] {
        let wanted = lines(&read(source));
        let is_there = rendered.windows(wanted.len()).any(|part| part == wanted);
        assert!(is_there, "{source} has changed: run deploy/helm/render");
    }
}

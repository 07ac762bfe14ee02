//! Backups of clusters that serve, and what a restored cluster holds.

use super::json;
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::lnc;
use lance_integration::harness::{Load, Server, ServerSpec, ThreeNodes, eventually};
use serde_json::Value;
use std::time::Duration;

/// Every record of a partition, one a line: offset, timestamp where it has one of its own, key, headers, value.
fn records(servers: &str, topic: &str, partition: u16) -> Vec<String> {
    let partition = partition.to_string();
    // Those of the load have none: they show that of the newest batch that came along, which is another in each answer.
    let format = if topic == "loaded" { "%o %k %h %v\\n" } else { "%o %T %k %h %v\\n" };
    let arguments = ["consume", "-t", topic, "-p", &partition, "-o", "earliest", "-e", "--format", format];
    lnc(servers, &arguments, b"").ok().lines().map(str::to_owned).collect()
}

/// How many records the backup holds of a partition.
fn held(dir: &str, topic: &str, partition: usize) -> usize {
    let manifest: Value = serde_json::from_slice(&std::fs::read(format!("{dir}/manifest.json")).unwrap()).unwrap();
    let topics = manifest["backup"]["topics"].as_array().unwrap();
    let topic = topics.iter().find(|found| found["name"] == topic).unwrap();
    let held = &topic["partitions"][partition];
    (held["end"]["record"].as_u64().unwrap() - held["start"]["record"].as_u64().unwrap()) as usize
}

fn backup(servers: &str, dir: &str) -> Value {
    json(servers, &["backup", "--to", dir])
}

fn restore(servers: &str, dir: &str) -> Value {
    json(servers, &["restore", "--from", dir])
}

fn committed(servers: &str, group: &str) -> Vec<(Value, Value)> {
    let described = json(servers, &["group", "describe", group]);
    let rows = described["partitions"].as_array().unwrap();
    rows.iter().map(|row| (row["partition"].clone(), row["committed"].clone())).collect()
}

/// Topics with keys and headers, one whose oldest records are gone, and a group that has read some.
fn fill(servers: &str) {
    lnc(servers, &["topic", "create", "keyed", "--partitions", "2", "--retention-age", "30d"], b"").ok();
    let lines: String = (0..500).map(|number| format!("key {number}:value {number}\n")).collect();
    let arguments = ["produce", "-t", "keyed", "--key-delimiter", ":", "-H", "source=test", "-z", "lz4"];
    lnc(servers, &arguments, lines.as_bytes()).ok();
    lnc(servers, &["topic", "create", "short", "--partitions", "1", "--retention-bytes", "1MiB"], b"").ok();
    let lines: String = (0..5_000).map(|number| format!("{number} {:x<1000}\n", "")).collect();
    lnc(servers, &["produce", "-t", "short"], lines.as_bytes()).ok();
    eventually("the oldest records are gone", || {
        let first = records(servers, "short", 0).into_iter().next()?;
        (!first.starts_with("0 ")).then_some(())
    });
    lnc(servers, &["consume", "-t", "keyed", "--group", "readers", "-c", "100"], b"").ok();
}

/// Everything that the backup holds is there, at the same offsets, and groups go on where they were.
fn expect_restored(source: &str, target: &str, dir: &str, loaded: &str) {
    for (topic, partitions) in [("keyed", 2), ("short", 1), (loaded, 2)] {
        for partition in 0..partitions {
            let count = held(dir, topic, usize::from(partition));
            let (mut there, restored) = (records(source, topic, partition), records(target, topic, partition));
            assert_eq!(restored.len(), count, "{topic}-{partition}");
            there.truncate(count);
            assert_eq!(restored, there, "{topic}-{partition}");
        }
    }
    let described = json(target, &["topic", "describe", "keyed"]);
    assert_eq!(described["retention_age_secs"], 30 * 24 * 3600, "{described}");
    assert_eq!(committed(target, "readers"), committed(source, "readers"));
    let rest = |servers: &str| {
        let arguments = ["consume", "-t", "keyed", "--group", "readers", "-e", "--format", "%p %o %v\\n"];
        let text = lnc(servers, &arguments, b"").ok();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let expected = rest(target);
    assert!(expected.len() <= 400 && !expected.is_empty(), "{}", expected.len());
    let all: Vec<String> = (0..2u16).flat_map(|partition| records(source, "keyed", partition)).collect();
    assert_eq!(expected.len() + 100, all.len(), "the group reads what it has not read yet");
    // The next records go behind those that were restored.
    lnc(target, &["produce", "-t", "short", "-d", "one more"], b"").ok();
    assert!(records(target, "short", 0).last().unwrap().ends_with("one more"));
}

fn trimming(spec: ServerSpec) -> ServerSpec {
    spec.set("storage.retention_interval_ms=100")
}

#[test]
fn a_backup_taken_under_load_is_restored_into_three_nodes_and_into_one() {
    let folder = tempfile::TempDir::with_prefix("lance-test-").unwrap();
    let dir = folder.path().join("backup").display().to_string();
    let cluster = ThreeNodes::start_with(&trimming);
    let servers = cluster.servers();
    fill(&servers);
    let options = LoadOptions { record_bytes: 500, pause: Duration::from_millis(1), ..LoadOptions::new("loaded", 2) };
    let load = Load::start(&servers, options);
    load.await_more(2_000);
    let first = backup(&servers, &dir);
    load.await_more(500);
    load.finish();
    lnc("", &["backup", "verify", &dir], b"").ok();
    assert!(held(&dir, "loaded", 0) + held(&dir, "loaded", 1) >= 2_000, "what was acked before is in it");

    let fresh = ThreeNodes::start();
    let restored = restore(&fresh.servers(), &dir);
    assert_eq!(restored["records"], first["records"], "{restored}");
    expect_restored(&servers, &fresh.servers(), &dir, "loaded");
    fresh.await_agreement();
    fresh.expect_same_segments();

    let second = backup(&servers, &dir);
    assert!(second["copied_records"].as_u64().unwrap() >= 500, "{second}");
    assert!(second["copied_records"].as_u64() < first["copied_records"].as_u64(), "only what is new: {second}");
    assert_eq!(backup(&servers, &dir)["copied_records"], 0, "nothing is new");
    lnc("", &["backup", "verify", &dir], b"").ok();
    let single = ServerSpec::new().start();
    let noted = restore(&single.address(), &dir);
    let notes = noted["notes"].to_string();
    assert!(notes.contains("1 copies here instead of 3"), "{noted}");
    expect_restored(&servers, &single.address(), &dir, "loaded");
    expect_restart(single);
}

/// What was restored is found by recovery too.
fn expect_restart(mut single: Server) {
    let contents =
        |single: &Server| [("keyed", 1), ("loaded", 0)].map(|(topic, it)| records(&single.address(), topic, it));
    let before = contents(&single);
    single.kill_and_start();
    assert!(before == contents(&single), "what was restored is not what recovery finds");
}

#[test]
fn interrupted_backups_and_restorations_go_on() {
    let folder = tempfile::TempDir::with_prefix("lance-test-").unwrap();
    let dir = folder.path().join("backup").display().to_string();
    let source = ServerSpec::new().start();
    let lines: String = (0..2_000).map(|number| format!("line {number}\n")).collect();
    lnc(&source.address(), &["produce", "-t", "lines", "-p", "0"], lines.as_bytes()).ok();
    let whole = backup(&source.address(), &dir);
    // As an interruption leaves it: files without a manifest, and a part of one.
    std::fs::remove_file(format!("{dir}/manifest.json")).unwrap();
    let topic = json(&source.address(), &["topic", "describe", "lines"])["id"].as_u64().unwrap();
    let part = format!("{dir}/topics/{topic}-0/00000000000000099999.batches.part");
    std::fs::write(&part, b"half").unwrap();
    let again = backup(&source.address(), &dir);
    assert_eq!((&again["copied_records"], &again["records"]), (&Value::from(0), &whole["records"]));
    assert!(!std::path::Path::new(&part).exists());

    let target = ServerSpec::new().start();
    restore(&target.address(), &dir);
    let (code, text) = lnc(&target.address(), &["restore", "--from", &dir], b"").failure();
    assert!(code == 1 && text.contains("not empty") && text.contains("topic 'lines'"), "{code}: {text}");
    let arguments = ["restore", "--from", &dir, "--resume"];
    assert_eq!(json(&target.address(), &arguments)["records"], 0, "all of it is there");
    assert_eq!(records(&target.address(), "lines", 0), records(&source.address(), "lines", 0));
    // A producer of the first cluster is no producer of the second: ids go on behind those of the backup.
    lnc(&target.address(), &["produce", "-t", "lines", "-p", "0", "-d", "behind"], b"").ok();
    assert_eq!(records(&target.address(), "lines", 0).len(), 2_001);
}

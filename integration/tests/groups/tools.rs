//! `lnc group`, and the figures that the broker shows.

use super::{create, produce};
use lance_integration::harness::process::lnc;
use lance_integration::harness::{ServerSpec, ThreeNodes, eventually, http};
use serde_json::Value;

fn describe(servers: &str, group: &str) -> Value {
    serde_json::from_str(&lnc(servers, &["group", "describe", group, "--output", "json"], b"").ok()).unwrap()
}

#[test]
fn the_lag_is_what_is_left_to_read() {
    let cluster = ThreeNodes::start();
    let servers = cluster.servers();
    create(&servers, "events", 4);
    produce(&servers, "events", 4, 500, 100_000).join().unwrap();
    let consume = |more: &[&str]| {
        let arguments = [&["consume", "-t", "events", "--group", "g", "--format", "%p\\n"], more].concat();
        lnc(&servers, &arguments, b"").ok()
    };
    assert_eq!(consume(&["-e"]).lines().count(), 2_000);
    produce(&servers, "events", 4, 300, 100_000).join().unwrap();
    let read = consume(&["-c", "70"]);
    let mut total = 0;
    eventually("the lag counts what was not read", || {
        let group = describe(&servers, "g");
        total = 0;
        for row in group["partitions"].as_array()? {
            let partition = row["partition"].as_u64()?;
            let read = read.lines().filter(|line| line.parse() == Ok(partition)).count() as u64;
            let lag = row["lag_records"].as_u64()?;
            assert_eq!(lag, 300 - read, "{row}");
            // Each record is 100 bytes and a header of 5.
            assert_eq!(row["lag_bytes"].as_u64()?, lag * 105, "{row}");
            assert_eq!(row["end_offset"].as_u64()? - row["committed"].as_u64()?, lag * 105, "{row}");
            total += lag;
        }
        (total == 1_200 - 70).then_some(())
    });
    // The metrics of the node that coordinates say the same.
    let coordinator = describe(&servers, "g")["coordinator"].as_u64().unwrap() as usize;
    let admin = cluster.nodes[coordinator - 1].admin();
    eventually("the metrics show the lag", || {
        let shown = |partition: u16| {
            let partition = format!("partition=\"{partition}\"");
            http::metric(&admin, "lance_group_lag_records", &["group=\"g\"", &partition])
        };
        let sum: f64 = (0..4).map(shown).sum::<Option<f64>>()?;
        (sum == total as f64).then_some(())
    });
}

#[test]
fn offsets_are_reset_and_groups_deleted_only_while_they_have_no_members() {
    let mut server = ServerSpec::new().start();
    let address = server.address();
    lnc(&address, &["topic", "create", "jobs", "--partitions", "1"], b"").ok();
    lnc(&address, &["produce", "-t", "jobs"], b"a\nb\nc\n").ok();
    let group = |arguments: &[&str]| lnc(&address, &[&["group"], arguments].concat(), b"");
    let consume = || lnc(&address, &["consume", "-t", "jobs", "--group", "g", "-e"], b"").ok();
    assert_eq!(consume(), "a\nb\nc\n");
    assert_eq!(consume(), "");
    group(&["reset-offsets", "g", "--topic", "jobs", "--to", "earliest", "--dry-run"]).ok();
    assert_eq!(consume(), "");
    group(&["reset-offsets", "g", "--topic", "jobs", "--to", "earliest"]).ok();
    server.kill_and_start();
    assert_eq!(consume(), "a\nb\nc\n");
    assert!(group(&["list"]).ok().contains('g'));
    let history = super::member::History::default();
    let options = super::member::options("g", "jobs", std::time::Duration::from_secs(6));
    let member = super::member::Member::start(&address, 0, options, &history);
    eventually("the member is in the group", || {
        (describe(&address, "g")["members"].as_array()?.len() == 1).then_some(())
    });
    for arguments in [&["delete", "g"][..], &["reset-offsets", "g", "--topic", "jobs", "--to", "latest"]] {
        let (code, error) = group(arguments).failure();
        assert_eq!(code, 1);
        assert!(error.contains("members") && error.contains('g'), "{error}");
    }
    member.leave();
    group(&["delete", "g"]).ok();
    let (code, error) = group(&["describe", "g"]).failure();
    assert!(code == 1 && error.contains("no such group"), "{error}");
    let (code, error) = group(&["delete", "g"]).failure();
    assert!(code == 1 && error.contains("not found"), "{error}");
    assert_eq!(consume(), "a\nb\nc\n");
}

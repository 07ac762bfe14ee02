//! The actors beside the data path, in a whole node: admin interface, retention, full disks, the scrubber.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod fetching;
mod forwarding;
mod groups;
mod parts;
mod repairing;
mod support;

use lance_messages::error_code::ErrorCode;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use support::{eventually, with_node};

const SEGMENT_BYTES: usize = 1024 * 1024;

#[test]
fn the_admin_interface_shows_what_the_node_is() {
    with_node(
        |_| (),
        async |mut rig| {
            let partition = rig.create_topic("events", 0).await;
            rig.produce(partition, 100).await.unwrap();
            for path in ["/health/live", "/health/ready", "/health/startup"] {
                let answer = rig.get(path).await;
                assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"ok"}"#), "{path}");
            }
            let tree = rig.get("/v1/actors").await.json();
            assert_eq!(tree["kind"], "node");
            let children = tree["children"].as_array().unwrap();
            for kind in [
                "network",
                "ingestion",
                "poller",
                "replication",
                "metadata",
                "group",
                "forward",
                "retention",
                "scrub",
                "admin",
            ] {
                let child = children.iter().find(|child| child["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
                assert!(child["mailbox_capacity"].as_u64().unwrap() > 0, "{kind}");
                assert!(!child["name"].as_str().unwrap().contains('/'), "a name is one URL segment");
            }
            let cluster = rig.get("/v1/cluster").await.json();
            assert_eq!((&cluster["nodes"][0]["id"], &cluster["nodes"][0]["state"]), (&1.into(), &"serving".into()));
            let shown = &cluster["partitions"][0];
            assert_eq!(
                (&shown["topic"], &shown["leader"], &shown["state"]),
                (&"events".into(), &1.into(), &"serving".into())
            );
            let status = rig.status(partition).await.unwrap();
            assert_eq!(
                (shown["high_watermark"].as_u64(), shown["log_end"].as_u64()),
                (Some(status.log_end), Some(status.log_end))
            );
            let topics = rig.get("/v1/topics").await.json();
            assert_eq!(
                (&topics["topics"][0]["name"], &topics["topics"][0]["partitions"][0]["leader"]),
                (&"events".into(), &1.into())
            );
            assert_eq!(
                rig.get("/v1/groups").await.json(),
                serde_json::json!({ "coordinator": 0, "known": true, "groups": [], "consumers": [] })
            );
            let metrics = rig.get("/metrics").await;
            assert!(metrics.head.contains("content-type: application/openmetrics-text"), "{}", metrics.head);
            assert!(metrics.body.contains("lance_io_backend{backend=\"blocking\"} 1\n"), "{}", metrics.body);
        },
    );
}

#[test]
fn errors_are_json_and_nothing_can_be_broken_unless_configured() {
    with_node(
        |_| (),
        async |rig| {
            for (answer, status, code) in [
                (rig.get("/nowhere").await, 404, "not_found"),
                (rig.post("/v1/actors/admin/panic", "").await, 404, "not_found"),
                (rig.post("/v1/faults", r#"{"kind":"clear"}"#).await, 404, "not_found"),
                (rig.get("/v1/drain").await, 405, "method_not_allowed"),
                (rig.put("/v1/log-level", "loud").await, 400, "invalid_request"),
                (rig.put("/v1/log-level", r#"{"level":"info"}"#).await, 503, "unavailable"),
            ] {
                let body = answer.json();
                assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{body}");
                assert!(!body["message"].as_str().unwrap().is_empty());
            }
        },
    );
}

#[test]
fn readiness_ends_with_a_drain_and_liveness_does_not() {
    with_node(
        |_| (),
        async |mut rig| {
            for _ in 0..2 {
                assert_eq!(rig.post("/v1/drain", "").await.status, 202);
            }
            rig.drain_orders.recv().await.unwrap();
            rig.health.set_draining();
            let ready = rig.get("/health/ready").await;
            assert_eq!((ready.status, ready.json()["message"].as_str()), (503, Some("the node is draining")));
            assert_eq!(rig.get("/health/live").await.status, 200);
            rig.drain_orders.close();
            while rig.drain_orders.recv().await.is_some() {}
            assert_eq!(rig.post("/v1/drain", "").await.status, 503);
        },
    );
}

#[test]
fn actors_that_panic_on_order_come_back() {
    with_node(
        |config| config.admin.fault_injection = true,
        async |mut rig| {
            let partition = rig.create_topic("events", 0).await;
            assert_eq!(rig.post("/v1/actors/nobody/panic", "").await.status, 404);
            for name in ["retention", "scrub", "group", "node", "admin"] {
                let answer = rig.post(&format!("/v1/actors/{name}/panic"), "").await;
                assert_eq!(answer.status, 202, "{name}: {}", answer.body);
                let restarted = format!("lance_actor_restarts_total{{actor=\"{name}\",kind=\"{name}\"}} 1\n");
                eventually(&restarted, async || rig.get("/metrics").await.body.contains(&restarted)).await;
                eventually("it runs again", async || {
                    let tree = rig.get("/v1/actors").await.json();
                    let mut all = tree["children"].as_array().unwrap().clone();
                    all.push(tree);
                    all.iter().any(|actor| actor["name"] == name && actor["state"] == "running")
                })
                .await;
            }
            rig.produce(partition, 100).await.unwrap();
        },
    );
}

#[test]
fn retention_removes_whole_closed_segments_and_their_files() {
    let often =
        |config: &mut lance_config::model::Config| config.storage.retention_interval = Duration::from_millis(50);
    with_node(often, async |mut rig| {
        let (limited, unlimited) = (rig.create_topic("limited", 1).await, rig.create_topic("unlimited", 0).await);
        for partition in [limited, unlimited] {
            for _ in 0..5 {
                rig.produce(partition, SEGMENT_BYTES / 2 + 1).await.unwrap();
            }
        }
        eventually("only the active segment is left", async || rig.files(limited, ".lnc").len() == 1).await;
        let status = rig.status(limited).await.unwrap();
        assert!(status.log_start > 0 && status.log_start < status.log_end, "{status:?}");
        assert_eq!(rig.files(unlimited, ".lnc").len(), 5);
        assert_eq!(rig.status(unlimited).await.unwrap().log_start, 0);
        let removed = format!("lance_retention_removed_bytes_total {}\n", status.log_start);
        eventually(&removed, async || rig.get("/metrics").await.body.contains(&removed)).await;
        rig.produce(limited, 100).await.unwrap();
    });
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_space_again() {
    with_node(
        |config| config.admin.fault_injection = true,
        async |mut rig| {
            let partition = rig.create_topic("events", 0).await;
            let offset = rig.produce(partition, 100).await.unwrap();
            let reserve = rig.node.data_dir.reserve_path();
            let reserved = || std::fs::metadata(&reserve).map_or(0, |file| file.len());
            eventually("the reserve is taken", async || reserved() == 1024 * 1024).await;
            assert_eq!(rig.post("/v1/faults", r#"{"kind":"no_space","on":true}"#).await.status, 200);
            eventually("the watch sees it", async || {
                rig.get("/metrics").await.body.contains("lance_disk_free_bytes 0\n")
            })
            .await;
            assert_eq!(rig.produce(partition, 100).await, Err(ErrorCode::NoSpace));
            eventually("the reserve is released", async || reserved() == 0).await;
            assert_eq!(rig.get("/health/ready").await.status, 200, "reads go on");
            assert_eq!(rig.post("/v1/faults", r#"{"kind":"clear"}"#).await.status, 200);
            let mut appended = Err(ErrorCode::NoSpace);
            while appended == Err(ErrorCode::NoSpace) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                appended = rig.produce(partition, 100).await;
            }
            assert!(appended.unwrap() > offset);
        },
    );
}

#[test]
fn a_failed_sync_stops_the_partition_and_says_why() {
    with_node(
        |config| config.admin.fault_injection = true,
        async |mut rig| {
            let (hit, spared) = (rig.create_topic("hit", 0).await, rig.create_topic("spared", 0).await);
            let command = format!(r#"{{"kind":"sync_error","path":"logs/{hit}"}}"#);
            assert_eq!(rig.post("/v1/faults", &command).await.status, 200);
            assert_eq!(rig.produce(hit, 100).await, Err(ErrorCode::OutcomeUnknown));
            rig.produce(spared, 100).await.unwrap();
            let cluster = rig.get("/v1/cluster").await.json();
            let shown = cluster["partitions"].as_array().unwrap().iter().find(|shown| shown["topic"] == "hit").unwrap();
            assert_eq!(shown["state"], "stopped");
            assert!(shown["reason"].as_str().unwrap().contains("cannot sync"), "{shown}");
            assert_eq!(rig.produce(hit, 100).await, Err(ErrorCode::StorageOffline), "a failed sync is final");
        },
    );
}

#[test]
fn the_scrubber_finds_a_flipped_bit_of_a_closed_segment() {
    let often = |config: &mut lance_config::model::Config| config.storage.scrub_interval = Duration::from_millis(300);
    with_node(often, async |mut rig| {
        let partition = rig.create_topic("events", 0).await;
        for _ in 0..3 {
            rig.produce(partition, SEGMENT_BYTES / 2 + 1).await.unwrap();
        }
        let scrubbed = async || {
            let text = rig.get("/metrics").await.body;
            let value = |name: &str| -> u64 {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim().parse().unwrap()
            };
            (value("lance_scrubbed_bytes_total "), value("lance_damaged_batches_total "))
        };
        eventually("closed segments are read", async || scrubbed().await.0 > SEGMENT_BYTES as u64).await;
        assert_eq!(scrubbed().await.1, 0);
        let oldest = rig.files(partition, ".lnc").remove(0);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(oldest).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
        file.sync_all().unwrap();
        eventually("the damage is counted", async || scrubbed().await.1 > 0).await;
    });
}

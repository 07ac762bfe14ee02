//! Maintenance: a node that keeps its copies and leads nothing, for as long as somebody works on it.

use super::{await_level, led_by, state_of};
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::lnc;
use lance_integration::harness::{Load, ThreeNodes, eventually, http};
use std::time::Duration;

#[test]
fn a_node_in_maintenance_leads_nothing_over_restarts_until_it_is_resumed() {
    let mut cluster = ThreeNodes::start();
    await_level(&cluster, 2);
    let servers = cluster.servers();
    let options = LoadOptions { record_bytes: 200, pause: Duration::from_millis(2), ..LoadOptions::new("events", 6) };
    let load = Load::start(&servers, options);
    load.await_all_partitions();
    eventually("node 1 leads something", || (led_by(&servers, 1) > 0).then_some(()));
    lnc(&servers, &["cluster", "maintenance", "1"], b"").ok();
    assert_eq!((led_by(&servers, 1), state_of(&servers, 1).as_str()), (0, "maintenance"));
    load.await_more(500);
    let shown = http::get(&cluster.nodes[1].admin(), "/v1/cluster").json();
    assert_eq!(shown["nodes"][0]["state"], "maintenance", "{shown}");
    assert_eq!(http::metric(&cluster.nodes[0].admin(), "lance_maintenance", &[]), Some(1.0));
    assert_eq!(http::metric(&cluster.nodes[1].admin(), "lance_maintenance", &[]), Some(0.0));

    cluster.nodes[0].terminate();
    load.await_more(500);
    cluster.nodes[0].start_again();
    cluster.await_ready();
    load.await_more(500);
    // Its copies are in sync again, which is when it would get its share of leaderships.
    eventually("its copies count", || {
        let status = super::json(&servers, &["cluster", "status"]);
        let partitions = status["partitions"].as_array().unwrap();
        partitions.iter().all(|one| one["in_quorum"].as_array().is_some_and(|all| all.len() == 3)).then_some(())
    });
    assert_eq!((led_by(&servers, 1), state_of(&servers, 1).as_str()), (0, "maintenance"));

    lnc(&servers, &["cluster", "resume", "1"], b"").ok();
    assert_eq!(state_of(&servers, 1), "serving");
    eventually("node 1 leads its share again", || (led_by(&servers, 1) > 0).then_some(()));
    load.await_more(500);
    load.expect_no_failure();
    load.finish();
}

//! Topics made and deleted over HTTP, events, and who is asked.

use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::lnc;
use lance_integration::harness::{Load, ServerSpec, ThreeNodes, eventually, http};
use serde_json::{Value, json};
use std::time::Duration;

fn events(admin: &str, after: u64) -> Vec<Value> {
    let reply = http::get(admin, &format!("/v1/events?after={after}"));
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["events"].as_array().unwrap().clone()
}

fn await_event(admin: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || events(admin, 0).into_iter().find(|event| is_it(event)))
}

#[test]
fn topics_are_made_as_asked_and_deleted() {
    let server = ServerSpec::new().start();
    let admin = server.admin();
    let body = json!({
        "name": "orders", "partitions": 4, "replication_factor": 1, "mode": "L1",
        "retention_age_seconds": 3600, "retention_bytes": 1 << 30,
    });
    let created = http::post(&admin, "/v1/topics", &body.to_string());
    assert_eq!(created.status, 201, "{created:?}");
    let listed = http::get(&admin, "/v1/topics").json()["topics"][0].clone();
    for (field, expected) in body.as_object().unwrap() {
        let found = match field.as_str() {
            "partitions" => json!(listed["partitions"].as_array().unwrap().len()),
            _ => listed[field].clone(),
        };
        assert_eq!(&found, expected, "{field}");
    }
    let again = http::post(&admin, "/v1/topics", &body.to_string());
    assert_eq!((again.status, again.json()["code"].as_str()), (409, Some("topic_exists")), "{again:?}");
    assert_eq!(http::request(&admin, "DELETE", "/v1/topics/orders", "").json()["deleted"], "orders");
    assert_eq!(http::request(&admin, "DELETE", "/v1/topics/orders", "").status, 404);
    let kinds: Vec<Value> = events(&admin, 0).iter().map(|event| event["kind"].clone()).collect();
    assert!(kinds.contains(&json!("topic-created")) && kinds.contains(&json!("topic-deleted")), "{kinds:?}");
}

#[test]
fn a_topic_that_cannot_be_is_refused_with_a_sentence() {
    let server = ServerSpec::new().start();
    for (body, status) in [
        (r#"{"name":"<script>alert(1)</script>"}"#, 400),
        (r#"{"name":""}"#, 400),
        (r#"{"name":"__groups"}"#, 400),
        (r#"{"name":"a","partitions":0}"#, 400),
        (r#"{"name":"a","partitions":65535}"#, 409),
        (r#"{"name":"a","replication_factor":200}"#, 409),
        (r#"{"name":"a","mode":"L3"}"#, 400),
        (r#"{"name":"a","partition":3}"#, 400),
        (r#"{"name":"a""#, 400),
        ("", 400),
    ] {
        let reply = http::post(&server.admin(), "/v1/topics", body);
        assert_eq!(reply.status, status, "{body}: {reply:?}");
        assert!(!reply.json()["message"].as_str().unwrap().is_empty(), "{body}: {reply:?}");
    }
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(100_000));
    assert!([400, 413].contains(&http::post(&server.admin(), "/v1/topics", &large).status));
    assert_eq!(http::request(&server.admin(), "DELETE", "/v1/topics/..%2f..%2fetc", "").status, 404);
    assert_eq!(http::get(&server.admin(), "/v1/topics").json()["topics"], json!([]));
}

#[test]
fn without_authentication_everybody_may_everything() {
    let server = ServerSpec::new().start();
    let who = http::get(&server.admin(), "/v1/whoami").json();
    let expected = json!({ "authentication": false, "principal": null, "may_describe": true, "may_administer": true });
    assert_eq!(who, expected);
}

#[test]
fn an_actor_that_fails_is_told_of_once_and_numbers_go_on() {
    let server = ServerSpec::new().set("admin.fault_injection=true").start();
    let admin = server.admin();
    assert_eq!(http::post(&admin, "/v1/actors/scrub/panic", "").status, 202);
    let restart = await_event(&admin, "the restart", |event| event["kind"] == "actor-restart");
    assert_eq!(restart["actor"], "scrub");
    assert!(restart["reason"].as_str().unwrap().starts_with("panic: "), "{restart}");
    let number = restart["number"].as_u64().unwrap();
    assert!(events(&admin, number).iter().all(|event| event["number"].as_u64() > Some(number)));
    // The interface itself starts again too, and still answers.
    assert_eq!(http::post(&admin, "/v1/actors/admin/panic", "").status, 202);
    eventually("the interface serves again", || {
        let found = http::try_request(&admin, "GET", "/v1/events", "").ok()?.json();
        found["events"].as_array()?.iter().find(|event| event["actor"] == "admin").map(|_| ())
    });
    lnc(&server.address(), &["produce", "--topic", "events", "--data", "x"], b"").ok();
    let path = "/v1/topics/events/partitions/0/records";
    let records = eventually("it is answered again", || {
        let reply = http::try_request(&admin, "GET", path, "").ok()?;
        (reply.status == 200).then(|| reply.json())
    });
    assert_eq!(records["leader"], 1, "{records}");
}

#[test]
fn an_eviction_is_told_with_its_cause_and_figures_and_other_nodes_tell_the_fact() {
    let settings = ["eviction.window_ms=500ms", "eviction.slow_windows=2", "eviction.rejoin_windows=2"];
    let cluster = ThreeNodes::start_with(&|spec| settings.iter().fold(spec, |spec, setting| spec.set(*setting)));
    lnc(&cluster.servers(), &["topic", "create", "events"], b"").ok();
    let leader = cluster.leader("events", 0);
    let [slow, other] = cluster.others(leader);
    let options = LoadOptions { pause: Duration::from_millis(5), ..LoadOptions::new("events", 1) };
    let load = Load::start(&cluster.servers(), options);
    load.await_more(50);
    let fault = r#"{"kind":"slow","millis":150,"path":"logs/"}"#;
    assert_eq!(http::post(&cluster.nodes[slow].admin(), "/v1/faults", fault).status, 200);
    let number = json!(slow + 1);
    let of = |kind: &'static str| {
        let number = number.clone();
        move |event: &Value| event["kind"] == kind && event["node"] == number
    };
    let admin = cluster.nodes[leader].admin();
    let evicted = await_event(&admin, "the eviction", of("evict"));
    assert_eq!(evicted["cause"], "slow", "{evicted}");
    let figures = &evicted["figures"];
    assert!(figures["ack_p99_us"].as_u64() > figures["threshold_us"].as_u64(), "{evicted}");
    assert!(figures["slow_windows"].as_u64() >= Some(2), "{evicted}");
    assert!(evicted["partition_count"].as_u64() >= Some(1), "{evicted}");
    for node in [leader, other] {
        let left = await_event(&cluster.nodes[node].admin(), "the fact", of("quorum-left"));
        let named = left["partitions"].as_array().unwrap();
        assert!(named.contains(&json!("events-0")), "{left}");
    }
    assert_eq!(http::post(&cluster.nodes[slow].admin(), "/v1/faults", r#"{"kind":"clear"}"#).status, 200);
    await_event(&admin, "its return", of("rejoin"));
    await_event(&cluster.nodes[other].admin(), "that it counts again", of("quorum-joined"));
    load.finish();
}

#[test]
fn a_failover_is_told_by_those_who_see_it() {
    let mut cluster = ThreeNodes::start();
    lnc(&cluster.servers(), &["topic", "create", "events"], b"").ok();
    let leader = cluster.leader("events", 0);
    let gone = json!(leader + 1);
    cluster.nodes[leader].kill();
    for node in cluster.others(leader) {
        let admin = cluster.nodes[node].admin();
        let moved = await_event(&admin, "another leader", |event| {
            event["kind"] == "leader-change" && event["node"] != gone && event["node"] != Value::Null
        });
        let named = moved["partitions"].as_array().unwrap();
        assert!(named.contains(&json!("events-0")), "{moved}");
        await_event(&admin, "the node that is down", |event| event["kind"] == "node-down" && event["node"] == gone);
    }
}

#[test]
fn every_node_lists_groups_that_one_of_them_keeps() {
    let cluster = ThreeNodes::start();
    assert_eq!(http::get(&cluster.nodes[0].admin(), "/v1/groups").json()["known"], true, "nobody has committed yet");
    lnc(&cluster.servers(), &["topic", "create", "events", "--partitions", "1"], b"").ok();
    lnc(&cluster.servers(), &["produce", "--topic", "events"], b"one\ntwo\nthree").ok();
    let consume = ["consume", "--topic", "events", "--group", "billing", "--offset", "earliest", "--count", "1"];
    lnc(&cluster.servers(), &consume, b"").ok();
    for node in &cluster.nodes {
        let lag = eventually("the lag is known", || {
            let listed = http::get(&node.admin(), "/v1/groups").json();
            let group = listed["groups"].as_array()?.iter().find(|group| group["name"] == "billing")?.clone();
            group["partitions"].as_array()?.iter().find_map(|at| at["lag_records"].as_u64())
        });
        assert!(lag <= 2, "{lag} records behind");
    }
}

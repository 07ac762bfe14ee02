//! Injected faults in a running server: panics of every actor, failed syncs, full and slow disks.

use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::records::{record, texts};
use lance_integration::harness::{Load, Raw, Server, ServerSpec, eventually, http};
use std::time::{Duration, Instant};

/// Every actor of the tree: name and kind.
fn actors(server: &Server) -> Vec<(String, String)> {
    fn collect(node: &serde_json::Value, found: &mut Vec<(String, String)>) {
        for field in ["state", "restarts", "mailbox_depth", "mailbox_capacity"] {
            assert!(node.get(field).is_some(), "{field} is missing in {node}");
        }
        let text = |field: &str| node[field].as_str().unwrap().to_owned();
        found.push((text("name"), text("kind")));
        for child in node["children"].as_array().unwrap() {
            collect(child, found);
        }
    }
    let mut found = Vec::new();
    collect(&http::get(&server.admin(), "/v1/actors").json(), &mut found);
    found
}

fn restarts(server: &Server, actor: &str) -> f64 {
    http::metric(&server.admin(), "lance_actor_restarts_total", &[&format!("actor=\"{actor}\"")]).unwrap_or(0.0)
}

fn inject_panic(server: &Server, actor: &str) {
    let answer = http::post(&server.admin(), &format!("/v1/actors/{actor}/panic"), "");
    assert_eq!(answer.status, 202, "{actor}: {answer:?}");
}

fn inject(server: &Server, fault: &str) {
    let answer = http::post(&server.admin(), "/v1/faults", fault);
    assert!((200..300).contains(&answer.status), "{fault}: {answer:?}");
}

/// Panics every actor once under load on 100 partitions; everything goes on.
pub fn panic_everything(spec: ServerSpec) {
    let server = spec.set("admin.fault_injection=true").start();
    let options = LoadOptions { pause: Duration::from_millis(20), ..LoadOptions::new("events", 100) };
    let mut load = Load::start(&server.address(), options);
    load.await_all_partitions();
    let mut bystander = server.connect();
    bystander.ping();
    for (actor, kind) in actors(&server) {
        if kind == "connection" || kind == "supervisor" {
            continue;
        }
        let before = restarts(&server, &actor);
        let started = Instant::now();
        inject_panic(&server, &actor);
        eventually(&format!("a restart of {actor} is counted"), || (restarts(&server, &actor) > before).then_some(()));
        load.await_all_partitions();
        println!("{actor}: every partition acks again after {:?}", started.elapsed());
        bystander.ping();
    }
    load.check();
    load.finish();
}

#[test]
fn a_panic_of_any_actor_loses_nothing_acked_and_connections_stay() {
    panic_everything(ServerSpec::new());
}

#[test]
fn a_panic_of_any_actor_with_dedicated_threads_loses_nothing_acked() {
    panic_everything(ServerSpec::new().set("shards.count=2").set("shards.placement=dedicated"));
}

#[test]
fn a_connection_that_panics_ends_alone() {
    let server = ServerSpec::new().set("admin.fault_injection=true").start();
    let mut victim = server.connect();
    victim.ping();
    let (name, _) =
        eventually("the connection is shown", || actors(&server).into_iter().find(|(_, kind)| kind == "connection"));
    let mut other = server.connect();
    other.ping();
    inject_panic(&server, &name);
    victim.expect_end();
    other.ping();
    let topic = other.create_topic("still");
    other.store(topic, 1, b"served");
}

#[test]
fn an_actor_that_panics_too_often_ends_the_process_with_an_error() {
    let mut server = ServerSpec::new()
        .set("admin.fault_injection=true")
        .set("supervision.max_restarts=2")
        .set("supervision.backoff_max_ms=50")
        .start();
    let mut connection = server.connect();
    let topic = connection.create_topic("budget");
    connection.store(topic, 1, &record(b"kept"));
    let mut panics = 0;
    while server.is_running() && panics < 20 {
        let before = restarts_or_gone(&server);
        panics += 1;
        // The last one may end the process before it has answered.
        if http::try_request(&server.admin(), "POST", "/v1/actors/ingestion-0/panic", "").is_err() {
            break;
        }
        // The admin interface goes before the process does.
        eventually("a restart or the end", || {
            let restarts = restarts_or_gone(&server);
            (!server.is_running() || (restarts > before && restarts != u64::MAX)).then_some(())
        });
    }
    let status = server.wait_for_end();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert_eq!(panics, 3, "two restarts are allowed");
    server.await_log(&["ingestion-0"]);
    server.start_again();
    assert_eq!(texts(&server.connect().read_from(topic, 0)), ["kept"]);
}

fn restarts_or_gone(server: &Server) -> u64 {
    let Ok(metrics) = http::try_request(&server.admin(), "GET", "/metrics", "") else { return u64::MAX };
    let line = metrics.body.lines().find(|line| line.starts_with("lance_actor_restarts_total{actor=\"ingestion-0\""));
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) as u64
}

#[test]
fn unknown_actors_and_faults_are_refused_and_without_the_switch_all_are() {
    let server = ServerSpec::new().set("admin.fault_injection=true").start();
    let answer = http::post(&server.admin(), "/v1/actors/nobody/panic", "");
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.json()["code"].is_string() && answer.json()["message"].is_string(), "{answer:?}");
    let answer = http::post(&server.admin(), "/v1/faults", r#"{"kind":"earthquake"}"#);
    assert_eq!(answer.status, 400, "{answer:?}");
    let server = ServerSpec::new().start();
    assert_eq!(http::post(&server.admin(), "/v1/actors/ingestion-0/panic", "").status, 404);
    assert_eq!(http::post(&server.admin(), "/v1/faults", r#"{"kind":"clear"}"#).status, 404);
    server.connect().ping();
}

/// A failed sync latches its partition: nothing more is acked there, others go on, a restart recovers.
pub fn sync_error_latches(spec: ServerSpec) {
    let mut server = spec.set("admin.fault_injection=true").start();
    let mut connection = server.connect();
    let (topic, other) = (connection.create_topic("latched"), connection.create_topic("other"));
    connection.store(topic, 1, &record(b"before"));
    connection.store(other, 1, &record(b"before"));
    inject(&server, &format!(r#"{{"kind":"sync_error","path":"logs/{topic}-0"}}"#));
    for batch_id in 2..10 {
        let answer = connection.ingest(topic, batch_id, &record(b"not acked"));
        assert!(answer.is_error(), "batch {batch_id} was acked");
        assert!(!answer.text().starts_with("FORWARD_FAILED") || batch_id == 2, "{}", answer.text());
    }
    assert_eq!(connection.ingest(topic, 10, b"x").text(), "The partition is offline after a storage failure");
    inject(&server, r#"{"kind":"clear"}"#);
    assert!(connection.ingest(topic, 11, b"x").is_error(), "a sync is never tried again");
    connection.store(other, 2, &record(b"after"));
    assert_eq!(texts(&connection.read_from(topic, 0)), ["before"], "reads go on, below what is durable");
    let cluster = http::get(&server.admin(), "/v1/cluster").json();
    let partitions = cluster["partitions"].as_array().unwrap();
    let latched = partitions.iter().find(|partition| partition["topic"] == "latched").unwrap();
    assert_eq!(latched["state"], "stopped", "{latched}");
    assert!(latched["reason"].as_str().is_some_and(|reason| reason.contains("sync")), "{latched}");
    server.await_log(&["ERROR", &format!("{topic}-0")]);
    assert!(http::metric(&server.admin(), "lance_partitions_stopped", &[]).unwrap() >= 1.0);
    server.kill_and_start();
    let mut connection = server.connect();
    connection.store(topic, 12, &record(b"after"));
    let stored = texts(&connection.read_from(topic, 0));
    assert_eq!(
        (stored.first().map(String::as_str), stored.last().map(String::as_str)),
        (Some("before"), Some("after"))
    );
}

#[test]
fn after_a_failed_sync_nothing_more_is_acked_until_a_restart_recovers() {
    sync_error_latches(ServerSpec::new());
}

#[test]
fn a_latch_survives_a_restart_of_its_actors() {
    let server = ServerSpec::new().set("admin.fault_injection=true").start();
    let mut connection = server.connect();
    let (topic, other) = (connection.create_topic("latched"), connection.create_topic("other"));
    connection.store(topic, 1, &record(b"before"));
    inject(&server, &format!(r#"{{"kind":"sync_error","path":"logs/{topic}-0"}}"#));
    assert!(connection.ingest(topic, 2, &record(b"not acked")).is_error());
    inject(&server, r#"{"kind":"clear"}"#);
    for actor in ["ingestion-0", "poller-0"] {
        let before = restarts(&server, actor);
        inject_panic(&server, actor);
        eventually(&format!("{actor} is back"), || (restarts(&server, actor) > before).then_some(()));
        store_until_acked(&mut connection, other);
        assert!(connection.ingest(topic, 3, &record(b"not acked")).is_error(), "after a restart of {actor}");
        let stopped = http::metric(&server.admin(), "lance_partitions_stopped", &[]);
        assert_eq!(stopped, Some(1.0), "one partition is stopped after a restart of {actor}");
    }
}

fn store_until_acked(connection: &mut Raw, topic: u32) {
    eventually("an ack", || {
        let answer = connection.ingest(topic, 7, &record(b"other"));
        assert!(!answer.is_error() || answer.text().starts_with("FORWARD_FAILED"), "{}", answer.text());
        (!answer.is_error()).then_some(())
    });
}

#[test]
fn a_full_disk_refuses_with_retriable_errors_reads_go_on_and_appends_resume() {
    let server = ServerSpec::new().set("admin.fault_injection=true").start();
    let mut connection = server.connect();
    let topic = connection.create_topic("full");
    connection.store(topic, 1, &record(b"before"));
    let mut load = Load::start(
        &server.address(),
        LoadOptions { pause: Duration::from_millis(5), ..LoadOptions::new("events", 4) },
    );
    load.await_all_partitions();
    inject(&server, r#"{"kind":"no_space","on":true}"#);
    let refused = eventually("a refusal", || {
        let answer = connection.ingest(topic, 2, &record(b"maybe"));
        // Of the batch that finds the disk full nobody knows yet whether it will be stored.
        let unknown = answer.is_error() && answer.text().contains("Outcome unknown");
        (answer.is_error() && !unknown).then_some(answer)
    });
    assert!(refused.text().starts_with("FORWARD_FAILED"), "1.0 clients try again: {}", refused.text());
    assert!(refused.text().contains("space"), "{}", refused.text());
    assert_eq!(texts(&connection.read_from(topic, 0))[0], "before");
    inject(&server, r#"{"kind":"no_space","on":false}"#);
    store_until_acked(&mut connection, topic);
    load.await_all_partitions();
    load.check();
    load.finish();
    let stopped = http::metric(&server.admin(), "lance_partitions_stopped", &[]).unwrap();
    assert_eq!(stopped, 0.0, "a full disk latches nothing");
}

#[test]
fn a_slow_disk_slows_acks_and_nothing_else() {
    let server = ServerSpec::new().set("admin.fault_injection=true").start();
    let mut connection = server.connect();
    let topic = connection.create_topic("slow");
    connection.store(topic, 1, &record(b"before"));
    inject(&server, r#"{"kind":"slow","millis":400,"path":"logs/"}"#);
    let started = Instant::now();
    let storing = {
        let mut connection = server.connect();
        std::thread::spawn(move || connection.store(topic, 2, &record(b"slow")))
    };
    let mut reads = 0;
    while !storing.is_finished() {
        connection.ping();
        assert_eq!(http::get(&server.admin(), "/health/live").status, 200);
        assert_eq!(texts(&connection.read_from(topic, 0))[0], "before");
        reads += 1;
    }
    storing.join().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(400), "the ack waits for the disk");
    assert!(reads > 5, "only {reads} reads beside a slow write");
    inject(&server, r#"{"kind":"clear"}"#);
    connection.store(topic, 3, &record(b"after"));
}

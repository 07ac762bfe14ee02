//! What happens to nodes: restarts of actors, followers that are no longer waited for, leaders that are replaced.

use super::{exporting, named, traced_lnc};
use lance_integration::harness::collector::{Received, Speaks};
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::lnc;
use lance_integration::harness::{Collector, Load, Server, ServerSpec, ThreeNodes, eventually, http};
use std::time::Duration;

#[test]
fn a_restart_of_an_actor_tells_why_and_what_was_recovered_and_its_log_lines_name_the_trace() {
    let collector = Collector::start(Speaks::Grpc);
    let spec = ServerSpec::new().set("admin.fault_injection=true").set("telemetry.log_format=json");
    let server = exporting(spec, &collector).start();
    lnc(&server.address(), &["produce", "--topic", "events", "--data", "click"], b"").ok();
    assert_eq!(http::post(&server.admin(), "/v1/actors/ingestion-0/panic", "").status, 202);

    let restart = collector.await_span("the restart", |span| span.name == "restart");
    assert_eq!(restart.process(), ("lance", "1"));
    assert_eq!(restart.attribute("lance.actor.name"), "ingestion-0");
    assert_eq!(restart.attribute("lance.actor"), "ingestion");
    assert_eq!(restart.attribute("lance.actor.restarts"), "1");
    assert!(restart.attribute("lance.restart.reason").starts_with("panic: "), "{restart:#?}");
    let told: Vec<&str> = restart.events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(told, ["actor failed", "actor serves again"]);
    let spans = collector.await_trace(&restart, "the recovery", |spans| !named(spans, "recovery").is_empty());
    let recovery = named(&spans, "recovery")[0];
    assert_eq!(recovery.parent, restart.id);
    assert_eq!(recovery.attribute("lance.recovery.logs"), "1");
    assert_eq!(recovery.attribute("lance.recovery.failed"), "0");
    assert!(restart.start_ns <= recovery.start_ns && recovery.end_ns <= restart.end_ns, "{spans:#?}");

    let line = server.await_log(&["actor failed"]);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["trace_id"].as_str(), line["span_id"].as_str()), (Some(&*restart.trace), Some(&*restart.id)));
}

/// Three nodes, a topic of one partition on all of them, and who leads it.
fn cluster(collector: &Collector, settings: &[&str]) -> (ThreeNodes, usize) {
    let cluster = ThreeNodes::start_with(&|spec| {
        let set = |spec: ServerSpec, setting: &&str| spec.set(*setting);
        settings.iter().fold(exporting(spec, collector).set("telemetry.sample_ratio=0"), set)
    });
    lnc(&cluster.servers(), &["topic", "create", "events"], b"").ok();
    let leader = cluster.leader("events", 0);
    (cluster, leader)
}

fn load(cluster: &ThreeNodes) -> Load {
    let servers = cluster.servers();
    Load::start(&servers, LoadOptions { pause: Duration::from_millis(5), ..LoadOptions::new("events", 1) })
}

fn inject(server: &Server, fault: &str) {
    let answer = http::post(&server.admin(), "/v1/faults", fault);
    assert!((200..300).contains(&answer.status), "{fault}: {answer:?}");
}

/// A span about this follower.
fn about<'a>(name: &'a str, follower: &'a str) -> impl Fn(&Received) -> bool + 'a {
    move |span| span.name == name && span.attribute("lance.follower") == follower
}

#[test]
fn a_slow_follower_is_evicted_and_comes_back_with_the_figures_that_led_to_it() {
    let collector = Collector::start(Speaks::Http);
    let settings = ["eviction.window_ms=500ms", "eviction.slow_windows=2", "eviction.rejoin_windows=2"];
    let (cluster, leader) = cluster(&collector, &settings);
    let follower = cluster.others(leader)[0];
    let number = (follower + 1).to_string();
    let load = load(&cluster);
    load.await_more(50);
    inject(&cluster.nodes[follower], r#"{"kind":"slow","millis":150,"path":"logs/"}"#);

    let evicted = collector.await_span("the eviction", about("evict", &number));
    assert_eq!(evicted.process().1, (leader + 1).to_string(), "it is the leader that decides");
    assert_eq!(evicted.attribute("lance.cause"), "slow", "{evicted:#?}");
    let figure = |span: &Received, name: &str| -> u64 {
        span.attribute(name).parse().unwrap_or_else(|error| panic!("{name}: {error} in {span:#?}"))
    };
    assert!(figure(&evicted, "lance.ack_p99_us") > figure(&evicted, "lance.threshold_us"));
    assert!(figure(&evicted, "lance.others_median_us") < figure(&evicted, "lance.threshold_us"));
    assert!(figure(&evicted, "lance.slow_windows") >= 2);
    assert!(evicted.events.iter().any(|(name, _)| name == "committed"), "{evicted:#?}");
    collector.await_span("it had been found slow before", about("demote", &number));
    let admin = cluster.nodes[leader].admin();
    let labels = [format!("follower=\"{number}\"")];
    let sample = |name: &str, more: &[&str]| {
        let labels: Vec<&str> = labels.iter().map(String::as_str).chain(more.iter().copied()).collect();
        http::metric(&admin, name, &labels)
    };
    assert!(sample("lance_follower_decisions_total", &["decision=\"evict-slow\""]) >= Some(1.0));
    assert!(sample("lance_follower_ack_threshold_seconds", &[]) > Some(0.0));
    assert!(sample("lance_replication_latency_seconds_count", &[]) > Some(0.0));
    assert_eq!(
        http::metric(&admin, "lance_peer_link_up", &[&format!("peer=\"{number}\""), "kind=\"data\""]),
        Some(1.0)
    );

    inject(&cluster.nodes[follower], r#"{"kind":"clear"}"#);
    let back = collector.await_span("its return", about("rejoin", &number));
    assert!(figure(&back, "lance.ack_p99_us") < figure(&back, "lance.threshold_us"), "{back:#?}");
    load.finish();
}

#[test]
fn a_silent_follower_and_an_operators_order_are_told_apart() {
    let collector = Collector::start(Speaks::Grpc);
    let (cluster, leader) = cluster(&collector, &["eviction.window_ms=500ms"]);
    let [silent, _] = cluster.others(leader);
    let load = load(&cluster);
    load.await_more(50);
    cluster.nodes[silent].pause();
    let number = (silent + 1).to_string();
    let evicted = collector.await_span("the eviction", about("evict", &number));
    cluster.nodes[silent].resume();
    assert_eq!(evicted.attribute("lance.cause"), "silent", "{evicted:#?}");
    assert!(evicted.attribute("lance.outstanding_ms").parse::<u64>().unwrap() >= 1000, "{evicted:#?}");
    load.finish();
    lnc(&cluster.servers(), &["cluster", "evict", &number], b"").ok();
    let ordered = collector.await_span("the order", |span| span.attribute("lance.cause") == "operator");
    assert_eq!(ordered.name, "evict");
}

#[test]
fn a_failover_is_one_trace_over_the_nodes_that_take_part() {
    let collector = Collector::start(Speaks::Grpc);
    let (mut cluster, leader) = cluster(&collector, &[]);
    let created = collector.await_span("the first epoch", |span| span.name == "election");
    assert_eq!(created.attribute("lance.election.cause"), "created", "{created:#?}");
    let first = collector.await_span("the first leader of the metadata", |span| span.name == "metadata election");
    assert_eq!(first.attribute("lance.leader"), first.process().1);
    traced_lnc(&collector, &[], &cluster.servers(), &["produce", "--topic", "events", "--data", "click"]).ok();
    cluster.nodes[leader].kill();
    let (before, others) = ((leader + 1).to_string(), cluster.others(leader).map(|node| (node + 1).to_string()));
    let next = eventually("another node leads", || {
        let seen = cluster.others(leader).map(|node| cluster.leader_seen_by(node, "events", 0));
        seen[0].filter(|next| *next != leader && seen[1] == seen[0])
    });
    let next = (next + 1).to_string();
    let is_it = |span: &Received| span.name == "election" && span.attribute("lance.leader.before") == before;
    let election = collector.await_span("the election", is_it);
    assert_eq!(election.attribute("lance.leader"), next, "{election:#?}");
    assert_eq!(election.attribute("lance.election.cause"), "leader-gone", "{election:#?}");
    assert_eq!((election.parent.as_str(), election.attribute("messaging.destination.name")), ("", "events"));
    let spans = collector.await_trace(&election, "promises and an epoch", |spans| {
        named(spans, "promise").len() >= 2 && !named(spans, "epoch").is_empty()
    });
    for promise in named(&spans, "promise") {
        assert_eq!(promise.parent, election.id);
        assert_eq!(promise.attribute("lance.promise"), "clean", "{promise:#?}");
        assert!(others.iter().any(|node| node == promise.process().1), "{promise:#?}");
    }
    let epoch = named(&spans, "epoch")[0];
    assert_eq!((epoch.parent.as_str(), epoch.process().1), (&*election.id, &*next));
    assert_eq!(epoch.attribute("lance.serves"), "true");
    assert_eq!(epoch.attribute("lance.epoch"), election.attribute("lance.epoch"));
}

//! One request, one trace: over the client and every node that takes part.

use super::{exporting, named, only, traced_lnc};
use lance_integration::harness::collector::{Received, Speaks};
use lance_integration::harness::{Collector, Server, ServerSpec, ThreeNodes, eventually};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

fn lnc(collector: &Collector, servers: &str, arguments: &[&str]) -> String {
    traced_lnc(collector, &[], servers, arguments).ok()
}

/// The node ids of the leader and of the followers.
fn roles(cluster: &ThreeNodes, topic: &str) -> (String, [String; 2]) {
    let leader = cluster.leader(topic, 0);
    (format!("{}", leader + 1), cluster.others(leader).map(|node| format!("{}", node + 1)))
}

fn one_produce_is_one_trace(speaks: Speaks) {
    let collector = Collector::start(speaks);
    let cluster = ThreeNodes::start_with(&|spec| exporting(spec, &collector));
    lnc(&collector, &cluster.servers(), &["topic", "create", "events"]);
    let (leader, followers) = roles(&cluster, "events");
    lnc(&collector, &cluster.servers(), &["produce", "--topic", "events", "--data", "click"]);

    let sent = collector.await_span("the client's span", |span| span.name == "send events");
    let is_whole = |spans: &[Received]| named(spans, "sync").len() == 3 && named(spans, "replicate").len() == 2;
    let spans = collector.await_trace(&sent, "a span of each stage on each node", is_whole);
    assert_eq!((sent.kind, sent.parent.as_str()), (SpanKind::Producer, ""), "{sent:#?}");
    assert_eq!(sent.process().0, "lnc");
    assert_eq!(sent.attribute("messaging.batch.message_count"), "1");

    let taken = only(&spans, "publish events", &leader);
    assert_eq!((taken.kind, &taken.parent), (SpanKind::Server, &sent.id));
    assert_eq!(taken.process().0, "lance");
    for (name, value) in [
        ("messaging.system", "lance"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "events"),
        ("messaging.destination.partition.id", "0"),
        ("messaging.batch.message_count", "1"),
        ("lance.node", leader.as_str()),
    ] {
        assert_eq!(taken.attribute(name), value, "{name} of {taken:#?}");
    }
    assert!(taken.attribute("messaging.client.id").starts_with("lnc/"), "{taken:#?}");
    for stage in ["append", "queue", "write", "sync", "quorum", "ack"] {
        let span = only(&spans, stage, &leader);
        assert_eq!((span.kind, &span.parent), (SpanKind::Internal, &taken.id), "{span:#?}");
        assert!(taken.start_ns <= span.start_ns && span.start_ns <= span.end_ns, "{span:#?}");
        assert!(!span.failed, "{span:#?}");
    }
    for follower in &followers {
        let sent = named(&spans, "replicate").into_iter().find(|span| span.attribute("lance.follower") == follower);
        let sent = sent.expect("a span for each follower");
        assert_eq!((sent.kind, sent.process().1), (SpanKind::Client, leader.as_str()));
        assert_eq!(sent.parent, taken.id);
        let appended = only(&spans, "append", follower);
        assert_eq!((appended.kind, &appended.parent), (SpanKind::Server, &sent.id));
        for stage in ["queue", "write", "sync"] {
            let span = only(&spans, stage, follower);
            assert_eq!((span.kind, &span.parent), (SpanKind::Internal, &appended.id), "{span:#?}");
        }
    }
    // Append, then the disk, in this order, then a quorum, then the ack.
    let order = ["append", "queue", "write", "sync"].map(|stage| only(&spans, stage, &leader));
    for pair in order.windows(2) {
        assert!(pair[0].end_ns <= pair[1].end_ns && pair[0].start_ns <= pair[1].start_ns, "{pair:#?}");
    }
    let (quorum, ack) = (only(&spans, "quorum", &leader), only(&spans, "ack", &leader));
    assert!(order[3].end_ns <= quorum.end_ns && quorum.end_ns <= ack.end_ns && ack.end_ns <= taken.end_ns);
    assert!(sent.start_ns <= taken.start_ns && taken.end_ns <= sent.end_ns, "clocks of one machine agree");
}

#[test]
fn one_produce_is_one_trace_over_the_client_and_three_nodes_by_grpc() {
    one_produce_is_one_trace(Speaks::Grpc);
}

#[test]
fn one_produce_is_one_trace_over_the_client_and_three_nodes_by_http() {
    one_produce_is_one_trace(Speaks::Http);
}

/// A server that exports what clients trace, and begins no trace itself.
fn server(collector: &Collector) -> Server {
    exporting(ServerSpec::new(), collector).set("telemetry.sample_ratio=0").start()
}

#[test]
fn one_poll_is_one_trace_and_shows_waiting_reading_and_sending() {
    let collector = Collector::start(Speaks::Grpc);
    let server = server(&collector);
    lnc(&collector, &server.address(), &["produce", "--topic", "events", "--data", "click"]);
    let printed =
        lnc(&collector, &server.address(), &["consume", "--topic", "events", "--offset", "earliest", "-c", "1"]);
    assert_eq!(printed, "click\n");

    let found = |span: &Received| span.name == "poll events" && span.attribute("messaging.batch.message_count") == "1";
    let polled = collector.await_span("the poll that found the record", found);
    assert_eq!((polled.kind, polled.process().0), (SpanKind::Client, "lnc"));
    assert_eq!(polled.attribute("messaging.operation.type"), "receive");
    let (host, port) = (polled.attribute("server.address"), polled.attribute("server.port"));
    assert_eq!(format!("{host}:{port}"), server.address());
    let spans = collector.await_trace(&polled, "the server's side", |spans| named(spans, "send").len() == 1);
    let taken = only(&spans, "receive events", "1");
    assert_eq!((taken.kind, &taken.parent), (SpanKind::Server, &polled.id));
    assert_eq!(taken.attribute("messaging.batch.message_count"), "1");
    for stage in ["read", "send"] {
        let span = only(&spans, stage, "1");
        assert_eq!((span.kind, &span.parent), (SpanKind::Internal, &taken.id), "{span:#?}");
        assert!(taken.start_ns <= span.start_ns && span.end_ns <= taken.end_ns, "{span:#?}");
    }
    assert_eq!(only(&spans, "read", "1").attribute("lance.read.source"), "memory");

    // At the end of the log a poll waits, and goes on once there is something.
    let waiter = [("OTEL_SERVICE_NAME", "waiter")];
    let waits = ["consume", "--topic", "events", "--offset", "latest", "-c", "5"];
    let polls_of_waiter = |spans: &[Received]| -> Vec<Received> {
        let polls = spans.iter().filter(|span| span.name == "poll events" && span.process().0 == "waiter");
        polls.cloned().collect()
    };
    std::thread::scope(|scope| {
        let consumer = scope.spawn(|| traced_lnc(&collector, &waiter, &server.address(), &waits).ok());
        for count in 1..=5 {
            // It polls at most half a second at a time: another poll tells that it is at it.
            eventually("the consumer polls again", || {
                (polls_of_waiter(&collector.spans()).len() >= count).then_some(())
            });
            lnc(&collector, &server.address(), &["produce", "--topic", "events", "--data", "clack"]);
        }
        assert_eq!(consumer.join().unwrap(), "clack\n".repeat(5));
    });
    let woken = eventually("a poll that waited and then read", || {
        let spans = collector.spans();
        polls_of_waiter(&spans).into_iter().find(|poll| {
            let trace: Vec<Received> = spans.iter().filter(|span| span.trace == poll.trace).cloned().collect();
            ["wait", "read", "receive events"].iter().all(|name| named(&trace, name).len() == 1)
        })
    });
    let spans = collector.await_trace(&woken, "its trace", |spans| named(spans, "send").len() == 1);
    let (taken, wait, read) =
        (only(&spans, "receive events", "1"), only(&spans, "wait", "1"), only(&spans, "read", "1"));
    assert_eq!((&wait.parent, &taken.parent), (&taken.id, &woken.id));
    assert!(wait.end_ns <= read.end_ns);
}

#[test]
fn a_poll_of_old_records_shows_that_it_read_segments() {
    let collector = Collector::start(Speaks::Http);
    let mut server = server(&collector);
    lnc(&collector, &server.address(), &["produce", "--topic", "events", "--data", "click"]);
    // Nothing of it is in memory after a start.
    server.kill_and_start();
    lnc(&collector, &server.address(), &["consume", "--topic", "events", "--offset", "earliest", "-e"]);
    let read = collector.await_span("a read", |span| span.name == "read");
    assert_eq!(read.attribute("lance.read.source"), "segments", "{read:#?}");
    let spans = collector.await_trace(&read, "its request", |spans| !named(spans, "receive events").is_empty());
    assert_eq!(read.parent, only(&spans, "receive events", "1").id);
}

#[test]
fn what_the_client_does_not_trace_the_server_traces_by_its_ratio() {
    let collector = Collector::start(Speaks::Grpc);
    let server = exporting(ServerSpec::new(), &collector).start();
    let mut legacy = server.connect();
    let topic = legacy.create_topic("old");
    legacy.store(topic, 7, b"click");
    let taken = collector.await_span("a trace that begins at the server", |span| span.name == "publish old");
    assert_eq!((taken.parent.as_str(), taken.kind), ("", SpanKind::Server));
    let spans = collector.await_trace(&taken, "its stages", |spans| named(spans, "ack").len() == 1);
    for stage in ["append", "queue", "write", "sync", "quorum", "ack"] {
        assert_eq!(only(&spans, stage, "1").parent, taken.id);
    }
    // The client said that it does not want this one kept.
    let unsampled = [("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
    let arguments = ["produce", "--topic", "quiet", "--data", "click"];
    traced_lnc(&collector, &unsampled, &server.address(), &arguments).ok();
    legacy.store(topic, 8, b"clack");
    let loud = |span: &Received| span.name == "publish old" && span.trace != taken.trace;
    collector.await_span("the next of the others", loud);
    assert!(named(&collector.spans(), "publish quiet").is_empty());
}

#[test]
fn a_refused_request_says_why() {
    let collector = Collector::start(Speaks::Grpc);
    let server = exporting(ServerSpec::new(), &collector).start();
    let mut legacy = server.connect();
    assert!(legacy.ingest(99, 3, b"nowhere").is_error());
    let refused = collector.await_span("the refused request", |span| span.name.starts_with("publish "));
    assert!(refused.failed);
    assert_eq!(refused.attribute("error.type"), "UnknownTopic");
}

#[test]
fn a_request_that_another_node_answers_is_one_trace_over_both() {
    let collector = Collector::start(Speaks::Http);
    let cluster = ThreeNodes::start_with(&|spec| exporting(spec, &collector));
    lnc(&collector, &cluster.servers(), &["topic", "create", "events"]);
    let leader = cluster.leader("events", 0);
    let asked = cluster.others(leader)[0];
    let (leader, asked_id) = ((leader + 1).to_string(), (asked + 1).to_string());
    // A client of the old kind knows no redirects.
    let mut legacy = cluster.nodes[asked].connect();
    let topic = eventually("the node knows the topic", || {
        let topics = legacy.control(0x03, b"").json();
        let found = topics["topics"].as_array()?.iter().find(|topic| topic["name"] == "events")?.get("id")?.as_u64();
        found.map(|id| id as u32)
    });
    eventually("it is stored", || (!legacy.ingest(topic, 5, b"click").is_error()).then_some(()));
    let is_it = |span: &Received| span.name == "publish events" && span.process().1 == asked_id && !span.failed;
    let taken = collector.await_span("the request", is_it);
    let spans = collector.await_trace(&taken, "the leader's part", |spans| named(spans, "ack").len() == 2);
    assert_eq!(taken.parent, "");
    let forwarded = only(&spans, "publish events", &leader);
    assert_eq!((forwarded.kind, &forwarded.parent), (SpanKind::Server, &taken.id));
    assert_eq!(only(&spans, "append", &leader).parent, forwarded.id);
}

#[test]
fn joining_and_committing_are_traces_over_the_member_its_coordinator_and_the_log_of_offsets() {
    let collector = Collector::start(Speaks::Grpc);
    let cluster = ThreeNodes::start_with(&|spec| exporting(spec, &collector));
    lnc(&collector, &cluster.servers(), &["topic", "create", "events"]);
    lnc(&collector, &cluster.servers(), &["produce", "--topic", "events", "--data", "click"]);
    let read = ["consume", "--topic", "events", "--group", "readers", "--offset", "earliest", "--exit-at-end"];
    assert_eq!(lnc(&collector, &cluster.servers(), &read), "click\n");
    for operation in ["join", "commit", "leave"] {
        let name = format!("{operation} readers");
        let asked = collector.await_span(&name, |span| span.name == name && span.process().0 == "lnc" && !span.failed);
        assert_eq!((asked.kind, asked.attribute("messaging.consumer.group.name")), (SpanKind::Client, "readers"));
        let is_whole = |spans: &[Received]| {
            let of_node = named(spans, &name).into_iter().any(|span| span.process().0 == "lance" && !span.failed);
            of_node && !named(spans, "quorum").is_empty()
        };
        let spans = collector.await_trace(&asked, "the log of offsets has it on a quorum", is_whole);
        // A node that does not coordinate names the one that does.
        let taken = named(&spans, &name).into_iter().find(|span| span.process().0 == "lance" && !span.failed).unwrap();
        assert_eq!((taken.kind, &taken.parent), (SpanKind::Server, &asked.id));
        let coordinator = taken.process().1;
        let decided = only(&spans, "coordinate", coordinator);
        assert_eq!((decided.kind, &decided.parent), (SpanKind::Internal, &taken.id));
        assert_eq!(decided.attribute("messaging.consumer.group.name"), "readers");
        let appended = named(&spans, "append").into_iter().find(|span| span.kind == SpanKind::Internal).unwrap();
        assert_eq!((appended.process().1, &appended.parent), (coordinator, &decided.id));
        assert_eq!(appended.attribute("messaging.destination.name"), "__groups");
        let quorum = named(&spans, "quorum")[0];
        assert!(appended.start_ns >= taken.start_ns && quorum.end_ns <= taken.end_ns, "{spans:#?}");
    }
}

//! TLS: what is encrypted, who is refused, and certificates that change.

use crate::certificates::{Certificates, Pair, shown};
use crate::{TOKEN, with_token};
use lance_integration::harness::process::{Finished, lnc};
use lance_integration::harness::{Raw, Server, ServerSpec, ThreeNodes};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub fn encrypted(spec: ServerSpec, own: &Pair, certificates: &Certificates, client_auth: &str) -> ServerSpec {
    spec.set("tls.enabled=true")
        .set(format!("tls.cert_file={}", shown(&own.cert)))
        .set(format!("tls.key_file={}", shown(&own.key)))
        .set(format!("tls.ca_file={}", shown(&certificates.ca())))
        .set(format!("tls.client_auth={client_auth}"))
}

pub fn over_tls(server: &Server, certificates: &Certificates, own: Option<&Pair>, arguments: &[&str]) -> Finished {
    let ca = certificates.ca();
    let mut all = [arguments, &["--tls-ca", shown(&ca)]].concat();
    if let Some(own) = own {
        all.extend(["--tls-cert", shown(&own.cert), "--tls-key", shown(&own.key)]);
    }
    lnc(&server.address(), &all, &[])
}

#[test]
fn records_go_both_ways_encrypted_in_memory_and_from_files() {
    let certificates = Certificates::new();
    let own = certificates.issue("lance");
    let spec = ServerSpec::new().set("storage.segment_bytes=1MiB").set("storage.tail_ring_bytes=1MiB");
    let mut server = encrypted(spec, &own, &certificates, "none").start();
    let lines: String = (0..120_000).map(|number| format!("record {number} of many\n")).collect();
    let ca = certificates.ca();
    let produce = ["produce", "-t", "many", "--tls-ca", shown(&ca)];
    lnc(&server.address(), &produce, lines.as_bytes()).ok();
    let consume = ["consume", "-t", "many", "--offset", "earliest", "-e"];
    assert_eq!(over_tls(&server, &certificates, None, &consume).ok(), lines);
    server.kill_and_start();
    assert_eq!(over_tls(&server, &certificates, None, &consume).ok(), lines, "cold, from segments");
    assert_eq!(server.terminate().code(), Some(0), "encrypted connections do not hold up the drain");
}

#[test]
fn plaintext_is_closed_and_both_mistakes_are_explained() {
    let certificates = Certificates::new();
    let own = certificates.issue("lance");
    let server = encrypted(ServerSpec::new(), &own, &certificates, "none").start();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"LANC").unwrap();
    let mut rest = Vec::new();
    // A close may come as a reset, since nobody reads what was sent.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "no word in plaintext: {rest:?}");
    let (_, text) = lnc(&server.address(), &["topic", "list"], &[]).failure();
    assert!(text.contains("TLS") && text.contains("--tls-ca"), "{text}");
    let plain = ServerSpec::new().start();
    let (_, text) = over_tls(&plain, &certificates, None, &["topic", "list"]).failure();
    assert!(text.contains("does not speak TLS"), "{text}");
    assert_eq!(Raw::connect(&plain.address()).control(3, b"").batch_id, 0x80, "the server goes on");
}

#[test]
fn certificates_of_others_and_of_the_past_are_refused_on_both_sides() {
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let own = ours.issue("lance");
    let server = encrypted(ServerSpec::new(), &own, &ours, "required").start();
    let list = ["topic", "list"];
    over_tls(&server, &ours, Some(&ours.issue("al")), &list).ok();
    let (_, text) = over_tls(&server, &theirs, Some(&ours.issue("al")), &list).failure();
    assert!(text.contains("not signed by the authority"), "{text}");
    for (who, pair) in [
        ("nobody", None),
        ("a stranger", Some(theirs.issue("al"))),
        ("the past", Some(ours.issue_expired("old"))),
        ("a name of the server's own", Some(ours.issue("__node"))),
    ] {
        assert!(!over_tls(&server, &ours, pair.as_ref(), &list).status.success(), "{who} came in");
    }
    let late = encrypted(ServerSpec::new(), &ours.issue_expired("late"), &ours, "none").start();
    let (_, text) = over_tls(&late, &ours, None, &list).failure();
    assert!(text.contains("certificate") && text.to_lowercase().contains("expired"), "{text}");
}

#[test]
fn a_certificate_says_who_a_client_is() {
    let certificates = Certificates::new();
    let own = certificates.issue("lance");
    let spec = ServerSpec::new().set("auth.enabled=true").set("auth.superusers=root").set("topics.auto_create=false");
    let server = encrypted(spec, &own, &certificates, "optional").start();
    let (root, al) = (certificates.issue("root"), certificates.issue("al"));
    let as_root = |arguments: &[&str]| over_tls(&server, &certificates, Some(&root), arguments);
    let as_al = |arguments: &[&str]| over_tls(&server, &certificates, Some(&al), arguments);
    as_root(&["topic", "create", "orders"]).ok();
    assert!(as_al(&["produce", "-t", "orders", "-d", "x"]).failure().1.contains("Permission denied"));
    as_root(&["acl", "add", "al", "--allow", "write", "--topic", "orders"]).ok();
    as_al(&["produce", "-t", "orders", "-d", "x"]).ok();
    let (_, text) = over_tls(&server, &certificates, None, &["topic", "list"]).failure();
    assert!(text.contains("Authentication required"), "{text}");
}

#[test]
fn new_certificates_come_into_use_under_load_without_a_failed_call() {
    let certificates = Certificates::new();
    let own = certificates.issue("lance");
    let server = encrypted(ServerSpec::new(), &own, &certificates, "none").start();
    let list = ["topic", "list"];
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    over_tls(&server, &certificates, None, &list).ok();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            let before = server.stderr().matches("new certificates are in use").count();
            certificates.issue("lance");
            let deadline = Instant::now() + Duration::from_secs(30);
            while server.stderr().matches("new certificates are in use").count() == before {
                assert!(Instant::now() < deadline, "not reloaded:\n{}", server.stderr());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(calls.load(Ordering::Relaxed) > 0);
    // What cannot be used changes nothing.
    std::fs::write(&own.key, "no key").unwrap();
    server.await_log(&["certificates stay as they are", "tls.key_file"]);
    over_tls(&server, &certificates, None, &list).ok();
}

#[test]
fn three_nodes_speak_tls_among_each_other_and_prove_themselves() {
    let certificates = Certificates::new();
    let own = certificates.issue("lance");
    let mut cluster = ThreeNodes::prepare();
    for node in &mut cluster.nodes {
        for set in [
            "tls.enabled=true".to_owned(),
            format!("tls.cert_file={}", shown(&own.cert)),
            format!("tls.key_file={}", shown(&own.key)),
            format!("tls.ca_file={}", shown(&certificates.ca())),
            "tls.client_auth=optional".to_owned(),
            "cluster.secret=the secret of the cluster".to_owned(),
            "auth.enabled=true".to_owned(),
            format!("auth.token={TOKEN}"),
        ] {
            node.set(set);
        }
    }
    cluster.spawn_all();
    cluster.nodes.iter_mut().for_each(Server::await_serving);
    let ca = certificates.ca();
    let tls = |arguments: &[&str], index: usize| {
        with_token(&cluster.nodes[index], TOKEN, &[arguments, &["--tls-ca", shown(&ca)]].concat())
    };
    tls(&["topic", "create", "safe", "--partitions", "3", "--replication-factor", "3", "--mode", "L2"], 0).ok();
    for index in 0..3 {
        tls(&["produce", "-t", "safe", "-d", &format!("by {index}")], index).ok();
    }
    let consumed = tls(&["consume", "-t", "safe", "--offset", "earliest", "-e"], 2).ok();
    let mut lines: Vec<&str> = consumed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["by 0", "by 1", "by 2"]);
}

#[test]
fn the_load_program_speaks_tls() {
    let certificates = Certificates::new();
    let own = certificates.issue("lance");
    let server = encrypted(ServerSpec::new(), &own, &certificates, "none").start();
    let (address, ca) = (server.address(), certificates.ca());
    let arguments = [
        "produce",
        "--server",
        &address,
        "--tls-ca",
        shown(&ca),
        "--duration",
        "1s",
        "--warm-up",
        "0s",
        "--output",
        "json",
    ];
    let report = lance_integration::harness::process::run("lnc-bench", &arguments, &[]).ok();
    assert!(report.contains("records"), "{report}");
}

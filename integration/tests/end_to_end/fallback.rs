//! The backends of the disk that are not chosen by themselves: blocking calls, by configuration and where the kernel
//! refuses io_uring, and tokio-uring.

use crate::crash::kill_rounds;
use crate::damage::damage_in_a_closed_segment;
use crate::faults::{panic_everything, sync_error_latches};
use lance_integration::harness::process::lnc;
use lance_integration::harness::records::{record, split};
use lance_integration::harness::{Server, ServerSpec, http, is_without_io_uring, kill_round_count, needs_io_uring};

fn blocking() -> ServerSpec {
    ServerSpec::new().set("io.backend=blocking")
}

fn tokio_uring() -> ServerSpec {
    ServerSpec::new().set("io.backend=tokio_uring")
}

fn backend_of(server: &Server) -> String {
    let metrics = http::get(&server.admin(), "/metrics").body;
    let line = metrics.lines().find(|line| line.starts_with("lance_io_backend{")).expect("a backend is reported");
    assert!(line.ends_with(" 1"), "{line}");
    line.split('"').nth(1).unwrap().to_owned()
}

fn expect_service(server: &Server) {
    let mut connection = server.connect();
    let topic = connection.create_topic("served");
    for number in 0..200 {
        connection.store(topic, number, &record(format!("record {number}").as_bytes()));
    }
    assert_eq!(split(&connection.read_from(topic, 0)).len(), 200);
    let lines: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    lnc(&server.address(), &["produce", "-t", "lines"], lines.as_bytes()).ok();
    assert!(lnc(&server.address(), &["consume", "-t", "lines", "-e"], b"").ok() == lines);
}

#[test]
fn the_backend_in_use_is_reported() {
    let server = ServerSpec::new().start();
    let backend = backend_of(&server);
    let possible: &[&str] = match is_without_io_uring() {
        true => &["blocking"],
        false => &["io_uring", "tokio_uring", "blocking"],
    };
    assert!(possible.contains(&backend.as_str()), "{backend}");
    assert!(server.stdout().contains(&backend), "the screen says so too:\n{}", server.stdout());
    let server = blocking().start();
    assert_eq!(backend_of(&server), "blocking");
    expect_service(&server);
}

#[test]
fn where_the_kernel_refuses_io_uring_auto_falls_back_and_serves() {
    let mut server = ServerSpec::new().without_io_uring().start();
    assert_eq!(backend_of(&server), "blocking");
    expect_service(&server);
    server.kill_and_start();
    assert_eq!(split(&server.connect().read_from(1, 0)).len(), 200);
}

#[test]
fn where_the_kernel_refuses_io_uring_asking_for_it_is_refused_and_named() {
    let mut server = ServerSpec::new().without_io_uring().set("io.backend=io_uring").prepare();
    server.spawn();
    assert_eq!(server.wait_for_end().code(), Some(1));
    assert!(server.stderr().contains("io_uring"), "{}", server.stderr());
}

#[test]
fn kill_9_loses_nothing_on_the_fallback() {
    kill_rounds(blocking(), kill_round_count());
}

#[test]
fn kill_9_loses_nothing_where_io_uring_is_refused() {
    kill_rounds(ServerSpec::new().without_io_uring(), kill_round_count() / 2);
}

#[test]
fn panics_lose_nothing_on_the_fallback() {
    panic_everything(blocking());
}

#[test]
fn tokio_uring_serves_and_is_what_runs() {
    if !needs_io_uring() {
        return;
    }
    let mut server = tokio_uring().start();
    assert_eq!(backend_of(&server), "tokio_uring");
    expect_service(&server);
    server.kill_and_start();
    assert_eq!(split(&server.connect().read_from(1, 0)).len(), 200);
}

#[test]
fn kill_9_loses_nothing_on_tokio_uring() {
    if needs_io_uring() {
        kill_rounds(tokio_uring(), kill_round_count());
    }
}

#[test]
fn panics_lose_nothing_on_tokio_uring() {
    if needs_io_uring() {
        panic_everything(tokio_uring());
    }
}

#[test]
fn a_failed_sync_latches_on_tokio_uring() {
    if needs_io_uring() {
        sync_error_latches(tokio_uring());
    }
}

#[test]
fn a_failed_sync_latches_on_the_fallback() {
    sync_error_latches(blocking());
}

#[test]
fn damage_is_never_data_on_the_fallback() {
    damage_in_a_closed_segment(blocking(), false);
}

#[test]
fn a_fallback_reads_what_io_uring_wrote_and_the_other_way_round() {
    if !needs_io_uring() {
        return;
    }
    let mut server = ServerSpec::new().set("storage.segment_bytes=1MiB").start();
    let topic = server.connect().create_topic("both");
    let mut expected = Vec::new();
    for (round, backend) in ["auto", "blocking", "auto", "blocking"].into_iter().enumerate() {
        for number in 0..20 {
            let batch = record(format!("{round}-{number}-{}", "b".repeat(60_000)).as_bytes());
            server.connect().store(topic, number, &batch);
            expected.extend_from_slice(&batch);
        }
        server.kill();
        server.set(format!("io.backend={backend}"));
        server.start_again();
        assert!(server.connect().read_from(topic, 0) == expected, "round {round}, now {backend}");
    }
}

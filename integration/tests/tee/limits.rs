//! Limits: of the rate, of memory, of what the source still has.

use super::{add, list, server};
use lance_integration::harness::process::{lnc, resident_bytes};
use lance_integration::harness::{ServerSpec, TopicView, eventually, http};
use std::time::Instant;

/// `count` lines of `bytes` bytes.
fn lines(count: usize, bytes: usize) -> String {
    (0..count).map(|number| format!("{number:0>bytes$}\n")).collect()
}

#[test]
fn a_rule_sends_no_faster_than_it_may() {
    let (source, target) = (server(), server());
    let bytes = 3 << 20;
    super::produce(&source.address(), "events", &lines(bytes / 1024, 1024));
    let started = Instant::now();
    add(&source.address(), "events", &format!("{}/copy", target.address()), &["--rate-limit", "1MiB"]);
    TopicView::new(&source.address(), "events").end(0).expect("the source has an end");
    let (original, end) = (TopicView::new(&source.address(), "events"), |view: &TopicView| view.end(0).unwrap_or(0));
    let all = end(&original);
    eventually("everything arrives", || {
        let copy = TopicView::new(&target.address(), "copy");
        let there = end(&copy);
        // A quarter of a second's worth may go at once, and one batch beyond.
        let allowed = started.elapsed().as_secs_f64() * 1_048_576.0 + 1_048_576.0 / 4.0 + 1_200_000.0;
        assert!(there as f64 <= allowed, "{there} bytes after {:?}", started.elapsed());
        (there == all).then_some(())
    });
    let least = (all as f64 - 1_048_576.0 / 4.0 - 1_200_000.0) / 1_048_576.0;
    assert!(started.elapsed().as_secs_f64() >= least, "{all} bytes in {:?}", started.elapsed());
}

#[test]
fn a_target_that_is_away_costs_the_source_neither_records_nor_memory() {
    let (source, mut target) = (server(), server());
    lnc(&source.address(), &["topic", "create", "events"], b"").ok();
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    super::produce(&source.address(), "events", "first\n");
    eventually("the first record arrives", || TopicView::new(&target.address(), "copy").end(0).filter(|end| *end > 0));
    target.kill();
    let block = lines(16 * 1024, 1024);
    super::produce(&source.address(), "events", &block);
    let before = resident_bytes(source.pid());
    for _ in 0..5 {
        super::produce(&source.address(), "events", &block);
    }
    let grown = resident_bytes(source.pid()).saturating_sub(before);
    assert!(grown < 48 << 20, "80 MiB more wait for the target, and the source holds {} KiB more", grown >> 10);
    let waits = eventually("the rule says that it waits", || {
        let rule = list(&source.address()).pop()?;
        let partition = rule["partitions"][0].clone();
        (partition["state"] == "waiting" && partition["lag_records"] == 6 * 16 * 1024).then_some(partition)
    });
    assert!(waits["error"].as_str().is_some_and(|error| !error.is_empty()), "{waits}");
    target.start_again();
    TopicView::new(&source.address(), "events").expect_same(&TopicView::new(&target.address(), "copy"), 1);
}

#[test]
fn what_retention_removes_first_is_counted_as_lost_and_the_rest_arrives() {
    let spec = ServerSpec::new().set("storage.segment_bytes=1MiB").set("storage.retention_interval_ms=100");
    // So little that most of what waits is not in memory.
    let spec = spec.set("tee.buffer_bytes=1MiB");
    let (source, mut target) = (spec.start(), server());
    lnc(&source.address(), &["topic", "create", "events", "--retention-bytes", "2MiB"], b"").ok();
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    super::produce(&source.address(), "events", "first\n");
    eventually("the first record arrives", || TopicView::new(&target.address(), "copy").end(0).filter(|end| *end > 0));
    target.kill();
    for _ in 0..6 {
        super::produce(&source.address(), "events", &lines(1024, 1024));
    }
    eventually("retention has removed something", || {
        http::metric(&source.admin(), "lance_retention_removed_bytes_total", &[]).filter(|bytes| *bytes > 1e6)
    });
    target.start_again();
    let lost = || http::metric(&source.admin(), "lance_tee_lost_records_total", &[]).map(|lost| lost as u64);
    eventually("the loss is counted", || lost().filter(|lost| *lost > 0));
    source.await_log(&["removed before they were forwarded", "records="]);
    // Retention may go on after the first loss was seen.
    eventually("everything that is left arrives and the rest is counted", || {
        let copied = TopicView::new(&target.address(), "copy").read(0).len() as u64;
        (copied + lost()? == 1 + 6 * 1024).then_some(())
    });
    super::produce(&source.address(), "events", "last\n");
    eventually("it goes on", || {
        let read = TopicView::new(&target.address(), "copy").read(0);
        (read.last()?.2.as_deref() == Some(b"last")).then_some(())
    });
}

#[test]
fn a_node_that_forwards_nothing_says_so_when_a_rule_is_added() {
    let source = ServerSpec::new().set("tee.enabled=false").start();
    lnc(&source.address(), &["topic", "create", "events"], b"").ok();
    let to = format!("{}/copy", source.address());
    let (code, text) = lnc(&source.address(), &["topic", "tee", "add", "events", "--to", &to], b"").failure();
    assert!(code == 1 && text.contains("[tee] enabled = false"), "{text}");
    assert!(list(&source.address()).is_empty());
}

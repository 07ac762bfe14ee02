//! Whatever dies, everything arrives, once and in order.

use super::{add, server};
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::{Load, Server, ThreeNodes, TopicView, eventually, http, is_long};
use std::time::Duration;

const PARTITIONS: u16 = 3;

fn load(servers: &str) -> Load {
    let options =
        LoadOptions { record_bytes: 400, pause: Duration::from_millis(1), ..LoadOptions::new("events", PARTITIONS) };
    Load::start(servers, options)
}

/// Stops the load, and compares the copy with the original.
fn expect_same(load: Load, source: &str, target: &Server) {
    load.finish();
    let (original, copy) = (TopicView::new(source, "events"), TopicView::new(&target.address(), "copy"));
    original.expect_same(&copy, PARTITIONS);
}

/// Waits until the target has more than it has now.
fn await_arrival(copy: &TopicView) {
    let ends = |copy: &TopicView| (0..PARTITIONS).map(|partition| copy.end(partition)).sum::<Option<u64>>();
    let before = ends(copy).unwrap_or(0);
    eventually("more arrives", || ends(copy).filter(|now| *now > before));
}

#[test]
fn a_target_that_is_killed_again_and_again_has_everything_once() {
    let (source, mut target) = (server(), server());
    // A million records, as fast as they come, in the long variant.
    let (some, pause) = if is_long() { (170_000, Duration::ZERO) } else { (500, Duration::from_millis(1)) };
    let options = LoadOptions { record_bytes: 400, pause, ..LoadOptions::new("events", PARTITIONS) };
    let load = Load::start(&source.address(), options);
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    for _ in 0..3 {
        load.await_more(some);
        eventually("the copy is there", || TopicView::new(&target.address(), "copy").end(0).filter(|end| *end > 0));
        await_arrival(&TopicView::new(&target.address(), "copy"));
        target.kill();
        // The source goes on as if nothing had happened.
        load.await_more(some);
        target.start_again();
    }
    expect_same(load, &source.address(), &target);
}

#[test]
fn a_source_that_is_killed_goes_on_where_it_was() {
    let (mut source, target) = (server(), server());
    let load = load(&source.address());
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    let copy = eventually("the copy is there", || {
        let copy = TopicView::new(&target.address(), "copy");
        copy.end(0).map(|_| copy)
    });
    for _ in 0..3 {
        load.await_more(500);
        await_arrival(&copy);
        source.kill_and_start();
        load.await_all_partitions();
    }
    expect_same(load, &source.address(), &target);
}

#[test]
fn a_tee_actor_that_panics_starts_anew_and_nothing_is_there_twice() {
    let (source, target) = (server(), server());
    let load = load(&source.address());
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    let copy = eventually("the copy is there", || {
        let copy = TopicView::new(&target.address(), "copy");
        copy.end(0).filter(|end| *end > 0).map(|_| copy)
    });
    for restarts in 1..=3 {
        load.await_more(300);
        await_arrival(&copy);
        assert_eq!(http::post(&source.admin(), "/v1/actors/tee/panic", "").status, 202);
        eventually("the actor runs again", || {
            let tree = http::get(&source.admin(), "/v1/actors").json();
            let tee = tree["children"].as_array()?.iter().find(|actor| actor["kind"] == "tee")?.clone();
            (tee["restarts"] == restarts && tee["state"] == "running").then_some(())
        });
    }
    await_arrival(&copy);
    expect_same(load, &source.address(), &target);
}

#[test]
fn a_cluster_whose_leaders_die_and_whose_target_dies_too_forwards_everything_once() {
    let (mut source, mut target) = (ThreeNodes::start(), server());
    let load = load(&source.servers());
    add(&source.servers(), "events", &format!("{}/copy", target.address()), &[]);
    eventually("the copy is there", || TopicView::new(&target.address(), "copy").end(0).filter(|end| *end > 0));
    for round in 0..3 {
        load.await_more(300);
        let leader = source.leader("events", 0);
        source.nodes[leader].kill();
        if round == 1 {
            target.kill_and_start();
        }
        load.await_all_partitions();
        await_arrival(&TopicView::new(&target.address(), "copy"));
        source.nodes[leader].start_again();
        source.await_ready();
    }
    // One that is stopped, and does not know on waking that others lead.
    let leader = source.leader("events", 0);
    source.nodes[leader].pause();
    eventually("another node leads", || {
        let seen = source.others(leader).map(|node| source.leader_seen_by(node, "events", 0));
        seen.iter().all(|seen| seen.is_some_and(|seen| seen != leader)).then_some(())
    });
    load.await_all_partitions();
    source.nodes[leader].resume();
    load.await_more(300);
    source.await_ready();
    expect_same(load, &source.servers(), &target);
}

#[test]
fn a_cluster_as_a_target_is_followed_from_leader_to_leader() {
    let (source, mut target) = (server(), ThreeNodes::start());
    let load = load(&source.address());
    add(&source.address(), "events", &format!("{}/copy", target.servers()), &[]);
    let view = |target: &ThreeNodes| TopicView::new(&target.servers(), "copy");
    eventually("the copy is there", || view(&target).end(0).filter(|end| *end > 0));
    for _ in 0..2 {
        load.await_more(300);
        let leader = target.leader("copy", 0);
        target.nodes[leader].kill();
        await_arrival(&view(&target));
        target.nodes[leader].start_again();
        target.await_ready();
    }
    load.finish();
    TopicView::new(&source.address(), "events").expect_same(&view(&target), PARTITIONS);
}

#[test]
fn a_target_topic_that_is_made_anew_gets_what_comes_from_then_on() {
    let (source, target) = (server(), server());
    let to = format!("{}/copy", target.address());
    super::produce(&source.address(), "events", "1\n2\n3\n");
    add(&source.address(), "events", &to, &[]);
    let texts = || -> Vec<String> {
        let read = TopicView::new(&target.address(), "copy").read(0);
        read.into_iter().map(|(_, _, value)| String::from_utf8(value.unwrap()).unwrap()).collect()
    };
    eventually("three records arrive", || {
        let there = TopicView::new(&target.address(), "copy").end(0)? > 0;
        (there && texts() == ["1", "2", "3"]).then_some(())
    });
    // The place is remembered once a second.
    eventually("the place is remembered", || {
        (http::metric(&source.admin(), "lance_tee_records_total", &["partition=\"0\""])? >= 3.0).then_some(())
    });
    std::thread::sleep(Duration::from_millis(1500));
    lance_integration::harness::process::lnc(&target.address(), &["topic", "delete", "copy"], b"").ok();
    super::produce(&source.address(), "events", "4\n5\n");
    eventually("two records are in the new topic", || {
        let there = TopicView::new(&target.address(), "copy").end(0)? > 0;
        (there && texts() == ["4", "5"]).then_some(())
    });
}

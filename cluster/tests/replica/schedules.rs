//! Random schedules of three nodes: whatever happens, logs match and nothing committed changes; once it stops, all agree.

use super::cluster::{Cluster, NODES};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
enum Step {
    Produce,
    /// All but one node do what they have to do.
    Round {
        absent: usize,
    },
    Flush(usize),
    Pump(usize),
    Request(usize),
    Response(usize),
    Elect {
        absent: usize,
    },
    Crash(usize),
    Link(usize, bool),
    DropFront(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        6 => Just(Step::Produce),
        6 => (0..=NODES).prop_map(|absent| Step::Round { absent }),
        6 => node.clone().prop_map(Step::Flush),
        8 => node.clone().prop_map(Step::Pump),
        12 => node.clone().prop_map(Step::Request),
        12 => node.clone().prop_map(Step::Response),
        2 => node.clone().prop_map(|absent| Step::Elect { absent }),
        1 => node.clone().prop_map(Step::Crash),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, up)| Step::Link(node, up)),
        2 => node.prop_map(Step::DropFront),
        3 => (1u64..1500).prop_map(Step::Wait),
    ]
}

fn take(cluster: &mut Cluster, step: Step) {
    match step {
        Step::Produce => cluster.produce(),
        Step::Round { absent } => round(cluster, absent),
        Step::Flush(node) => cluster.flush(node),
        Step::Pump(node) => cluster.pump(node),
        Step::Request(node) => cluster.deliver_request(node),
        Step::Response(node) => cluster.deliver_response(node),
        Step::Elect { absent } => cluster.elect(absent),
        Step::Crash(node) => cluster.crash(node),
        Step::Link(node, up) => cluster.set_link(node, up),
        Step::DropFront(node) => cluster.drop_front(node),
        Step::Wait(ms) => cluster.now += Duration::from_millis(ms),
    }
}

/// A fifth of a second in which all but one node do what they have to do.
fn round(cluster: &mut Cluster, absent: usize) {
    cluster.now += Duration::from_millis(200);
    for node in (0..NODES).filter(|node| *node != absent) {
        cluster.pump(node);
        (0..40).for_each(|_| cluster.deliver_request(node));
        cluster.flush(node);
        (0..40).for_each(|_| cluster.deliver_response(node));
    }
}

/// Everything works again: within a minute all logs are the leader's, committed to the end.
fn heals(cluster: &mut Cluster) {
    if cluster.leading.is_none() {
        cluster.elect(NODES);
    }
    (0..NODES).for_each(|node| cluster.set_link(node, true));
    for _ in 0..300 {
        round(cluster, NODES);
        cluster.check();
    }
    let end = cluster.logs[0].end();
    for log in &cluster.logs {
        assert_eq!((log.end(), log.durable_end, log.high_watermark), (end, end, end));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn logs_match_and_what_is_committed_stays_under_every_schedule(
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut cluster = Cluster::new();
        cluster.elect(NODES);
        for step in steps {
            take(&mut cluster, step);
            cluster.check();
        }
        heals(&mut cluster);
    }
}

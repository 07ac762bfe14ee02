//! Three servers as operators see them: status, topics and orders through any of them, leaders that move.

use lance_client::{Client, ClientOptions, ProducerOptions, ProducerRecord};
use lance_integration::harness::cluster::{Cluster, led_by, state_of};
use lance_integration::harness::http;
use lance_integration::harness::process::lnc;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Records sent one after another until it is told to stop; none may fail.
struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(servers: &str, topic: &'static str, partitions: u16) -> Load {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let options = ClientOptions::new(servers).unwrap();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&acked));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = Client::connect(options).await.unwrap();
                let producer = client.producer(ProducerOptions::default());
                let mut number = 0u64;
                while !stopped.load(Ordering::Relaxed) {
                    for partition in 0..partitions {
                        let record = ProducerRecord::new(topic, number.to_string()).with_partition(partition);
                        number += 1;
                        producer.send(record).await.unwrap().await.expect("no produce fails");
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        });
        Load { stop, acked, thread }
    }

    /// Goes on until some more were acked.
    fn await_more(&self) {
        let before = self.acked.load(Ordering::Relaxed);
        lance_integration::harness::eventually("records are acked", || {
            assert!(!self.thread.is_finished(), "a produce failed");
            (self.acked.load(Ordering::Relaxed) >= before + 20).then_some(())
        });
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no produce fails");
        self.acked.load(Ordering::Relaxed)
    }
}

fn all_led(status: &Value) -> bool {
    let partitions = status["partitions"].as_array().unwrap();
    !partitions.is_empty() && partitions.iter().all(|partition| partition["log_end"].is_u64())
}

fn create(cluster: &Cluster, through: &str, name: &str, partitions: &str) {
    lnc(through, &["topic", "create", name, "--partitions", partitions], b"").ok();
    let there = |status: &Value| {
        let mine: Vec<&Value> =
            status["partitions"].as_array().unwrap().iter().filter(|partition| partition["topic"] == name).collect();
        !mine.is_empty() && all_led(status)
    };
    cluster.await_status("the topic is led", there);
}

fn records(cluster: &Cluster, topic: &str) -> usize {
    lnc(&cluster.addresses(), &["consume", "--topic", topic, "--offset", "earliest", "-e"], b"").ok().lines().count()
}

#[test]
fn status_and_topics_are_the_same_through_any_node() {
    let cluster = Cluster::start(3);
    for (number, server) in cluster.servers.iter().enumerate() {
        create(&cluster, &server.address(), &format!("events-{number}"), "3");
    }
    for server in &cluster.servers {
        let status = cluster.status_through(&server.address());
        assert_eq!(status["nodes"].as_array().unwrap().len(), 3, "{status}");
        let leaders = status["nodes"].as_array().unwrap().iter().filter(|node| node["metadata_leader"] == true);
        assert_eq!(leaders.count(), 1, "{status}");
        let partitions = status["partitions"].as_array().unwrap();
        assert_eq!(partitions.len(), 9, "{status}");
        for partition in partitions {
            assert_eq!(partition["in_quorum"], json!([1, 2, 3]), "{status}");
            assert_eq!(partition["replicas"].as_array().unwrap().len(), 3, "{status}");
            assert!(partition["high_watermark"].is_u64() && partition["log_end"].is_u64(), "{status}");
        }
        for node in 1..=3 {
            assert_eq!(state_of(&status, node), "serving");
        }
        let listed = http::get(&server.admin(), "/v1/cluster").json();
        assert_eq!(listed["partitions"][0]["in_quorum"], json!([1, 2, 3]), "{listed}");
        assert!(listed["nodes"].as_array().unwrap().iter().all(|node| node["state"] == "serving"), "{listed}");
        let metrics = http::get(&server.admin(), "/metrics").body;
        assert!(metrics.contains("lance_partitions_offline 0"), "{metrics}");
    }
    let altered = lnc(&cluster.addresses(), &["topic", "alter", "events-0", "--mode", "L1", "--output", "json"], b"");
    let altered: Value = serde_json::from_str(&altered.ok()).unwrap();
    assert_eq!(altered["mode"], "L1");
    let (code, said) = lnc(&cluster.addresses(), &["cluster", "remove-node", "2"], b"").failure();
    assert!(code == 1 && said.contains("replicas"), "{said}");
    let (code, said) = lnc(&cluster.addresses(), &["cluster", "recover", "events-0", "0"], b"").failure();
    assert!(code == 2 && said.contains("--accept-data-loss"), "{said}");
    lnc(&cluster.addresses(), &["cluster", "add-node", "4", "127.0.0.1:1"], b"").ok();
    lnc(&cluster.addresses(), &["cluster", "remove-node", "4"], b"").ok();
}

#[test]
fn an_emptied_node_hands_its_leaderships_over_without_a_failed_produce() {
    let cluster = Cluster::start(3);
    create(&cluster, &cluster.servers[0].address(), "events", "6");
    let load = Load::start(&cluster.addresses(), "events", 6);
    load.await_more();
    let status = cluster.status_through(&cluster.addresses());
    let node = (1..=3).max_by_key(|node| led_by(&status, *node)).unwrap();
    assert!(led_by(&status, node) > 0, "{status}");
    lnc(&cluster.addresses(), &["cluster", "drain", &node.to_string()], b"").ok();
    let status = cluster.status_through(&cluster.addresses());
    assert_eq!((led_by(&status, node), state_of(&status, node).as_str()), (0, "draining"), "{status}");
    load.await_more();
    lnc(&cluster.addresses(), &["cluster", "drain", &node.to_string(), "--off"], b"").ok();
    cluster.await_status("the node serves again", |status| state_of(status, node) == "serving");
    let acked = load.stop();
    assert_eq!(records(&cluster, "events") as u64, acked);
}

#[test]
fn a_node_that_is_told_to_end_hands_over_first_and_serves_again_with_its_next_start() {
    let mut cluster = Cluster::start(3);
    create(&cluster, &cluster.servers[0].address(), "events", "6");
    let load = Load::start(&cluster.addresses(), "events", 6);
    load.await_more();
    let status = cluster.status_through(&cluster.addresses());
    let node = (1..=3).max_by_key(|node| led_by(&status, *node)).unwrap();
    let ended = cluster.node(node).terminate();
    assert_eq!(ended.code(), Some(0), "{}", cluster.node(node).stderr());
    cluster.node(node).await_log(&["others lead what this node led"]);
    load.await_more();
    cluster.await_status("the node is found down", |status| state_of(status, node) == "down");
    cluster.node(node).start_again();
    cluster.await_status("the node serves again", |status| state_of(status, node) == "serving");
    let acked = load.stop();
    assert_eq!(records(&cluster, "events") as u64, acked);
}

#[test]
fn an_evicted_node_is_waited_for_again_once_it_is_admitted() {
    let cluster = Cluster::start(3);
    create(&cluster, &cluster.servers[0].address(), "events", "1");
    let status = cluster.status_through(&cluster.addresses());
    let leader = status["partitions"][0]["leader"].as_u64().unwrap();
    let follower = if leader == 3 { "2" } else { "3" };
    lnc(&cluster.addresses(), &["cluster", "evict", follower], b"").ok();
    let smaller = |status: &Value| status["partitions"][0]["in_quorum"].as_array().unwrap().len() == 2;
    cluster.await_status("the follower is evicted", smaller);
    lnc(&cluster.addresses(), &["produce", "--topic", "events", "--data", "one"], b"").ok();
    let whole = |status: &Value| status["partitions"][0]["in_quorum"] == json!([1, 2, 3]);
    lance_integration::harness::eventually("the follower is admitted", || {
        lnc(&cluster.addresses(), &["cluster", "admit", follower], b"");
        whole(&cluster.status_through(&cluster.addresses())).then_some(())
    });
}

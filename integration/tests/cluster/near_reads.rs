//! Consumers that read from the replica in their rack, while that one is dropped from the quorum, dies and leads.

use lance_client::{Client, ClientOptions, ConsumerOptions, StartOffset};
use lance_integration::harness::process::lnc;
use lance_integration::harness::{ThreeNodes, eventually, http};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Reads both partitions in `rack` on a thread of its own, and fails at a record that is missing, repeated or out of order.
struct Follower {
    stop: Arc<AtomicBool>,
    read: [Arc<AtomicU64>; 2],
    thread: JoinHandle<()>,
}

impl Follower {
    fn start(servers: &str, rack: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let read = [Arc::default(), Arc::default()];
        let options = ClientOptions { rack: rack.to_owned(), ..ClientOptions::new(servers).unwrap() };
        let (stopped, counts) = (Arc::clone(&stop), read.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(follow(options, &stopped, &counts));
        });
        Self { stop, read, thread }
    }

    fn counts(&self) -> Vec<u64> {
        self.read.iter().map(|read| read.load(Ordering::Acquire)).collect()
    }

    /// Waits until it has read so many records of each partition.
    fn await_counts(&self, wanted: &[u64]) {
        eventually(&format!("{wanted:?} records are read"), || {
            assert!(!self.thread.is_finished(), "the consumer has failed");
            self.counts().iter().zip(wanted).all(|(read, wanted)| read >= wanted).then_some(())
        });
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap();
    }
}

async fn follow(options: ClientOptions, stop: &AtomicBool, read: &[Arc<AtomicU64>; 2]) {
    let client = Client::connect(options).await.unwrap();
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    while !stop.load(Ordering::Acquire) {
        let patience = std::time::Duration::from_millis(100);
        let Ok(next) = tokio::time::timeout(patience, consumer.next()).await else { continue };
        let (_, partition, record) = next.unwrap();
        let count = &read[usize::from(partition)];
        let text = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        let expected = format!("{partition}:{}:", count.load(Ordering::Acquire));
        assert!(text.starts_with(&expected), "{expected} comes next, not {}", &text[..text.len().min(20)]);
        count.fetch_add(1, Ordering::AcqRel);
    }
}

fn cluster() -> ThreeNodes {
    let mut cluster = ThreeNodes::prepare();
    for (node, id) in cluster.nodes.iter_mut().zip(1..) {
        node.set(format!("node.rack=rack-{id}"));
    }
    cluster.spawn_all();
    cluster.nodes.iter_mut().for_each(lance_integration::harness::Server::await_serving);
    cluster.await_ready();
    cluster
}

/// Fetches that came to a node for what it does not lead.
fn served_near(cluster: &ThreeNodes, node: usize) -> f64 {
    http::metric(&cluster.nodes[node].admin(), "lance_replica_fetches_total", &[]).unwrap_or_default()
}

fn await_served_near(cluster: &ThreeNodes, node: usize) {
    let before = served_near(cluster, node);
    eventually("more is read from the near replica", || (served_near(cluster, node) > before).then_some(()));
}

#[test]
fn records_come_from_the_replica_in_the_readers_rack_as_long_as_it_can_serve_them() {
    let mut cluster = cluster();
    let load = super::load(&cluster);
    load.await_all_partitions();
    let leader = cluster.leader("events", 0);
    let near = cluster.others(leader)[0];
    let consumer = Follower::start(&cluster.servers(), &format!("rack-{}", near + 1));
    let catch_up = |load: &lance_integration::harness::Load| consumer.await_counts(&load.acked());
    catch_up(&load);
    await_served_near(&cluster, near);
    assert!(served_near(&cluster, cluster.others(leader)[1]) == 0.0, "the third node is in another rack");

    let number = (near + 1).to_string();
    lnc(&cluster.servers(), &["cluster", "evict", &number], b"").ok();
    load.await_all_partitions();
    catch_up(&load);
    lnc(&cluster.servers(), &["cluster", "admit", &number], b"").ok();
    await_served_near(&cluster, near);

    cluster.nodes[near].kill();
    load.await_all_partitions();
    catch_up(&load);
    cluster.nodes[near].start_again();
    cluster.await_ready();
    await_served_near(&cluster, near);

    // The near replica or the third node leads after that.
    cluster.nodes[leader].kill();
    load.await_all_partitions();
    catch_up(&load);
    cluster.nodes[leader].start_again();
    cluster.await_ready();
    load.await_all_partitions();
    let acked = load.acked();
    consumer.await_counts(&acked);
    consumer.finish();
    super::expect_all_well(&cluster, load);
}

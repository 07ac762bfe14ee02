//! The public clients of LWP 1.0, unmodified, against each of three nodes, before and after a failover.

use bytes::Bytes;
use lance_integration::harness::python::run_script;
use lance_integration::harness::records::{record, texts};
use lance_integration::harness::{PATIENCE, ThreeNodes};
use lnc_client::{ClientConfig, LanceClient};
use std::future::Future;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("the client finishes") })
}

/// Stores a record through every running node and reads all back through each, with the Rust client.
fn rust_round(cluster: &ThreeNodes, running: &[usize], expected: &mut Vec<String>) {
    block_on(async {
        for &node in running {
            let mut client = LanceClient::connect(ClientConfig::new(cluster.nodes[node].address())).await.unwrap();
            let topic = client.create_topic("public").await.unwrap().id;
            let text = format!("record {} through node {}", expected.len(), node + 1);
            let payload = Bytes::from(record(text.as_bytes()));
            client.send_ingest_to_topic_sync(topic, payload, 1, None).await.unwrap();
            expected.push(text);
            for &reader in running {
                let address = cluster.nodes[reader].address();
                let mut client = LanceClient::connect(ClientConfig::new(address)).await.unwrap();
                let fetched = client.fetch(topic, 0, 1 << 20).await.unwrap();
                assert_eq!(&texts(&fetched.data), expected, "through node {}", reader + 1);
            }
        }
    });
}

const PYTHON: &str = r#"
import asyncio, sys
from lnc_client import LanceClient, ClientConfig, Producer, ProducerConfig, StandaloneConsumer, StandaloneConfig, TlvRecord

async def main(name, addresses):
    expected = []
    for round, address in enumerate(addresses):
        host, port = address.rsplit(":", 1)
        async with LanceClient(ClientConfig(host=host, port=int(port))) as client:
            topic = await client.create_topic(name)
        producer = await Producer.connect(address, ProducerConfig())
        batch = [TlvRecord.raw(b"%d %d" % (round, n)) for n in range(20)]
        await producer.send_batch(topic=name, records=batch)
        expected += [record.value for record in batch]
        await producer.flush()
        await producer.close()
        for reader in addresses:
            config = StandaloneConfig(consumer_name="reader-%d" % round, topic_id=topic.id)
            consumer = await StandaloneConsumer.connect(reader, config)
            consumer.rewind()
            records = []
            while (polled := await consumer.poll(timeout=10)) is not None:
                records += polled.records
            assert [record.value for record in records] == expected, (reader, len(records), len(expected))
            await consumer.close()
    print("read", len(expected))

asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2:]), 60))
"#;

/// The same with the Python client, in a topic of its own.
fn python_round(cluster: &ThreeNodes, topic: &str, running: &[usize]) {
    let addresses: Vec<String> = running.iter().map(|&node| cluster.nodes[node].address()).collect();
    let mut arguments = vec![topic];
    arguments.extend(addresses.iter().map(String::as_str));
    // Without a Python the other client is what this looks at.
    let Some(finished) = run_script(PYTHON, &arguments) else { return };
    assert_eq!(finished.ok(), format!("read {}\n", 20 * running.len()));
}

#[test]
fn public_clients_work_through_every_node_before_and_after_a_failover() {
    let mut cluster = ThreeNodes::start();
    let mut expected = Vec::new();
    rust_round(&cluster, &[0, 1, 2], &mut expected);
    python_round(&cluster, "before", &[0, 1, 2]);
    let leader = cluster.leader("public", 0);
    cluster.nodes[leader].kill();
    let left = cluster.others(leader);
    lance_integration::harness::eventually("another node leads", || {
        let leaders = left.map(|node| cluster.leader_seen_by(node, "public", 0));
        leaders.iter().all(|seen| seen.is_some_and(|seen| seen != leader)).then_some(())
    });
    rust_round(&cluster, &left, &mut expected);
    python_round(&cluster, "after", &left);
    cluster.nodes[leader].start_again();
    cluster.await_ready();
    rust_round(&cluster, &[0, 1, 2], &mut expected);
}

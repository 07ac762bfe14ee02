//! The public clients of LWP 1.0, unmodified: crate `lnc-client` 0.2.8 and PyPI `lnc-client` 0.2.9.

use bytes::Bytes;
use lance_integration::harness::python::run_script;
use lance_integration::harness::records::{record, texts};
use lance_integration::harness::{PATIENCE, Server, ServerSpec};
use lnc_client::{
    ClientConfig, ClientError, Consumer, ConsumerConfig, LanceClient, Producer, ProducerConfig, RecordType,
    SeekPosition, StandaloneConfig, StandaloneConsumer, StreamingConsumer, StreamingConsumerConfig, parse_records,
};
use std::future::Future;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("the client finishes") })
}

async fn client(server: &Server) -> LanceClient {
    LanceClient::connect(ClientConfig::new(server.address())).await.unwrap()
}

#[test]
fn the_rust_client_manages_topics() {
    let server = ServerSpec::new().start();
    block_on(async {
        let mut client = client(&server).await;
        let alpha = client.create_topic("alpha").await.unwrap();
        assert_eq!((alpha.name.as_str(), alpha.topic_epoch), ("alpha", 1));
        assert_eq!(client.create_topic("alpha").await.unwrap().id, alpha.id, "creating again finds it");
        let beta = client.create_topic_with_retention("beta", 3600, 1 << 30).await.unwrap();
        assert_ne!(beta.id, alpha.id);
        client.set_retention(alpha.id, 60, 1 << 20).await.unwrap();
        let names: Vec<String> = client.list_topics().await.unwrap().into_iter().map(|topic| topic.name).collect();
        assert_eq!(names, ["alpha", "beta"]);
        assert_eq!(client.get_topic(beta.id).await.unwrap().name, "beta");
        client.delete_topic(beta.id).await.unwrap();
        let gone = client.get_topic(beta.id).await;
        assert!(matches!(&gone, Err(ClientError::ServerError(text)) if text == "Topic not found"), "{gone:?}");
        assert_eq!(client.list_topics().await.unwrap().len(), 1);
        client.ping().await.unwrap();
        let status = client.get_cluster_status().await.unwrap();
        assert!(status.is_leader && status.quorum_available, "{status:?}");
        assert_eq!((status.node_count, status.healthy_nodes), (1, 1));
    });
}

#[test]
fn the_rust_client_ingests_fetches_subscribes_and_commits() {
    let server = ServerSpec::new().start();
    block_on(async {
        let mut client = client(&server).await;
        let topic = client.create_topic("direct").await.unwrap().id;
        let payload: Vec<u8> = (0..10).flat_map(|number| record(format!("record {number}").as_bytes())).collect();
        let payload = Bytes::from(payload);
        for _ in 0..3 {
            client.send_ingest_to_topic_sync(topic, payload.clone(), 10, None).await.unwrap();
        }
        client.send_ingest_sync(Bytes::from_static(b"default topic"), 1).await.unwrap();
        let fetched = client.fetch(topic, 0, 1 << 20).await.unwrap();
        assert_eq!(fetched.data.len(), 3 * payload.len());
        assert_eq!(fetched.next_offset, fetched.data.len() as u64);
        let subscribed = client.subscribe(topic, 0, 65536, 42).await.unwrap();
        assert_eq!((subscribed.consumer_id, subscribed.start_offset), (42, 0));
        let committed = client.commit_offset(topic, 42, payload.len() as u64).await.unwrap();
        assert_eq!((committed.consumer_id, committed.committed_offset), (42, payload.len() as u64));
        client.unsubscribe(topic, 42).await.unwrap();
        assert_eq!(client.subscribe(topic, 0, 65536, 42).await.unwrap().start_offset, payload.len() as u64);
        let beyond = client.fetch(topic, 1 << 40, 100).await;
        let end = fetched.next_offset;
        assert!(matches!(beyond, Err(ClientError::ServerCatchingUp { server_offset }) if server_offset == end));
        let unknown = client.send_ingest_to_topic_sync(9_999, payload, 1, None).await;
        assert!(matches!(&unknown, Err(ClientError::ServerError(text)) if text == "Unknown topic"), "{unknown:?}");
        client.close().await.unwrap();
    });
}

#[test]
fn the_rust_producer_and_consumer_carry_bytes_as_they_are() {
    let server = ServerSpec::new().start();
    let address = server.address();
    block_on(async {
        let topic = client(&server).await.create_topic("bytes").await.unwrap().id;
        let producer = Producer::connect(&address, ProducerConfig::new().with_linger_ms(1)).await.unwrap();
        // Not TLV: the bytes of a batch are stored and served as they came.
        producer.produce_single(topic, b"Hello, LANCE!").await.unwrap();
        let records: Vec<String> = (0..20).map(|number| format!("[message {number}]")).collect();
        assert_eq!(producer.produce(topic, &records).await.unwrap().len(), 20);
        for number in 0..500 {
            producer.send_async(topic, format!("(async {number})").as_bytes()).await.unwrap();
        }
        producer.flush().await.unwrap();
        assert!(producer.is_healthy());
        producer.close().await.unwrap();
        let mut expected = format!("Hello, LANCE!{}", records.concat());
        expected.extend((0..500).map(|number| format!("(async {number})")));

        let config = ConsumerConfig::new(topic).with_max_fetch_bytes(1_000);
        let mut consumer = Consumer::connect(&address, config).await.unwrap();
        let mut read = Vec::new();
        while let Some(batch) = consumer.next_batch().await.unwrap() {
            read.extend_from_slice(&batch.data);
        }
        assert_eq!(String::from_utf8(read).unwrap(), expected);
        assert_eq!(consumer.seek_to_end().await.unwrap(), expected.len() as u64);
        consumer.rewind().await.unwrap();
        assert!(consumer.next_batch().await.unwrap().unwrap().data.starts_with(b"Hello"));
    });
}

#[test]
fn the_rust_consumers_resume_from_what_they_committed() {
    let server = ServerSpec::new().start();
    let address = server.address();
    let offsets = tempfile::tempdir().unwrap();
    block_on(async {
        let mut manager = client(&server).await;
        let topic = manager.create_topic("resumed").await.unwrap().id;
        for number in 0..10 {
            let payload = Bytes::from(record(format!("record {number}").as_bytes()));
            manager.send_ingest_to_topic_sync(topic, payload, 1, None).await.unwrap();
        }
        let one = record(b"record 0").len();

        let config = StreamingConsumerConfig::new(topic)
            .with_max_batch_bytes(2 * one as u32)
            .with_start_position(SeekPosition::Beginning)
            .with_consumer_group("group")
            .with_auto_commit_interval(0);
        let mut streaming = StreamingConsumer::new(manager, config);
        streaming.start().await.unwrap();
        let batch = streaming.next_batch().await.unwrap().unwrap();
        assert_eq!(texts(&batch.data), ["record 0", "record 1"]);
        streaming.commit().await.unwrap();
        assert_eq!(streaming.committed_offset(), 2 * one as u64);
        streaming.into_client().await.unwrap();

        let config = || {
            StandaloneConfig::new("standalone", topic)
                .with_max_fetch_bytes(3 * one as u32)
                .with_offset_dir(offsets.path())
                .with_manual_commit()
        };
        let mut consumer = StandaloneConsumer::connect(&address, config()).await.unwrap();
        let batch = consumer.next_batch().await.unwrap().unwrap();
        let parsed = parse_records(batch.data).unwrap();
        assert_eq!(parsed.len(), 3);
        assert!(parsed.iter().all(|record| record.record_type == RecordType::Data), "{parsed:?}");
        consumer.commit().await.unwrap();
        consumer.close().await.unwrap();
        let mut consumer = StandaloneConsumer::connect(&address, config()).await.unwrap();
        let batch = consumer.next_batch().await.unwrap().unwrap();
        assert_eq!(texts(&batch.data)[0], "record 3");
    });
}

#[test]
fn the_rust_producer_goes_on_through_a_restart() {
    let mut server = ServerSpec::new().start();
    let address = server.address();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let topic = server.connect().create_topic("restarted");
    let producer = runtime.block_on(Producer::connect(&address, ProducerConfig::new().with_linger_ms(1))).unwrap();
    runtime.block_on(producer.send(topic, &record(b"before"))).unwrap();
    server.kill_and_start();
    // Its connection is gone: it connects again and sends the batch.
    runtime.block_on(producer.send(topic, &record(b"after"))).unwrap();
    assert_eq!(texts(&server.connect().read_from(topic, 0)), ["before", "after"]);
}

const PYTHON: &str = r#"
import asyncio, sys
from lnc_client import (LanceClient, ClientConfig, Producer, ProducerConfig, StandaloneConsumer, StandaloneConfig,
                        TlvRecord, LanceError)

async def drain(consumer):
    records = []
    while (polled := await consumer.poll(timeout=10)) is not None:
        records += polled.records
    return records

async def main(address):
    host, port = address.rsplit(":", 1)
    async with LanceClient(ClientConfig(host=host, port=int(port))) as client:
        topic = await client.create_topic("python-topic")
        assert (await client.create_topic("python-topic")).id == topic.id
        kept = await client.create_topic_with_retention("kept", max_age_secs=3600, max_bytes=1 << 20)
        await client.set_retention(topic.id, max_age_secs=60, max_bytes=1 << 30)
        assert [t.name for t in await client.list_topics()] == ["python-topic", "kept"]
        assert (await client.get_topic(kept.id)).name == "kept"
        assert (await client.get_topic_by_name("kept")).id == kept.id
        await client.delete_topic(kept.id)
        try:
            await client.get_topic(kept.id)
            raise SystemExit("a deleted topic was found")
        except LanceError as error:
            assert "not found" in str(error).lower(), error
        assert await client.ping() > 0
        await client.subscribe(topic.id, 0, 65536, 7)
        await client.commit_offset(topic.id, 7, 123)

    expected = []
    for compression in (False, True):
        producer = await Producer.connect(address, ProducerConfig(compression=compression))
        value = b"single " * 100
        await producer.send(topic="python-topic", data=value)
        expected.append(value)
        batch = [TlvRecord.raw(b"batch %d " % n * 20) for n in range(50)]
        batch += [TlvRecord.json(b'{"n": 1}'), TlvRecord.key_value("key", b"value"), TlvRecord.null()]
        await producer.send_batch(topic="python-topic", records=batch)
        expected += [record.value for record in batch]
        for n in range(200):
            await producer.send_async(topic="python-topic", data=b"pipelined %d" % n)
            expected.append(b"pipelined %d" % n)
        await producer.flush()
        await producer.close()

    config = StandaloneConfig(consumer_name="reader", topic_id=topic.id, max_fetch_bytes=5000)
    consumer = await StandaloneConsumer.connect(address, config)
    records = await drain(consumer)
    assert [record.value for record in records] == expected, (len(records), len(expected))
    await consumer.commit()
    end = consumer.current_offset
    consumer.rewind()
    assert [record.value for record in await drain(consumer)] == expected
    assert consumer.current_offset == end
    await consumer.close()
    print("read", len(expected))

asyncio.run(asyncio.wait_for(main(sys.argv[1]), 60))
"#;

#[test]
fn the_python_client_manages_topics_produces_with_lz4_and_reads_back_what_it_wrote() {
    let server = ServerSpec::new().start();
    let Some(finished) = run_script(PYTHON, &[&server.address()]) else { return };
    assert_eq!(finished.ok(), "read 508\n");
}

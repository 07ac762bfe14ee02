//! The client library against real servers: the programs of its README as they stand, its examples, what it promises.

use lance_client::offsets::FileOffsets;
use lance_client::{
    Client, ClientOptions, Codec, Consumer, ConsumerOptions, Header, OutOfRange, ProducerOptions, ProducerRecord,
    StartOffset, blocking,
};
use lance_integration::harness::process::lnc;
use lance_integration::harness::programs::example;
use lance_integration::harness::{PATIENCE, Server, ServerSpec};
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("the client finishes") })
}

async fn client(server: &Server) -> Client {
    Client::connect(ClientOptions::new(&server.address()).unwrap()).await.unwrap()
}

fn client_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("client")
}

/// The programs in the README, each the whole text of a code block.
fn readme_programs() -> Vec<String> {
    let readme = std::fs::read_to_string(client_folder().join("README.md")).unwrap();
    let blocks = readme.split("```rust,no_run\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.filter(|block| block.contains("fn main()")).collect()
}

/// An example that was built from exactly this text.
fn built_from(name: &str, text: &str) -> PathBuf {
    let source = std::fs::read_to_string(client_folder().join("examples").join(name).with_extension("rs")).unwrap();
    assert_eq!(source, text, "client/examples/{name}.rs and client/README.md differ");
    example(name)
}

fn command(program: PathBuf, server: &Server) -> Command {
    let mut command = Command::new(program);
    command.env("LNC_SERVER", server.address()).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// A process that goes on until it is dropped.
struct Endless(Child);

impl Drop for Endless {
    fn drop(&mut self) {
        // It may have ended by itself; reaping is what matters.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_programs_of_the_readme_run_as_they_stand() {
    let programs = readme_programs();
    let [produce, consume] = &programs[..] else { panic!("two programs: {programs:#?}") };
    for program in [produce, consume] {
        assert!(program.lines().count() <= 12, "twelve lines:\n{program}");
    }
    let server = ServerSpec::new().start();
    let produced = command(built_from("produce", produce), &server).output().unwrap();
    let printed = String::from_utf8(produced.stdout).unwrap();
    assert!(produced.status.success(), "{printed}");
    let stored: Vec<&str> = printed.lines().collect();
    assert_eq!((stored.len(), stored[0]), (10, "stored at Some(0)"), "{printed}");
    let mut consumer = Endless(command(built_from("consume", consume), &server).spawn().unwrap());
    let lines = BufReader::new(consumer.0.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines.take(10).map(Result::unwrap).collect();
    for (number, line) in seen.iter().enumerate() {
        assert_eq!(line, &format!("0 {} b\"event {number}\"", number * 12));
    }
}

#[test]
fn the_examples_do_what_they_say() {
    let server = ServerSpec::new().start();
    let printed = |name: &str| {
        let output = command(example(name), &server).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let headers = printed("headers");
    assert!(headers.contains("content-type = b\"application/json\"\nsource = b\"web\""), "{headers}");
    assert_eq!(printed("offset_store"), "total 55\n");
    let blocking = printed("blocking");
    assert_eq!(blocking.lines().next(), Some("10 records stored"), "{blocking}");
    assert_eq!(blocking.lines().last(), Some("108 b\"event 9\""), "{blocking}");
}

#[test]
fn headers_go_from_command_to_command_and_from_library_to_command() {
    let server = ServerSpec::new().start();
    let address = server.address();
    let produce = ["produce", "-t", "h", "-d", "one", "--header", "source=shell", "--header", "try=a=b", "--key", "k"];
    lnc(&address, &produce, b"").ok();
    lnc(&address, &["produce", "-t", "h", "-d", "two"], b"").ok();
    block_on(async {
        let producer = client(&server).await.producer(ProducerOptions::default());
        producer.send(ProducerRecord::new("h", "three").with_header("n", "3")).await.unwrap().await.unwrap();
    });
    let text = lnc(&address, &["consume", "-t", "h", "-e", "--format", r"%k|%v|%h\n"], b"").ok();
    assert_eq!(text, "k|one|source=shell,try=a=b\n|two|\n|three|n=3\n");
    let json = lnc(&address, &["consume", "-t", "h", "-e", "--output", "json"], b"").ok();
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["headers"][1], serde_json::json!({ "name": "try", "value": "a=b" }), "{json}");
    assert!(lines[1].get("headers").is_none(), "{json}");
    let (code, _) = lnc(&address, &["produce", "-t", "h", "-d", "x", "--header", "nothing"], b"").failure();
    assert_eq!(code, 2);
    block_on(async {
        let mut consumer = client(&server).await.consumer(ConsumerOptions::default());
        consumer.assign("h", None, StartOffset::Earliest).await.unwrap();
        let (_, _, record) = consumer.next().await.unwrap();
        assert_eq!(record.headers, [Header::new("source", "shell"), Header::new("try", "a=b")]);
    });
}

#[test]
fn compressed_batches_are_small_on_the_wire_and_come_back_as_they_were() {
    let server = ServerSpec::new().start();
    block_on(async {
        let client = client(&server).await;
        for codec in [Codec::Lz4, Codec::Zstd] {
            let topic = codec.name();
            let producer = client.producer(ProducerOptions { compression: Some(codec), ..ProducerOptions::default() });
            for number in 0..2000 {
                let text = format!("{number} {}", "the same again and again ".repeat(20));
                producer.send(ProducerRecord::new(topic, text).with_key("k")).await.unwrap();
            }
            producer.close().await;
            let stats = producer.stats();
            assert_eq!((stats.records, stats.failed_records), (2000, 0));
            assert!(stats.wire_bytes * 10 < stats.bytes, "{stats:?}");
            let mut consumer = client.consumer(ConsumerOptions::default());
            consumer.assign(topic, None, StartOffset::Earliest).await.unwrap();
            for number in 0..2000 {
                let (_, _, record) = consumer.next().await.unwrap();
                let value = record.value.unwrap();
                assert!(value.starts_with(format!("{number} ").as_bytes()) && record.key.as_deref() == Some(b"k"));
            }
        }
    });
}

/// Reads to the end that the partitions have now; values in order.
async fn read_all(consumer: &mut Consumer, topic: &str, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        let (name, _, record) = consumer.next().await.unwrap();
        assert_eq!(&*name, topic);
        values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
    }
    values
}

#[test]
fn a_consumer_seeks_by_time_and_to_both_ends_while_it_reads() {
    let server = ServerSpec::new().start();
    block_on(async {
        let client = client(&server).await;
        let producer = client.producer(ProducerOptions::default());
        let send = async |number: usize| {
            producer.send(ProducerRecord::new("times", format!("{number}"))).await.unwrap().await.unwrap()
        };
        for number in 0..50 {
            send(number).await;
        }
        // A batch has the time at which it was sent.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let between = SystemTime::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let second_half = send(50).await.offset.unwrap();
        for number in 51..100 {
            send(number).await;
        }
        let mut consumer = client.consumer(ConsumerOptions::default());
        consumer.assign("times", None, StartOffset::Earliest).await.unwrap();
        let all: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(read_all(&mut consumer, "times", 70).await, all[..70]);
        assert_eq!(consumer.seek("times", 0, StartOffset::at_time(between)).await.unwrap(), second_half);
        assert_eq!(read_all(&mut consumer, "times", 50).await, all[50..]);
        consumer.seek("times", 0, StartOffset::Earliest).await.unwrap();
        assert_eq!(read_all(&mut consumer, "times", 3).await, all[..3]);
        let end = consumer.seek("times", 0, StartOffset::Latest).await.unwrap();
        assert_eq!(send(100).await.offset, Some(end));
        assert_eq!(read_all(&mut consumer, "times", 1).await, ["100"]);
        let error = {
            let strict = ConsumerOptions { out_of_range: OutOfRange::Error, ..ConsumerOptions::default() };
            let mut consumer = client.consumer(strict);
            consumer.assign("times", None, StartOffset::At(1 << 40)).await.unwrap();
            consumer.next().await.unwrap_err()
        };
        assert!(error.to_string().contains("1099511627776"), "{error}");
        assert!(matches!(error, lance_client::ClientError::OffsetOutOfRange { earliest: 0, .. }));
    });
}

#[test]
fn offsets_in_a_file_survive_a_kill_of_the_server_and_a_new_start_of_the_consumer() {
    let mut server = ServerSpec::new().start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("offsets");
    let lines: String = (0..100).map(|number| format!("{number}\n")).collect();
    lnc(&server.address(), &["produce", "-t", "filed"], lines.as_bytes()).ok();
    let mut next = 0;
    for round in 0..5 {
        block_on(async {
            let store = FileOffsets::open(&path).await.unwrap();
            let mut consumer = client(&server).await.consumer(ConsumerOptions::default()).with_offset_store(store);
            consumer.assign_committed("filed", None, StartOffset::Earliest).await.unwrap();
            for _ in 0..20 {
                let (_, _, record) = consumer.next().await.unwrap();
                assert_eq!(record.value.as_deref(), Some(next.to_string().as_bytes()), "round {round}");
                next += 1;
            }
            consumer.commit().await.unwrap();
        });
        if round % 2 == 0 {
            server.kill_and_start();
        }
    }
}

#[test]
fn the_blocking_client_works_also_on_a_thread_of_another_runtime() {
    let server = ServerSpec::new().start();
    let address = server.address();
    let round = move |topic: &str| {
        let client = blocking::Client::connect(ClientOptions::new(&address).unwrap()).unwrap();
        let producer = client.producer(ProducerOptions::default());
        let first = producer.send(ProducerRecord::new(topic, "first")).unwrap().wait().unwrap();
        assert_eq!(first.offset, Some(0));
        let (sender, outcome) = std::sync::mpsc::channel();
        producer.send_with(ProducerRecord::new(topic, "second"), move |sent| sender.send(sent).unwrap()).unwrap();
        assert_eq!(outcome.recv().unwrap().unwrap().offset, Some(10));
        producer.send(ProducerRecord::new(topic, "third")).unwrap();
        drop(producer);
        let mut consumer = client.consumer(ConsumerOptions::default());
        consumer.assign(topic, None, StartOffset::Earliest).unwrap();
        let values: Vec<_> = consumer.by_ref().take(3).map(|next| next.unwrap().2.value.unwrap()).collect();
        assert_eq!(values, ["first", "second", "third"]);
        assert_eq!(consumer.poll(Duration::from_millis(10)).unwrap(), None);
        consumer.seek(topic, 0, StartOffset::At(10)).unwrap();
        assert_eq!(consumer.poll(PATIENCE).unwrap().unwrap().records[0].value.as_deref(), Some(&b"second"[..]));
        assert!(client.list_topics().unwrap().iter().any(|found| found.name == topic));
        client.delete_topic(topic).unwrap();
    };
    round("plain");
    block_on(async move { round("inside") });
}

#[test]
fn a_flood_with_five_batches_in_flight_is_stored_once_in_order_over_kills_of_the_server() {
    let mut server = ServerSpec::new().set("storage.segment_bytes=4MiB").start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = ProducerOptions { batch_bytes: 4096, max_in_flight: 5, ..ProducerOptions::default() };
    let client = runtime.block_on(client(&server));
    let producer = client.producer(options);
    let sending = {
        let producer = producer.clone();
        runtime.spawn(async move {
            let mut deliveries = Vec::new();
            for number in 0..40_000 {
                deliveries.push(producer.send(ProducerRecord::new("flood", format!("{number:0100}"))).await.unwrap());
            }
            deliveries
        })
    };
    for kill in 1..=4 {
        lance_integration::harness::eventually("more records", || {
            (producer.stats().records >= kill * 5_000).then_some(())
        });
        server.kill_and_start();
    }
    runtime.block_on(async {
        let deliveries = tokio::time::timeout(PATIENCE, sending).await.unwrap().unwrap();
        producer.close().await;
        for (number, delivery) in deliveries.into_iter().enumerate() {
            assert_eq!(delivery.await.unwrap().offset, Some(number as u64 * 105));
        }
        assert!(producer.stats().retries > 0, "{:?}", producer.stats());
        let mut consumer = client.consumer(ConsumerOptions::default());
        consumer.assign("flood", None, StartOffset::Earliest).await.unwrap();
        for number in 0..40_000 {
            let (_, _, record) = consumer.next().await.unwrap();
            assert_eq!(record.value.unwrap(), format!("{number:0100}"));
        }
        assert_eq!(consumer.end_offset("flood", 0).await.unwrap(), 40_000 * 105);
    });
}

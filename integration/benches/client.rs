//! The client library beside the raw path: what `lnc-bench produce` gets out of one connection with the same batches in
//! flight, and how often the client allocates for a record.
//!
//! `cargo bench -p lance-integration --bench client`, with a server of its own in a temporary folder. Rounds of both
//! alternate; `LANCE_BENCH_ROUNDS` and `LANCE_BENCH_SECONDS` set how many and how long.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should panic")]

use bytes::Bytes;
use lance_client::{Client, ClientOptions, Codec, ProducerOptions, ProducerRecord};
use lance_integration::harness::ServerSpec;
use lance_integration::harness::process::run;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RECORD_BYTES: usize = 1024;
/// Bytes in front of a record.
const TLV_BYTES: usize = 5;
const IN_FLIGHT: usize = 5;
const WARM_UP: Duration = Duration::from_secs(1);

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; counting touches an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Megabytes of payload a second over one connection of the raw generator.
fn raw(address: &str, batch_bytes: usize, seconds: u64) -> f64 {
    let records = (batch_bytes / (RECORD_BYTES + TLV_BYTES)).to_string();
    let (in_flight, bytes, duration) = (IN_FLIGHT.to_string(), RECORD_BYTES.to_string(), format!("{seconds}s"));
    let warm_up = format!("{}s", WARM_UP.as_secs());
    let arguments = [
        "produce",
        "--server",
        address,
        "--topic",
        "raw",
        "--in-flight",
        &in_flight,
        "--record-bytes",
        &bytes,
        "--batch-records",
        &records,
        "--duration",
        &duration,
        "--warm-up",
        &warm_up,
        "--output",
        "json",
    ];
    let report: serde_json::Value = serde_json::from_str(&run("lnc-bench", &arguments, b"").ok()).unwrap();
    report["figures"]["throughput_MB_per_s"].as_f64().unwrap()
}

/// What the client did: megabytes of payload a second, and allocations for each record.
#[derive(Clone, Copy, Debug)]
struct Measured {
    megabytes: f64,
    allocations: f64,
}

/// How a record's outcome is learned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcomes {
    /// By counting.
    Dropped,
    /// Every future is awaited.
    Awaited,
}

async fn client(
    address: &str,
    batch_bytes: usize,
    compression: Option<Codec>,
    seconds: u64,
    outcomes: Outcomes,
) -> Measured {
    let client = Client::connect(ClientOptions::new(address).unwrap()).await.unwrap();
    let options = ProducerOptions { batch_bytes, compression, max_in_flight: IN_FLIGHT, ..ProducerOptions::default() };
    let producer = client.producer(options);
    let topic: Arc<str> = Arc::from("client");
    let value = Bytes::from(vec![b'x'; RECORD_BYTES]);
    let (sender, mut waiting) = tokio::sync::mpsc::channel(64 * 1024);
    let awaiting = tokio::spawn(async move {
        while let Some(delivery) = waiting.recv().await {
            let delivery: lance_client::DeliveryFuture = delivery;
            delivery.await.unwrap();
        }
    });
    let started = Instant::now();
    let mut begin = None;
    let mut end = (0, 0);
    for number in 0u64.. {
        let delivery = producer.send(ProducerRecord::new(Arc::clone(&topic), value.clone())).await.unwrap();
        if outcomes == Outcomes::Awaited {
            sender.send(delivery).await.unwrap();
        }
        if number.is_multiple_of(256) {
            let took = started.elapsed();
            if begin.is_none() && took >= WARM_UP {
                begin = Some((Instant::now(), producer.stats().records, ALLOCATIONS.load(Ordering::Relaxed)));
            }
            if took >= WARM_UP + Duration::from_secs(seconds) {
                end = (producer.stats().records, ALLOCATIONS.load(Ordering::Relaxed));
                break;
            }
        }
    }
    let (since, records, allocations) = begin.unwrap();
    let took = since.elapsed().as_secs_f64();
    producer.close().await;
    drop(sender);
    awaiting.await.unwrap();
    assert_eq!(producer.stats().failed_records, 0);
    let records = (end.0 - records) as f64;
    Measured {
        megabytes: records * (RECORD_BYTES + TLV_BYTES) as f64 / 1e6 / took,
        allocations: (end.1 - allocations) as f64 / records,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (rounds, seconds) = (setting("LANCE_BENCH_ROUNDS", 3), setting("LANCE_BENCH_SECONDS", 3));
    let workers = setting("LANCE_BENCH_WORKERS", 0) as usize;
    let runtime = match workers {
        0 => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap(),
    };
    println!("| 1 KB records, one partition | raw MB/s | client MB/s | ratio | allocations a record |");
    println!("| --- | --- | --- | --- | --- |");
    for batch_kb in [64, 128, 256] {
        for outcomes in [Outcomes::Dropped, Outcomes::Awaited] {
            let server = ServerSpec::new().start();
            let (address, batch_bytes) = (server.address(), batch_kb * 1024);
            let (mut raws, mut clients, mut allocations) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                raws.push(raw(&address, batch_bytes, seconds));
                let measured = runtime.block_on(client(&address, batch_bytes, None, seconds, outcomes));
                clients.push(measured.megabytes);
                allocations.push(measured.allocations);
            }
            let (raw, client, allocations) = (median(raws), median(clients), median(allocations));
            let ratio = client / raw;
            println!(
                "| {batch_kb} KB batches, {outcomes:?} | {raw:.0} | {client:.0} | {ratio:.2} | {allocations:.4} |"
            );
        }
    }
}

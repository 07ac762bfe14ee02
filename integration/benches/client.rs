//! The client library beside the raw path: what `lnc-bench produce` gets out of one connection with the same batches in
//! flight, and how often the client allocates for a record.
//!
//! `cargo bench -p lance-integration --bench client`, with a server of its own in a temporary folder. Rounds of both
//! alternate; `LANCE_BENCH_ROUNDS` and `LANCE_BENCH_SECONDS` set how many and how long, `LANCE_BENCH_SET` a setting of the
//! server, such as `storage.sync={interval_ms=1000,bytes=268435456}`.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should panic")]

use bytes::Bytes;
use lance_client::{Client, ClientOptions, Producer, ProducerOptions, ProducerRecord};
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

/// Throughput of one connection of the raw generator.
fn raw(address: &str, batch_bytes: usize, seconds: u64) -> Measured {
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
    let figure = |name: &str| report["figures"][name].as_f64().unwrap();
    let megabytes = figure("throughput_MB_per_s");
    Measured { megabytes, cpu: figure("generator_cpu_cores") * 1e3 / megabytes, allocations: 0.0 }
}

/// CPU seconds of this process; the kernel counts hundredths.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).map(|field| field.parse().unwrap()).collect();
    (ticks[0] + ticks[1]) / 100.0
}

/// Megabytes of payload a second, CPU seconds for a gigabyte, allocations for a record.
#[derive(Clone, Copy, Debug)]
struct Measured {
    megabytes: f64,
    cpu: f64,
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

async fn client(address: &str, batch_bytes: usize, seconds: u64, outcomes: Outcomes) -> Measured {
    let client = Client::connect(ClientOptions::new(address).unwrap()).await.unwrap();
    let options = ProducerOptions { batch_bytes, max_in_flight: IN_FLIGHT, ..ProducerOptions::default() };
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
    let mut end = now(&producer);
    for number in 0u64.. {
        let delivery = producer.send(ProducerRecord::new(Arc::clone(&topic), value.clone())).await.unwrap();
        if outcomes == Outcomes::Awaited {
            sender.send(delivery).await.unwrap();
        }
        if number.is_multiple_of(256) {
            let took = started.elapsed();
            if begin.is_none() && took >= WARM_UP {
                begin = Some(now(&producer));
            }
            if took >= WARM_UP + Duration::from_secs(seconds) {
                end = now(&producer);
                break;
            }
        }
    }
    let begin = begin.unwrap();
    producer.close().await;
    drop(sender);
    awaiting.await.unwrap();
    assert_eq!(producer.stats().failed_records, 0);
    let records = (end.0 - begin.0) as f64;
    let megabytes = records * (RECORD_BYTES + TLV_BYTES) as f64 / 1e6;
    Measured {
        megabytes: megabytes / (end.3 - begin.3).as_secs_f64(),
        cpu: (end.2 - begin.2) * 1e3 / megabytes,
        allocations: (end.1 - begin.1) as f64 / records,
    }
}

/// Records delivered, allocations, CPU seconds and the time.
fn now(producer: &Producer) -> (u64, u64, f64, Instant) {
    (producer.stats().records, ALLOCATIONS.load(Ordering::Relaxed), cpu_seconds(), Instant::now())
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
    println!(
        "| 1 KB records, one partition | raw MB/s | client MB/s | ratio | CPU s/GB raw, client | allocations a record |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for batch_kb in [64, 128, 256] {
        for outcomes in [Outcomes::Dropped, Outcomes::Awaited] {
            let set = std::env::var("LANCE_BENCH_SET").unwrap_or_else(|_| "tee.enabled=false".to_owned());
            let server = ServerSpec::new().set(set).start();
            let (address, batch_bytes) = (server.address(), batch_kb * 1024);
            let (mut raws, mut clients) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                raws.push(raw(&address, batch_bytes, seconds));
                clients.push(runtime.block_on(client(&address, batch_bytes, seconds, outcomes)));
            }
            let of = |all: &[Measured], value: fn(&Measured) -> f64| median(all.iter().map(value).collect());
            let (raw, client) = (of(&raws, |m| m.megabytes), of(&clients, |m| m.megabytes));
            let (raw_cpu, cpu) = (of(&raws, |m| m.cpu), of(&clients, |m| m.cpu));
            let allocations = of(&clients, |m| m.allocations);
            let ratios: Vec<f64> =
                clients.iter().zip(&raws).map(|(client, raw)| client.megabytes / raw.megabytes).collect();
            let (least, most) =
                ratios.iter().fold((f64::MAX, 0f64), |(least, most), ratio| (least.min(*ratio), most.max(*ratio)));
            println!(
                "| {batch_kb} KB batches, outcomes {outcomes:?} | {raw:.0} | {client:.0} | {:.2} ({least:.2} – {most:.2}) \
                 | {raw_cpu:.2}, {cpu:.2} | {allocations:.3} |",
                median(ratios)
            );
        }
    }
}

//! `lnc produce`.

use super::args::{Acks, Common, Compression, OutputFormat, ProduceArgs};
use super::failure::Failure;
use super::output::{Out, Progress};
use super::session;
use super::stdin::read_records;
use super::units::{show_bytes, unescape};
use bytes::Bytes;
use lance_client::{Codec, Delivery, DeliveryFuture, Header, Producer, ProducerOptions, ProducerRecord};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Deliveries that may wait to be reported.
const REPORT_QUEUE: usize = 64 * 1024;

/// What was produced, in sum.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    records: u64,
    bytes: u64,
    batches: u64,
}

/// Sends what the arguments or standard input give.
pub async fn run(args: &ProduceArgs, common: &Common) -> Result<(), Failure> {
    let delimiter = if args.null_delimited { vec![0] } else { unescape(&args.delimiter).map_err(Failure::usage)? };
    let key_delimiter = args.key_delimiter.as_deref().map(unescape).transpose().map_err(Failure::usage)?;
    if key_delimiter.as_ref().is_some_and(Vec::is_empty) {
        return Err(Failure::usage("--key-delimiter is empty"));
    }
    let client = session::connect(common).await?;
    let producer = client.producer(ProducerOptions {
        compression: match args.compression {
            Compression::Lz4 => Some(Codec::Lz4),
            Compression::Zstd => Some(Codec::Zstd),
            Compression::None => None,
        },
        acks: match args.acks {
            Acks::All => lance_client::Acks::All,
            Acks::None => lance_client::Acks::None,
        },
        ..ProducerOptions::default()
    });
    let (reports, waiting) = mpsc::channel(REPORT_QUEUE);
    let started = Instant::now();
    let sending = send_all(args, &producer, delimiter, key_delimiter, reports);
    let reporting = report(waiting, args.topic.clone(), common.output);
    let (sent, totals) = tokio::join!(sending, reporting);
    sent?;
    finish(&args.topic, common.output, totals?, started.elapsed())
}

async fn send_all(
    args: &ProduceArgs,
    producer: &Producer,
    delimiter: Vec<u8>,
    key_delimiter: Option<Vec<u8>>,
    reports: mpsc::Sender<(DeliveryFuture, u64)>,
) -> Result<(), Failure> {
    if let Some(data) = &args.data {
        return send_one(args, producer, data.clone().into_bytes(), key_delimiter.as_deref(), &reports).await.map(drop);
    }
    let mut records = read_records(delimiter);
    while let Some(record) = records.recv().await {
        let record = record.map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
        if !send_one(args, producer, record, key_delimiter.as_deref(), &reports).await? {
            break;
        }
    }
    Ok(())
}

/// False: nobody waits for the outcome any more, because an earlier record failed.
async fn send_one(
    args: &ProduceArgs,
    producer: &Producer,
    bytes: Vec<u8>,
    key_delimiter: Option<&[u8]>,
    reports: &mpsc::Sender<(DeliveryFuture, u64)>,
) -> Result<bool, Failure> {
    let bytes = Bytes::from(bytes);
    let length = bytes.len() as u64;
    let (key, value) = match key_delimiter {
        Some(delimiter) => split_key(bytes, delimiter)?,
        None => (args.key.clone().map(Bytes::from), bytes),
    };
    let headers = args.headers.iter().map(|(name, value)| Header::new(name.clone(), value.clone())).collect();
    let topic = args.topic.as_str().into();
    let record = ProducerRecord { topic, partition: args.partition, key, value, timestamp_ns: None, headers };
    let sent = producer.send(record).await;
    let delivery = sent.map_err(|error| Failure::of(format!("cannot produce to topic '{}'", args.topic), &error))?;
    Ok(reports.send((delivery, length)).await.is_ok())
}

fn split_key(record: Bytes, delimiter: &[u8]) -> Result<(Option<Bytes>, Bytes), Failure> {
    let at = record.windows(delimiter.len()).position(|window| window == delimiter).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&record[..record.len().min(60)]).into_owned();
        Failure::failed(format!("record without the key delimiter: '{shown}'"))
    })?;
    Ok((Some(record.slice(..at)), record.slice(at + delimiter.len()..)))
}

async fn report(
    mut waiting: mpsc::Receiver<(DeliveryFuture, u64)>,
    topic: String,
    output: OutputFormat,
) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let mut progress = Progress::new();
    let mut out = Out::stdout();
    let started = Instant::now();
    while let Some((mut delivery, bytes)) = waiting.recv().await {
        let delivered = delivery.wait().await;
        let delivered = delivered.map_err(|error| {
            Failure::of(format!("cannot produce to topic '{topic}' (partition {})", delivery.partition()), &error)
                .with_hint(format!("{} records were stored before", totals.records))
        })?;
        totals.records += 1;
        totals.bytes += bytes;
        if delivered.first_of_batch {
            totals.batches += 1;
            if output == OutputFormat::Json {
                out.json(&batch_json(&topic, &delivered))?;
            }
        }
        progress.show(|| {
            let seconds = started.elapsed().as_secs_f64().max(0.001);
            let rate = totals.bytes as f64 / seconds;
            format!("{} records, {}, {}/s", totals.records, show_bytes(totals.bytes), show_bytes(rate as u64))
        });
    }
    Ok(totals)
}

fn batch_json(topic: &str, delivered: &Delivery) -> serde_json::Value {
    let Delivery { partition, offset, batch_records, .. } = delivered;
    json!({ "topic": topic, "partition": partition, "offset": offset, "records": batch_records })
}

fn finish(topic: &str, output: OutputFormat, totals: Totals, took: Duration) -> Result<(), Failure> {
    let mut out = Out::stdout();
    let Totals { records, bytes, batches } = totals;
    match output {
        OutputFormat::Json => out.json(&json!({
            "topic": topic,
            "records": records,
            "bytes": bytes,
            "batches": batches,
            "seconds": took.as_secs_f64(),
        })),
        OutputFormat::Text => {
            let plural = if records == 1 { "" } else { "s" };
            out.line(&format!("{records} record{plural} stored in topic {topic} ({}, {took:.1?})", show_bytes(bytes)))
        }
    }
}

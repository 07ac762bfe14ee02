//! Holds the history against what can be read in the end.

use super::args::ChaosCli;
use super::cluster::{Cluster, LOOK_EVERY};
use super::history::{Fate, History, Seen, parse_record};
use super::load::{connect, read_all};
use super::report::Verdict;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for all records of a partition.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// All records of a partition.
type Records = Vec<(u64, Bytes)>;

/// Reads everything and judges it.
pub async fn check(cluster: &Cluster, args: &ChaosCli, history: &History) -> Vec<Verdict> {
    let mut all = Vec::new();
    let mut readable = Verdict::new("every partition can be read to its end");
    for partition in 0..args.partitions {
        match read_partition(&cluster.servers(), partition).await {
            Ok(records) => all.push(records),
            Err(problem) => {
                readable.broken(format!("partition {partition}: {problem}"));
                all.push(Vec::new());
            }
        }
    }
    let mut verdicts = vec![readable];
    verdicts.extend(judge_records(&all, args, history));
    await_consumers(&all, args, history).await;
    verdicts.push(judge_consumers(&all, args, history));
    verdicts.push(judge_segments(cluster));
    verdicts.push(judge_logs(cluster));
    verdicts
}

async fn read_partition(servers: &str, partition: u16) -> Result<Records, String> {
    let read = async {
        let client = connect(servers).await?;
        read_all(&client, partition).await
    };
    match tokio::time::timeout(READ_PATIENCE, read).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err(format!("its end does not come within {READ_PATIENCE:?}")),
    }
}

/// Kept, once, in order, as they were, where the ack said.
pub fn judge_records(all: &[Records], args: &ChaosCli, history: &History) -> Vec<Verdict> {
    let mut kept = Verdict::new("no acked record is lost");
    let mut once = Verdict::new("no record is there twice");
    let mut order = Verdict::new("records of a producer are in the order they were sent");
    let mut bytes = Verdict::new("every record has the bytes that were sent");
    let mut place = Verdict::new("acked records are at the offset of their ack");
    for (partition, records) in (0..).zip(all) {
        let mut found: HashMap<(u16, u64), u64> = HashMap::new();
        let mut last: HashMap<u16, u64> = HashMap::new();
        for (offset, value) in records {
            let parsed = parse_record(value, args.record_bytes).filter(|(_, sent_to, _)| *sent_to == partition);
            let Some((producer, _, number)) = parsed else {
                bytes.broken(format!("partition {partition} at {offset}: {} bytes nobody sent", value.len()));
                continue;
            };
            bytes.held();
            let name = format!("partition {partition}, producer {producer}, record {number}");
            match found.insert((producer, number), *offset) {
                Some(first) => once.broken(format!("{name}: at {first} and at {offset}")),
                None => once.held(),
            }
            match last.insert(producer, number).filter(|last| *last > number) {
                Some(last) => order.broken(format!("{name}: after {last}")),
                None => order.held(),
            }
        }
        for producer in 0..args.producers {
            for (number, fate) in (0..).zip(history.fates(producer, partition)) {
                let Fate::Acked(told) = fate else { continue };
                let name = format!("partition {partition}, producer {producer}, record {number}");
                let Some(offset) = found.get(&(producer, number)) else {
                    kept.broken(format!("{name}: acked at {told:?}, and not there"));
                    continue;
                };
                kept.held();
                match told.filter(|told| told != offset) {
                    Some(told) => place.broken(format!("{name}: acked at {told}, found at {offset}")),
                    None => place.held(),
                }
            }
        }
    }
    vec![kept, once, order, bytes, place]
}

/// Consumers read on to the end, for as long as this may take.
async fn await_consumers(all: &[Records], args: &ChaosCli, history: &History) {
    let deadline = Instant::now() + READ_PATIENCE;
    let done = |consumer| {
        (0..).zip(all).all(|(partition, records)| history.view(consumer, partition).records.len() >= records.len())
    };
    while !(0..args.consumers).all(done) && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What consumers saw on the way is what is there in the end.
fn judge_consumers(all: &[Records], args: &ChaosCli, history: &History) -> Verdict {
    let mut verdict = Verdict::new("consumers saw every record once, in order, and never anything change or go back");
    history.seen_by_consumers().into_iter().for_each(|problem| verdict.broken(problem));
    for (partition, records) in (0..).zip(all) {
        let there: Vec<Seen> =
            records.iter().map(|(offset, value)| Seen { offset: *offset, crc: crc32fast::hash(value) }).collect();
        for consumer in 0..args.consumers {
            let view = history.view(consumer, partition);
            let name = format!("consumer {consumer}, partition {partition}");
            let same = view.records.iter().zip(&there).take_while(|(seen, there)| seen == there).count();
            verdict.held_by(same as u64);
            if let Some(seen) = view.records.get(same) {
                verdict.broken(format!("{name}: saw {seen:?} where {:?} is", there.get(same)));
            } else if same < there.len() {
                verdict.broken(format!("{name}: stopped after {same} of {} records", there.len()));
            }
        }
    }
    verdict
}

/// Closed segments are the same on all nodes; so is what is written of the last ones.
fn judge_segments(cluster: &Cluster) -> Verdict {
    let mut verdict = Verdict::new("segments are the same on all nodes");
    let mut logs: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for node in &cluster.nodes {
        match names(&node.data().join("logs"), "") {
            Ok(found) => found.into_iter().for_each(|log| logs.entry(log).or_default().push(node.id)),
            Err(error) => verdict.broken(format!("node {}: its logs cannot be listed: {error}", node.id)),
        }
    }
    for log in logs.keys() {
        let mut first: Option<(u16, BTreeMap<String, Vec<u8>>)> = None;
        for node in &cluster.nodes {
            let files = match segments(&node.data().join("logs").join(log)) {
                Ok(files) => files,
                Err(error) => {
                    verdict.broken(format!("node {}: log {log}: {error}", node.id));
                    continue;
                }
            };
            match &first {
                None => first = Some((node.id, files)),
                Some((other, theirs)) => compare(&mut verdict, log, (*other, theirs), (node.id, &files)),
            }
        }
    }
    verdict
}

fn compare(
    verdict: &mut Verdict,
    log: &str,
    (one, ones): (u16, &BTreeMap<String, Vec<u8>>),
    (other, others): (u16, &BTreeMap<String, Vec<u8>>),
) {
    let (names, other_names) = (ones.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>());
    if names != other_names {
        verdict.broken(format!("log {log}: node {one} has {names:?}, node {other} has {other_names:?}"));
    }
    for (name, bytes) in ones {
        let Some(theirs) = others.get(name) else { continue };
        if written(bytes) == written(theirs) {
            verdict.held();
            continue;
        }
        let differs = bytes.iter().zip(theirs).take_while(|(mine, theirs)| mine == theirs).count();
        verdict.broken(format!("log {log}: {name} differs between nodes {one} and {other} from byte {differs} on"));
    }
}

/// Without the zeros that an open segment keeps for what comes.
fn written(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

fn names(folder: &Path, extension: &str) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
    names.sort();
    Ok(names)
}

fn segments(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let read = |name: String| fs::read(folder.join(&name)).map(|bytes| (name, bytes));
    names(folder, ".lnc")?.into_iter().map(read).collect()
}

/// No node panicked by itself.
fn judge_logs(cluster: &Cluster) -> Verdict {
    let mut verdict = Verdict::new("no node panicked");
    for node in &cluster.nodes {
        let log = fs::read(node.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        verdict.held();
        for line in log.lines().filter(|line| line.contains("panicked")) {
            verdict.broken(format!("node {}: {line}", node.id));
        }
    }
    verdict
}

//! Holds the history against what can be read in the end.

use super::args::ChaosCli;
use super::cluster::{Cluster, LOOK_EVERY};
use super::history::{Fate, History, Seen, parse_record};
use super::load::{connect, read_all};
use super::report::Verdict;
use super::segments::judge_segments;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

/// Longest wait for all records of a partition.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// Longest wait for the last bytes of logs that are written without producers: of groups, and of deleted topics.
const SEGMENT_PATIENCE: Duration = Duration::from_secs(20);
/// What a panic says that was ordered.
const INJECTED: &str = "injected fault";

/// All records of a partition.
type Records = Vec<(u64, Bytes)>;

/// Reads everything and judges it.
pub async fn check(cluster: &Cluster, args: &ChaosCli, history: &History) -> Vec<Verdict> {
    let mut all = Vec::new();
    let mut readable = Verdict::new(5, "every partition can be read to its end");
    for partition in 0..args.partitions {
        match read_partition(&cluster.servers(), partition).await {
            Ok(records) => {
                readable.held();
                all.push(records);
            }
            Err(problem) => {
                readable.broken(format!("partition {partition}: {problem}"));
                all.push(Vec::new());
            }
        }
    }
    let mut verdicts = vec![readable];
    verdicts.extend(judge_records(&all, args, history));
    await_consumers(&all, args, history).await;
    verdicts.extend(judge_consumers(&all, args, history));
    verdicts.extend(await_segments(cluster).await);
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
    let mut kept = Verdict::new(1, "no acked record is lost");
    let mut once = Verdict::new(7, "no record is there twice");
    let mut order = Verdict::new(5, "records of a producer are in the order they were sent");
    let mut bytes = Verdict::new(5, "every record has the bytes that were sent");
    let mut place = Verdict::new(3, "acked records are at the offset of their ack");
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
fn judge_consumers(all: &[Records], args: &ChaosCli, history: &History) -> Vec<Verdict> {
    let mut back = Verdict::new(4, "no high watermark and no offset that a consumer was told goes back");
    back.held_by(history.chunks());
    history.seen_by_consumers().into_iter().for_each(|problem| back.broken(problem));
    let mut verdict = Verdict::new(5, "consumers saw every record once, in order, as it is there in the end");
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
    vec![back, verdict]
}

/// What is still on its way to a follower, or about to be removed, may come; what is different stays so.
async fn await_segments(cluster: &Cluster) -> Vec<Verdict> {
    let deadline = Instant::now() + SEGMENT_PATIENCE;
    loop {
        let verdicts = judge_segments(cluster);
        if verdicts.iter().all(|verdict| verdict.broken == 0) || Instant::now() > deadline {
            return verdicts;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// No actor panicked by itself.
fn judge_logs(cluster: &Cluster) -> Verdict {
    let mut verdict = Verdict::new(10, "no actor panicked by itself");
    for node in &cluster.nodes {
        verdict.held();
        let log = fs::read(node.log()).unwrap_or_default();
        panics(&String::from_utf8_lossy(&log)).for_each(|line| verdict.broken(format!("node {}: {line}", node.id)));
    }
    verdict
}

/// The lines of panics that nobody ordered: as a node logs them, and as a process does that has no log yet.
fn panics(log: &str) -> impl Iterator<Item = &str> {
    let panics = log.lines().filter(|line| line.contains("panic: ") || line.contains("panicked at "));
    panics.filter(|line| !line.contains(INJECTED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::history::record_bytes;
    use clap::Parser;

    fn args() -> ChaosCli {
        ChaosCli::parse_from(["lnc-chaos", "--partitions", "1", "--producers", "1", "--consumers", "1"])
    }

    fn record(number: u64) -> Bytes {
        record_bytes(0, 0, number, args().record_bytes)
    }

    /// Three records, acked at 0, 10 and 20.
    fn history() -> History {
        let history = History::new(1, 1, 1);
        for offset in [0, 10, 20] {
            let number = history.sent(0, 0);
            history.settled(0, 0, number, Fate::Acked(Some(offset)));
        }
        history
    }

    /// Findings of what is there: lost, twice, out of order, wrong bytes, elsewhere.
    fn findings(records: &[(u64, Bytes)]) -> Vec<u64> {
        judge_records(&[records.to_vec()], &args(), &history()).iter().map(|verdict| verdict.broken).collect()
    }

    fn seen(records: &[(u64, Bytes)]) -> History {
        let history = history();
        let seen = |(offset, value): &(u64, Bytes)| Seen { offset: *offset, crc: crc32fast::hash(value) };
        history.view(0, 0).records = records.iter().map(seen).collect();
        history
    }

    #[test]
    fn a_history_that_was_kept_is_clean_and_what_was_given_up_may_be_there() {
        let mut records = vec![(0, record(0)), (10, record(1)), (20, record(2))];
        assert_eq!(findings(&records), [0; 5]);
        records.push((30, record(3)));
        assert_eq!(findings(&records), [0; 5]);
    }

    #[test]
    fn a_panic_is_found_in_the_log_and_an_ordered_one_is_none() {
        let log = "INFO serves\nERROR panic: injected fault thread=\"ingestion-0\"\nERROR actor restarts reason=panicked\n\
                   ERROR panic: index out of bounds thread=\"poller-0\"\nthread 'main' panicked at src/lib.rs:1:\n";
        assert_eq!(panics(log).count(), 2, "{:?}", panics(log).collect::<Vec<_>>());
    }

    #[test]
    fn a_lost_record_is_found() {
        assert_eq!(findings(&[(0, record(0)), (20, record(2))]), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_record_that_is_there_twice_is_found() {
        let records = [(0, record(0)), (10, record(1)), (20, record(2)), (30, record(2))];
        assert_eq!(findings(&records)[1], 1);
    }

    #[test]
    fn records_in_another_order_are_found() {
        let records = [(0, record(0)), (10, record(2)), (20, record(1))];
        assert_eq!(findings(&records), [0, 0, 1, 0, 2]);
    }

    #[test]
    fn other_bytes_are_found_and_are_not_what_was_acked() {
        let mut other = record(1).to_vec();
        other[40] ^= 4;
        let records = [(0, record(0)), (10, Bytes::from(other)), (20, record(2))];
        assert_eq!(findings(&records), [1, 0, 0, 1, 0]);
    }

    #[test]
    fn a_consumer_that_saw_what_is_not_there_or_stopped_is_found() {
        let there = vec![(0, record(0)), (10, record(1)), (20, record(2))];
        let broken = |history: &History| {
            let verdicts = judge_consumers(std::slice::from_ref(&there), &args(), history);
            verdicts.iter().map(|verdict| verdict.broken).collect::<Vec<_>>()
        };
        assert_eq!(broken(&seen(&there)), [0, 0]);
        assert_eq!(broken(&seen(&there[..2])), [0, 1], "stopped");
        let vanished = [there[0].clone(), (10, record(7)), there[2].clone()];
        assert_eq!(broken(&seen(&vanished)), [0, 1], "a tail that was cut later");
        let missed = [there[0].clone(), there[2].clone()];
        assert_eq!(broken(&seen(&missed)), [0, 1], "a gap");
        let back = seen(&there);
        back.consumer_saw("high watermark 5 after 9".to_owned());
        assert_eq!(broken(&back), [1, 0]);
    }
}

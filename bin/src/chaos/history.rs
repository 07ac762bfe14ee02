//! Everything that was sent, acked and read, and what was done to the cluster meanwhile.

use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Neither acked nor refused: it may be there.
    Open,
    /// Acked, at this offset if the server said so.
    Acked(Option<u64>),
    /// Given up, in these words: it may be there.
    Failed(String),
}

/// A record as a reader saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its offset.
    pub offset: u64,
    /// Checksum of its bytes.
    pub crc: u32,
}

/// Of one partition, what one consumer saw.
#[derive(Debug, Default)]
pub struct View {
    /// Its records, in the order they came.
    pub records: Vec<Seen>,
    /// Where the next one starts.
    pub next_offset: u64,
    /// Highest mark seen.
    pub high_watermark: u64,
}

/// Acks of a partition.
#[derive(Debug)]
struct Pace {
    acks: AtomicU64,
    /// When the last ack came, the longest time without one, and when that ended.
    gap: Mutex<(Instant, Duration, Duration)>,
}

/// The whole history of a run.
#[derive(Debug)]
pub struct History {
    began: Instant,
    partitions: u16,
    lanes: Vec<Mutex<Vec<Fate>>>,
    views: Vec<Mutex<View>>,
    pace: Vec<Pace>,
    stopped: AtomicBool,
    notes: Mutex<Vec<(Duration, String)>>,
    broken: Mutex<Vec<String>>,
    chunks: AtomicU64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// Of so many producers and consumers in so many partitions.
    pub fn new(producers: u16, consumers: u16, partitions: u16) -> Self {
        let began = Instant::now();
        let all = usize::from(partitions);
        let pace = || Pace { acks: AtomicU64::new(0), gap: Mutex::new((began, Duration::ZERO, Duration::ZERO)) };
        Self {
            began,
            partitions,
            lanes: (0..usize::from(producers) * all).map(|_| Mutex::default()).collect(),
            views: (0..usize::from(consumers) * all).map(|_| Mutex::default()).collect(),
            pace: (0..all).map(|_| pace()).collect(),
            stopped: AtomicBool::new(false),
            notes: Mutex::default(),
            broken: Mutex::default(),
            chunks: AtomicU64::new(0),
        }
    }

    fn lane_of(&self, producer: u16, partition: u16) -> &Mutex<Vec<Fate>> {
        &self.lanes[usize::from(producer) * usize::from(self.partitions) + usize::from(partition)]
    }

    /// Of one partition, what one consumer saw.
    pub fn view(&self, consumer: u16, partition: u16) -> MutexGuard<'_, View> {
        lock(&self.views[usize::from(consumer) * usize::from(self.partitions) + usize::from(partition)])
    }

    /// The fates of what a producer sent to a partition, by number.
    pub fn fates(&self, producer: u16, partition: u16) -> Vec<Fate> {
        lock(self.lane_of(producer, partition)).clone()
    }

    /// Another record is sent; its number.
    pub fn sent(&self, producer: u16, partition: u16) -> u64 {
        let mut lane = lock(self.lane_of(producer, partition));
        lane.push(Fate::Open);
        lane.len() as u64 - 1
    }

    /// What became of it.
    pub fn settled(&self, producer: u16, partition: u16, number: u64, fate: Fate) {
        if matches!(fate, Fate::Acked(_)) {
            let pace = &self.pace[usize::from(partition)];
            pace.acks.fetch_add(1, Ordering::Relaxed);
            let mut gap = lock(&pace.gap);
            let now = Instant::now();
            let without = now.duration_since(gap.0);
            let longest = if without > gap.1 { (without, self.began.elapsed()) } else { (gap.1, gap.2) };
            *gap = (now, longest.0, longest.1);
        }
        if let Some(slot) = lock(self.lane_of(producer, partition)).get_mut(number as usize) {
            *slot = fate;
        }
    }

    /// The first acks of all partitions came: time without one counts from here.
    pub fn begin_measuring(&self) {
        let now = Instant::now();
        self.pace.iter().for_each(|pace| *lock(&pace.gap) = (now, Duration::ZERO, Duration::ZERO));
    }

    /// The longest time that a partition was without an ack: which, how long, and when it ended.
    pub fn longest_unavailability(&self) -> (u16, Duration, Duration) {
        let gaps = (0..).zip(&self.pace).map(|(partition, pace)| {
            let gap = lock(&pace.gap);
            (partition, gap.1, gap.2)
        });
        gaps.max_by_key(|(_, longest, _)| *longest).unwrap_or_default()
    }

    /// Waits until every partition has an ack that it does not have now; whether it came.
    pub async fn await_acks(&self, every: Duration, patience: Duration) -> bool {
        let counts = || self.pace.iter().map(|pace| pace.acks.load(Ordering::Relaxed));
        let before: Vec<u64> = counts().collect();
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if counts().zip(&before).all(|(now, before)| now > *before) {
                return true;
            }
            tokio::time::sleep(every).await;
        }
        false
    }

    /// Producers end.
    pub fn stop_producers(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether producers end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Keeps what was done.
    pub fn note(&self, what: String) {
        let at = self.began.elapsed();
        tracing::info!(?at, "{what}");
        lock(&self.notes).push((at, what));
    }

    /// What was done, and when.
    pub fn notes(&self) -> Vec<(Duration, String)> {
        lock(&self.notes).clone()
    }

    /// A consumer took another chunk.
    pub fn took_chunk(&self) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
    }

    /// Chunks that consumers took.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// A consumer saw what it must not see.
    pub fn consumer_saw(&self, what: String) {
        self.note(format!("VIOLATION: {what}"));
        lock(&self.broken).push(what);
    }

    /// What consumers must not have seen.
    pub fn seen_by_consumers(&self) -> Vec<String> {
        lock(&self.broken).clone()
    }
}

/// The bytes of a record: who sent it where, its number, and a filler that only these can have.
pub fn record_bytes(producer: u16, partition: u16, number: u64, bytes: usize) -> Bytes {
    let mut text = format!("{producer}:{partition}:{number}:").into_bytes();
    let mut state = (u64::from(producer) << 48 | u64::from(partition) << 32) ^ number ^ 0x9E37_79B9_7F4A_7C15;
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend_from_slice(&state.to_le_bytes());
    }
    Bytes::from(text)
}

/// Producer, partition and number of a record with the right bytes.
pub fn parse_record(value: &[u8], bytes: usize) -> Option<(u16, u16, u64)> {
    let mut parts = value.splitn(4, |byte| *byte == b':');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let (producer, partition, number) = (number()?, number()?, number()?);
    let (producer, partition) = (u16::try_from(producer).ok()?, u16::try_from(partition).ok()?);
    (record_bytes(producer, partition, number, bytes) == value).then_some((producer, partition, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_who_sent_it_and_a_changed_one_tells_nothing() {
        let bytes = record_bytes(3, 2, 1_000, 200);
        assert_eq!(parse_record(&bytes, 200), Some((3, 2, 1_000)));
        for at in [0, 5, bytes.len() - 1] {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert_eq!(parse_record(&changed, 200), None, "byte {at}");
        }
        assert_eq!(parse_record(b"", 200), None);
    }

    #[test]
    fn the_longest_time_without_an_ack_is_remembered() {
        let history = History::new(1, 1, 2);
        history.begin_measuring();
        std::thread::sleep(Duration::from_millis(20));
        let number = history.sent(0, 1);
        history.settled(0, 1, number, Fate::Acked(Some(0)));
        let (partition, longest, _) = history.longest_unavailability();
        assert!(partition == 1 && longest >= Duration::from_millis(20));
        assert_eq!(history.fates(0, 1), [Fate::Acked(Some(0))]);
    }
}

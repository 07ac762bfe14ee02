//! Figures that actors write and the admin API reads: atomics only, so that nobody waits for a scrape.

mod followers;
mod links;

pub use followers::{FollowerDecision, FollowerFigures, JudgedFollower};
pub use links::{LinkFigure, LinkFigures};

use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds.
pub const LATENCY_BOUNDS: [f64; 16] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_6, 0.003_2, 0.006_4, 0.012_8, 0.025_6, 0.051_2,
    0.102_4, 0.25, 1.0, 5.0,
];

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

impl LatencyHistogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        self.buckets[bucket_of(duration)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds what was counted elsewhere.
    pub fn add(&self, counts: &LatencyCounts) {
        for (bucket, count) in self.buckets.iter().zip(counts.buckets).filter(|(_, count)| *count > 0) {
            bucket.fetch_add(count.into(), Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(counts.sum_ns, Ordering::Relaxed);
    }

    /// As the text format has it: the sum in seconds, the count, and each bucket with its bound.
    pub fn encoded(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let (counts, sum) = self.snapshot();
        let count = counts.iter().sum();
        (sum, count, LATENCY_BOUNDS.into_iter().chain([f64::MAX]).zip(counts).collect())
    }

    /// Count in each bucket (not cumulative; the last is for everything above the bounds), and the sum in seconds.
    pub fn snapshot(&self) -> (Vec<u64>, f64) {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        (counts, self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9)
    }
}

fn bucket_of(duration: Duration) -> usize {
    let seconds = duration.as_secs_f64();
    LATENCY_BOUNDS.partition_point(|&bound| bound < seconds)
}

/// Durations in plain numbers, of one that counts alone until it adds them to a histogram.
#[derive(Clone, Copy, Debug, Default)]
pub struct LatencyCounts {
    buckets: [u32; LATENCY_BOUNDS.len() + 1],
    sum_ns: u64,
}

impl LatencyCounts {
    /// Counts one duration.
    pub fn observe(&mut self, duration: Duration) {
        let bucket = &mut self.buckets[bucket_of(duration)];
        *bucket = bucket.saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A counter or gauge.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Adds to a counter.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// Takes from a gauge.
    pub fn sub(&self, value: u64) {
        self.0.fetch_sub(value, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The consumer groups that a node coordinates.
#[derive(Clone, Debug, Default)]
pub struct GroupsShown {
    /// Name, members, whether partitions are moving, and epoch of each.
    pub groups: Vec<(String, u64, bool, i32)>,
    /// How far each is behind.
    pub lags: Vec<GroupLag>,
}

/// How far a group is behind in a partition.
#[derive(Clone, Debug)]
pub struct GroupLag {
    /// The group.
    pub group: String,
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: u16,
    /// Records that are not committed as read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Age of the first of them.
    pub seconds: f64,
}

/// Every figure of a node that is not an actor's vital sign.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Produce request until its ack is handed to the socket.
    pub produce_latency: LatencyHistogram,
    /// Fetch request until its answer is handed to the socket, waiting at the end not counted.
    pub fetch_latency: LatencyHistogram,
    /// Group handed to the disk until it is durable.
    pub sync_latency: LatencyHistogram,
    /// Record bytes appended.
    pub produced_bytes: Figure,
    /// Records appended.
    pub produced_records: Figure,
    /// Batches appended.
    pub produced_batches: Figure,
    /// Batches recognised as retries.
    pub duplicate_batches: Figure,
    /// Data bytes sent to consumers.
    pub fetched_bytes: Figure,
    /// Those of them that went from segments to sockets inside the kernel.
    pub fetched_kernel_bytes: Figure,
    /// Fetches answered from memory.
    pub tail_fetches: Figure,
    /// Fetches answered by a replica that does not lead.
    pub replica_fetches: Figure,
    /// Fetches answered from segments.
    pub segment_fetches: Figure,
    /// Appends that had to wait for a free buffer.
    pub pool_waits: Figure,
    /// Free buffers of all pools.
    pub pool_free_slots: Figure,
    /// Buffers of all pools.
    pub pool_slots: Figure,
    /// Open client connections.
    pub connections: Figure,
    /// Connections closed because their actor failed.
    pub connection_failures: Figure,
    /// Connections refused because of the limit.
    pub connections_refused: Figure,
    /// Nanoseconds that quotas let clients wait.
    pub throttled_ns: Figure,
    /// Frames that were malformed.
    pub bad_frames: Figure,
    /// Requests answered with an error.
    pub errors: Figure,
    /// Bytes cut from torn tails at recovery.
    pub recovery_truncated_bytes: Figure,
    /// Partitions that do not serve because of damage or a failed sync.
    pub partitions_stopped: Figure,
    /// Partitions that only serve reads until there is space for their epoch to begin.
    pub partitions_read_only: Figure,
    /// Partitions on this node.
    pub partitions: Figure,
    /// Partitions whose log was opened, or found impossible to open.
    pub partitions_open: Figure,
    /// Damaged batches found by the scrubber or by readers.
    pub damaged_batches: Figure,
    /// Damaged replicas that are not refilled yet because too few other copies count.
    pub damaged_replicas_waiting: Figure,
    /// Records of `__groups` that could not be read when offsets were last loaded.
    pub undecodable_group_records: Figure,
    /// The consumer groups coordinated here, replaced as a whole.
    pub groups: ArcSwap<GroupsShown>,
    /// Closed segments re-read by the scrubber.
    pub scrubbed_bytes: Figure,
    /// Bytes removed by retention.
    pub retention_removed_bytes: Figure,
    /// Free bytes of the data directory's disk.
    pub disk_free_bytes: Figure,
    /// Bytes of the data directory's disk.
    pub disk_total_bytes: Figure,
    /// Followers of what is led here.
    pub followers: FollowerFigures,
    /// Links to other nodes.
    pub links: LinkFigures,
}

impl Metrics {
    /// Counts one group commit.
    pub fn observe_sync(&self, duration: Duration) {
        self.sync_latency.observe(duration);
    }
}

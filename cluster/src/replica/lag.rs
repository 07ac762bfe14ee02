//! What a node measures of one follower node during a window: latencies of acks, and the syncs it reports.

use super::flow::AckProgress;
use lance_messages::id::NodeId;
use std::time::Duration;

/// Each power of two is split into this many buckets: a percentile is at most 1/16 too high.
const SUB_BUCKETS: u32 = 16;
const SUB_BITS: u32 = SUB_BUCKETS.ilog2();
const BUCKETS: usize = (SUB_BUCKETS * (u32::BITS - SUB_BITS + 1)) as usize;

/// One follower node during one window, over all partitions that are led here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerWindow {
    /// The node.
    pub node: NodeId,
    /// 99th percentile from append to ack, µs; `None` without an ack to measure.
    pub p99_micros: Option<u32>,
    /// Acks of appends.
    pub acks: u32,
    /// How long it has owed an ack, ms; the longest of its partitions. `None` while nothing waits for it.
    pub outstanding_ms: Option<u64>,
    /// 99th percentile of its own syncs as it reports it, µs.
    pub sync_p99_micros: Option<u32>,
    /// In how many partitions that are led here it is in Q.
    pub in_quorum_count: u32,
    /// In how many it is in R and not in Q.
    pub evicted_count: u32,
}

/// Latencies of a window, in memory of a fixed size.
#[derive(Clone, Debug)]
pub struct LatencyWindow {
    counts: Vec<u32>,
    total: u64,
}

impl Default for LatencyWindow {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl LatencyWindow {
    /// Adds one; more than 71 minutes count as 71.
    pub fn record(&mut self, latency: Duration) {
        let micros = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.counts[bucket_of(micros)] += 1;
        self.total += 1;
    }

    /// The 99th percentile, µs, rounded up by at most 1/16; `None` when nothing was recorded.
    pub fn p99_micros(&self) -> Option<u32> {
        let rank = (self.total * 99).div_ceil(100);
        let mut below = 0;
        let reached = self.counts.iter().position(|count| {
            below += u64::from(*count);
            rank > 0 && below >= rank
        });
        reached.map(greatest_in)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }
}

fn bucket_of(micros: u32) -> usize {
    // Below 16 each value has a bucket of its own; above, the four bits after the leading one choose.
    let shift = (u32::BITS - micros.leading_zeros()).saturating_sub(SUB_BITS + 1);
    (shift * SUB_BUCKETS + (micros >> shift)) as usize
}

fn greatest_in(bucket: usize) -> u32 {
    let bucket = u64::try_from(bucket).unwrap_or(u64::MAX);
    let sub_buckets = u64::from(SUB_BUCKETS);
    let shift = (bucket / sub_buckets).saturating_sub(1);
    let lead = bucket - shift * sub_buckets;
    u32::try_from(((lead + 1) << shift) - 1).unwrap_or(u32::MAX)
}

/// Gathers what one follower node does until the window is taken.
#[derive(Clone, Debug, Default)]
pub struct FollowerMeter {
    latencies: LatencyWindow,
    acks: u32,
    sync_p99_micros: Option<u32>,
}

impl FollowerMeter {
    /// An ack of one of its partitions, with the sync time it reports, µs; 0 when it knows none.
    pub fn on_ack(&mut self, progress: &AckProgress, sync_p99_micros: u32) {
        self.acks = self.acks.saturating_add(progress.acked_count);
        if let Some(latency) = progress.latency {
            self.latencies.record(latency);
        }
        if sync_p99_micros > 0 {
            self.sync_p99_micros = Some(sync_p99_micros);
        }
    }

    /// The window that ends now; the next one begins. `outstanding` is the longest of the node's flows, the counts are those of
    /// the partitions that are led here.
    pub fn take_window(
        &mut self,
        node: NodeId,
        outstanding: Option<Duration>,
        in_quorum_count: u32,
        evicted_count: u32,
    ) -> FollowerWindow {
        let window = FollowerWindow {
            node,
            p99_micros: self.latencies.p99_micros(),
            acks: self.acks,
            outstanding_ms: outstanding.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            sync_p99_micros: self.sync_p99_micros.take(),
            in_quorum_count,
            evicted_count,
        };
        self.latencies.clear();
        self.acks = 0;
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_close_below_its_end() {
        for bits in 0..32 {
            for value in [1u32 << bits, (1u32 << bits) + 1, u32::MAX >> bits, (u32::MAX >> bits).saturating_sub(bits)] {
                let bucket = bucket_of(value);
                let greatest = greatest_in(bucket);
                assert!(greatest >= value && greatest - value <= value / SUB_BUCKETS, "{value}: {greatest}");
                assert!(bucket < BUCKETS && (bucket == 0 || greatest_in(bucket - 1) < value), "{value}");
            }
        }
    }

    #[test]
    fn one_in_a_hundred_does_not_move_the_99th_percentile_and_two_do() {
        let mut window = LatencyWindow::default();
        assert_eq!(window.p99_micros(), None);
        (0..99).for_each(|_| window.record(Duration::from_micros(10)));
        window.record(Duration::from_millis(50));
        assert_eq!(window.p99_micros(), Some(10));
        window.record(Duration::from_millis(50));
        assert!(window.p99_micros() >= Some(50_000));
        window.clear();
        assert_eq!(window.p99_micros(), None);
        window.record(Duration::from_secs(100_000));
        assert_eq!(window.p99_micros(), Some(u32::MAX));
    }

    #[test]
    fn a_taken_window_leaves_nothing_behind() {
        let mut meter = FollowerMeter::default();
        let ack = AckProgress { latency: Some(Duration::from_micros(12)), acked_count: 3, ..AckProgress::default() };
        meter.on_ack(&ack, 900);
        meter.on_ack(&AckProgress::default(), 0);
        let expected = FollowerWindow {
            node: NodeId(2),
            p99_micros: Some(12),
            acks: 3,
            outstanding_ms: Some(40),
            sync_p99_micros: Some(900),
            in_quorum_count: 5,
            evicted_count: 1,
        };
        assert_eq!(meter.take_window(NodeId(2), Some(Duration::from_millis(40)), 5, 1), expected);
        let empty =
            FollowerWindow { p99_micros: None, acks: 0, outstanding_ms: None, sync_p99_micros: None, ..expected };
        assert_eq!(meter.take_window(NodeId(2), None, 5, 1), empty);
    }
}

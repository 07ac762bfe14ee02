//! Which follower is too slow to count: judges every follower node of the partitions that are led here, once a window.

use super::lag::FollowerWindow;
use lance_messages::id::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Leadership moves for slowness at most this often.
const MOVE_INTERVAL_MS: u64 = 60_000;
/// Most evictions of one node that are remembered: beyond them the back-off has long reached its bound.
const MAX_REMEMBERED: usize = 16;

/// When a follower counts as slow, and when it returns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvictionOptions {
    /// Judges followers at all.
    pub enabled: bool,
    /// Slow windows in a row that evict.
    pub slow_windows: u32,
    /// A follower is slow above this many times the median of the others …
    pub slow_factor: f64,
    /// … and above this.
    pub slow_floor: Duration,
    /// An ack owed for so long evicts at once.
    pub ack_timeout: Duration,
    /// Windows looked back on before a return.
    pub rejoin_windows: u32,
    /// A follower returns below this share of the threshold it would be evicted by.
    pub rejoin_factor: f64,
    /// Wait before the return from a second eviction; doubles with each further one, up to `backoff_window`.
    pub backoff: Duration,
    /// Time within which evictions count as repeated.
    pub backoff_window: Duration,
}

impl Default for EvictionOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            slow_windows: 3,
            slow_factor: 4.0,
            slow_floor: Duration::from_millis(5),
            ack_timeout: Duration::from_secs(1),
            rejoin_windows: 10,
            rejoin_factor: 0.5,
            backoff: Duration::from_secs(30),
            backoff_window: Duration::from_secs(600),
        }
    }
}

/// What led to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The follower's 99th percentile from append to ack, µs: of this window, or for a return the median of those looked back on.
    pub p99_micros: Option<u32>,
    /// The median of the other in-quorum followers, µs.
    pub others_median_micros: Option<u32>,
    /// What its percentile was held against, µs.
    pub threshold_micros: u32,
    /// Windows in a row in which it was slow or silent.
    pub slow_count: u32,
    /// How long it has owed an ack, ms.
    pub outstanding_ms: Option<u64>,
}

/// Why a follower is to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionCause {
    /// It was slower than the others for several windows.
    Slow,
    /// It owes an ack for too long.
    Silent,
}

/// What to do about a follower node, in every partition that is led here; each partition is judged by its own rules again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Push nothing to it as it is appended, send it later and in larger pieces; it still counts.
    Demote {
        /// Which.
        node: NodeId,
        /// Why.
        figures: Figures,
    },
    /// Push to it again.
    Promote {
        /// Which.
        node: NodeId,
        /// Why.
        figures: Figures,
    },
    /// Propose to take it out of Q; repeated in each window in which it holds.
    Evict {
        /// Which.
        node: NodeId,
        /// In short.
        cause: EvictionCause,
        /// Why.
        figures: Figures,
    },
    /// Propose to take it back into Q; repeated in each window in which it holds.
    Rejoin {
        /// Which.
        node: NodeId,
        /// Why.
        figures: Figures,
    },
    /// It is this node that is slow: its leaderships should go elsewhere.
    MoveLeadership {
        /// 99th percentile of this node's own syncs, µs.
        own_sync_p99_micros: u32,
        /// The followers that look slow, and the syncs they report, µs.
        slow: Vec<(NodeId, u32)>,
    },
}

/// What is remembered of one follower node between windows.
#[derive(Clone, Debug, Default)]
struct Memory {
    slow_count: u32,
    demoted: bool,
    /// Out of Q somewhere by an eviction that was counted.
    evicted: bool,
    /// When it was evicted, ms.
    evictions: VecDeque<u64>,
    /// No return before, ms.
    returns_at_ms: u64,
    /// Percentiles of the windows since it was evicted, µs; the greatest number for a silent one.
    history: VecDeque<u32>,
}

/// A window as it is judged.
struct Judged<'a> {
    window: &'a FollowerWindow,
    median: Option<u32>,
    threshold: u32,
    slow: bool,
    silent: bool,
}

/// The judge of one node's followers. `now_ms` never goes back.
#[derive(Clone, Debug)]
pub struct EvictionCore {
    options: EvictionOptions,
    nodes: BTreeMap<NodeId, Memory>,
    moved_at_ms: Option<u64>,
}

impl EvictionCore {
    /// A judge that has seen nothing.
    pub fn new(options: EvictionOptions) -> Self {
        Self { options, nodes: BTreeMap::new(), moved_at_ms: None }
    }

    /// A window ended: one entry for each node that follows here, and the 99th percentile of this node's own syncs, µs.
    pub fn on_window(
        &mut self,
        windows: &[FollowerWindow],
        own_sync_p99_micros: Option<u32>,
        now_ms: u64,
        verdicts: &mut Vec<Verdict>,
    ) {
        if !self.options.enabled {
            return;
        }
        let judged: Vec<Judged<'_>> = windows.iter().map(|window| judge(&self.options, window, windows)).collect();
        for one in &judged {
            let memory = self.nodes.entry(one.window.node).or_default();
            memory.slow_count = if one.slow || one.silent { memory.slow_count.saturating_add(1) } else { 0 };
            memory.note(one, self.options.rejoin_windows);
        }
        let own_fault = self.own_fault(&judged, own_sync_p99_micros);
        for one in &judged {
            self.give_verdicts(one, own_fault.is_some(), now_ms, verdicts);
        }
        let may_move = self.moved_at_ms.is_none_or(|at| now_ms >= at.saturating_add(MOVE_INTERVAL_MS));
        if let Some(verdict) = own_fault.filter(|_| may_move) {
            self.moved_at_ms = Some(now_ms);
            verdicts.push(verdict);
        }
    }

    /// The node was taken out of Q somewhere, by a committed entry.
    pub fn on_evicted(&mut self, node: NodeId, now_ms: u64) {
        let memory = self.nodes.entry(node).or_default();
        // One eviction takes many entries: one for each partition.
        if std::mem::replace(&mut memory.evicted, true) {
            return;
        }
        memory.history.clear();
        let window_ms = millis(self.options.backoff_window);
        memory.evictions.retain(|at| at.saturating_add(window_ms) > now_ms);
        if memory.evictions.len() == MAX_REMEMBERED {
            memory.evictions.pop_front();
        }
        memory.evictions.push_back(now_ms);
        let repeated = memory.evictions.len() - 1;
        if repeated > 0 {
            let backoff_ms = millis(self.options.backoff).saturating_mul(1 << (repeated - 1));
            memory.returns_at_ms = now_ms.saturating_add(backoff_ms.min(window_ms));
        }
    }

    /// An operator lifts the node's back-off; the other conditions of its return stay.
    pub fn admit(&mut self, node: NodeId) {
        if let Some(memory) = self.nodes.get_mut(&node) {
            memory.returns_at_ms = 0;
        }
    }

    /// Forgets nodes that are no members any more.
    pub fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|node, _| is_member(*node));
    }

    /// The nodes that what is appended is not pushed to.
    pub fn demoted(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, memory)| memory.demoted).map(|(node, _)| *node).collect()
    }

    /// Whether what is appended is not pushed to the node.
    pub fn is_demoted(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|memory| memory.demoted)
    }

    /// What each node of `windows`, those given last, was judged by.
    pub fn figures(&self, windows: &[FollowerWindow]) -> Vec<(NodeId, Figures)> {
        let judged = windows.iter().map(|window| judge(&self.options, window, windows));
        let with_count = judged.map(|one| {
            let slow_count = self.nodes.get(&one.window.node).map_or(0, |memory| memory.slow_count);
            (one.window.node, one.figures(slow_count))
        });
        with_count.collect()
    }

    /// How long the node's back-off still lasts, ms.
    pub fn backoff_left_ms(&self, node: NodeId, now_ms: u64) -> u64 {
        self.nodes.get(&node).map_or(0, |memory| memory.returns_at_ms.saturating_sub(now_ms))
    }

    fn give_verdicts(&mut self, judged: &Judged<'_>, own_fault: bool, now_ms: u64, verdicts: &mut Vec<Verdict>) {
        let node = judged.window.node;
        let Some(memory) = self.nodes.get_mut(&node) else {
            return;
        };
        let figures = judged.figures(memory.slow_count);
        let looks_slow = judged.slow || judged.silent;
        if looks_slow != memory.demoted && (looks_slow || judged.window.p99_micros.is_some()) {
            memory.demoted = looks_slow;
            let verdict =
                if looks_slow { Verdict::Demote { node, figures } } else { Verdict::Promote { node, figures } };
            verdicts.push(verdict);
        }
        let slow_for_long = judged.slow && memory.slow_count >= self.options.slow_windows;
        if judged.window.in_quorum_count > 0 && judged.silent {
            verdicts.push(Verdict::Evict { node, cause: EvictionCause::Silent, figures });
        } else if judged.window.in_quorum_count > 0 && slow_for_long && !own_fault {
            verdicts.push(Verdict::Evict { node, cause: EvictionCause::Slow, figures });
        }
        if judged.window.evicted_count > 0 && now_ms >= memory.returns_at_ms {
            verdicts.extend(rejoin(&self.options, judged, memory).map(|figures| Verdict::Rejoin { node, figures }));
        }
    }

    /// Two or more followers look slow, and each of them syncs faster than this node does: they wait for it, not it for them.
    fn own_fault(&self, judged: &[Judged<'_>], own_sync_p99_micros: Option<u32>) -> Option<Verdict> {
        let own_sync_p99_micros = own_sync_p99_micros?;
        let is_slow = |one: &&Judged<'_>| {
            let count = self.nodes.get(&one.window.node).map_or(0, |memory| memory.slow_count);
            count >= self.options.slow_windows
        };
        let slow = judged.iter().filter(|one| one.window.in_quorum_count > 0).filter(is_slow);
        let slow: Vec<(NodeId, u32)> =
            slow.map(|one| Some((one.window.node, one.window.sync_p99_micros?))).collect::<Option<_>>()?;
        let all_faster = slow.iter().all(|(_, sync_p99_micros)| *sync_p99_micros < own_sync_p99_micros);
        (slow.len() >= 2 && all_faster).then_some(Verdict::MoveLeadership { own_sync_p99_micros, slow })
    }
}

impl Memory {
    fn note(&mut self, judged: &Judged<'_>, rejoin_windows: u32) {
        if judged.window.evicted_count == 0 {
            self.history.clear();
            self.evicted = false;
            return;
        }
        let measured = if judged.silent { Some(u32::MAX) } else { judged.window.p99_micros };
        // A window without anything to measure says nothing for or against a return.
        self.history.extend(measured);
        while self.history.len() > rejoin_windows.max(1) as usize {
            self.history.pop_front();
        }
    }
}

impl Judged<'_> {
    fn figures(&self, slow_count: u32) -> Figures {
        Figures {
            p99_micros: self.window.p99_micros,
            others_median_micros: self.median,
            threshold_micros: self.threshold,
            slow_count,
            outstanding_ms: self.window.outstanding_ms,
        }
    }
}

fn judge<'a>(options: &EvictionOptions, window: &'a FollowerWindow, all: &[FollowerWindow]) -> Judged<'a> {
    let others = all.iter().filter(|other| other.node != window.node && other.in_quorum_count > 0);
    let median = median(others.filter_map(|other| other.p99_micros));
    let threshold = threshold(options, median);
    // With nobody to compare with, a long latency may be that of the work itself.
    let slow = median.is_some() && window.p99_micros > Some(threshold);
    let silent = window.outstanding_ms.is_some_and(|age| age >= millis(options.ack_timeout));
    Judged { window, median, threshold, slow, silent }
}

fn rejoin(options: &EvictionOptions, judged: &Judged<'_>, memory: &Memory) -> Option<Figures> {
    if memory.history.len() < options.rejoin_windows as usize || judged.silent {
        return None;
    }
    let p99_micros = median(memory.history.iter().copied())?;
    let threshold_micros = scaled(judged.threshold, options.rejoin_factor);
    let figures = judged.figures(memory.slow_count);
    (p99_micros < threshold_micros).then_some(Figures { p99_micros: Some(p99_micros), threshold_micros, ..figures })
}

fn threshold(options: &EvictionOptions, median: Option<u32>) -> u32 {
    let floor = u32::try_from(options.slow_floor.as_micros()).unwrap_or(u32::MAX);
    floor.max(median.map_or(0, |median| scaled(median, options.slow_factor)))
}

/// Saturates at both ends.
fn scaled(micros: u32, factor: f64) -> u32 {
    (f64::from(micros) * factor) as u32
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = u32>) -> Option<u32> {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(low.midpoint(*high))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

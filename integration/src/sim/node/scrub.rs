//! The scrubber's shell, as `actors/src/scrub/actor.rs` is: it reads closed segments bit by bit and names what is damaged.

use crate::sim::check::losses;
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part};
use lance_actors::replication::actor::ReplicaNews;
use lance_actors::scrub::core::ScrubCore;
use lance_actors::view::ClusterView;
use lance_storage::disk::{Disk, DiskError};
use lance_storage::log::Log;
use lance_storage::scrub::{ScrubReport, SegmentScrub};
use lance_storage::segment::Segment;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Time between two looks.
pub const TICK: Duration = Duration::from_millis(50);
/// Time in which everything is read once.
const INTERVAL: Duration = Duration::from_secs(1);
const BYTES_PER_SECOND: u64 = 32 << 20;

/// The shell of a scrub core.
pub struct Scrub {
    core: ScrubCore<Weak<Segment>>,
    current: Option<Box<SegmentScrub>>,
}

impl Scrub {
    /// A scrubber of a process that starts.
    pub fn new() -> Self {
        Self { core: ScrubCore::new(INTERVAL, BYTES_PER_SECOND, INTERVAL), current: None }
    }

    /// Some time has passed.
    pub fn turn<'a>(
        &mut self,
        (node, disk): (u16, &SimDisk),
        logs: impl Iterator<Item = &'a Log>,
        view: &ClusterView,
        ctx: &mut Context<'_>,
    ) {
        let now = ctx.now.elapsed;
        let closed: Vec<&Arc<Segment>> = logs.flat_map(Log::closed_segments).collect();
        if self.current.is_none() && self.core.is_pass_due(now) {
            let bytes = |segment: &&Arc<Segment>| Some(segment.end()?.mark.position - segment.base().position);
            let all_bytes = closed.iter().filter_map(bytes).sum();
            let queued = closed.into_iter().map(Arc::downgrade).collect();
            self.core.start_pass(queued, all_bytes, now);
            return;
        }
        while self.current.is_some() || self.begin_next(disk) {
            let Some(budget) = self.core.budget_bytes(now) else { return };
            let Some(mut scrub) = self.current.take() else { return };
            match scrub.step(budget) {
                Ok(None) => {
                    self.core.on_read(budget);
                    self.current = Some(scrub);
                    return;
                }
                Ok(Some(report)) => {
                    self.core.on_read(budget.min(report.bytes));
                    // A log that was cut, or whose segment was removed, while it was read is not damaged.
                    if closed.iter().any(|listed| Arc::ptr_eq(listed, scrub.segment())) {
                        on_report(node, &report, view, ctx);
                    }
                }
                // Whoever cut the log or removed the segment was faster.
                Err(_) => return,
            }
        }
    }

    /// Opens the next segment of the pass that is still there.
    fn begin_next(&mut self, disk: &SimDisk) -> bool {
        while let Some(queued) = self.core.take_next() {
            let begun = queued.upgrade().map(|segment| begin(&segment, disk));
            if let Some(Ok(Some(scrub))) = begun {
                self.current = Some(scrub);
                return true;
            }
        }
        false
    }
}

fn begin(segment: &Arc<Segment>, disk: &dyn Disk) -> Result<Option<Box<SegmentScrub>>, DiskError> {
    Ok(SegmentScrub::new(segment, segment.open(disk)?).map(Box::new))
}

/// Damage with copies elsewhere ends this life of the replica.
fn on_report(node: u16, report: &ScrubReport, view: &ClusterView, ctx: &mut Context<'_>) {
    let Some(first) = report.damages.iter().min_by_key(|damage| damage.positions.start) else { return };
    losses::found(ctx.oracle, node, first);
    if view.is_held_elsewhere(first.partition) {
        let news = ReplicaNews::Damaged(first.partition, first.good_end());
        ctx.send(Address::Node(node, Part::Replication), Mail::News(news));
    }
}

//! `ScrubActor`: reads closed segments on a thread that may wait for the disk, and names what is damaged.

use super::core::ScrubCore;
use crate::background::{run_guarded_interval, spawn_guarded};
use crate::clock::NodeClock;
use crate::ingestion::actor::IngestionActor;
use crate::ingestion::damage::DamageFound;
use crate::ingestion::maintenance::ListClosedSegments;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::network::session::shard_of;
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use lance_messages::id::TopicPartition;
use lance_storage::disk::{Disk, DiskError};
use lance_storage::scrub::{Damage, ScrubReport, SegmentScrub};
use lance_storage::segment::Segment;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Mailbox capacity of the scrubber.
pub const SCRUB_MAILBOX: usize = 64;
/// Time between two reads while a pass is under way.
const TICK: Duration = Duration::from_millis(200);
/// The first pass after a start leaves recovery and the first clients alone.
const FIRST_PASS_AFTER: Duration = Duration::from_secs(60);
/// Partitions that a shard is asked about at once.
const PARTITIONS_AT_ONCE: usize = 64;
/// How long a shard may take to answer before the pass goes on without its segments.
const SHARD_PATIENCE: Duration = Duration::from_secs(2);

/// What a scrubber is made of.
pub struct ScrubSetup {
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Time in which everything is read once; zero switches the scrubber off.
    pub interval: Duration,
    /// Rate it reads at, at most.
    pub bytes_per_second: u64,
    /// The node's clock.
    pub clock: NodeClock,
}

/// A segment of the pass; retention may remove it meanwhile.
type Queued = Weak<Segment>;

/// The shell of the scrubber.
pub struct ScrubActor {
    life: Life,
    setup: ScrubSetup,
    core: ScrubCore<Queued>,
    current: Option<(Arc<Segment>, Box<SegmentScrub>)>,
    busy: bool,
}

impl ScrubActor {
    /// A scrubber.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: ScrubSetup) -> Self {
        let core = new_core(&setup);
        Self { life: Life::new(vitals, policy, parent), setup, core, current: None, busy: false }
    }

    fn on_tick(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            return;
        }
        let now = self.setup.clock.now().elapsed;
        if self.current.is_none() && self.core.is_pass_due(now) {
            return self.list_segments(ctx);
        }
        let Some(segment) =
            self.current.take().map(|(segment, scrub)| Reading::Begun(segment, scrub)).or_else(|| self.next_segment())
        else {
            return;
        };
        match self.core.budget_bytes(now) {
            Some(budget) => self.read(segment, budget, ctx),
            None => self.put_back(segment),
        }
    }

    fn next_segment(&mut self) -> Option<Reading> {
        while let Some(queued) = self.core.take_next() {
            if let Some(segment) = queued.upgrade() {
                return Some(Reading::New(segment));
            }
        }
        None
    }

    fn put_back(&mut self, reading: Reading) {
        match reading {
            Reading::Begun(segment, scrub) => self.current = Some((segment, scrub)),
            Reading::New(segment) => self.core.put_back(Arc::downgrade(&segment)),
        }
    }

    fn list_segments(&mut self, ctx: &mut Context<Self>) {
        self.busy = true;
        let partitions: Vec<TopicPartition> = self.setup.view.load().partitions().collect();
        let listed = list_segments(self.setup.shards.clone(), partitions);
        spawn_guarded(ctx, listed, |segments, actor, _| {
            actor.busy = false;
            let bytes = |segment: &Arc<Segment>| Some(segment.end()?.mark.position - segment.base().position);
            let all_bytes = segments.iter().filter_map(bytes).sum();
            let queued: Vec<Queued> = segments.iter().map(Arc::downgrade).collect();
            let bytes_per_second = actor.core.start_pass(queued, all_bytes, actor.setup.clock.now().elapsed);
            if !segments.is_empty() {
                tracing::debug!(segments = segments.len(), bytes = all_bytes, bytes_per_second, "scrubbing");
            }
        });
    }

    fn read(&mut self, reading: Reading, budget: u64, ctx: &mut Context<Self>) {
        self.busy = true;
        let disk = Arc::clone(&self.setup.disk);
        let read = actix_rt::task::spawn_blocking(move || reading.step(&*disk, budget));
        spawn_guarded(ctx, read, move |read, actor, ctx| {
            actor.busy = false;
            match read {
                Ok(Ok(Step::Unfinished(segment, scrub))) => {
                    actor.core.on_read(budget);
                    actor.current = Some((segment, scrub));
                }
                Ok(Ok(Step::Finished(segment, report))) => {
                    actor.core.on_read(budget.min(report.bytes));
                    actor.on_report(segment, &report);
                    // Many small segments fit into one tick.
                    actor.on_tick(ctx);
                }
                Ok(Ok(Step::NothingToDo)) => {}
                // Retention was faster.
                Ok(Err(error)) if error.is_not_found() => {}
                Ok(Err(error)) => tracing::warn!(%error, "a segment cannot be scrubbed"),
                Err(error) => tracing::warn!(%error, "scrubbing a segment was interrupted"),
            }
        });
    }

    fn on_report(&self, segment: Arc<Segment>, report: &ScrubReport) {
        // The lowest damage of a segment is where its good bytes end.
        if let Some(good_end) = report.damages.iter().map(Damage::good_end).min() {
            let found = DamageFound { segment, good_end };
            // Nobody else may come there before the next pass: it waits for room in the mailbox.
            if let Some(shard) = found.shard(&self.setup.shards).cloned() {
                actix_rt::spawn(async move {
                    let _ = shard.send(found).await;
                });
            }
        }
        self.setup.metrics.scrubbed_bytes.add(report.bytes);
        self.setup.metrics.damaged_batches.add(report.damages.len() as u64);
        for damage in &report.damages {
            tracing::error!(
                path = %damage.path.display(),
                partition = %damage.partition,
                file_offset = damage.file_offsets.start,
                position = damage.positions.start,
                bytes = damage.positions.end - damage.positions.start,
                flaw = %damage.flaw,
                "the scrubber found damage"
            );
        }
    }
}

fn new_core(setup: &ScrubSetup) -> ScrubCore<Queued> {
    let first_pass = setup.clock.now().elapsed + setup.interval.min(FIRST_PASS_AFTER);
    ScrubCore::new(setup.interval, setup.bytes_per_second, first_pass)
}

/// Asks every shard for the closed segments of its partitions.
async fn list_segments(shards: Vec<Mailbox<IngestionActor>>, partitions: Vec<TopicPartition>) -> Vec<Arc<Segment>> {
    let count = u16::try_from(shards.len()).unwrap_or(u16::MAX);
    let mut segments = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let own = partitions.iter().filter(|partition| usize::from(shard_of(**partition, count)) == number);
        let own: Vec<TopicPartition> = own.copied().collect();
        for some in own.chunks(PARTITIONS_AT_ONCE) {
            let asked = shard.send(ListClosedSegments { partitions: some.to_vec() });
            if let Ok(Ok(found)) = tokio::time::timeout(SHARD_PATIENCE, asked).await {
                segments.extend(found);
            }
        }
    }
    segments
}

/// A segment that is read, or is to be.
enum Reading {
    New(Arc<Segment>),
    Begun(Arc<Segment>, Box<SegmentScrub>),
}

/// What a read came to.
enum Step {
    Unfinished(Arc<Segment>, Box<SegmentScrub>),
    Finished(Arc<Segment>, ScrubReport),
    /// The segment is not closed after all.
    NothingToDo,
}

impl Reading {
    /// Reads on; blocking.
    fn step(self, disk: &dyn Disk, budget: u64) -> Result<Step, DiskError> {
        let (segment, mut scrub) = match self {
            Self::Begun(segment, scrub) => (segment, scrub),
            Self::New(segment) => {
                let file = segment.open(disk)?;
                match SegmentScrub::new(&segment, file) {
                    Some(scrub) => (segment, Box::new(scrub)),
                    None => return Ok(Step::NothingToDo),
                }
            }
        };
        Ok(match scrub.step(budget)? {
            Some(report) => Step::Finished(segment, report),
            None => Step::Unfinished(segment, scrub),
        })
    }
}

supervised_shell!(ScrubActor, SCRUB_MAILBOX);

impl Shell for ScrubActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    fn drop_core(&mut self, _: &mut Self::Context) {
        self.core = new_core(&self.setup);
        self.current = None;
        self.busy = false;
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        if !self.setup.interval.is_zero() {
            run_guarded_interval(ctx, TICK, Self::on_tick);
        }
        self.life.vitals.set_state(ActorState::Running);
    }
}

//! `TeeCore`: what is read, sent, sent again and remembered, for every rule and every partition that this node leads.
//!
//! A *flow* forwards one partition by one rule. It sends exactly the batches of the source, each under the number that
//! comes next for the producer of that flow, so that a batch sent again, by whomever, has the number it had before and is
//! recognised by the target. Producer, number and place are stored together, as a checkpoint, and a new producer is stored
//! before anything is sent by it. Only what is committed is read: two leaders that both think they lead send the same.

mod answers;
pub mod bucket;
pub mod flow;
mod reading;
mod rounds;
mod sending;
pub mod status;
mod survey;
pub mod walk;

use self::bucket::{TokenBucket, rest_ms};
use self::flow::{Flow, FlowId, Stage};
use self::status::TeeCounts;
use self::survey::Survey;
use crate::outbound::{LinkId, LinkPiece};
use crate::view::ClusterView;
use lance_cluster::metadata::{TeeAdvance, TeeClaim, TeeRule};
use lance_messages::id::{TeeId, TopicPartition};
use lance_messages::wire::Features;
use lance_messages::wire::tee::TeeState;
use std::collections::BTreeMap;

pub use self::reading::{ReadFrom, ReadOutcome};
pub use self::survey::TargetFound;

/// What a tee asks for in its Hello, all of it.
pub const TEE_FEATURES: Features = Features(
    Features::PARTITIONS.0
        | Features::HEADER_CRC.0
        | Features::TYPED_ERRORS.0
        | Features::ACK_OFFSETS.0
        | Features::IDEMPOTENT.0
        | Features::METADATA.0
        | Features::COMPRESSED_INGEST.0
        | Features::TEE.0,
);

/// After so many failures in a row a flow gives its memory back: it is read again.
const UNLOAD_FAILURES: u32 = 3;
/// How soon time matters again, with something that waits for it, and without.
const BUSY_TICK_MS: u64 = 20;
const IDLE_TICK_MS: u64 = 100;
/// ... while there is nothing to copy at all.
const UNUSED_TICK_MS: u64 = 500;

/// What a core is told at its beginning.
#[derive(Clone, Copy, Debug)]
pub struct TeeOptions {
    /// Memory of one rule for what was read and not acked; one batch in each of a few reads may go beyond.
    pub buffer_bytes: usize,
    /// Whether batches may go from files to the target inside the kernel.
    pub in_kernel: bool,
    /// Random, made once a process.
    pub seed: u64,
    /// Numbers of flows and links that no earlier core of this process has used.
    pub first_flow: FlowId,
    /// See `first_flow`.
    pub first_link: LinkId,
}

/// What a core wants done.
#[derive(Debug)]
pub enum TeeEffect {
    /// Propose these claims, then [`TeeCore::on_claimed`].
    Claim(Vec<(FlowId, TeeClaim)>),
    /// Propose these checkpoints, then [`TeeCore::on_advanced`].
    Advance(Vec<(FlowId, TeeAdvance)>),
    /// Read, then [`TeeCore::on_read`].
    Read {
        /// For whom.
        flow: FlowId,
        /// Comes back with the answer.
        ticket: u64,
        /// What is read.
        partition: TopicPartition,
        /// From where.
        from: ReadFrom,
        /// Bytes of batches, about; one batch at least.
        max_bytes: usize,
        /// Whether large batches of closed segments may stay in their files, unchecked.
        in_files: bool,
    },
    /// Wait until something is committed at or behind an offset, for a while, then [`TeeCore::on_waited`].
    Wait {
        /// For whom.
        flow: FlowId,
        /// Where.
        partition: TopicPartition,
        /// From which offset on.
        offset: u64,
    },
    /// Find out how far these partitions are, then [`TeeCore::on_bounds`].
    Look(Vec<TopicPartition>),
    /// Find out what is at the target, then [`TeeCore::on_survey`].
    Survey {
        /// Of which rule.
        tee: TeeId,
        /// Where to ask.
        addresses: Vec<String>,
        /// For which topic; it is made if it is not there.
        topic: String,
        /// With so many partitions.
        partitions: u16,
    },
    /// Connect, say Hello; then [`TeeCore::on_link_up`], or [`TeeCore::on_link_ended`].
    Open {
        /// The link.
        link: LinkId,
        /// Where to.
        address: String,
    },
    /// Write these bytes after all those before.
    Send {
        /// The link.
        link: LinkId,
        /// The bytes, in pieces.
        pieces: [LinkPiece; 2],
    },
    /// End the link.
    Close(LinkId),
    /// Something that an operator should read.
    Note {
        /// The rule.
        tee: TeeId,
        /// The partition.
        partition: TopicPartition,
        /// What happened.
        note: TeeNote,
    },
}

/// What an operator should read of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeeNote {
    /// It forwards from this log position on.
    Began {
        /// The position.
        position: u64,
    },
    /// Retention removed records before they were forwarded.
    Lost {
        /// How many.
        records: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The target refuses, or cannot be reached; tried again.
    Failed {
        /// Why.
        reason: String,
        /// Whether somebody has to look.
        stuck: bool,
    },
    /// It goes on from the last checkpoint.
    Rewound {
        /// Why.
        reason: String,
    },
    /// Another producer writes from now on, since the target does not know the one before.
    ProducerReplaced {
        /// Why.
        reason: String,
    },
}

pub(super) type Effects = Vec<TeeEffect>;

#[derive(Debug)]
struct RuleState {
    rule: TeeRule,
    topic_name: String,
    /// Partitions of the topic, and those of them that are led here.
    partitions: u16,
    led: u16,
    survey: Survey,
    bucket: TokenBucket,
    held_bytes: usize,
    reads: usize,
}

/// The decisions of a tee actor.
#[derive(Debug)]
pub struct TeeCore {
    options: TeeOptions,
    rules: BTreeMap<TeeId, RuleState>,
    flows: BTreeMap<FlowId, Flow>,
    places: BTreeMap<(TeeId, TopicPartition), FlowId>,
    links: BTreeMap<LinkId, FlowId>,
    counts: BTreeMap<(TeeId, TopicPartition), TeeCounts>,
    next_flow: FlowId,
    next_link: LinkId,
    next_ticket: u64,
    /// Reads under way, whether or not their flow still wants them.
    reads: BTreeMap<u64, TeeId>,
    claiming: bool,
    advancing: bool,
    rounds_not_before_ms: u64,
    looked_ms: u64,
    /// Where the next look at all flows begins: none of them is always first.
    turn: FlowId,
}

impl TeeCore {
    /// A core without rules.
    pub fn new(options: TeeOptions) -> Self {
        Self {
            options,
            rules: BTreeMap::new(),
            flows: BTreeMap::new(),
            places: BTreeMap::new(),
            links: BTreeMap::new(),
            counts: BTreeMap::new(),
            next_flow: options.first_flow,
            next_link: options.first_link,
            next_ticket: 0,
            reads: BTreeMap::new(),
            claiming: false,
            advancing: false,
            rounds_not_before_ms: 0,
            looked_ms: 0,
            turn: 0,
        }
    }

    /// The numbers that a successor of this core begins with.
    pub fn next_numbers(&self) -> (FlowId, LinkId) {
        (self.next_flow, self.next_link)
    }

    /// The committed metadata changed: follows rules and leaderships.
    pub fn on_view(&mut self, view: &ClusterView, now_ms: u64, effects: &mut Effects) {
        self.follow_rules(view, now_ms);
        let gone = |flow: &Flow| {
            let led = view.leads(flow.partition) && view.leadership(flow.partition).map(|it| it.1) == Some(flow.epoch);
            !led || !view.tees.contains_key(&flow.tee)
        };
        let ended: Vec<FlowId> = self.flows.iter().filter(|(_, flow)| gone(flow)).map(|(id, _)| *id).collect();
        for id in ended {
            self.end_flow(id, effects);
        }
        for (tee, rule) in &view.tees {
            let Some(topic) = view.any_topic(rule.topic) else { continue };
            let partitions = (0..=u16::MAX).zip(&topic.partitions);
            let led = partitions.filter(|(_, (leader, _))| view.node.is_some() && *leader == view.node);
            let mut led_count = 0;
            for (number, (_, epoch)) in led {
                led_count += 1;
                let partition = TopicPartition::new(rule.topic, number);
                if self.places.contains_key(&(*tee, partition)) {
                    continue;
                }
                let id = self.next_flow;
                self.next_flow += 1;
                self.flows.insert(id, Flow::new(*tee, partition, *epoch));
                self.places.insert((*tee, partition), id);
                self.counts.entry((*tee, partition)).or_default();
            }
            if let Some(known) = self.rules.get_mut(tee) {
                known.led = led_count;
                known.bucket.set_rate(known.share(), now_ms);
            }
        }
        self.begin_rounds(now_ms, effects);
    }

    fn follow_rules(&mut self, view: &ClusterView, now_ms: u64) {
        self.rules.retain(|tee, _| view.tees.contains_key(tee));
        self.counts.retain(|(tee, _), _| view.tees.contains_key(tee));
        for (tee, rule) in &view.tees {
            let Some(topic) = view.any_topic(rule.topic) else { continue };
            let known = self.rules.entry(*tee).or_insert_with(|| RuleState {
                rule: rule.clone(),
                topic_name: topic.name.clone(),
                partitions: 0,
                led: 0,
                survey: Survey::default(),
                bucket: TokenBucket::new(0, now_ms),
                held_bytes: 0,
                reads: 0,
            });
            known.partitions = u16::try_from(topic.partitions.len()).unwrap_or(u16::MAX);
        }
    }

    fn end_flow(&mut self, id: FlowId, effects: &mut Effects) {
        self.close_link(id, effects);
        if let Some(mut flow) = self.flows.remove(&id) {
            self.places.remove(&(flow.tee, flow.partition));
            let freed = flow.unload();
            self.free(flow.tee, freed);
        }
    }

    fn free(&mut self, tee: TeeId, bytes: usize) {
        if let Some(rule) = self.rules.get_mut(&tee) {
            rule.held_bytes = rule.held_bytes.saturating_sub(bytes);
        }
    }

    /// Time has passed; `now_ms` never goes back.
    pub fn on_tick(&mut self, now_ms: u64, effects: &mut Effects) {
        self.begin_rounds(now_ms, effects);
        self.look(now_ms, effects);
        self.check_links(now_ms, effects);
        self.begin_surveys(now_ms, effects);
        self.pump_all(now_ms, effects);
    }

    /// When [`TeeCore::on_tick`] is to be called again.
    pub fn next_tick_ms(&self) -> u64 {
        let waits = |flow: &Flow| flow.stage != Stage::Running || !flow.is_empty() || flow.unstored;
        match self.flows.is_empty() {
            true => UNUSED_TICK_MS,
            false if self.flows.values().any(waits) => BUSY_TICK_MS,
            false => IDLE_TICK_MS,
        }
    }

    /// Every flow in turn, beginning with another one each time.
    fn pump_all(&mut self, now_ms: u64, effects: &mut Effects) {
        let ids: Vec<FlowId> =
            self.flows.range(self.turn..).chain(self.flows.range(..self.turn)).map(|it| *it.0).collect();
        self.turn = ids.get(1).copied().unwrap_or(0);
        for id in ids {
            self.pump(id, now_ms, effects);
        }
    }

    fn pump_rule(&mut self, tee: TeeId, now_ms: u64, effects: &mut Effects) {
        let ids: Vec<FlowId> = self.flows.iter().filter(|(_, flow)| flow.tee == tee).map(|(id, _)| *id).collect();
        for id in ids {
            self.pump(id, now_ms, effects);
        }
    }

    /// Whatever the flow can do now.
    fn pump(&mut self, id: FlowId, now_ms: u64, effects: &mut Effects) {
        self.pump_target(id, now_ms, effects);
        self.pump_source(id, now_ms, effects);
    }

    /// Something did not work: tried again later, and later each time.
    fn fail(&mut self, id: FlowId, reason: String, stuck: bool, now_ms: u64, effects: &mut Effects) {
        let seed = self.options.seed;
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.failures = flow.failures.saturating_add(1);
        flow.not_before_ms = now_ms + rest_ms(flow.failures, flow.seed(seed));
        flow.state = if stuck { TeeState::Stuck } else { TeeState::Waiting };
        let (tee, partition) = (flow.tee, flow.partition);
        if flow.error != reason {
            let note = TeeNote::Failed { reason: reason.clone(), stuck };
            effects.push(TeeEffect::Note { tee, partition, note });
            flow.error = reason;
        }
        let freed = if flow.failures >= UNLOAD_FAILURES && flow.sent == 0 { flow.unload() } else { 0 };
        self.free(tee, freed);
        if let Some(counts) = self.counts.get_mut(&(tee, partition)) {
            counts.errors += 1;
        }
    }

    /// Forgets what was read and sent, and goes on from the last checkpoint; with another producer, where the target
    /// does not know the one before.
    fn restart(&mut self, id: FlowId, fresh: bool, reason: &str, effects: &mut Effects) {
        self.close_link(id, effects);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let freed = flow.go_to(flow.front);
        if let Some(durable) = flow.durable {
            flow.resume(durable);
        }
        if fresh {
            flow.forget_producer();
        }
        flow.trouble = None;
        let (tee, partition) = (flow.tee, flow.partition);
        self.free(tee, freed);
        let reason = reason.to_owned();
        let note = if fresh { TeeNote::ProducerReplaced { reason } } else { TeeNote::Rewound { reason } };
        effects.push(TeeEffect::Note { tee, partition, note });
        if let Some(counts) = self.counts.get_mut(&(tee, partition)) {
            counts.restarts += 1;
        }
    }
}

impl RuleState {
    /// The part of the rule's rate that the partitions led here have; 0 = unlimited.
    fn share(&self) -> u64 {
        let rate = self.rule.bytes_per_second;
        let share = u128::from(rate) * u128::from(self.led) / u128::from(self.partitions.max(1));
        u64::try_from(share).unwrap_or(rate).max(u64::from(rate > 0))
    }
}

//! The metadata leader's part in a change of leader: open an epoch, ask for promises, choose the one that holds most.

use super::answer::MetadataEvent;
use super::command::{EpochOpening, LeaderChoice, MetadataCommand};
use super::lease::FAILURE_TIMEOUT_MS;
use super::liveness::Liveness;
use super::moves::{Moves, Plan};
use super::promise::{Ballot, CleanAnswer, Preference, PromiseAnswer, PromiseOutcome};
use super::relocations::Relocations;
use super::state::MetadataState;
use super::topic::PartitionState;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::peer::PeerIdentity;
use std::collections::BTreeMap;

/// Partitions in one command.
const MAX_PARTITIONS_PER_COMMAND: usize = 4096;

/// How patient the controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// A node that was not heard for this long is dead: what it leads gets new leaders.
    pub failure_timeout_ms: u64,
    /// Unanswered requests for promises are repeated after this.
    pub ask_interval_ms: u64,
    /// How long late answers are waited for once enough are there: one of them may hold more.
    pub choice_grace_ms: u64,
    /// A proposal of its own that was not applied by then is made again; a repeated one is stale and harmless.
    pub proposal_timeout_ms: u64,
    /// A chosen leader that does not report leading by then is passed over by the next epoch.
    pub leading_timeout_ms: u64,
    /// A planned move whose leader is not ready by then is abandoned.
    pub move_timeout_ms: u64,
    /// Planned moves under way at the same time.
    pub moves_at_once: usize,
    /// Leaders are balanced once nothing else changed for this long.
    pub balance_after_ms: u64,
    /// At most one batch of balancing moves is begun in this time.
    pub balance_interval_ms: u64,
    /// Partitions whose replica set is changed at the same time: each copies its whole log.
    pub relocations_at_once: usize,
    /// A node that is being given a copy and is not heard for this long gets none.
    pub newcomer_timeout_ms: u64,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            failure_timeout_ms: FAILURE_TIMEOUT_MS,
            ask_interval_ms: 250,
            choice_grace_ms: 50,
            proposal_timeout_ms: 1000,
            leading_timeout_ms: 1000,
            move_timeout_ms: 5000,
            moves_at_once: 32,
            balance_after_ms: 10_000,
            balance_interval_ms: 1000,
            relocations_at_once: 8,
            newcomer_timeout_ms: 30_000,
        }
    }
}

/// What the controller wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerAction {
    /// Propose this.
    Propose(MetadataCommand),
    /// Ask a node to promise these epochs; it answers by `on_promises`.
    AskPromises {
        /// The node.
        node: NodeId,
        /// Which epochs of which partitions.
        partitions: Vec<(TopicPartition, LeaderEpoch)>,
    },
    /// Ask the leader to stop appends and to report by `on_move_ready` once the target holds everything; may be repeated.
    MoveLeader {
        /// The partition.
        partition: TopicPartition,
        /// The epoch it leads in.
        epoch: LeaderEpoch,
        /// The leader.
        from: NodeId,
        /// Who shall lead next.
        to: NodeId,
    },
}

#[derive(Debug)]
enum Stage {
    Opening { since_ms: u64 },
    Asking(Ballot),
    Choosing { choice: LeaderChoice, since_ms: u64 },
    AwaitingLeader { epoch: LeaderEpoch, since_ms: u64 },
}

/// Requests gathered while one input is handled.
#[derive(Default)]
struct Batch {
    open: Vec<EpochOpening>,
    choose: Vec<LeaderChoice>,
    ask: BTreeMap<NodeId, Vec<(TopicPartition, LeaderEpoch)>>,
}

/// Brings every partition to a leader while this node leads the metadata group; idle otherwise.
#[derive(Debug, Default)]
pub struct Controller {
    options: ControllerOptions,
    active: bool,
    /// Partitions on their way to a leader; settled ones are absent.
    stages: BTreeMap<TopicPartition, Stage>,
    /// How many choices of each node are not committed yet.
    pending: BTreeMap<NodeId, u32>,
    liveness: Liveness,
    moves: Moves,
    relocations: Relocations,
}

impl Controller {
    /// A controller that does nothing until it is activated.
    pub fn new(options: ControllerOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// This node leads the metadata group, and `state` has everything committed before.
    pub fn activate(&mut self, state: &MetadataState, now_ms: u64, actions: &mut Vec<ControllerAction>) {
        self.active = true;
        self.liveness.activate(state, now_ms, self.options.failure_timeout_ms);
        let mut batch = Batch::default();
        self.start_over(state, now_ms, &mut batch);
        batch.flush(actions);
    }

    /// This node does not lead the metadata group.
    pub fn deactivate(&mut self) {
        self.active = false;
        self.clear();
    }

    /// A node was heard in this life and boot; counts also while this node does not lead.
    pub fn on_heard(&mut self, state: &MetadataState, peer: PeerIdentity, now_ms: u64) {
        self.liveness.on_heard(state, peer, now_ms);
    }

    /// Facts were applied, `state` includes them.
    pub fn on_events(
        &mut self,
        state: &MetadataState,
        events: &[MetadataEvent],
        now_ms: u64,
        actions: &mut Vec<ControllerAction>,
    ) {
        for event in events {
            match *event {
                MetadataEvent::NodeRegistered { node, incarnation, boot_number } => {
                    self.liveness.on_registered(PeerIdentity { node, incarnation, boot_number }, now_ms);
                }
                MetadataEvent::NodeRemoved { node } => self.liveness.on_removed(node),
                _ => {}
            }
        }
        if !self.active {
            return;
        }
        let mut batch = Batch::default();
        for event in events {
            self.on_event(state, event, now_ms, &mut batch);
        }
        batch.flush(actions);
    }

    /// A node has answered; answers to other epochs than the one asked for are passed over.
    pub fn on_promises(
        &mut self,
        state: &MetadataState,
        node: NodeId,
        answers: &[PromiseAnswer],
        now_ms: u64,
        actions: &mut Vec<ControllerAction>,
    ) {
        let mut batch = Batch::default();
        for answer in answers {
            self.on_promise(state, node, answer, now_ms, &mut batch);
        }
        batch.flush(actions);
    }

    /// The leader of `epoch` asks for the next one: its log went through recovery, or it refuses the role.
    pub fn on_epoch_requested(
        &mut self,
        state: &MetadataState,
        requests: &[(TopicPartition, LeaderEpoch)],
        now_ms: u64,
        actions: &mut Vec<ControllerAction>,
    ) {
        if !self.active {
            return;
        }
        let mut batch = Batch::default();
        for &(partition, epoch) in requests {
            let Some(decided) = state.partition(partition) else {
                continue;
            };
            let changing = matches!(self.stages.get(&partition), Some(stage) if stage.is_before_leader());
            if decided.epoch == epoch && !changing {
                self.moves.on_unrest(now_ms);
                self.open(partition, decided, now_ms, &mut batch);
            }
        }
        batch.flush(actions);
    }

    /// A leader that was asked to move, or hands over by itself, has stopped its appends, and `to` holds everything.
    pub fn on_move_ready(
        &mut self,
        state: &MetadataState,
        from: NodeId,
        (partition, epoch, to): (TopicPartition, LeaderEpoch, NodeId),
        now_ms: u64,
        actions: &mut Vec<ControllerAction>,
    ) {
        let Some(decided) = state.partition(partition).filter(|decided| decided.epoch == epoch) else {
            return;
        };
        let is_led = decided.leader.is_some_and(|leader| leader.node == from);
        if !is_led || from == to || !decided.is_in_quorum(to) {
            return;
        }
        let mut batch = Batch::default();
        let may_open = self.active && !self.stages.contains_key(&partition);
        if may_open && self.moves.on_ready(partition, (epoch, from), to, now_ms) {
            self.open(partition, decided, now_ms, &mut batch);
        }
        batch.flush(actions);
    }

    /// A leader found its own disk slower than those of its followers: others shall lead these partitions.
    pub fn on_leader_slow(
        &mut self,
        state: &MetadataState,
        node: NodeId,
        led: &[(TopicPartition, LeaderEpoch)],
        now_ms: u64,
    ) {
        let leads = |(partition, epoch): &(TopicPartition, LeaderEpoch)| {
            let decided = state.partition(*partition).filter(|decided| decided.epoch == *epoch);
            decided.and_then(|decided| decided.leader).is_some_and(|leader| leader.node == node)
        };
        let mut led = led.iter().copied().filter(leads).peekable();
        if self.active && led.peek().is_some() {
            self.moves.relief.on_leader_slow(node, led, now_ms);
        }
    }

    /// A chosen leader reports that it leads.
    pub fn on_leading(&mut self, partition: TopicPartition, epoch: LeaderEpoch) {
        let awaited =
            |stage: &Stage| matches!(stage, Stage::AwaitingLeader { epoch: awaited, .. } if *awaited == epoch);
        if self.stages.get(&partition).is_some_and(awaited) {
            self.end_stage(partition);
        }
    }

    /// Time has passed.
    pub fn on_tick(&mut self, state: &MetadataState, now_ms: u64, actions: &mut Vec<ControllerAction>) {
        if !self.active {
            return;
        }
        let mut batch = Batch::default();
        let change = self.liveness.on_tick(state, now_ms, self.options.failure_timeout_ms);
        if change.returned || !change.died.is_empty() {
            self.moves.on_unrest(now_ms);
        }
        if !change.died.is_empty() {
            for (partition, decided) in state.partitions() {
                let lost = decided.leader.is_some_and(|leader| change.died.contains(&leader.node));
                let changing = self.stages.get(&partition).is_some_and(Stage::is_before_leader);
                // A sole copy has nobody to lead in its place: it goes on once it is heard again.
                if lost && !changing && decided.replicas.len() > 1 {
                    self.open(partition, decided, now_ms, &mut batch);
                }
            }
        }
        self.on_due(state, now_ms, &mut batch);
        batch.flush(actions);
        let Self { options, stages, liveness, moves, relocations, .. } = self;
        let plan = Plan {
            state,
            options,
            is_alive: &|node| liveness.is_alive(node),
            is_settled: &|partition| !stages.contains_key(&partition),
            now_ms,
        };
        moves.on_tick(&plan, actions);
        relocations.on_tick(&plan, actions);
    }

    /// Partitions that wait for clean answers, with how many they have: they are offline.
    pub fn waiting(&self) -> impl Iterator<Item = (TopicPartition, usize)> {
        self.stages.iter().filter_map(|(partition, stage)| match stage {
            Stage::Asking(ballot) => Some((*partition, ballot.clean_count())),
            _ => None,
        })
    }

    /// Whether every partition has its leader.
    pub fn is_settled(&self) -> bool {
        self.stages.is_empty()
    }

    /// Whether a node was heard within the failure time-out; only the metadata leader looks at the clock.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.liveness.is_alive(node)
    }

    /// Whether a node was heard within the failure time-out, on any node: for those who only look.
    pub fn is_heard(&self, state: &MetadataState, node: NodeId, now_ms: u64) -> bool {
        !self.liveness.silent(state, node, now_ms, self.options.failure_timeout_ms)
    }

    /// How many planned moves are under way.
    pub fn move_count(&self) -> usize {
        self.moves.active_count()
    }

    fn on_due(&mut self, state: &MetadataState, now_ms: u64, batch: &mut Batch) {
        let due = self.stages.iter().filter(|(_, stage)| now_ms >= stage.due_ms(&self.options));
        let due: Vec<TopicPartition> = due.map(|(partition, _)| *partition).collect();
        for partition in due {
            let Some(decided) = state.partition(partition) else {
                self.end_stage(partition);
                continue;
            };
            match self.stages.get_mut(&partition) {
                Some(Stage::Asking(ballot)) => {
                    if now_ms >= ballot.asked_at_ms.saturating_add(self.options.ask_interval_ms) {
                        ballot.asked_at_ms = now_ms;
                        batch.ask_owing(partition, decided, ballot);
                    }
                    self.decide(state, partition, decided, now_ms, batch);
                }
                Some(Stage::Choosing { choice, since_ms }) => {
                    *since_ms = now_ms;
                    batch.choose.push(*choice);
                }
                // Nobody could be elected in its place, as after a recovery: it goes on until another copy counts.
                Some(Stage::AwaitingLeader { since_ms, .. }) if !state.may_elect(decided) => *since_ms = now_ms,
                _ => self.open(partition, decided, now_ms, batch),
            }
        }
    }

    /// Looks at every partition anew.
    fn start_over(&mut self, state: &MetadataState, now_ms: u64, batch: &mut Batch) {
        self.clear();
        self.moves.restart(now_ms);
        self.relocations = Relocations::default();
        for (partition, decided) in state.partitions() {
            let heard = |node| decided.replicas.len() == 1 || self.liveness.is_alive(node);
            if state.leader_is_current(decided) && decided.leader.is_some_and(|leader| heard(leader.node)) {
                continue;
            }
            if decided.leader.is_none() && decided.epoch.0 > 0 {
                self.ask(partition, decided, now_ms, batch);
            } else {
                self.open(partition, decided, now_ms, batch);
            }
        }
    }

    fn on_event(&mut self, state: &MetadataState, event: &MetadataEvent, now_ms: u64, batch: &mut Batch) {
        match *event {
            MetadataEvent::TopicCreated { topic, partitions } => {
                let created = (0..partitions).map(|number| TopicPartition::new(topic, number));
                self.open_new(state, created, now_ms, batch);
            }
            MetadataEvent::PartitionsAdded { topic, first, partitions } => {
                let added = (first..partitions).map(|number| TopicPartition::new(topic, number));
                self.open_new(state, added, now_ms, batch);
            }
            MetadataEvent::TopicDeleted { topic, .. } => {
                let gone = self.stages.keys().copied().filter(|partition| partition.topic == topic);
                for partition in gone.collect::<Vec<_>>() {
                    self.end_stage(partition);
                }
                self.moves.retain(|partition| partition.topic != topic);
                self.moves.on_unrest(now_ms);
            }
            MetadataEvent::EpochOpened { partition, .. } => {
                self.moves.on_epoch_opened(partition);
                if let Some(decided) = state.partition(partition) {
                    self.ask(partition, decided, now_ms, batch);
                }
            }
            MetadataEvent::LeaderChosen { partition, epoch, .. } => {
                self.moves.on_leader_chosen(partition);
                let copies = state.partition(partition).map_or(0, |decided| decided.replicas.len());
                if copies > 1 {
                    self.set_stage(partition, Stage::AwaitingLeader { epoch, since_ms: now_ms });
                } else {
                    // Nobody else could lead: waiting for a report would only open epochs in vain.
                    self.end_stage(partition);
                }
            }
            MetadataEvent::NodeRegistered { node, .. } => {
                self.moves.on_unrest(now_ms);
                self.on_node_registered(state, node, now_ms, batch);
            }
            MetadataEvent::ReplicasChanged { .. }
            | MetadataEvent::ReplicasPlanned { .. }
            | MetadataEvent::ReplicationFactorSet { .. }
            | MetadataEvent::DrainingSet { .. }
            | MetadataEvent::NodeRemoved { .. } => self.moves.on_unrest(now_ms),
            MetadataEvent::RetentionSet { .. }
            | MetadataEvent::InQuorumChanged { .. }
            | MetadataEvent::ReplicaAdmitted { .. }
            | MetadataEvent::NodeAllowed { .. }
            | MetadataEvent::TopicModeSet { .. }
            | MetadataEvent::TeesChanged { .. }
            | MetadataEvent::SecurityChanged
            | MetadataEvent::FeatureLevelRaised { .. }
            | MetadataEvent::PartitionRecovered { .. } => {}
            MetadataEvent::StateReplaced => self.start_over(state, now_ms, batch),
        }
    }

    /// A node that starts again may not go on leading, and is asked at once for what it owes.
    fn on_node_registered(&mut self, state: &MetadataState, node: NodeId, now_ms: u64, batch: &mut Batch) {
        for (partition, decided) in state.partitions().filter(|(_, decided)| decided.has_replica(node)) {
            match self.stages.get_mut(&partition) {
                Some(Stage::Asking(ballot)) => {
                    ballot.forget(node);
                    batch.ask.entry(node).or_default().push((partition, ballot.epoch));
                }
                Some(Stage::Opening { .. }) => {}
                Some(Stage::Choosing { choice, .. }) if choice.leader != node => {}
                Some(Stage::Choosing { .. }) => self.ask(partition, decided, now_ms, batch),
                Some(Stage::AwaitingLeader { .. }) | None => {
                    let leads = decided.leader.is_some_and(|leader| leader.node == node);
                    if leads && !state.leader_is_current(decided) {
                        self.open(partition, decided, now_ms, batch);
                    }
                }
            }
        }
    }

    fn on_promise(
        &mut self,
        state: &MetadataState,
        node: NodeId,
        answer: &PromiseAnswer,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        let partition = answer.partition;
        let Some(decided) = state.partition(partition) else {
            return;
        };
        let Some(Stage::Asking(ballot)) = self.stages.get_mut(&partition) else {
            return;
        };
        if ballot.epoch != answer.epoch || !decided.has_replica(node) {
            return;
        }
        match answer.outcome {
            PromiseOutcome::Clean { incarnation, boot_number, last_epoch, durable_end } => {
                let answer = CleanAnswer { incarnation, boot_number, last_epoch, durable_end };
                ballot.note(state, decided, node, answer);
            }
            PromiseOutcome::Unclean => ballot.note_unclean(node),
            PromiseOutcome::Promised { epoch: promised } => {
                if promised > ballot.epoch {
                    self.open(partition, decided, now_ms, batch);
                }
                return;
            }
        }
        self.decide(state, partition, decided, now_ms, batch);
    }

    /// Proposes the leader of a partition whose ballot has one.
    fn decide(
        &mut self,
        state: &MetadataState,
        partition: TopicPartition,
        decided: &PartitionState,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        let Self { options, stages, pending, liveness, moves, .. } = self;
        let Some(Stage::Asking(ballot)) = stages.get_mut(&partition) else {
            return;
        };
        let count = |counts: &BTreeMap<NodeId, u32>, node| counts.get(&node).copied().unwrap_or(0);
        let preference = Preference {
            target: moves.target(partition),
            is_alive: &|node| liveness.is_alive(node),
            is_slow: &|node| moves.relief.is_slow(node, now_ms),
            leader_count: &|node| count(state.leader_counts(), node).saturating_add(count(pending, node)),
        };
        let times = (now_ms, options.choice_grace_ms);
        if let Some(choice) = ballot.decide(state, (partition, decided), &preference, times) {
            batch.choose.push(choice);
            self.set_stage(partition, Stage::Choosing { choice, since_ms: now_ms });
        }
    }

    fn open_new(
        &mut self,
        state: &MetadataState,
        partitions: impl Iterator<Item = TopicPartition>,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        self.moves.on_unrest(now_ms);
        for partition in partitions {
            if let Some(decided) = state.partition(partition) {
                self.open(partition, decided, now_ms, batch);
            }
        }
    }

    fn open(&mut self, partition: TopicPartition, decided: &PartitionState, now_ms: u64, batch: &mut Batch) {
        // An epoch never wraps: a partition that used up all of them stays without a leader.
        if let Some(next) = decided.epoch.0.checked_add(1) {
            batch.open.push(EpochOpening { partition, epoch: LeaderEpoch(next) });
        }
        self.set_stage(partition, Stage::Opening { since_ms: now_ms });
    }

    fn ask(&mut self, partition: TopicPartition, decided: &PartitionState, now_ms: u64, batch: &mut Batch) {
        let ballot = Ballot::new(decided.epoch, now_ms);
        batch.ask_owing(partition, decided, &ballot);
        self.set_stage(partition, Stage::Asking(ballot));
    }

    fn set_stage(&mut self, partition: TopicPartition, stage: Stage) {
        self.end_stage(partition);
        if let Stage::Choosing { choice, .. } = &stage {
            let count = self.pending.entry(choice.leader).or_default();
            *count = count.saturating_add(1);
        }
        self.stages.insert(partition, stage);
    }

    fn end_stage(&mut self, partition: TopicPartition) {
        if let Some(Stage::Choosing { choice, .. }) = self.stages.remove(&partition)
            && let Some(count) = self.pending.get_mut(&choice.leader)
        {
            *count = count.saturating_sub(1);
        }
    }

    fn clear(&mut self) {
        self.stages.clear();
        self.pending.clear();
        self.moves.retain(|_| false);
    }
}

impl Stage {
    fn due_ms(&self, options: &ControllerOptions) -> u64 {
        match self {
            Self::Opening { since_ms } | Self::Choosing { since_ms, .. } => {
                since_ms.saturating_add(options.proposal_timeout_ms)
            }
            Self::Asking(ballot) => ballot.due_ms(options.ask_interval_ms, options.choice_grace_ms),
            Self::AwaitingLeader { since_ms, .. } => since_ms.saturating_add(options.leading_timeout_ms),
        }
    }

    fn is_before_leader(&self) -> bool {
        !matches!(self, Self::AwaitingLeader { .. })
    }
}

impl Batch {
    fn ask_owing(&mut self, partition: TopicPartition, decided: &PartitionState, ballot: &Ballot) {
        for node in ballot.owing(decided) {
            self.ask.entry(node).or_default().push((partition, ballot.epoch));
        }
    }

    fn flush(self, actions: &mut Vec<ControllerAction>) {
        for partitions in self.open.chunks(MAX_PARTITIONS_PER_COMMAND) {
            let partitions = partitions.to_vec();
            actions.push(ControllerAction::Propose(MetadataCommand::OpenEpoch { partitions }));
        }
        for partitions in self.choose.chunks(MAX_PARTITIONS_PER_COMMAND) {
            let partitions = partitions.to_vec();
            actions.push(ControllerAction::Propose(MetadataCommand::LeaderChosen { partitions }));
        }
        for (node, partitions) in self.ask {
            actions.push(ControllerAction::AskPromises { node, partitions });
        }
    }
}

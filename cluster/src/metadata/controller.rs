//! The metadata leader's part in a change of leader: open an epoch, ask for promises, choose the one that holds most.

use super::answer::MetadataEvent;
use super::command::{EpochOpening, LeaderChoice, MetadataCommand};
use super::state::MetadataState;
use super::topic::{PartitionState, ReplicaIncarnation};
use crate::replica::quorum::quorum_size;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Unanswered requests for promises are repeated after this.
const ASK_INTERVAL_MS: u64 = 250;
/// A proposal of the controller's own that was not applied by then is made again; a repeated one is stale and harmless.
const PROPOSAL_TIMEOUT_MS: u64 = 1000;
/// A chosen leader that does not report leading by then is passed over by the next epoch.
const LEADING_TIMEOUT_MS: u64 = 1000;
/// Partitions in one command.
const MAX_PARTITIONS_PER_COMMAND: usize = 4096;

/// A replica's answer to a request for its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromiseAnswer {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch that was asked for.
    pub epoch: LeaderEpoch,
    /// What the replica says.
    pub outcome: PromiseOutcome,
}

/// What a replica says once its promise is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromiseOutcome {
    /// It promises, and holds everything it ever confirmed.
    Clean {
        /// Its incarnation.
        incarnation: ReplicaIncarnation,
        /// The start of its process.
        boot_number: u64,
        /// Epoch of the last batch in its log.
        last_epoch: LeaderEpoch,
        /// First position not synced there.
        durable_end: u64,
    },
    /// It may have lost what it confirmed: it does not count.
    Unclean,
    /// It has promised a higher epoch.
    Promised {
        /// Which.
        epoch: LeaderEpoch,
    },
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
}

#[derive(Debug)]
enum Stage {
    Opening { since_ms: u64 },
    Asking { epoch: LeaderEpoch, answers: BTreeMap<NodeId, CleanAnswer>, asked_at_ms: u64 },
    Choosing { choice: LeaderChoice, since_ms: u64 },
    AwaitingLeader { epoch: LeaderEpoch, since_ms: u64 },
}

#[derive(Clone, Copy, Debug)]
struct CleanAnswer {
    incarnation: ReplicaIncarnation,
    boot_number: u64,
    last_epoch: LeaderEpoch,
    durable_end: u64,
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
    active: bool,
    /// Partitions on their way to a leader; settled ones are absent.
    stages: BTreeMap<TopicPartition, Stage>,
}

impl Controller {
    /// This node leads the metadata group, and `state` has everything committed before.
    pub fn activate(&mut self, state: &MetadataState, now_ms: u64, actions: &mut Vec<ControllerAction>) {
        self.active = true;
        self.stages.clear();
        let mut batch = Batch::default();
        for (partition, decided) in state.partitions() {
            self.settle_or_start(partition, decided, state, now_ms, &mut batch);
        }
        batch.flush(actions);
    }

    /// This node does not lead the metadata group.
    pub fn deactivate(&mut self) {
        self.active = false;
        self.stages.clear();
    }

    /// Facts were applied, `state` includes them.
    pub fn on_events(
        &mut self,
        state: &MetadataState,
        events: &[MetadataEvent],
        now_ms: u64,
        actions: &mut Vec<ControllerAction>,
    ) {
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
                self.open(partition, decided, now_ms, &mut batch);
            }
        }
        batch.flush(actions);
    }

    /// A chosen leader reports that it leads.
    pub fn on_leading(&mut self, partition: TopicPartition, epoch: LeaderEpoch) {
        let awaited =
            |stage: &Stage| matches!(stage, Stage::AwaitingLeader { epoch: awaited, .. } if *awaited == epoch);
        if self.stages.get(&partition).is_some_and(awaited) {
            self.stages.remove(&partition);
        }
    }

    /// Time has passed.
    pub fn on_tick(&mut self, state: &MetadataState, now_ms: u64, actions: &mut Vec<ControllerAction>) {
        let mut batch = Batch::default();
        let due: Vec<TopicPartition> =
            self.stages.iter().filter(|(_, stage)| now_ms >= stage.due_ms()).map(|(partition, _)| *partition).collect();
        for partition in due {
            let Some(decided) = state.partition(partition) else {
                self.stages.remove(&partition);
                continue;
            };
            match self.stages.get_mut(&partition) {
                Some(Stage::Asking { epoch, answers, asked_at_ms }) => {
                    *asked_at_ms = now_ms;
                    batch.ask_missing(partition, *epoch, decided, answers);
                }
                Some(Stage::Choosing { choice, since_ms }) => {
                    *since_ms = now_ms;
                    batch.choose.push(*choice);
                }
                _ => self.open(partition, decided, now_ms, &mut batch),
            }
        }
        batch.flush(actions);
    }

    /// Partitions that wait for clean answers, with how many they have: they are offline.
    pub fn waiting(&self) -> impl Iterator<Item = (TopicPartition, usize)> {
        self.stages.iter().filter_map(|(partition, stage)| match stage {
            Stage::Asking { answers, .. } => Some((*partition, answers.len())),
            _ => None,
        })
    }

    /// Whether every partition has its leader.
    pub fn is_settled(&self) -> bool {
        self.stages.is_empty()
    }

    fn settle_or_start(
        &mut self,
        partition: TopicPartition,
        decided: &PartitionState,
        state: &MetadataState,
        now_ms: u64,
        batch: &mut Batch,
    ) {
        if state.leader_is_current(decided) {
            self.stages.remove(&partition);
        } else if decided.leader.is_none() && decided.epoch.0 > 0 {
            self.ask(partition, decided, now_ms, batch);
        } else {
            self.open(partition, decided, now_ms, batch);
        }
    }

    fn on_event(&mut self, state: &MetadataState, event: &MetadataEvent, now_ms: u64, batch: &mut Batch) {
        match *event {
            MetadataEvent::TopicCreated { topic, partitions } => {
                self.open_new(state, (0..partitions).map(|number| TopicPartition::new(topic, number)), now_ms, batch);
            }
            MetadataEvent::PartitionsAdded { topic, first, partitions } => {
                let added = (first..partitions).map(|number| TopicPartition::new(topic, number));
                self.open_new(state, added, now_ms, batch);
            }
            MetadataEvent::TopicDeleted { topic, .. } => {
                self.stages.retain(|partition, _| partition.topic != topic);
            }
            MetadataEvent::EpochOpened { partition, .. } => {
                if let Some(decided) = state.partition(partition) {
                    self.ask(partition, decided, now_ms, batch);
                }
            }
            MetadataEvent::LeaderChosen { partition, epoch, .. } => {
                let copies = state.partition(partition).map_or(0, |decided| decided.replicas.len());
                if copies > 1 {
                    self.stages.insert(partition, Stage::AwaitingLeader { epoch, since_ms: now_ms });
                } else {
                    // Nobody else could lead: waiting for a report would only open epochs in vain.
                    self.stages.remove(&partition);
                }
            }
            MetadataEvent::NodeRegistered { node, .. } => self.on_node_registered(state, node, now_ms, batch),
            MetadataEvent::RetentionSet { .. } => {}
            MetadataEvent::StateReplaced => {
                self.stages.clear();
                for (partition, decided) in state.partitions() {
                    self.settle_or_start(partition, decided, state, now_ms, batch);
                }
            }
        }
    }

    /// A node that starts again may not go on leading, and is asked at once for what it owes.
    fn on_node_registered(&mut self, state: &MetadataState, node: NodeId, now_ms: u64, batch: &mut Batch) {
        for (partition, decided) in state.partitions().filter(|(_, decided)| decided.has_replica(node)) {
            match self.stages.get_mut(&partition) {
                Some(Stage::Asking { epoch, answers, .. }) => {
                    answers.remove(&node);
                    batch.ask.entry(node).or_default().push((partition, *epoch));
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
        let Some(Stage::Asking { epoch, answers, .. }) = self.stages.get_mut(&partition) else {
            return;
        };
        if *epoch != answer.epoch || !decided.has_replica(node) {
            return;
        }
        match answer.outcome {
            PromiseOutcome::Clean { incarnation, boot_number, last_epoch, durable_end } => {
                answers.insert(node, CleanAnswer { incarnation, boot_number, last_epoch, durable_end });
            }
            PromiseOutcome::Unclean => {
                answers.remove(&node);
            }
            PromiseOutcome::Promised { epoch: promised } => {
                if promised > *epoch {
                    self.open(partition, decided, now_ms, batch);
                }
                return;
            }
        }
        if let Some(choice) = choose(state, partition, decided, answers) {
            batch.choose.push(choice);
            self.stages.insert(partition, Stage::Choosing { choice, since_ms: now_ms });
        }
    }

    fn open_new(
        &mut self,
        state: &MetadataState,
        partitions: impl Iterator<Item = TopicPartition>,
        now_ms: u64,
        batch: &mut Batch,
    ) {
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
        self.stages.insert(partition, Stage::Opening { since_ms: now_ms });
    }

    fn ask(&mut self, partition: TopicPartition, decided: &PartitionState, now_ms: u64, batch: &mut Batch) {
        let (epoch, answers) = (decided.epoch, BTreeMap::new());
        batch.ask_missing(partition, epoch, decided, &answers);
        self.stages.insert(partition, Stage::Asking { epoch, answers, asked_at_ms: now_ms });
    }
}

/// The winner, once M − quorum + 1 replicas have answered: any committed batch is on at least one of so many.
fn choose(
    state: &MetadataState,
    partition: TopicPartition,
    decided: &PartitionState,
    answers: &BTreeMap<NodeId, CleanAnswer>,
) -> Option<LeaderChoice> {
    let copies = decided.replicas.len();
    let counted = answers.iter().filter(|(node, answer)| {
        let admitted = decided.replica(**node).is_some_and(|replica| replica.admitted == answer.incarnation);
        admitted && state.node(**node).is_some_and(|known| known.boot_number == answer.boot_number)
    });
    if counted.clone().count() < copies + 1 - quorum_size(copies) {
        return None;
    }
    let place = |node: NodeId| decided.replicas.iter().position(|replica| replica.node == node);
    let (leader, best) = counted.max_by_key(|(node, answer)| {
        let preference = (decided.in_quorum.contains(node), Reverse(place(**node)));
        (answer.last_epoch, answer.durable_end, preference)
    })?;
    Some(LeaderChoice {
        partition,
        epoch: decided.epoch,
        leader: *leader,
        incarnation: best.incarnation,
        boot_number: best.boot_number,
    })
}

impl Stage {
    fn due_ms(&self) -> u64 {
        match self {
            Self::Opening { since_ms } | Self::Choosing { since_ms, .. } => since_ms + PROPOSAL_TIMEOUT_MS,
            Self::Asking { asked_at_ms, .. } => asked_at_ms + ASK_INTERVAL_MS,
            Self::AwaitingLeader { since_ms, .. } => since_ms + LEADING_TIMEOUT_MS,
        }
    }

    fn is_before_leader(&self) -> bool {
        !matches!(self, Self::AwaitingLeader { .. })
    }
}

impl Batch {
    fn ask_missing(
        &mut self,
        partition: TopicPartition,
        epoch: LeaderEpoch,
        decided: &PartitionState,
        answers: &BTreeMap<NodeId, CleanAnswer>,
    ) {
        for replica in decided.replicas.iter().filter(|replica| !answers.contains_key(&replica.node)) {
            self.ask.entry(replica.node).or_default().push((partition, epoch));
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

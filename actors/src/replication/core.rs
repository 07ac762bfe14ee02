//! `ReplicationCore`: keeps the promises of this node's replicas, and starts to lead those it was chosen for.
//!
//! A promise takes effect in the ingestion actor first, which acks nothing of lower epochs from then on and drains what it
//! is writing; then it is made durable here; then it is answered.

use super::promises::PromiseRecord;
use crate::ingestion::replica::{Fenced, LeaderRole};
use lance_cluster::metadata::{PromiseAnswer, PromiseOutcome};
use lance_messages::id::{LeaderEpoch, ReplicaIncarnation, TopicPartition};
use std::collections::BTreeMap;

/// What a replication core wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationEffect {
    /// Make the promises durable before anything that follows.
    PersistPromises,
    /// Tell the shards what their replicas promised before, and in which life they are.
    Introduce(Vec<(TopicPartition, LeaderEpoch, ReplicaIncarnation)>),
    /// Have the shards ack nothing below these epochs.
    Fence(Vec<(TopicPartition, LeaderEpoch)>),
    /// Report promises.
    Answer(Vec<PromiseAnswer>),
    /// Ask for a new epoch instead of this one.
    RequestEpochs(Vec<(TopicPartition, LeaderEpoch)>),
    /// Lead.
    Lead(Vec<LeaderRole>),
    /// Report that a partition is led.
    Led(TopicPartition, LeaderEpoch),
    /// Cut a damaged log back to this position and open it again: it refills from its leader.
    Refill(TopicPartition, u64),
}

#[derive(Clone, Debug, Default)]
struct Replica {
    is_open: bool,
    promised: u32,
    copy_version: u32,
    damage_count: u32,
    /// Asked for while the log was not open.
    asked: Option<LeaderEpoch>,
    chosen: Option<LeaderEpoch>,
    /// A new epoch instead of this one was asked for, and none was opened yet.
    requested: Option<LeaderEpoch>,
    /// Led here, or fed by another node.
    settled: bool,
    stopped: bool,
}

/// The replication core of a node.
#[derive(Debug)]
pub struct ReplicationCore {
    /// The node's incarnation.
    incarnation: u64,
    boot_number: u64,
    replicas: BTreeMap<TopicPartition, Replica>,
}

type Effects = Vec<ReplicationEffect>;

impl ReplicationCore {
    /// A core that knows what was promised before.
    pub fn new(incarnation: u64, boot_number: u64, promises: impl IntoIterator<Item = PromiseRecord>) -> Self {
        let restore = |record: PromiseRecord| {
            let (promised, damage_count) = (record.promised.0, record.damage_count);
            (record.partition, Replica { promised, damage_count, ..Replica::default() })
        };
        Self { incarnation, boot_number, replicas: promises.into_iter().map(restore).collect() }
    }

    /// Everything that is to be durable.
    pub fn promises(&self) -> impl Iterator<Item = PromiseRecord> + '_ {
        self.replicas.iter().map(|(partition, replica)| PromiseRecord {
            partition: *partition,
            promised: LeaderEpoch(replica.promised),
            damage_count: replica.damage_count,
        })
    }

    /// Partitions that are neither led, nor fed by a leader, nor stopped although their log is open.
    pub fn unsettled(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        let waits = |replica: &Replica| replica.is_open && !replica.settled && !replica.stopped;
        self.replicas.iter().filter(move |(_, replica)| waits(replica)).map(|(partition, _)| *partition)
    }

    /// Logs were opened, at start or again after a failure: whatever epoch they were led in is over.
    pub fn on_epochs_wanted(&mut self, logs: &[(TopicPartition, u32, u32)], effects: &mut Effects) {
        let (mut known, mut fence, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for &(partition, last_epoch, copy_version) in logs {
            let replica = self.replicas.entry(partition).or_default();
            (replica.is_open, replica.settled, replica.stopped) = (true, false, false);
            replica.copy_version = copy_version;
            replica.promised = replica.promised.max(last_epoch);
            let incarnation = incarnation_of(self.incarnation, replica);
            known.push((partition, LeaderEpoch(replica.promised), incarnation));
            if let Some(epoch) = replica.asked.take() {
                fence.push((partition, epoch));
            } else if let Some(epoch) = replica.chosen.take() {
                replica.requested = Some(epoch);
                requests.push((partition, epoch));
            }
        }
        push_some(effects, known, ReplicationEffect::Introduce);
        push_some(effects, fence, ReplicationEffect::Fence);
        push_some(effects, requests, ReplicationEffect::RequestEpochs);
    }

    /// This core was built anew while the logs stayed open and led or fed: the epochs they are in go on.
    pub fn on_restarted(&mut self, logs: &[(TopicPartition, u32, u32)], led: &[(TopicPartition, LeaderEpoch)]) {
        for &(partition, last_epoch, copy_version) in logs {
            let replica = self.replicas.entry(partition).or_default();
            replica.promised = replica.promised.max(last_epoch);
            replica.copy_version = copy_version;
            (replica.is_open, replica.settled) = (true, true);
        }
        for &(partition, epoch) in led {
            if let Some(replica) = self.replicas.get_mut(&partition) {
                replica.chosen = Some(epoch);
            }
        }
    }

    /// As [`Self::on_restarted`], for logs that nobody was heard to lead since they were opened: whatever was under way
    /// to that end may be lost with the core before, so a new epoch is asked for until one is opened.
    pub fn on_restarted_unled(&mut self, logs: &[(TopicPartition, u32, u32)], effects: &mut Effects) {
        let (mut known, mut requests) = (Vec::new(), Vec::new());
        for &(partition, last_epoch, copy_version) in logs {
            let replica = self.replicas.entry(partition).or_default();
            (replica.is_open, replica.copy_version) = (true, copy_version);
            replica.promised = replica.promised.max(last_epoch);
            let epoch = LeaderEpoch(replica.promised);
            replica.requested = Some(epoch);
            let incarnation = incarnation_of(self.incarnation, replica);
            known.push((partition, epoch, incarnation));
            requests.push((partition, epoch));
        }
        push_some(effects, known, ReplicationEffect::Introduce);
        push_some(effects, requests, ReplicationEffect::RequestEpochs);
    }

    /// Partitions that were deleted, or moved to other nodes: nothing is owed for them any more.
    pub fn on_gone(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.replicas.remove(partition);
        }
    }

    /// Time has passed: what was asked for and not heard of since is asked for again.
    pub fn on_tick(&mut self, effects: &mut Effects) {
        let unheard = |(partition, replica): (&TopicPartition, &Replica)| Some((*partition, replica.requested?));
        let requests: Vec<_> = self.replicas.iter().filter_map(unheard).collect();
        push_some(effects, requests, ReplicationEffect::RequestEpochs);
    }

    /// The metadata asks for promises.
    pub fn on_promise_wanted(&mut self, asked: &[(TopicPartition, LeaderEpoch)], effects: &mut Effects) {
        let (mut fence, mut answers) = (Vec::new(), Vec::new());
        for &(partition, epoch) in asked {
            let replica = self.replicas.entry(partition).or_default();
            replica.requested = replica.requested.filter(|requested| epoch <= *requested);
            if epoch.0 < replica.promised {
                let outcome = PromiseOutcome::Promised { epoch: LeaderEpoch(replica.promised) };
                answers.push(PromiseAnswer { partition, epoch, outcome });
            } else if replica.is_open {
                fence.push((partition, epoch));
            } else {
                replica.asked = replica.asked.max(Some(epoch));
            }
        }
        push_some(effects, fence, ReplicationEffect::Fence);
        push_some(effects, answers, ReplicationEffect::Answer);
    }

    /// Shards ack nothing below these epochs any more, or cannot promise that.
    pub fn on_fenced(&mut self, fenced: &[(TopicPartition, LeaderEpoch, Fenced)], effects: &mut Effects) {
        let (mut raised, mut answers) = (false, Vec::new());
        for &(partition, epoch, fenced) in fenced {
            let Some(replica) = self.replicas.get_mut(&partition) else {
                continue;
            };
            let outcome = match fenced {
                _ if epoch.0 < replica.promised => PromiseOutcome::Promised { epoch: LeaderEpoch(replica.promised) },
                Fenced::Promised(promised) => {
                    raised |= promised.0 > replica.promised;
                    replica.promised = replica.promised.max(promised.0);
                    PromiseOutcome::Promised { epoch: promised }
                }
                Fenced::Unclean => PromiseOutcome::Unclean,
                Fenced::Clean { incarnation, last_epoch, durable_end } => {
                    // What was raised by following a leader was raised in memory only.
                    raised = true;
                    replica.promised = epoch.0;
                    replica.settled = false;
                    let boot_number = self.boot_number;
                    PromiseOutcome::Clean { incarnation, boot_number, last_epoch, durable_end }
                }
            };
            answers.push(PromiseAnswer { partition, epoch, outcome });
        }
        if raised {
            effects.push(ReplicationEffect::PersistPromises);
        }
        push_some(effects, answers, ReplicationEffect::Answer);
    }

    /// This node, in this start, was chosen to lead.
    pub fn on_leaders_chosen(&mut self, chosen: Vec<LeaderRole>, effects: &mut Effects) {
        let mut lead = Vec::new();
        for role in chosen {
            let Some(replica) = self.replicas.get_mut(&role.partition) else {
                continue;
            };
            // A choice of an epoch this process did not promise was made for an earlier start.
            if !replica.is_open || replica.promised != role.epoch.0 {
                continue;
            }
            replica.chosen = Some(role.epoch);
            replica.requested = replica.requested.filter(|requested| role.epoch <= *requested);
            lead.push(role);
        }
        push_some(effects, lead, ReplicationEffect::Lead);
    }

    /// A partition serves in its epoch, or stopped.
    pub fn on_leadership_changed(
        &mut self,
        partition: TopicPartition,
        result: &Result<LeaderEpoch, String>,
        effects: &mut Effects,
    ) {
        let Some(replica) = self.replicas.get_mut(&partition) else {
            return;
        };
        match result {
            Ok(epoch) if replica.chosen == Some(*epoch) => {
                replica.settled = true;
                effects.push(ReplicationEffect::Led(partition, *epoch));
            }
            Ok(_) => {}
            Err(_) => {
                (replica.settled, replica.stopped) = (false, true);
            }
        }
    }

    /// A partition that was led here stopped, and other nodes hold it: one of them shall lead.
    pub fn on_lead_stopped(&mut self, partition: TopicPartition, epoch: LeaderEpoch, effects: &mut Effects) {
        let Some(replica) = self.replicas.get_mut(&partition) else {
            return;
        };
        (replica.chosen, replica.requested) = (None, Some(epoch));
        effects.push(ReplicationEffect::RequestEpochs(vec![(partition, epoch)]));
    }

    /// A replica is fed by the leader of this epoch.
    pub fn on_following(&mut self, partition: TopicPartition, epoch: LeaderEpoch) {
        if let Some(replica) = self.replicas.get_mut(&partition) {
            replica.promised = replica.promised.max(epoch.0);
            (replica.settled, replica.chosen, replica.requested) = (true, None, None);
        }
    }

    /// A replica with other copies was found damaged from `good_end` on: it begins a new life before its data is touched.
    pub fn on_damaged(&mut self, partition: TopicPartition, good_end: u64, effects: &mut Effects) {
        let replica = self.replicas.entry(partition).or_default();
        replica.damage_count += 1;
        (replica.is_open, replica.settled) = (false, false);
        let led = replica.chosen.take();
        replica.requested = led.or(replica.requested);
        effects.push(ReplicationEffect::PersistPromises);
        effects.push(ReplicationEffect::Refill(partition, good_end));
        push_some(effects, led.map(|epoch| (partition, epoch)).into_iter().collect(), ReplicationEffect::RequestEpochs);
    }
}

fn incarnation_of(node: u64, replica: &Replica) -> ReplicaIncarnation {
    let &Replica { copy_version, damage_count, .. } = replica;
    ReplicaIncarnation { node, copy_version, damage_count }
}

fn push_some<T>(effects: &mut Effects, list: Vec<T>, effect: impl FnOnce(Vec<T>) -> ReplicationEffect) {
    if !list.is_empty() {
        effects.push(effect(list));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
    const INCARNATION: ReplicaIncarnation = ReplicaIncarnation { node: 7, copy_version: 0, damage_count: 0 };

    fn core() -> ReplicationCore {
        ReplicationCore::new(7, 3, [])
    }

    fn clean(last_epoch: u32, durable_end: u64) -> Fenced {
        Fenced::Clean { incarnation: INCARNATION, last_epoch: LeaderEpoch(last_epoch), durable_end }
    }

    /// A core whose partition is led in epoch 1.
    fn leading() -> ReplicationCore {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_epochs_wanted(&[(PARTITION, 0, 0)], &mut effects);
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(1))], &mut effects);
        core.on_fenced(&[(PARTITION, LeaderEpoch(1), clean(0, 0))], &mut effects);
        core.on_leaders_chosen(vec![LeaderRole::alone(PARTITION, LeaderEpoch(1))], &mut effects);
        core.on_leadership_changed(PARTITION, &Ok(LeaderEpoch(1)), &mut effects);
        assert_eq!(effects.last(), Some(&ReplicationEffect::Led(PARTITION, LeaderEpoch(1))));
        core
    }

    #[test]
    fn a_new_epoch_is_asked_for_until_one_is_opened_when_a_led_partition_stops() {
        let mut core = ReplicationCore::new(7, 1, []);
        let mut effects = Vec::new();
        core.on_epochs_wanted(&[(PARTITION, 1, 0)], &mut effects);
        effects.clear();
        core.on_lead_stopped(PARTITION, LeaderEpoch(1), &mut effects);
        core.on_tick(&mut effects);
        let request = ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(1))]);
        assert_eq!(effects, [request.clone(), request]);
        effects.clear();
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(2))], &mut effects);
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!(effects, []);
    }

    #[test]
    fn a_promise_waits_for_the_log_and_the_shard_and_is_durable_before_it_is_answered() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(2))], &mut effects);
        assert_eq!(effects, []);
        core.on_epochs_wanted(&[(PARTITION, 1, 0)], &mut effects);
        let introduced = ReplicationEffect::Introduce(vec![(PARTITION, LeaderEpoch(1), INCARNATION)]);
        assert_eq!(effects, [introduced, ReplicationEffect::Fence(vec![(PARTITION, LeaderEpoch(2))])]);
        effects.clear();
        core.on_fenced(&[(PARTITION, LeaderEpoch(2), clean(1, 500))], &mut effects);
        assert_eq!(effects[0], ReplicationEffect::PersistPromises);
        let ReplicationEffect::Answer(answers) = &effects[1] else { panic!("{effects:?}") };
        let (last_epoch, durable_end) = (LeaderEpoch(1), 500);
        let expected = PromiseOutcome::Clean { incarnation: INCARNATION, boot_number: 3, last_epoch, durable_end };
        assert_eq!(answers[0].outcome, expected);
    }

    #[test]
    fn a_log_opened_again_is_never_led_in_its_old_epoch() {
        let (mut core, mut effects) = (leading(), Vec::new());
        assert_eq!(core.unsettled().count(), 0);
        core.on_epochs_wanted(&[(PARTITION, 1, 0)], &mut effects);
        assert_eq!(effects.last(), Some(&ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(1))])));
        assert_eq!(core.unsettled().count(), 1);
    }

    #[test]
    fn a_request_for_an_epoch_is_repeated_until_one_is_opened() {
        let (mut core, mut effects) = (leading(), Vec::new());
        core.on_tick(&mut effects);
        assert_eq!(effects, []);
        core.on_epochs_wanted(&[(PARTITION, 1, 0)], &mut effects);
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!(effects, [ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(1))])]);
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(2))], &mut effects);
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!(effects, []);
    }

    #[test]
    fn an_epoch_below_the_promised_one_is_refused() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_epochs_wanted(&[(PARTITION, 5, 0)], &mut effects);
        effects.clear();
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(4))], &mut effects);
        let ReplicationEffect::Answer(answers) = &effects[0] else { panic!("{effects:?}") };
        assert_eq!(answers[0].outcome, PromiseOutcome::Promised { epoch: LeaderEpoch(5) });
    }

    #[test]
    fn a_core_built_anew_asks_for_the_epochs_that_nobody_was_heard_to_lead() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_restarted_unled(&[(PARTITION, 3, 0)], &mut effects);
        let request = ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(3))]);
        assert_eq!(effects.last(), Some(&request));
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!(effects, [request]);
        assert_eq!(core.unsettled().count(), 1);
        core.on_gone(&[PARTITION]);
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!((effects.len(), core.unsettled().count(), core.promises().count()), (0, 0, 0));
    }

    #[test]
    fn a_damaged_replica_begins_a_new_life_before_its_log_is_cut() {
        let (mut core, mut effects) = (leading(), Vec::new());
        core.on_damaged(PARTITION, 300, &mut effects);
        let asks = ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(1))]);
        assert_eq!(effects, [ReplicationEffect::PersistPromises, ReplicationEffect::Refill(PARTITION, 300), asks]);
        assert_eq!(core.promises().next().map(|record| record.damage_count), Some(1));
        effects.clear();
        core.on_epochs_wanted(&[(PARTITION, 1, 0)], &mut effects);
        let incarnation = ReplicaIncarnation { damage_count: 1, ..INCARNATION };
        assert_eq!(effects, [ReplicationEffect::Introduce(vec![(PARTITION, LeaderEpoch(1), incarnation)])]);
    }
}

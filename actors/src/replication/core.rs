//! `ReplicationCore`: promises epochs for this node's partitions and starts to lead those it was chosen for.

use lance_cluster::metadata::{PromiseAnswer, PromiseOutcome, ReplicaIncarnation};
use lance_messages::id::{LeaderEpoch, TopicPartition};
use std::collections::BTreeMap;

/// What a replication core wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationEffect {
    /// Make the promises durable before anything that follows.
    PersistPromises,
    /// Report promises.
    Answer(Vec<PromiseAnswer>),
    /// Ask for a new epoch instead of this one.
    RequestEpochs(Vec<(TopicPartition, LeaderEpoch)>),
    /// Lead.
    Lead(Vec<(TopicPartition, LeaderEpoch)>),
    /// Report that a partition is led.
    Led(TopicPartition, LeaderEpoch),
}

#[derive(Clone, Debug, Default)]
struct Replica {
    /// Epoch of the last batch, and durable end, as of when the log was opened; `None` while it is not.
    log: Option<(u32, u64)>,
    promised: u32,
    /// Asked for while the log was not open.
    asked: Option<LeaderEpoch>,
    chosen: Option<LeaderEpoch>,
    /// A new epoch instead of this one was asked for, and none was opened yet.
    requested: Option<LeaderEpoch>,
    leading: bool,
    stopped: bool,
}

/// The replication core of a node.
#[derive(Debug)]
pub struct ReplicationCore {
    incarnation: ReplicaIncarnation,
    boot_number: u64,
    replicas: BTreeMap<TopicPartition, Replica>,
}

type Effects = Vec<ReplicationEffect>;

impl ReplicationCore {
    /// A core that knows what was promised before.
    pub fn new(
        incarnation: ReplicaIncarnation,
        boot_number: u64,
        promises: impl IntoIterator<Item = (TopicPartition, u32)>,
    ) -> Self {
        let replicas = promises
            .into_iter()
            .map(|(partition, promised)| (partition, Replica { promised, ..Replica::default() }))
            .collect();
        Self { incarnation, boot_number, replicas }
    }

    /// Every promise, to be made durable.
    pub fn promises(&self) -> impl Iterator<Item = (TopicPartition, u32)> + '_ {
        self.replicas.iter().map(|(partition, replica)| (*partition, replica.promised))
    }

    /// Partitions that are neither led nor stopped although their log is open.
    pub fn unsettled(&self) -> usize {
        self.replicas.values().filter(|replica| replica.log.is_some() && !replica.leading && !replica.stopped).count()
    }

    /// Logs were opened, at start or again after a failure: whatever epoch they were led in is over.
    pub fn on_epochs_wanted(&mut self, logs: &[(TopicPartition, u32, u64)], effects: &mut Effects) {
        let mut answers = Vec::new();
        let mut requests = Vec::new();
        for &(partition, last_epoch, durable_end) in logs {
            let replica = self.replicas.entry(partition).or_default();
            replica.log = Some((last_epoch, durable_end));
            replica.leading = false;
            replica.stopped = false;
            replica.promised = replica.promised.max(last_epoch);
            if let Some(epoch) = replica.asked.take() {
                answers.push((partition, epoch));
            } else if let Some(epoch) = replica.chosen.take() {
                replica.requested = Some(epoch);
                requests.push((partition, epoch));
            }
        }
        self.promise(&answers, effects);
        if !requests.is_empty() {
            effects.push(ReplicationEffect::RequestEpochs(requests));
        }
    }

    /// This core was built anew while the logs stayed open and led: the epochs they are led in go on.
    pub fn on_restarted(&mut self, logs: &[(TopicPartition, u32, u64)]) {
        for &(partition, last_epoch, durable_end) in logs {
            let replica = self.replicas.entry(partition).or_default();
            replica.log = Some((last_epoch, durable_end));
            replica.promised = replica.promised.max(last_epoch);
            replica.chosen = Some(LeaderEpoch(replica.promised));
            replica.leading = true;
        }
    }

    /// As [`Self::on_restarted`], for logs that nobody was heard to lead since they were opened: whatever was under way
    /// to that end may be lost with the core before, so a new epoch is asked for until one is opened.
    pub fn on_restarted_unled(&mut self, logs: &[(TopicPartition, u32, u64)], effects: &mut Effects) {
        let mut requests = Vec::new();
        for &(partition, last_epoch, durable_end) in logs {
            let replica = self.replicas.entry(partition).or_default();
            replica.log = Some((last_epoch, durable_end));
            replica.promised = replica.promised.max(last_epoch);
            let epoch = LeaderEpoch(replica.promised);
            replica.requested = Some(epoch);
            requests.push((partition, epoch));
        }
        if !requests.is_empty() {
            effects.push(ReplicationEffect::RequestEpochs(requests));
        }
    }

    /// Partitions that were deleted: nothing is owed for them any more.
    pub fn on_gone(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.replicas.remove(partition);
        }
    }

    /// Time has passed: requests that came while nobody led the metadata were not heard, and are repeated.
    pub fn on_tick(&self, effects: &mut Effects) {
        let unheard = |(partition, replica): (&TopicPartition, &Replica)| Some((*partition, replica.requested?));
        let requests: Vec<_> = self.replicas.iter().filter_map(unheard).collect();
        if !requests.is_empty() {
            effects.push(ReplicationEffect::RequestEpochs(requests));
        }
    }

    /// The metadata asks for promises.
    pub fn on_promise_wanted(&mut self, asked: &[(TopicPartition, LeaderEpoch)], effects: &mut Effects) {
        let mut ready = Vec::new();
        for &(partition, epoch) in asked {
            let replica = self.replicas.entry(partition).or_default();
            replica.requested = replica.requested.filter(|requested| epoch <= *requested);
            if replica.log.is_some() {
                ready.push((partition, epoch));
            } else {
                replica.asked = replica.asked.max(Some(epoch));
            }
        }
        self.promise(&ready, effects);
    }

    fn promise(&mut self, asked: &[(TopicPartition, LeaderEpoch)], effects: &mut Effects) {
        if asked.is_empty() {
            return;
        }
        let mut raised = false;
        let mut answers = Vec::with_capacity(asked.len());
        for &(partition, epoch) in asked {
            let Some(replica) = self.replicas.get_mut(&partition) else {
                continue;
            };
            let Some((last_epoch, durable_end)) = replica.log else {
                continue;
            };
            let outcome = if epoch.0 < replica.promised {
                PromiseOutcome::Promised { epoch: LeaderEpoch(replica.promised) }
            } else {
                raised |= epoch.0 > replica.promised;
                replica.promised = epoch.0;
                PromiseOutcome::Clean {
                    incarnation: self.incarnation,
                    boot_number: self.boot_number,
                    last_epoch: LeaderEpoch(last_epoch),
                    durable_end,
                }
            };
            answers.push(PromiseAnswer { partition, epoch, outcome });
        }
        if raised {
            effects.push(ReplicationEffect::PersistPromises);
        }
        effects.push(ReplicationEffect::Answer(answers));
    }

    /// This node, in this start, was chosen to lead.
    pub fn on_leaders_chosen(&mut self, chosen: &[(TopicPartition, LeaderEpoch)], effects: &mut Effects) {
        let mut lead = Vec::new();
        for &(partition, epoch) in chosen {
            let Some(replica) = self.replicas.get_mut(&partition) else {
                continue;
            };
            // A choice of an epoch this process did not promise was made for an earlier start.
            if replica.log.is_none() || replica.promised != epoch.0 {
                continue;
            }
            replica.chosen = Some(epoch);
            replica.requested = replica.requested.filter(|requested| epoch <= *requested);
            lead.push((partition, epoch));
        }
        if !lead.is_empty() {
            effects.push(ReplicationEffect::Lead(lead));
        }
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
                replica.leading = true;
                effects.push(ReplicationEffect::Led(partition, *epoch));
            }
            Ok(_) => {}
            Err(_) => {
                replica.leading = false;
                replica.stopped = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);

    fn core() -> ReplicationCore {
        ReplicationCore::new(ReplicaIncarnation { node: 7, damage_count: 0 }, 3, [])
    }

    #[test]
    fn a_promise_waits_for_the_log_and_is_durable_before_it_is_answered() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(2))], &mut effects);
        assert_eq!(effects, []);
        core.on_epochs_wanted(&[(PARTITION, 1, 500)], &mut effects);
        assert_eq!(effects[0], ReplicationEffect::PersistPromises);
        let ReplicationEffect::Answer(answers) = &effects[1] else { panic!("{effects:?}") };
        let expected = PromiseOutcome::Clean {
            incarnation: ReplicaIncarnation { node: 7, damage_count: 0 },
            boot_number: 3,
            last_epoch: LeaderEpoch(1),
            durable_end: 500,
        };
        assert_eq!(answers[0].outcome, expected);
    }

    #[test]
    fn a_log_opened_again_is_never_led_in_its_old_epoch() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_epochs_wanted(&[(PARTITION, 0, 0)], &mut effects);
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(1))], &mut effects);
        effects.clear();
        core.on_leaders_chosen(&[(PARTITION, LeaderEpoch(1))], &mut effects);
        assert_eq!(effects, [ReplicationEffect::Lead(vec![(PARTITION, LeaderEpoch(1))])]);
        effects.clear();
        core.on_leadership_changed(PARTITION, &Ok(LeaderEpoch(1)), &mut effects);
        assert_eq!(core.unsettled(), 0);
        effects.clear();
        core.on_epochs_wanted(&[(PARTITION, 1, 104)], &mut effects);
        assert_eq!(effects, [ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(1))])]);
        assert_eq!(core.unsettled(), 1);
    }

    #[test]
    fn a_request_for_an_epoch_is_repeated_until_one_is_opened() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_epochs_wanted(&[(PARTITION, 0, 0)], &mut effects);
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(1))], &mut effects);
        core.on_leaders_chosen(&[(PARTITION, LeaderEpoch(1))], &mut effects);
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!(effects, []);
        core.on_epochs_wanted(&[(PARTITION, 1, 104)], &mut effects);
        core.on_tick(&mut effects);
        let request = ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(1))]);
        assert_eq!(effects, [request.clone(), request]);
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(2))], &mut effects);
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!(effects, []);
    }

    #[test]
    fn an_epoch_below_the_promised_one_is_refused() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_epochs_wanted(&[(PARTITION, 5, 0)], &mut effects);
        core.on_promise_wanted(&[(PARTITION, LeaderEpoch(4))], &mut effects);
        let ReplicationEffect::Answer(answers) = &effects[0] else { panic!("{effects:?}") };
        assert_eq!(answers[0].outcome, PromiseOutcome::Promised { epoch: LeaderEpoch(5) });
    }

    #[test]
    fn a_core_built_anew_asks_for_the_epochs_that_nobody_was_heard_to_lead() {
        let (mut core, mut effects) = (core(), Vec::new());
        core.on_restarted_unled(&[(PARTITION, 3, 500)], &mut effects);
        core.on_tick(&mut effects);
        let request = ReplicationEffect::RequestEpochs(vec![(PARTITION, LeaderEpoch(3))]);
        assert_eq!(effects, [request.clone(), request]);
        assert_eq!(core.unsettled(), 1);
        core.on_gone(&[PARTITION]);
        effects.clear();
        core.on_tick(&mut effects);
        assert_eq!((effects.len(), core.unsettled(), core.promises().count()), (0, 0, 0));
    }
}

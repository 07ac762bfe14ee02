//! Epochs and leaders of partitions: every change is a compare-and-set on the epoch.

use super::answer::{MetadataAnswer, MetadataEvent};
use super::command::{EpochOpening, LeaderChoice};
use super::placement::sorted;
use super::state::MetadataState;
use super::topic::{PartitionLeader, PartitionState};
use lance_messages::id::{LeaderEpoch, TopicPartition};

impl MetadataState {
    /// Opens those epochs that follow their partition's present one; the others are stale and stay out.
    pub(super) fn open_epochs(&mut self, openings: &[EpochOpening], events: &mut Vec<MetadataEvent>) -> MetadataAnswer {
        let mut opened_count = 0;
        for &EpochOpening { partition, epoch } in openings {
            if self.partition(partition).is_some_and(|state| state.epoch.0.checked_add(1) == Some(epoch.0)) {
                self.open_epoch(partition, epoch, events);
                opened_count += 1;
            }
        }
        MetadataAnswer::EpochsOpened { opened_count }
    }

    /// Opens the epoch that follows the present one.
    pub(super) fn open_epoch(
        &mut self,
        partition: TopicPartition,
        epoch: LeaderEpoch,
        events: &mut Vec<MetadataEvent>,
    ) {
        self.change_partition(partition, |state| {
            state.epoch = epoch;
            state.leader = None;
        });
        events.push(MetadataEvent::EpochOpened { partition, epoch });
    }

    /// Records the first valid choice of each open epoch; it also sets Q = R.
    pub(super) fn choose_leaders(
        &mut self,
        choices: &[LeaderChoice],
        events: &mut Vec<MetadataEvent>,
    ) -> MetadataAnswer {
        let mut chosen_count = 0;
        for choice in choices.iter().filter(|choice| choice.epoch.0 > 0) {
            if !self.is_valid_choice(choice) {
                continue;
            }
            let LeaderChoice { partition, epoch, leader, incarnation, boot_number } = *choice;
            chosen_count += 1;
            self.change_partition(partition, |state| {
                state.lead(PartitionLeader { node: leader, incarnation, boot_number });
                let in_quorum_version = state.in_quorum_version;
                events.push(MetadataEvent::LeaderChosen {
                    partition,
                    epoch,
                    leader,
                    incarnation,
                    boot_number,
                    in_quorum_version,
                });
            });
        }
        MetadataAnswer::LeadersChosen { chosen_count }
    }

    /// A choice holds only for an open epoch without a leader, an admitted incarnation and the registered boot.
    fn is_valid_choice(&self, choice: &LeaderChoice) -> bool {
        let Some(state) = self.partition(choice.partition) else {
            return false;
        };
        let Some(node) = self.node(choice.leader) else {
            return false;
        };
        let admitted = state.replica(choice.leader).is_some_and(|replica| replica.admitted == choice.incarnation);
        state.epoch == choice.epoch
            && state.leader.is_none()
            && admitted
            && node.incarnation == choice.incarnation.node
            && node.boot_number == choice.boot_number
    }
}

impl PartitionState {
    /// A leader begins with Q = R: who cannot keep up is evicted again.
    pub(super) fn lead(&mut self, leader: PartitionLeader) {
        self.leader = Some(leader);
        self.in_quorum = sorted(self.replicas.iter().map(|replica| replica.node));
        self.in_quorum_version = self.in_quorum_version.saturating_add(1);
    }
}

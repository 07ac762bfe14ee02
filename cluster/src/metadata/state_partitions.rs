//! Epochs and leaders of partitions: every change is a compare-and-set on the epoch.

use super::answer::{MetadataAnswer, MetadataEvent};
use super::command::{EpochOpening, LeaderChoice};
use super::state::MetadataState;
use super::topic::PartitionLeader;
use lance_messages::id::NodeId;

impl MetadataState {
    /// Opens those epochs that follow their partition's present one; the others are stale and stay out.
    pub(super) fn open_epochs(&mut self, openings: &[EpochOpening], events: &mut Vec<MetadataEvent>) -> MetadataAnswer {
        let mut opened_count = 0;
        for &EpochOpening { partition, epoch } in openings {
            let Some(state) = self.partition_mut(partition) else {
                continue;
            };
            if state.epoch.0.checked_add(1) != Some(epoch.0) {
                continue;
            }
            state.epoch = epoch;
            state.leader = None;
            opened_count += 1;
            events.push(MetadataEvent::EpochOpened { partition, epoch });
        }
        MetadataAnswer::EpochsOpened { opened_count }
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
            let Some(state) = self.partition_mut(partition) else {
                continue;
            };
            state.leader = Some(PartitionLeader { node: leader, incarnation, boot_number });
            let mut in_quorum: Vec<NodeId> = state.replicas.iter().map(|replica| replica.node).collect();
            in_quorum.sort_unstable();
            state.in_quorum = in_quorum;
            state.in_quorum_version = state.in_quorum_version.saturating_add(1);
            chosen_count += 1;
            let in_quorum_version = state.in_quorum_version;
            events.push(MetadataEvent::LeaderChosen {
                partition,
                epoch,
                leader,
                incarnation,
                boot_number,
                in_quorum_version,
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

//! What a backup brings back, and the feature level that allows it.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::command::{MetadataCommand, TopicRestoration};
use super::feature::FeatureLevel;
use super::name::{DEFAULT_TOPIC_NAME, is_valid_topic_name};
use super::state::{MetadataState, Outcome};
use super::topic::TopicState;
use lance_messages::batch::BatchPlace;
use lance_messages::id::{TopicId, TopicPartition};

/// Offsets, record numbers and ids beyond are in no backup: they would leave no room for what follows.
const MOST_RESTORED: u64 = 1 << 60;

impl MetadataState {
    /// What all nodes understand, as decided.
    pub fn feature_level(&self) -> FeatureLevel {
        self.later.feature_level
    }

    pub(super) fn check_level(&self, command: &MetadataCommand) -> Result<(), MetadataRefusal> {
        let (needed, level) = (command.level(), self.later.feature_level);
        match command {
            MetadataCommand::RaiseFeatureLevel { .. } => Ok(()),
            _ if needed > level => Err(MetadataRefusal::FeatureLevel { needed, level }),
            _ => Ok(()),
        }
    }

    pub(super) fn raise_feature_level(
        &mut self,
        level: FeatureLevel,
        events: &mut Vec<MetadataEvent>,
    ) -> MetadataAnswer {
        if level > self.later.feature_level {
            self.later.feature_level = level;
            events.push(MetadataEvent::FeatureLevelRaised { level });
        }
        MetadataAnswer::FeatureLevel { level: self.later.feature_level }
    }

    pub(super) fn restore_topic(&mut self, wanted: &TopicRestoration, events: &mut Vec<MetadataEvent>) -> Outcome {
        let TopicRestoration { name, config, beginnings, .. } = wanted;
        if !is_valid_topic_name(name) || name.starts_with("__") {
            return Err(MetadataRefusal::InvalidTopicName { name: name.clone() });
        }
        if let Some(topic) = self.topic_id(name) {
            return match self.is_restored(topic, wanted) {
                // The retry of a request whose answer was lost, or a restoration that goes on.
                true => Ok(MetadataAnswer::TopicCreated { topic }),
                false => Err(MetadataRefusal::TopicExists { name: name.clone(), topic }),
            };
        }
        if config.partitions == 0 || beginnings.len() != usize::from(config.partitions) {
            return Err(MetadataRefusal::NoPartitions);
        }
        if beginnings.iter().any(|(offset, record)| *offset.max(record) > MOST_RESTORED) {
            return Err(MetadataRefusal::IdsExhausted { what: "offset" });
        }
        if wanted.topic.0 > u32::MAX / 2 {
            return Err(MetadataRefusal::IdsExhausted { what: "topic id" });
        }
        self.check_room(u32::from(config.partitions))?;
        let topic = self.id_for(wanted);
        let next_topic_id = match topic.0.checked_add(1) {
            Some(next) => next.max(self.next_topic_id),
            None => return Err(MetadataRefusal::IdsExhausted { what: "topic id" }),
        };
        let partitions = self.place(config.partitions, config.replication_factor)?;
        let state = TopicState {
            name: name.clone(),
            created_at_secs: wanted.created_at_secs,
            topic_epoch: self.next_topic_epoch(name),
            create_request: 0,
            config: *config,
            partitions,
        };
        self.next_topic_id = next_topic_id;
        self.topic_ids.insert(name.clone(), topic);
        state.partitions.iter().for_each(|partition| self.loads.count(partition));
        self.topics.insert(topic, state);
        let begun = (0..=u16::MAX).zip(beginnings).filter(|(_, (offset, _))| *offset > 0);
        self.later.beginnings.extend(begun.map(|(number, begins)| ((topic, number), *begins)));
        events.push(MetadataEvent::TopicCreated { topic, partitions: config.partitions });
        Ok(MetadataAnswer::TopicCreated { topic })
    }

    /// The id it had, unless another topic has or had it here; the default topic has none but its own.
    fn id_for(&self, wanted: &TopicRestoration) -> TopicId {
        let TopicRestoration { topic, name, .. } = wanted;
        if name == DEFAULT_TOPIC_NAME {
            return TopicId(0);
        }
        let is_taken = topic.0 == 0 || self.topics.contains_key(topic) || self.tombstones.contains_key(topic);
        if is_taken { TopicId(self.next_topic_id) } else { *topic }
    }

    fn is_restored(&self, topic: TopicId, wanted: &TopicRestoration) -> bool {
        let begins = (0..=u16::MAX).zip(&wanted.beginnings).all(|(number, (offset, record))| {
            self.beginning(TopicPartition::new(topic, number)) == BatchPlace { offset: *offset, record: *record }
        });
        let same = |known: &TopicState| {
            known.config == wanted.config && known.created_at_secs == wanted.created_at_secs && begins
        };
        self.topic(topic).is_some_and(same)
    }

    pub(super) fn restore_ids(&mut self, next_topic_id: u32, next_producer_id: u64) -> MetadataAnswer {
        self.next_topic_id = self.next_topic_id.max(next_topic_id.min(u32::MAX / 2));
        self.next_producer_id = self.next_producer_id.max(next_producer_id.min(MOST_RESTORED));
        MetadataAnswer::IdsRestored
    }

    /// Where a partition begins: 0, unless it was restored from a log that had lost its oldest records.
    pub fn beginning(&self, partition: TopicPartition) -> BatchPlace {
        let TopicPartition { topic, partition } = partition;
        let (offset, record) = self.later.beginnings.get(&(topic, partition)).copied().unwrap_or_default();
        BatchPlace { offset, record }
    }
}

//! Topics: created, altered, deleted for ever.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::name::{DEFAULT_TOPIC_NAME, MAX_TOPIC_NAME_BYTES, is_valid_topic_name};
use super::state::{MAX_PARTITIONS, MAX_TOMBSTONES, MetadataState, Outcome};
use super::topic::{ReplicationMode, Tombstone, TopicConfig, TopicState};
use lance_messages::id::{LeaderEpoch, TopicId, TopicPartition};

const DEFAULT_TOPIC: TopicId = TopicId(0);

impl MetadataState {
    pub(super) fn create_topic(
        &mut self,
        name: &str,
        config: &TopicConfig,
        created_at_secs: u64,
        request: u64,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        if name.is_empty() {
            return Err(MetadataRefusal::TopicNameRequired);
        }
        if !is_valid_topic_name(name) {
            let name = name.chars().take(MAX_TOPIC_NAME_BYTES).collect();
            return Err(MetadataRefusal::InvalidTopicName { name });
        }
        if let Some(topic) = self.topic_id(name) {
            // The retry of a request whose answer was lost hears what the first try did.
            if request != 0 && self.topics.get(&topic).is_some_and(|known| known.create_request == request) {
                return Ok(MetadataAnswer::TopicCreated { topic });
            }
            return Err(MetadataRefusal::TopicExists { name: name.to_owned(), topic });
        }
        if config.partitions == 0 {
            return Err(MetadataRefusal::NoPartitions);
        }
        self.check_room(u32::from(config.partitions))?;
        let topic = if name == DEFAULT_TOPIC_NAME { DEFAULT_TOPIC } else { TopicId(self.next_topic_id) };
        let next_topic_id = match topic {
            DEFAULT_TOPIC => self.next_topic_id,
            _ => self.next_topic_id.checked_add(1).ok_or(MetadataRefusal::IdsExhausted { what: "topic id" })?,
        };
        let partitions = self.place(config.partitions, config.replication_factor)?;
        let state = TopicState {
            name: name.to_owned(),
            created_at_secs,
            topic_epoch: self.next_topic_epoch(name),
            create_request: request,
            config: *config,
            partitions,
        };
        self.next_topic_id = next_topic_id;
        self.topic_ids.insert(name.to_owned(), topic);
        state.partitions.iter().for_each(|partition| self.loads.count(partition));
        self.topics.insert(topic, state);
        events.push(MetadataEvent::TopicCreated { topic, partitions: config.partitions });
        Ok(MetadataAnswer::TopicCreated { topic })
    }

    pub(super) fn delete_topic(
        &mut self,
        topic: TopicId,
        deleted_at_secs: u64,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        if topic == DEFAULT_TOPIC && self.topics.contains_key(&topic) {
            return Err(MetadataRefusal::DefaultTopicStays);
        }
        let Some(state) = self.topics.remove(&topic) else {
            return Err(MetadataRefusal::TopicNotFound { topic });
        };
        self.topic_ids.remove(&state.name);
        self.forget_tees_of(topic);
        self.later.beginnings.retain(|(of, _), _| *of != topic);
        state.partitions.iter().for_each(|partition| self.loads.uncount(partition));
        let tombstone = Tombstone { name: state.name.clone(), topic_epoch: state.topic_epoch, deleted_at_secs };
        self.tombstones.insert(topic, tombstone);
        while self.tombstones.len() > MAX_TOMBSTONES {
            self.tombstones.pop_first();
        }
        events.push(MetadataEvent::TopicDeleted { topic, name: state.name, partitions: state.config.partitions });
        Ok(MetadataAnswer::TopicDeleted { topic })
    }

    pub(super) fn alter_topic(
        &mut self,
        topic: TopicId,
        partitions: Option<u16>,
        max_age_secs: Option<u64>,
        max_bytes: Option<u64>,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        let not_found = MetadataRefusal::TopicNotFound { topic };
        let config = self.topics.get(&topic).ok_or(not_found.clone())?.config;
        let asked = partitions.unwrap_or(config.partitions);
        if asked < config.partitions {
            return Err(MetadataRefusal::FewerPartitions { topic, present: config.partitions, asked });
        }
        let added_count = asked - config.partitions;
        self.check_room(u32::from(added_count))?;
        let added = if added_count == 0 { Vec::new() } else { self.place(added_count, config.replication_factor)? };
        let state = self.topics.get_mut(&topic).ok_or(not_found)?;
        added.iter().for_each(|partition| self.loads.count(partition));
        state.partitions.extend(added);
        state.config.partitions = asked;
        state.config.max_age_secs = max_age_secs.unwrap_or(config.max_age_secs);
        state.config.max_bytes = max_bytes.unwrap_or(config.max_bytes);
        let TopicConfig { max_age_secs, max_bytes, .. } = state.config;
        if added_count > 0 {
            events.push(MetadataEvent::PartitionsAdded { topic, first: config.partitions, partitions: asked });
        }
        if (max_age_secs, max_bytes) != (config.max_age_secs, config.max_bytes) {
            events.push(MetadataEvent::RetentionSet { topic, max_age_secs, max_bytes });
        }
        Ok(MetadataAnswer::TopicAltered { topic })
    }

    /// Every partition begins an epoch with the new mode: no leader acks by both.
    pub(super) fn set_topic_mode(
        &mut self,
        topic: TopicId,
        mode: ReplicationMode,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        let state = self.topics.get_mut(&topic).ok_or(MetadataRefusal::TopicNotFound { topic })?;
        if state.config.mode == mode {
            return Ok(MetadataAnswer::TopicAltered { topic });
        }
        let epochs: Vec<Option<u32>> =
            state.partitions.iter().map(|partition| partition.epoch.0.checked_add(1)).collect();
        if epochs.contains(&None) {
            return Err(MetadataRefusal::IdsExhausted { what: "leader epoch" });
        }
        state.config.mode = mode;
        events.push(MetadataEvent::TopicModeSet { topic, mode });
        for (number, epoch) in (0..=u16::MAX).zip(epochs.into_iter().flatten()) {
            self.open_epoch(TopicPartition::new(topic, number), LeaderEpoch(epoch), events);
        }
        Ok(MetadataAnswer::TopicAltered { topic })
    }

    pub(super) fn set_replication_factor(
        &mut self,
        topic: TopicId,
        replication_factor: u8,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        let registered = self.nodes.len();
        if replication_factor == 0 || usize::from(replication_factor) > registered {
            return Err(MetadataRefusal::NotEnoughNodes { asked: replication_factor, registered });
        }
        let state = self.topics.get_mut(&topic).ok_or(MetadataRefusal::TopicNotFound { topic })?;
        if state.config.replication_factor != replication_factor {
            state.config.replication_factor = replication_factor;
            events.push(MetadataEvent::ReplicationFactorSet { topic });
        }
        Ok(MetadataAnswer::TopicAltered { topic })
    }

    pub(super) fn check_room(&self, asked: u32) -> Result<(), MetadataRefusal> {
        let total = self.partition_count().saturating_add(asked);
        if total > MAX_PARTITIONS {
            return Err(MetadataRefusal::TooManyPartitions { asked, total, limit: MAX_PARTITIONS });
        }
        Ok(())
    }

    pub(super) fn next_topic_epoch(&self, name: &str) -> u32 {
        let last = self.tombstones.values().rev().find(|tombstone| tombstone.name == name);
        last.map_or(1, |tombstone| tombstone.topic_epoch.saturating_add(1))
    }
}

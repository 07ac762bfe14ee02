//! The topics a producer sends to, and the lanes of their partitions.

use super::Shared;
use super::lane::Lane;
use super::lane_task;
use crate::error::ClientError;
use crate::partitioner::partition_of_key;
use crate::record::ProducerRecord;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

/// What is known of the topics sent to. Lanes are made under the lock for reading and partitions added under that for
/// writing, so a partition never has two lanes.
#[derive(Debug, Default)]
pub(super) struct Topics {
    by_name: RwLock<HashMap<Arc<str>, TopicLanes>>,
}

/// The lanes of one topic's partitions.
#[derive(Debug)]
struct TopicLanes {
    name: Arc<str>,
    lanes: Vec<OnceLock<Arc<Lane>>>,
    sticky: Mutex<Sticky>,
}

/// Where records without a key go until a batch is full.
#[derive(Debug)]
struct Sticky {
    partition: u16,
    bytes_left: usize,
}

impl Topics {
    /// The lane a record goes to; `None` when its topic is not known yet.
    pub(super) fn lane(
        &self,
        shared: &Arc<Shared>,
        record: &ProducerRecord,
        bytes: usize,
    ) -> Result<Option<Arc<Lane>>, ClientError> {
        let topics = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let Some(topic) = topics.get(&*record.topic) else { return Ok(None) };
        let partition = topic.choose(shared, record, bytes)?;
        let lane = topic.lanes[usize::from(partition)].get_or_init(|| {
            let lane = Arc::new(Lane::new(Arc::clone(&topic.name), partition));
            let task = lane_task::run(Arc::clone(&lane), Arc::clone(shared), shared.next_lane());
            shared.client.runtime().spawn(task);
            lane
        });
        // One that was made while the producer was closed would not hear of it.
        if shared.is_closed() {
            lane.close();
        }
        Ok(Some(Arc::clone(lane)))
    }

    /// A topic has this many partitions; fewer than it had is no news.
    pub(super) fn learn(&self, name: &str, partitions: usize, batch_bytes: usize) {
        let mut topics = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = Arc::from(name);
        let topic = topics.entry(Arc::clone(&name)).or_insert_with(|| {
            let partition = rand::random_range(0..partitions.clamp(1, usize::from(u16::MAX)) as u16);
            TopicLanes { name, lanes: Vec::new(), sticky: Mutex::new(Sticky { partition, bytes_left: batch_bytes }) }
        });
        if topic.lanes.len() < partitions {
            topic.lanes.resize_with(partitions, OnceLock::new);
        }
    }

    /// How many partitions a topic has; `None` when it is not known yet.
    pub(super) fn partitions_of(&self, name: &str) -> Option<u16> {
        let topics = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).map(|topic| topic.lanes.len() as u16)
    }

    pub(super) fn all_lanes(&self) -> Vec<Arc<Lane>> {
        let topics = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        topics.values().flat_map(|topic| topic.lanes.iter().filter_map(OnceLock::get).cloned()).collect()
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

impl TopicLanes {
    fn choose(&self, shared: &Shared, record: &ProducerRecord, bytes: usize) -> Result<u16, ClientError> {
        let count = self.lanes.len() as u16;
        let chosen = record.partition.or_else(|| shared.options.partitioner.as_ref()?.partition(record, count));
        let partition = match (chosen, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, count),
            (None, None) => self.stick(count, bytes, shared.options.batch_bytes),
        };
        if partition < count {
            return Ok(partition);
        }
        Err(ClientError::UnknownPartition { topic: self.name.to_string(), partition, count: usize::from(count) })
    }

    /// Stays with a partition for a batch, then goes on to the next: full batches, even load.
    fn stick(&self, count: u16, bytes: usize, batch_bytes: usize) -> u16 {
        if count <= 1 {
            return 0;
        }
        let mut sticky = self.sticky.lock().unwrap_or_else(PoisonError::into_inner);
        if sticky.bytes_left < bytes {
            sticky.partition = (sticky.partition + 1) % count;
            sticky.bytes_left = batch_bytes;
        }
        sticky.bytes_left = sticky.bytes_left.saturating_sub(bytes);
        sticky.partition
    }
}

/// Asks about the topics again from time to time, to learn of new partitions, as long as the producer is there.
pub(super) async fn keep_fresh(shared: Weak<Shared>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.is_closed() {
            return;
        }
        for name in shared.topics.names() {
            match shared.client.refresh_topic(&name, false).await {
                Ok(info) => shared.topics.learn(&name, info.partitions.len(), shared.options.batch_bytes),
                Err(error) => tracing::debug!(topic = &*name, %error, "metadata could not be refreshed"),
            }
        }
    }
}

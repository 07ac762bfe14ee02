//! Producer ids: allocated once, their epoch raised to fence an older instance.

use super::answer::{MetadataAnswer, MetadataRefusal};
use super::state::{BumpedProducer, MetadataState, Outcome};
use lance_messages::id::ProducerId;
use std::cmp::Ordering;

/// How long a raised epoch is remembered: as long as partitions keep a producer's sequences.
pub const PRODUCER_EXPIRY_SECS: u64 = 7 * 24 * 3600;
const SWEEP_INTERVAL_SECS: u64 = 3600;

impl MetadataState {
    pub(super) fn init_producer(&mut self, existing: Option<(ProducerId, u16)>, now_secs: u64) -> Outcome {
        self.sweep_producers(now_secs);
        let Some((producer, given)) = existing else {
            return self.allocate_producer();
        };
        if producer.0 == 0 || producer.0 >= self.next_producer_id {
            return self.allocate_producer();
        }
        let current = self.producers.get(&producer).map_or(0, |bumped| bumped.epoch);
        if given < current {
            return Err(MetadataRefusal::ProducerFenced { producer, given, current });
        }
        match current.checked_add(1) {
            Some(epoch) if given == current => {
                self.producers.insert(producer, BumpedProducer { epoch, bumped_at_secs: now_secs });
                Ok(MetadataAnswer::Producer { producer, epoch })
            }
            // Its epoch has run out or was forgotten after its expiry: a new id needs no fence.
            _ => self.allocate_producer(),
        }
    }

    /// Decided in the log, where every earlier allocation is known: a node that lags would take a live producer for a
    /// stranger or for a fenced one.
    pub(super) fn bind_producer(&mut self, producer: ProducerId, given: u16) -> Outcome {
        match self.producer_epoch(producer) {
            None => self.allocate_producer(),
            Some(current) => match given.cmp(&current) {
                Ordering::Equal => Ok(MetadataAnswer::Producer { producer, epoch: current }),
                Ordering::Less => Err(MetadataRefusal::ProducerFenced { producer, given, current }),
                Ordering::Greater => Err(MetadataRefusal::ProducerUnknown { producer, given, current }),
            },
        }
    }

    /// The epoch of a producer id; `None` when it was never given out.
    pub fn producer_epoch(&self, producer: ProducerId) -> Option<u16> {
        let given_out = producer.0 != 0 && producer.0 < self.next_producer_id;
        given_out.then(|| self.producers.get(&producer).map_or(0, |bumped| bumped.epoch))
    }

    fn allocate_producer(&mut self) -> Outcome {
        let producer = ProducerId(self.next_producer_id);
        self.next_producer_id =
            self.next_producer_id.checked_add(1).ok_or(MetadataRefusal::IdsExhausted { what: "producer id" })?;
        Ok(MetadataAnswer::Producer { producer, epoch: 0 })
    }

    fn sweep_producers(&mut self, now_secs: u64) {
        if now_secs < self.producers_swept_at_secs.saturating_add(SWEEP_INTERVAL_SECS) {
            return;
        }
        self.producers_swept_at_secs = now_secs;
        self.producers.retain(|_, bumped| bumped.bumped_at_secs.saturating_add(PRODUCER_EXPIRY_SECS) > now_secs);
    }
}

//! Sending, and waiting for it.

use super::runtime::RuntimeThread;
use crate::error::{ClientError, TrySendError};
use crate::producer::{Delivery, DeliveryFuture, ProducerStats};
use crate::record::ProducerRecord;
use std::sync::Arc;

/// Sends records; as [`crate::Producer`]. Dropping it waits until what was taken was delivered or failed.
#[derive(Debug)]
pub struct Producer {
    producer: crate::Producer,
    runtime: Arc<RuntimeThread>,
}

/// A record under way. Dropping it does not stop the record.
#[derive(Debug)]
pub struct Sent {
    delivery: DeliveryFuture,
    runtime: Arc<RuntimeThread>,
}

impl Producer {
    pub(super) fn new(producer: crate::Producer, runtime: Arc<RuntimeThread>) -> Self {
        Self { producer, runtime }
    }

    /// Takes a record; waits while too many bytes are under way.
    ///
    /// ```no_run
    /// use lance_client::ProducerRecord;
    ///
    /// # fn example(producer: &lance_client::blocking::Producer) -> Result<(), lance_client::ClientError> {
    /// // Many at once, and then their outcomes: one by one would be slow.
    /// let mut sent = Vec::new();
    /// for number in 0..1000 {
    ///     sent.push(producer.send(ProducerRecord::new("events", format!("event {number}")))?);
    /// }
    /// for record in sent {
    ///     record.wait()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn send(&self, record: ProducerRecord) -> Result<Sent, ClientError> {
        let delivery = self.runtime.wait(self.producer.send(record))?;
        Ok(Sent { delivery, runtime: Arc::clone(&self.runtime) })
    }

    /// As [`Producer::send`]; `done` is called once, on the library's thread, with what became of the record.
    pub fn send_with(
        &self,
        record: ProducerRecord,
        done: impl FnOnce(Result<Delivery, ClientError>) + Send + 'static,
    ) -> Result<(), ClientError> {
        self.runtime.wait(self.producer.send_with(record, done))
    }

    /// Takes a record without waiting, or gives it back; as [`crate::Producer::try_send`].
    pub fn try_send(&self, record: ProducerRecord) -> Result<Sent, TrySendError> {
        let delivery = self.producer.try_send(record)?;
        Ok(Sent { delivery, runtime: Arc::clone(&self.runtime) })
    }

    /// How many partitions a topic has; as [`crate::Producer::partitions_of`].
    pub fn partitions_of(&self, topic: &str) -> Result<u16, ClientError> {
        self.runtime.wait(self.producer.partitions_of(topic))
    }

    /// Waits until everything taken so far was delivered or failed.
    pub fn flush(&self) {
        self.runtime.wait(self.producer.flush());
    }

    /// Takes no more records, and waits until those taken were delivered or failed.
    pub fn close(&self) {
        self.runtime.wait(self.producer.close());
    }

    /// What it did so far.
    pub fn stats(&self) -> ProducerStats {
        self.producer.stats()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Sent {
    /// Waits for the outcome.
    pub fn wait(self) -> Result<Delivery, ClientError> {
        self.runtime.wait(self.delivery)
    }

    /// The partition chosen.
    pub fn partition(&self) -> u16 {
        self.delivery.partition()
    }
}

//! What becomes of a record.

use crate::error::ClientError;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// The outcome of a batch, once there is one.
pub(super) type Outcome = Option<Result<BatchOutcome, ClientError>>;

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchOutcome {
    /// `None`: the server does not tell, or no longer knows.
    pub(super) base_offset: Option<u64>,
    pub(super) records: u32,
    pub(super) duplicate: bool,
}

/// A record that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its partition.
    pub partition: u16,
    /// Its offset; `None` on a 1.0 server, or when nothing was waited for.
    pub offset: Option<u64>,
    /// Records in its batch.
    pub batch_records: u32,
    /// Whether it is the first of its batch.
    pub first_of_batch: bool,
    /// Whether the server had stored it before, answering an attempt whose answer was lost.
    pub duplicate: bool,
}

/// A record under way; `.await` gives its [`Delivery`]. Dropping it does not stop the record.
#[derive(Debug)]
pub struct DeliveryFuture {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    /// Bytes of the batch before the record.
    pub(super) bytes_before: u64,
    pub(super) outcome: watch::Receiver<Outcome>,
}

impl DeliveryFuture {
    /// Name of the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition chosen.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// Waits for the outcome.
    pub async fn wait(&mut self) -> Result<Delivery, ClientError> {
        let outcome = self.outcome.wait_for(Option::is_some).await;
        let outcome = outcome.map_err(|_| ClientError::Closed { what: "producer" })?.clone();
        let outcome = outcome.ok_or(ClientError::Closed { what: "producer" })??;
        Ok(Delivery {
            partition: self.partition,
            offset: outcome.base_offset.map(|base| base + self.bytes_before),
            batch_records: outcome.records,
            first_of_batch: self.bytes_before == 0,
            duplicate: outcome.duplicate,
        })
    }
}

impl IntoFuture for DeliveryFuture {
    type Output = Result<Delivery, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move { self.wait().await })
    }
}

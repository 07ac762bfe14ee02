//! What becomes of a record.

use crate::error::ClientError;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// Where a batch went, or why it went nowhere.
pub(super) type Outcome = Result<BatchOutcome, ClientError>;

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

/// Where a record is within its partition and batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) partition: u16,
    /// Bytes of the batch before the record.
    pub(super) bytes_before: u64,
}

impl Place {
    fn delivery(self, outcome: &Outcome) -> Result<Delivery, ClientError> {
        let outcome = outcome.as_ref().map_err(ClientError::clone)?;
        Ok(Delivery {
            partition: self.partition,
            offset: outcome.base_offset.map(|base| base + self.bytes_before),
            batch_records: outcome.records,
            first_of_batch: self.bytes_before == 0,
            duplicate: outcome.duplicate,
        })
    }
}

/// Called with what became of a record.
pub(super) type Callback = Box<dyn FnOnce(Result<Delivery, ClientError>) + Send>;

/// The outcome of a batch, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    outcome: OnceLock<Outcome>,
    waiting: Mutex<Vec<Waker>>,
}

impl Slot {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side of a batch that tells: once, and "closed" when it is dropped before.
#[derive(Default)]
pub(super) struct Teller {
    slot: Arc<Slot>,
    callbacks: Vec<(Place, Callback)>,
}

impl Teller {
    pub(super) fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    pub(super) fn call(&mut self, place: Place, callback: Callback) {
        self.callbacks.push((place, callback));
    }

    pub(super) fn tell(&mut self, outcome: Outcome) {
        let outcome = self.slot.outcome.get_or_init(|| outcome);
        for (place, callback) in self.callbacks.drain(..) {
            let delivery = place.delivery(outcome);
            // A callback that panics must not end the delivery of other records.
            if catch_unwind(AssertUnwindSafe(|| callback(delivery))).is_err() {
                tracing::error!(partition = place.partition, "the callback of a delivery panicked");
            }
        }
        // Whoever registers from now on sees the outcome first.
        for waker in std::mem::take(&mut *self.slot.waiting()) {
            waker.wake();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.slot.outcome.get().is_none() {
            self.tell(Err(ClientError::Closed { what: "producer" }));
        }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("slot", &self.slot).field("callbacks", &self.callbacks.len()).finish()
    }
}

/// A record under way; `.await` gives its [`Delivery`]. Dropping it does not stop the record.
///
/// ```no_run
/// use lance_client::{Producer, ProducerRecord};
///
/// # async fn example(producer: &Producer) -> Result<(), lance_client::ClientError> {
/// let delivery = producer.send(ProducerRecord::new("events", "hello")).await?;
/// println!("on its way to partition {}", delivery.partition());
/// println!("stored at {:?}", delivery.await?.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DeliveryFuture {
    pub(super) topic: Arc<str>,
    pub(super) place: Place,
    slot: Arc<Slot>,
    /// Which of those that wait this is.
    registered: Option<usize>,
}

impl DeliveryFuture {
    pub(super) fn new(topic: Arc<str>, place: Place, slot: Arc<Slot>) -> Self {
        Self { topic, place, slot, registered: None }
    }

    /// Name of the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition chosen.
    pub fn partition(&self) -> u16 {
        self.place.partition
    }

    /// Waits for the outcome; as `.await`, for who wants to keep this.
    pub async fn wait(&mut self) -> Result<Delivery, ClientError> {
        self.await
    }
}

impl Future for DeliveryFuture {
    type Output = Result<Delivery, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(outcome) = this.slot.outcome.get() {
            return Poll::Ready(this.place.delivery(outcome));
        }
        let mut waiting = this.slot.waiting();
        if let Some(outcome) = this.slot.outcome.get() {
            return Poll::Ready(this.place.delivery(outcome));
        }
        match this.registered.and_then(|at| waiting.get_mut(at)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                this.registered = Some(waiting.len());
                waiting.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PLACE: Place = Place { partition: 3, bytes_before: 10 };

    fn outcome() -> Outcome {
        Ok(BatchOutcome { base_offset: Some(100), records: 2, duplicate: false })
    }

    #[tokio::test]
    async fn everybody_who_waits_hears_the_outcome() {
        let mut teller = Teller::default();
        let waiting: Vec<_> =
            (0..10).map(|_| tokio::spawn(DeliveryFuture::new(Arc::from("t"), PLACE, teller.slot()))).collect();
        tokio::task::yield_now().await;
        teller.tell(outcome());
        for waits in waiting {
            assert_eq!(waits.await.unwrap().unwrap().offset, Some(110));
        }
        let late = DeliveryFuture::new(Arc::from("t"), PLACE, teller.slot());
        assert_eq!(late.await.unwrap().partition, 3);
    }

    #[tokio::test]
    async fn a_batch_that_is_dropped_is_closed_for_futures_and_callbacks() {
        let mut teller = Teller::default();
        let (sender, receiver) = std::sync::mpsc::channel();
        teller.call(PLACE, Box::new(move |outcome| sender.send(outcome).unwrap()));
        let future = DeliveryFuture::new(Arc::from("t"), PLACE, teller.slot());
        drop(teller);
        let closed = ClientError::Closed { what: "producer" };
        assert_eq!((future.await, receiver.recv().unwrap()), (Err(closed.clone()), Err(closed)));
    }

    #[test]
    fn callbacks_come_in_order_and_one_that_panics_stops_no_other() {
        let called = Arc::new(AtomicUsize::new(0));
        let mut teller = Teller::default();
        for number in 0..5 {
            let called = Arc::clone(&called);
            let callback = move |_| {
                assert_eq!(called.fetch_add(1, Ordering::Relaxed), number);
                assert_ne!(number, 2, "as it should");
            };
            teller.call(PLACE, Box::new(callback));
        }
        teller.tell(outcome());
        drop(teller);
        assert_eq!(called.load(Ordering::Relaxed), 5);
    }
}

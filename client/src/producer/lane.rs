//! One partition's queue of batches, between those who send and the task that delivers.

use super::batch::{Batch, OpenBatch};
use super::delivery::DeliveryFuture;
use crate::error::ClientError;
use crate::record::ProducerRecord;
use crate::spans::ClientSpan;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// The way of one partition's records.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
    state: Mutex<State>,
    /// There is something to do for the task.
    pub(super) work: Notify,
    /// Counts batches that are done, for who waits in `flush`.
    done: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<OpenBatch>,
    sealed: VecDeque<Batch>,
    /// Batches ever opened.
    opened: u64,
    /// Batches up to this one leave without lingering.
    flush_through: u64,
    closed: bool,
}

/// What the task can do next.
#[derive(Debug)]
pub(super) enum Next {
    /// A batch to send.
    Batch(Batch),
    /// A batch lingers until then.
    At(Instant),
    /// Nothing, for now.
    Nothing,
    /// Nothing any more.
    Closed,
}

impl Lane {
    pub(super) fn new(topic: String, partition: u16) -> Self {
        Self {
            topic: Arc::from(topic),
            partition,
            state: Mutex::new(State::default()),
            work: Notify::new(),
            done: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record to the open batch.
    pub(super) fn push(
        &self,
        record: &ProducerRecord,
        permit: OwnedSemaphorePermit,
        batch_bytes: usize,
    ) -> Result<DeliveryFuture, ClientError> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.closed {
            return Err(ClientError::Closed { what: "producer" });
        }
        let bytes = record.encoded_len();
        if let Some(full) = state.open.take_if(|open| open.records.len() + bytes > batch_bytes) {
            state.sealed.push_back(full.seal());
        }
        let (bytes_before, outcome) = match &mut state.open {
            Some(open) => {
                let before = open.records.len();
                record.encode(&mut open.records)?;
                open.count += 1;
                open.permit.merge(permit);
                open.span.iter_mut().for_each(ClientSpan::join);
                (before, open.outcome.subscribe())
            }
            None => {
                let mut records = Vec::with_capacity(bytes.max(4096));
                record.encode(&mut records)?;
                let (outcome, waits) = watch::channel(None);
                state.opened += 1;
                let span = ClientSpan::send(&self.topic, self.partition);
                state.open = Some(OpenBatch { records, count: 1, opened: Instant::now(), outcome, permit, span });
                (0, waits)
            }
        };
        drop(guard);
        self.work.notify_one();
        let topic = Arc::clone(&self.topic);
        Ok(DeliveryFuture { topic, partition: self.partition, bytes_before: bytes_before as u64, outcome })
    }

    /// What to do next, when another batch may leave.
    pub(super) fn next(&self, linger: Duration) -> Next {
        let mut state = self.state();
        if let Some(batch) = state.sealed.pop_front() {
            return Next::Batch(batch);
        }
        let hurry = state.closed || state.flush_through >= state.opened;
        match state.open.take() {
            Some(open) => {
                let leaves = open.opened + linger;
                if hurry || leaves <= Instant::now() {
                    return Next::Batch(open.seal());
                }
                state.open = Some(open);
                Next::At(leaves)
            }
            None if state.closed => Next::Closed,
            None => Next::Nothing,
        }
    }

    /// A batch was delivered or failed.
    pub(super) fn batch_done(&self) {
        self.done.send_modify(|count| *count += 1);
    }

    /// Waits until all batches opened so far are done.
    pub(super) async fn flush(&self) {
        let opened = {
            let mut state = self.state();
            state.flush_through = state.opened;
            state.opened
        };
        self.work.notify_one();
        // The sender lives as long as the lane does.
        _ = self.done.subscribe().wait_for(|&done| done >= opened).await;
    }

    /// Takes no more records; what is there still goes out.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_one();
    }
}

//! One partition's queue of batches, between those who send and the task that delivers.

use super::batch::{Batch, OpenBatch};
use super::delivery::{Callback, DeliveryFuture, Place, Teller};
use crate::error::ClientError;
use crate::record::ProducerRecord;
use crate::spans::ClientSpan;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// Room of a partition's first batch.
const FIRST_BATCH_BYTES: usize = 4096;

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
    /// Bytes of the last batch: the next one will need about as many.
    usual_bytes: usize,
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
    pub(super) fn new(topic: Arc<str>, partition: u16) -> Self {
        Self { topic, partition, state: Mutex::new(State::default()), work: Notify::new(), done: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record of `bytes` to the open batch.
    pub(super) fn push(
        &self,
        record: &ProducerRecord,
        bytes: usize,
        permit: OwnedSemaphorePermit,
        batch_bytes: usize,
        callback: Option<Callback>,
    ) -> Result<DeliveryFuture, ClientError> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.closed {
            return Err(ClientError::Closed { what: "producer" });
        }
        let full = state.open.as_ref().is_some_and(|open| open.records.len() + bytes > batch_bytes);
        if full {
            state.seal();
        }
        // Only then is there something new for the task: a batch that grows is taken when its time has come.
        let is_new = state.open.is_none();
        let open = match &mut state.open {
            Some(open) => {
                record.encode(&mut open.records)?;
                open.permit.merge(permit);
                open.span.iter_mut().for_each(|span| span.join());
                open
            }
            None => {
                let mut records =
                    Vec::with_capacity(state.usual_bytes.max(FIRST_BATCH_BYTES).min(batch_bytes).max(bytes));
                record.encode(&mut records)?;
                state.opened += 1;
                let (opened, teller) = (Instant::now(), Teller::default());
                let span = ClientSpan::send(&self.topic, self.partition).map(Box::new);
                state.open.insert(OpenBatch { records, count: 0, opened, teller, permit, span })
            }
        };
        open.count += 1;
        let place = Place { partition: self.partition, bytes_before: (open.records.len() - bytes) as u64 };
        if let Some(callback) = callback {
            open.teller.call(place, callback);
        }
        let slot = open.teller.slot();
        let is_full = open.records.len() >= batch_bytes;
        if is_full {
            state.seal();
        }
        drop(guard);
        if is_new || is_full {
            self.work.notify_one();
        }
        Ok(DeliveryFuture::new(Arc::clone(&self.topic), place, slot))
    }

    /// What to do next, when another batch may leave.
    pub(super) fn next(&self, linger: Duration) -> Next {
        let mut state = self.state();
        if let Some(batch) = state.sealed.pop_front() {
            return Next::Batch(batch);
        }
        let hurry = state.closed || state.flush_through >= state.opened;
        match &state.open {
            Some(open) => {
                let leaves = open.opened + linger;
                if !hurry && !linger.is_zero() && leaves > Instant::now() {
                    return Next::At(leaves);
                }
                state.seal();
                state.sealed.pop_front().map_or(Next::Nothing, Next::Batch)
            }
            None if state.closed => Next::Closed,
            None => Next::Nothing,
        }
    }

    /// What is there leaves without lingering.
    pub(super) fn hurry(&self) {
        let mut state = self.state();
        state.flush_through = state.opened;
        drop(state);
        self.work.notify_one();
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

impl State {
    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            self.usual_bytes = open.records.len();
            self.sealed.push_back(open.seal());
        }
    }
}

//! The board, shared between a consumer and the tasks that fetch for it, and the bells they ring for one another.

use super::board::{Ask, Board, Key, Plan, ReaderId};
use super::near::NearReads;
use super::record::ConsumedChunk;
use crate::error::ClientError;
use lance_messages::id::TopicId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

#[derive(Debug)]
pub(super) struct Hub {
    board: Mutex<Board>,
    /// Replicas that are read from instead of leaders.
    pub(super) near: NearReads,
    /// What is to be read has changed.
    changed: watch::Sender<()>,
    /// There is more room.
    drained: watch::Sender<()>,
    /// There is something to hand out.
    arrived: Notify,
}

impl Hub {
    pub(super) fn new(prefetch_bytes: usize, rack: String) -> Arc<Self> {
        Arc::new(Self {
            board: Mutex::new(Board::new(prefetch_bytes)),
            near: NearReads::new(rack),
            changed: watch::Sender::new(()),
            drained: watch::Sender::new(()),
            arrived: Notify::new(),
        })
    }

    /// For looking only: changes go through [`Hub::change`].
    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is read, and tells the tasks.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let outcome = change(&mut self.board());
        self.changed.send_replace(());
        self.drained.send_replace(());
        outcome
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn drains(&self) -> watch::Receiver<()> {
        self.drained.subscribe()
    }

    /// What comes next; waits for it.
    pub(super) async fn next(&self) -> Result<ConsumedChunk, ClientError> {
        loop {
            let arrived = self.arrived.notified();
            let taken = self.board().take();
            if let Some(item) = taken {
                self.drained.send_replace(());
                return item;
            }
            arrived.await;
        }
    }

    pub(super) fn plan(&self, reader: ReaderId, max_bytes: u32) -> Plan {
        self.board().plan(reader, max_bytes)
    }

    pub(super) fn offer(&self, reader: ReaderId, ask: &Ask, chunk: ConsumedChunk, bytes: usize) {
        if self.board().offer(reader, ask, chunk, bytes) {
            self.arrived.notify_one();
        }
    }

    pub(super) fn fail(&self, ask: &Ask, error: ClientError) {
        self.change(|board| board.fail(ask, error));
        self.arrived.notify_one();
    }

    pub(super) fn fail_partition(&self, key: &Key, error: ClientError) {
        self.change(|board| board.fail_partition(key, error));
        self.arrived.notify_one();
    }

    pub(super) fn fail_reader(&self, reader: ReaderId, error: ClientError) {
        self.change(|board| board.fail_reader(reader, error));
        self.arrived.notify_one();
    }

    /// False when the reader has ended.
    pub(super) fn place(&self, key: &Key, reader: ReaderId, topic_id: TopicId) -> bool {
        self.change(|board| board.place(key, reader, topic_id))
    }
}

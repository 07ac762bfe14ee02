//! Committed offsets that end with the process.

use super::{OffsetStore, StoreFuture};
use crate::consumer::Position;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Committed offsets in memory, for tests and for consumers that begin anew with each start. Clones share them.
///
/// ```
/// use lance_client::Position;
/// use lance_client::offsets::{MemoryOffsets, OffsetStore};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = MemoryOffsets::default();
/// store.store(&[Position::new("events", 0, 128)]).await?;
/// assert_eq!(store.load("events", 0).await?, Some(128));
/// assert_eq!(store.load("events", 1).await?, None);
/// # Ok::<(), lance_client::ClientError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryOffsets {
    offsets: Arc<Mutex<HashMap<(String, u16), u64>>>,
}

impl OffsetStore for MemoryOffsets {
    fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>> {
        Box::pin(async move {
            let offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(offsets.get(&(topic.to_owned(), partition)).copied())
        })
    }

    fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
            let new =
                positions.iter().map(|position| ((position.topic.to_string(), position.partition), position.offset));
            offsets.extend(new);
            Ok(())
        })
    }
}

//! Where consumers keep how far they are: in memory, in a file, on the server, or wherever the caller likes.

mod file;
mod memory;
mod server;

use crate::consumer::Position;
use crate::error::ClientError;
use std::pin::Pin;
use std::sync::Arc;

pub use file::FileOffsets;
pub use memory::MemoryOffsets;
pub use server::CommittedOffsets;

/// What the methods of an [`OffsetStore`] return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

/// Keeps committed offsets of one consumer, by topic and partition.
///
/// ```
/// use lance_client::offsets::{OffsetStore, StoreFuture};
/// use lance_client::{ClientError, Position};
///
/// struct InMyTable;
///
/// impl OffsetStore for InMyTable {
///     fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>> {
///         Box::pin(async move { select(topic, partition).await.map_err(|e| ClientError::offset_store("my table", e)) })
///     }
///
///     fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()> {
///         Box::pin(async move { upsert(positions).await.map_err(|e| ClientError::offset_store("my table", e)) })
///     }
/// }
/// # async fn select(_: &str, _: u16) -> Result<Option<u64>, String> { Ok(None) }
/// # async fn upsert(_: &[Position]) -> Result<(), String> { Ok(()) }
/// ```
pub trait OffsetStore: Send + Sync {
    /// The offset stored last; `None` where nothing was stored.
    fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>>;

    /// Stores offsets; they are as safe as the store makes them when this is done. Partitions that are not named keep
    /// theirs.
    fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()>;
}

impl<T: OffsetStore + ?Sized> OffsetStore for Box<T> {
    fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>> {
        (**self).load(topic, partition)
    }

    fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()> {
        (**self).store(positions)
    }
}

impl<T: OffsetStore + ?Sized> OffsetStore for Arc<T> {
    fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>> {
        (**self).load(topic, partition)
    }

    fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()> {
        (**self).store(positions)
    }
}

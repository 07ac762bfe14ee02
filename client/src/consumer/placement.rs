//! Spreads one topic's partitions over their leaders, again whenever leadership moves.

use super::fetch_task::{self, PartitionState, Stopped};
use super::{ConsumedChunk, ConsumerOptions};
use crate::client::{Client, MAX_REDIRECTS};
use crate::error::ClientError;
use crate::options::Backoff;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(super) type ChunkSender = mpsc::Sender<Result<ConsumedChunk, ClientError>>;

/// Reads partitions until the consumer is gone or nothing is left to read.
pub(super) async fn run(
    client: Client,
    options: ConsumerOptions,
    topic: Arc<str>,
    begins: Vec<(u16, u64)>,
    chunks: ChunkSender,
) {
    let mut homeless: Vec<PartitionState> =
        begins.into_iter().map(|(partition, offset)| PartitionState::new(partition, offset)).collect();
    let mut readers = JoinSet::new();
    let mut backoff = Backoff::new(client.options().retry_backoff);
    let mut redirects = 0;
    loop {
        if !homeless.is_empty() {
            match place(&client, &topic, &mut homeless).await {
                Ok(groups) => {
                    for (address, partitions) in groups {
                        let reader =
                            read(client.clone(), options, Arc::clone(&topic), address, partitions, chunks.clone());
                        readers.spawn(reader);
                    }
                }
                Err(error) if error.is_retriable() => {
                    tracing::debug!(topic = &*topic, %error, "no leader to read from")
                }
                Err(error) => {
                    _ = chunks.send(Err(error)).await;
                    return;
                }
            }
        }
        if !homeless.is_empty() {
            tokio::time::sleep(backoff.next_wait()).await;
            client.doubt_topic(&topic).await;
            continue;
        }
        let Some(stopped) = readers.join_next().await else {
            return;
        };
        match stopped {
            Ok(Stopped { partitions, progressed, redirected, error }) => {
                tracing::debug!(topic = &*topic, ?error, "reading stopped");
                if progressed {
                    backoff.reset();
                    redirects = 0;
                }
                if chunks.is_closed() {
                    return;
                }
                homeless.extend(partitions);
                if redirected && redirects < MAX_REDIRECTS {
                    redirects += 1;
                    continue;
                }
                tokio::time::sleep(backoff.next_wait()).await;
                client.doubt_topic(&topic).await;
            }
            Err(_) => return,
        }
    }
}

/// Takes the partitions that have a leader out of `homeless`, by its address.
async fn place(
    client: &Client,
    topic: &str,
    homeless: &mut Vec<PartitionState>,
) -> Result<HashMap<String, Vec<PartitionState>>, ClientError> {
    let info = client.topic(topic, false).await?;
    let mut groups: HashMap<String, Vec<PartitionState>> = HashMap::new();
    for state in std::mem::take(homeless) {
        match client.leader_address(&info, state.partition) {
            Ok(address) => groups.entry(address).or_default().push(state),
            Err(error) if error.is_retriable() => homeless.push(state),
            Err(error) => return Err(error),
        }
    }
    Ok(groups)
}

async fn read(
    client: Client,
    options: ConsumerOptions,
    topic: Arc<str>,
    address: String,
    partitions: Vec<PartitionState>,
    chunks: ChunkSender,
) -> Stopped {
    let connected = async {
        let info = client.topic(&topic, false).await?;
        Ok((info.id, client.open(&address).await?))
    };
    match connected.await {
        Ok((id, connection)) => {
            fetch_task::run(client.clone(), connection, options, topic, id, partitions, chunks).await
        }
        Err(error) => Stopped { partitions, progressed: false, redirected: false, error },
    }
}

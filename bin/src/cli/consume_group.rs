//! `lnc consume --group`: as one member of a consumer group.

use super::args::ConsumeArgs;
use super::consume::{Printer, interruption};
use super::failure::Failure;
use lance_client::{Client, ClientError, ConsumedChunk, GroupConsumer, GroupOptions};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How often it is looked whether the others have come to the end too.
const LOOK_EVERY: Duration = Duration::from_millis(500);

struct Grouped {
    topic: Arc<str>,
    group: String,
    client: Client,
    consumer: GroupConsumer,
    printer: Printer,
    /// Where to stop, when there is an end.
    ends: Option<HashMap<u16, u64>>,
}

/// Prints records of the partitions the group leaves to this member.
pub async fn run(args: &ConsumeArgs, client: &Client, group: &str, printer: Printer) -> Result<(), Failure> {
    if args.partition.is_some() {
        return Err(Failure::usage(
            "--partition does not go with --group: the group decides who reads which partition",
        ));
    }
    let fail = |error: ClientError| Failure::of(format!("cannot consume topic '{}'", args.topic), &error);
    let deadline = Instant::now() + client.options().delivery_timeout;
    let info = client.await_topic(&args.topic, true, deadline).await.map_err(fail)?;
    let mut ends = None;
    if args.exit_at_end {
        let consumer = client.consumer(Default::default());
        let mut found = HashMap::new();
        for partition in 0..info.partitions.len() as u16 {
            found.insert(partition, consumer.end_offset(&args.topic, partition).await.map_err(fail)?);
        }
        ends = Some(found);
    }
    let mut options = GroupOptions::new(group, [args.topic.as_str()]);
    options.start = args.offset.0;
    options.instance.clone_from(&args.group_instance);
    options.strategy = args.group_strategy.into();
    options.session_timeout = args.session_timeout;
    let mut grouped = Grouped {
        topic: Arc::from(args.topic.as_str()),
        group: group.to_owned(),
        client: client.clone(),
        consumer: client.group_consumer(options),
        printer,
        ends,
    };
    let outcome = grouped.follow().await;
    let closed = grouped.consumer.close().await.map_err(|error| Failure::of("cannot commit", &error));
    outcome.and(closed)
}

impl Grouped {
    async fn follow(&mut self) -> Result<(), Failure> {
        let what = format!("cannot consume topic '{}' in group '{}'", self.topic, self.group);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let interrupted = interruption();
        tokio::pin!(interrupted);
        while !self.printer.is_full() {
            tokio::select! {
                biased;
                () = &mut interrupted => return Ok(()),
                _ = look.tick(), if self.ends.is_some() => {
                    if self.group_is_at_end().await.map_err(|error| Failure::of(&what, &error))? {
                        return Ok(());
                    }
                }
                chunk = self.consumer.next_chunk() => {
                    let chunk = chunk.map_err(|error| Failure::of(&what, &error))?;
                    self.print(&chunk)?;
                }
            }
        }
        Ok(())
    }

    fn print(&mut self, chunk: &ConsumedChunk) -> Result<(), Failure> {
        let end = self.ends.as_ref().and_then(|ends| ends.get(&chunk.partition)).copied().unwrap_or(u64::MAX);
        let next = self.printer.print(chunk, end)?;
        self.consumer.handled_to(next);
        Ok(())
    }

    /// Whether every partition is at its end: this member's by what was printed, the others by what is committed.
    async fn group_is_at_end(&self) -> Result<bool, ClientError> {
        let Some(ends) = &self.ends else { return Ok(false) };
        let at_end = |partition: u16, offset: u64| ends.get(&partition).is_none_or(|end| offset >= *end);
        if self.consumer.epoch() <= 0 {
            return Ok(false);
        }
        let mut open: Vec<u16> = ends.iter().filter(|(_, end)| **end > 0).map(|(partition, _)| *partition).collect();
        open.retain(|partition| match self.consumer.position(&self.topic, *partition) {
            Some(position) => !at_end(*partition, position),
            None => true,
        });
        if open.is_empty() {
            return Ok(true);
        }
        let topic = self.client.topic(&self.topic, false).await?;
        for found in self.client.admin().group_offsets(&self.group).await? {
            if found.partition.topic == topic.id && at_end(found.partition.partition, found.offset) {
                open.retain(|partition| *partition != found.partition.partition);
            }
        }
        Ok(open.is_empty())
    }
}

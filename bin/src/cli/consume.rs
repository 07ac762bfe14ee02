//! `lnc consume`.

use super::args::{Common, ConsumeArgs, OutputFormat};
use super::consume_group;
use super::failure::Failure;
use super::format::{RecordFormat, record_json};
use super::output::Out;
use super::session;
use lance_client::consumer::Position;
use lance_client::offsets::CommittedOffsets;
use lance_client::wire::Features;
use lance_client::{ClientError, ConsumedChunk, Consumer, ConsumerOptions};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How often a group's position is stored.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// Prints records, as many as were asked for.
pub struct Printer {
    format: Option<RecordFormat>,
    out: Out,
    left: u64,
}

struct Reading {
    topic: String,
    printer: Printer,
    /// Where the next record of each partition starts that was not printed.
    positions: HashMap<u16, u64>,
    /// Where to stop, when there is an end.
    ends: Option<HashMap<u16, u64>>,
    group: Option<Group>,
}

struct Group {
    name: String,
    offsets: CommittedOffsets,
    committed: HashMap<u16, u64>,
}

/// Prints records until the end, the count or an interruption.
pub async fn run(args: &ConsumeArgs, common: &Common) -> Result<(), Failure> {
    let format = RecordFormat::parse(&args.format).map_err(|error| Failure::usage(format!("--format: {error}")))?;
    let client = session::connect_in(common, args.rack.as_deref().unwrap_or_default()).await?;
    let printer = Printer {
        format: (common.output == OutputFormat::Text).then_some(format),
        out: Out::stdout(),
        left: args.count.unwrap_or(u64::MAX),
    };
    // A server of 1.0 knows no groups, only how far somebody is.
    if let Some(group) = &args.group
        && client.supports(Features::GROUPS).await.map_err(|error| Failure::of("cannot consume", &error))?
    {
        return consume_group::run(args, &client, group, printer).await;
    }
    let what = format!("cannot consume topic '{}'", args.topic);
    let fail = |error: ClientError| Failure::of(&what, &error);
    let deadline = Instant::now() + client.options().delivery_timeout;
    let topic = client.await_topic(&args.topic, true, deadline).await.map_err(fail)?;
    let partitions = match args.partition {
        Some(partition) => vec![partition],
        None => (0..topic.partitions.len() as u16).collect(),
    };
    let mut consumer = client.consumer(ConsumerOptions::default());
    let group = args.group.as_ref().map(|name| Group {
        name: name.clone(),
        offsets: CommittedOffsets::new(client.clone(), CommittedOffsets::id_of_name(name)),
        committed: HashMap::new(),
    });
    let mut reading = Reading { topic: args.topic.clone(), printer, positions: HashMap::new(), ends: None, group };
    if args.exit_at_end {
        let mut ends = HashMap::new();
        for &partition in &partitions {
            ends.insert(partition, consumer.end_offset(&args.topic, partition).await.map_err(fail)?);
        }
        reading.ends = Some(ends);
    }
    reading.assign(args, &mut consumer, &partitions).await.map_err(fail)?;
    let outcome = reading.follow(&mut consumer).await;
    reading.commit().await.map_err(|error| Failure::of("cannot commit", &error))?;
    outcome
}

impl Reading {
    /// Begins where the group was, else where the arguments say.
    async fn assign(
        &mut self,
        args: &ConsumeArgs,
        consumer: &mut Consumer,
        partitions: &[u16],
    ) -> Result<(), ClientError> {
        let mut elsewhere = Vec::new();
        let mut resumed = Vec::new();
        for &partition in partitions {
            let committed = match &self.group {
                Some(group) => group.offsets.fetch(&self.topic, partition).await?,
                None => 0,
            };
            if committed == 0 {
                elsewhere.push(partition);
            } else {
                let topic = self.topic.as_str().into();
                resumed.push(Position { topic, partition, offset: committed });
            }
        }
        consumer.assign_at(&resumed);
        let begun = consumer.assign(&self.topic, Some(&elsewhere), args.offset.0).await?;
        for position in resumed.into_iter().chain(begun) {
            self.positions.insert(position.partition, position.offset);
        }
        Ok(())
    }

    async fn follow(&mut self, consumer: &mut Consumer) -> Result<(), Failure> {
        let mut commit = tokio::time::interval(COMMIT_EVERY);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let interrupted = interruption();
        tokio::pin!(interrupted);
        while !self.is_done() {
            tokio::select! {
                biased;
                () = &mut interrupted => return Ok(()),
                _ = commit.tick(), if self.group.is_some() => {
                    self.commit().await.map_err(|error| Failure::of("cannot commit", &error))?;
                }
                chunk = consumer.next_chunk() => {
                    let chunk = chunk.map_err(|error| Failure::of(format!("cannot consume topic '{}'", self.topic), &error))?;
                    self.print(&chunk)?;
                }
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let at_end = self.ends.as_ref().is_some_and(|ends| {
            ends.iter().all(|(partition, end)| self.positions.get(partition).is_some_and(|position| position >= end))
        });
        self.printer.is_full() || at_end
    }

    fn print(&mut self, chunk: &ConsumedChunk) -> Result<(), Failure> {
        let end = self.ends.as_ref().and_then(|ends| ends.get(&chunk.partition)).copied().unwrap_or(u64::MAX);
        let next = self.printer.print(chunk, end)?;
        self.positions.insert(chunk.partition, next);
        Ok(())
    }

    /// Stores how far the group is, where that is news.
    async fn commit(&mut self) -> Result<(), ClientError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        for (&partition, &offset) in &self.positions {
            if group.committed.get(&partition) != Some(&offset) {
                group.offsets.commit(&self.topic, partition, offset).await?;
                group.committed.insert(partition, offset);
                tracing::debug!(group = group.name, partition, offset, "committed");
            }
        }
        Ok(())
    }
}

impl Printer {
    /// Whether as many records were printed as were asked for.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Prints the records before `end`, and gives where the first begins that was not printed.
    pub fn print(&mut self, chunk: &ConsumedChunk, end: u64) -> Result<u64, Failure> {
        for record in &chunk.records {
            if self.left == 0 || record.offset >= end {
                return Ok(record.offset);
            }
            match &self.format {
                Some(format) => {
                    self.out.write(|mut out| format.write(&mut out, &chunk.topic, chunk.partition, record))?;
                }
                None => self.out.json(&record_json(&chunk.topic, chunk.partition, record))?,
            }
            self.left -= 1;
        }
        Ok(chunk.next_offset)
    }
}

/// Ctrl-C or SIGTERM.
pub async fn interruption() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    _ = tokio::signal::ctrl_c().await;
}

//! A consumer: follows every partition with long polls, and now and then reads somewhere else or looks something up.

use super::wire::Wire;
use crate::sim::context::{Context, Phase};
use crate::sim::oracle::Oracle;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::wire::fetch::{Fetch, FetchList, FetchPartition, FetchPartitions, FetchedPartition};
use lance_messages::wire::lookup::{LookupOffset, LookupOffsetResponse, LookupTarget};
use lance_messages::wire::{Request, Response};
use std::collections::BTreeMap;

enum Asked {
    Follow {
        positions: BTreeMap<TopicPartition, u64>,
        /// Whether a replica that does not lead may answer.
        near: bool,
    },
    Probe {
        partition: TopicPartition,
        offset: u64,
        high_watermark: u64,
    },
    LookUp {
        partition: TopicPartition,
        target: LookupTarget,
        high_watermark: u64,
    },
}

/// A consumer.
pub struct Consumer {
    client: u16,
    positions: BTreeMap<TopicPartition, u64>,
    watermarks: BTreeMap<TopicPartition, u64>,
    asked: Option<Asked>,
    correlation: u64,
    paused_until_ns: u64,
    /// Among several nodes: the partition it follows, and the greatest epoch that answered.
    only: Option<(TopicPartition, u32)>,
    /// It was told that another node leads.
    pub misled: bool,
}

impl Consumer {
    /// A consumer that begins at the beginning.
    pub fn new(client: u16) -> Self {
        Self {
            client,
            positions: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            asked: None,
            correlation: 0,
            paused_until_ns: 0,
            only: None,
            misled: false,
        }
    }

    /// A consumer of one partition, whichever node leads it.
    pub fn of_partition(client: u16, partition: TopicPartition) -> Self {
        Self { only: Some((partition, 0)), ..Self::new(client) }
    }

    fn wanted(&self, oracle: &Oracle) -> Vec<TopicPartition> {
        match self.only {
            Some((partition, _)) => vec![partition],
            None => partitions(oracle),
        }
    }

    /// What it has not read yet.
    pub fn unfinished(&self, ctx: &Context<'_>) -> Option<String> {
        self.wanted(ctx.oracle).into_iter().find_map(|partition| {
            let truth = ctx.oracle.partitions.get(&partition)?;
            let (position, end) = (self.position(partition), truth.acked_end.max(truth.high_watermark));
            let client = self.client;
            (position < end).then(|| format!("consumer {client} is at {position} of {partition}, which ends at {end}"))
        })
    }

    fn position(&self, partition: TopicPartition) -> u64 {
        self.positions.get(&partition).copied().unwrap_or_default()
    }

    /// Asks for something.
    pub fn work(&mut self, wire: &mut Wire, ctx: &mut Context<'_>) {
        let known = self.wanted(ctx.oracle);
        if self.asked.is_some() || ctx.now_ns < self.paused_until_ns || known.is_empty() {
            return;
        }
        self.correlation += 1;
        let settling = ctx.phase == Phase::Settle || self.only.is_some();
        let partition = ctx.rng.pick(&known).unwrap_or(known[0]);
        let high_watermark = ctx.oracle.partition(partition).high_watermark;
        let (asked, request, number) = match ctx.rng.below(10) {
            0 if !settling => {
                let offset = ctx.rng.below(high_watermark + 1);
                let max_bytes = ctx.rng.range(1, 40_000) as u32;
                let fetch = Fetch { topic: partition.topic, offset, max_bytes };
                (Asked::Probe { partition, offset, high_watermark }, Request::Fetch(fetch), partition.partition)
            }
            1 if !settling => {
                let target = match ctx.rng.below(4) {
                    0 => LookupTarget::Earliest,
                    1 => LookupTarget::Latest,
                    2 => LookupTarget::Timestamp(ctx.now.wall_ns.saturating_sub(ctx.rng.below(2_000_000_000))),
                    _ => LookupTarget::RecordNumber(ctx.rng.below(300)),
                };
                let look_up = LookupOffset { partition, target };
                (Asked::LookUp { partition, target, high_watermark }, Request::LookupOffset(look_up), 0)
            }
            _ => self.follow(&known, ctx),
        };
        self.asked = Some(asked);
        wire.send(request, number, self.correlation, ctx);
    }

    fn follow(&self, known: &[TopicPartition], ctx: &mut Context<'_>) -> (Asked, Request, u16) {
        let positions: BTreeMap<TopicPartition, u64> = known.iter().map(|p| (*p, self.position(*p))).collect();
        let max_bytes = ctx.rng.range(1_000, 600_000) as u32;
        let near = ctx.rng.below(3) == 0;
        let asked: Vec<FetchPartition> = positions
            .iter()
            .map(|(partition, offset)| FetchPartition { partition: *partition, offset: *offset, max_bytes, near })
            .collect();
        let fetch = FetchPartitions {
            max_wait_ms: ctx.rng.below(400) as u32,
            min_bytes: 1,
            max_bytes: 4 << 20,
            partitions: FetchList::new(&asked),
            rack: String::new(),
        };
        (Asked::Follow { positions, near }, Request::FetchPartitions(fetch), 0)
    }

    /// The connection is gone.
    pub fn on_lost(&mut self) {
        self.asked = None;
    }

    /// A reply.
    pub fn on_reply(&mut self, correlation: u64, response: Response, ctx: &mut Context<'_>) {
        let Some(asked) = self.asked.take() else {
            return ctx.oracle.violated(format!("a consumer that asked nothing was answered {response:?}"));
        };
        if correlation != self.correlation {
            return ctx.oracle.violated(format!("reply {correlation} came where {} is next", self.correlation));
        }
        match (asked, response) {
            (Asked::Follow { positions, near }, Response::FetchPartitions(reply)) => {
                if reply.partitions.len() != positions.len() {
                    ctx.oracle.violated(format!(
                        "{} partitions answered of {}",
                        reply.partitions.len(),
                        positions.len()
                    ));
                }
                for (fetched, data) in &reply.partitions {
                    let offset = positions.get(&fetched.partition).copied().unwrap_or_default();
                    self.on_fetched(fetched, (offset, near), data, ctx);
                }
            }
            (Asked::Probe { partition, .. }, Response::Fetch { next_offset, data, .. }) => {
                ctx.oracle.shown(partition, next_offset - data.len() as u64, &data);
            }
            (Asked::Probe { partition, offset, high_watermark }, Response::CatchingUp { end_offset }) => {
                let what =
                    format!("{partition}: {offset} is past the end {end_offset}, but {high_watermark} was served");
                ctx.oracle.violated(what);
            }
            (Asked::LookUp { partition, target, high_watermark }, Response::LookupOffset(found)) => {
                on_looked_up(partition, target, high_watermark, &found, ctx);
            }
            (Asked::Probe { partition, .. } | Asked::LookUp { partition, .. }, Response::Error(error)) => {
                self.on_error(partition, error.code, ctx);
            }
            (_, other) => ctx.oracle.violated(format!("a consumer was answered {other:?}")),
        }
    }

    fn on_error(&mut self, partition: TopicPartition, code: ErrorCode, ctx: &mut Context<'_>) {
        let unknown = matches!(code, ErrorCode::UnknownTopic | ErrorCode::UnknownPartition);
        self.misled = true;
        // Somebody may have deleted it meanwhile.
        let gone = unknown && !partitions(ctx.oracle).contains(&partition);
        if !code.is_retriable() && code != ErrorCode::StorageOffline && !gone {
            ctx.oracle.violated(format!("{partition}: a consumer was refused: {code:?}"));
        }
        self.paused_until_ns = ctx.now_ns + ctx.rng.range(2_000_000, 60_000_000);
    }

    fn on_fetched(
        &mut self,
        fetched: &FetchedPartition,
        (asked, near): (u64, bool),
        data: &[u8],
        ctx: &mut Context<'_>,
    ) {
        let partition = fetched.partition;
        // An answer that says nothing of the log says nothing of its leader either.
        let of_log = fetched.error.is_none_or(|code| code == ErrorCode::OffsetOutOfRange);
        if let Some((_, newest)) = self.only.as_mut().filter(|_| of_log) {
            // A node that does not know yet that it leads no more.
            if fetched.leader_epoch < *newest {
                self.misled = true;
                return;
            }
            *newest = fetched.leader_epoch;
        }
        if let Some(code) = fetched.error {
            return self.on_error(partition, code, ctx);
        }
        let start = fetched.next_offset.saturating_sub(data.len() as u64);
        let is_gone = start > asked && start <= ctx.oracle.removals.removed_below(partition);
        if start != asked && !is_gone {
            ctx.oracle.violated(format!("{partition}: asked for {asked}, got {} bytes at {start}", data.len()));
        }
        // A replica may know of less than others have shown.
        if near && data.is_empty() && fetched.next_offset == asked {
            return;
        }
        if fetched.next_offset > fetched.high_watermark {
            let (next, end) = (fetched.next_offset, fetched.high_watermark);
            ctx.oracle.violated(format!("{partition}: data up to {next} was shown, committed is {end}"));
        }
        let before = self.watermarks.get(&partition).copied().unwrap_or_default();
        self.watermarks.insert(partition, fetched.high_watermark.max(before));
        if fetched.high_watermark < before && !near {
            let now = fetched.high_watermark;
            ctx.oracle.violated(format!("{partition}: a consumer saw the high watermark go from {before} to {now}"));
        }
        ctx.oracle.shown(partition, start, data);
        self.positions.insert(partition, fetched.next_offset);
    }
}

fn on_looked_up(
    partition: TopicPartition,
    target: LookupTarget,
    watermark: u64,
    found: &LookupOffsetResponse,
    ctx: &mut Context<'_>,
) {
    let offset = found.offset;
    let truth = ctx.oracle.partition(partition);
    let verdict = match target {
        LookupTarget::Earliest if offset != 0 => Err(format!("{partition} starts at {offset}")),
        LookupTarget::Latest if offset < watermark => {
            Err(format!("{partition}: the end was looked up at {offset}, but {watermark} had been served"))
        }
        // Another number is that of the end: the record was not there yet.
        LookupTarget::RecordNumber(record) if found.record_number == record => {
            truth.looked_up.push((record, offset));
            Ok(())
        }
        _ => Ok(()),
    };
    ctx.oracle.judge(verdict);
}

/// Every partition of a topic that nobody deletes.
fn partitions(oracle: &Oracle) -> Vec<TopicPartition> {
    let topics = oracle.topics.values().filter(|topic| !topic.deleting);
    topics.flat_map(|topic| (0..topic.partitions).map(|number| TopicPartition::new(topic.id, number))).collect()
}

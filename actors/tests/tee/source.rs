//! The source: one partition's committed batches.

use bytes::Bytes;
use lance_actors::tee::core::flow::{SourceBatch, SourceBounds};
use lance_actors::tee::core::{ReadFrom, ReadOutcome};
use lance_messages::batch::Codec;
use lance_messages::peer::LogPlace;

/// A batch of the source; one without records is the broker's own.
#[derive(Clone, Debug)]
pub struct Stored {
    pub batch: SourceBatch,
    pub control: bool,
}

/// A log whose batches are all committed.
#[derive(Default)]
pub struct Source {
    pub log: Vec<Stored>,
    /// Batches before this one were removed.
    pub removed: usize,
}

impl Source {
    pub fn end(&self, committed: usize) -> LogPlace {
        committed.checked_sub(1).map_or_else(LogPlace::default, |last| self.log[last].batch.end)
    }

    fn bounds(&self, committed: usize) -> SourceBounds {
        SourceBounds { log_start: self.end(self.removed), high_watermark: self.end(committed) }
    }

    /// One more batch; its records are its number.
    pub fn append(&mut self, control: bool, compressed: bool) {
        let number = self.log.len();
        let start = self.end(number);
        let text = format!("{number};");
        let record_count = if control { 0 } else { 1 + (number % 3) as u32 };
        let plain: Vec<u8> = text.as_bytes().repeat(record_count as usize);
        let codec = compressed.then_some(Codec::Lz4);
        let records: Bytes =
            if compressed { Codec::Lz4.compress(&plain).unwrap().into() } else { plain.clone().into() };
        let end = LogPlace {
            position: start.position + 104 + records.len() as u64,
            offset: start.offset + plain.len() as u64,
            record: start.record + u64::from(record_count),
        };
        let batch = SourceBatch {
            start,
            end,
            records_crc: crc32fast::hash(&records),
            records: records.into(),
            record_count,
            codec,
            plain_len: plain.len() as u32,
            timestamp_ns: 7_000 + number as u64,
            appended_ns: 1_000 + number as u64,
        };
        self.log.push(Stored { batch, control });
    }

    /// What the first `committed` batches give.
    pub fn read(&self, from: ReadFrom, max_bytes: usize, committed: usize) -> ReadOutcome {
        let bounds = self.bounds(committed);
        let position = match from {
            ReadFrom::Start => return ReadOutcome::Place { bounds, place: bounds.log_start },
            ReadFrom::Time(at_ns) => {
                let later = |at: &usize| !self.log[*at].control && self.log[*at].batch.appended_ns >= at_ns;
                let found = (self.removed..committed).find(later);
                let place = found.map_or(bounds.high_watermark, |at| self.log[at].batch.start);
                return ReadOutcome::Place { bounds, place };
            }
            ReadFrom::Position(position) => position,
        };
        if position < bounds.log_start.position {
            return ReadOutcome::BelowStart { bounds };
        }
        if position > bounds.high_watermark.position {
            return ReadOutcome::Failed { reason: "behind what is committed".to_owned(), stuck: false };
        }
        let first = self.log[..committed].partition_point(|stored| stored.batch.start.position < position);
        let (mut batches, mut end, mut bytes) = (Vec::new(), self.end(first), 0);
        assert_eq!(end.position, position, "a read begins at a batch");
        for Stored { batch, control } in &self.log[first..committed] {
            if bytes > 0 && bytes + batch.records.len() > max_bytes {
                break;
            }
            bytes += batch.records.len();
            end = batch.end;
            if !control {
                batches.push(batch.clone());
            }
        }
        ReadOutcome::Batches { bounds, batches, end }
    }

    /// The plain records of every batch that has some, with the number of the batch.
    pub fn plain(&self) -> Vec<Vec<u8>> {
        let with_records = self.log.iter().filter(|stored| !stored.control);
        with_records.map(|Stored { batch, .. }| plain_of(batch)).collect()
    }
}

pub fn plain_of(batch: &SourceBatch) -> Vec<u8> {
    match batch.codec {
        Some(codec) => codec.decompress(batch.records.in_memory().unwrap(), batch.plain_len as usize).unwrap(),
        None => batch.records.in_memory().unwrap().to_vec(),
    }
}

//! `GET /v1/topics/{topic}/partitions/{partition}/records`: some committed records as JSON, bounded in number and bytes.
//!
//! The leader of the partition is asked, here or through the forwarder. Text is shown as text, anything else as base64; what is
//! longer than is shown is cut and says so.

use super::actor::{AdminActor, AdminSetup};
use super::asking::{AskLeader, Question};
use super::error::ApiError;
use super::guard::Caller;
use super::router::PATIENCE;
use crate::ingestion::damage;
use crate::mailbox::Mailbox;
use crate::network::readers::{ReadFailure, SegmentRead, look_up, read_committed};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::mail::connection::{Answer, FetchedData};
use lance_messages::mail::ingestion::OffsetQuery;
use lance_messages::record::{Record, RecordType, TLV_HEADER_BYTES, records};
use lance_messages::security::Operation;
use lance_storage::reader::Reader;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Records of an answer, at most, and where nothing is said.
const MAX_RECORDS: usize = 500;
const USUAL_RECORDS: usize = 50;
/// Bytes of a value that are shown, at most, and where nothing is said.
const MAX_VALUE_BYTES: usize = 64 * 1024;
const USUAL_VALUE_BYTES: usize = 4 * 1024;
/// Bytes of a key or of the value of a header that are shown.
const MAX_KEY_BYTES: usize = 1024;
/// Headers of a record that are shown.
const MAX_HEADERS: usize = 32;
/// Bytes of all values of an answer after which it ends.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Bytes of records that are read at once.
const READ_BYTES: u32 = 1024 * 1024;

/// Which records are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordsQuery {
    /// `earliest`, `latest` or an offset.
    offset: Option<String>,
    /// So many before the end, instead of an offset.
    last: Option<u64>,
    /// Most records.
    max: Option<usize>,
    /// Bytes of a value that are shown.
    value_bytes: Option<usize>,
}

/// Some records.
#[derive(Debug, Serialize)]
pub struct RecordsListing {
    topic: String,
    partition: u16,
    /// The node that leads the partition, and was asked.
    leader: Option<u16>,
    /// Where to read on.
    next_offset: u64,
    /// The high watermark.
    end_offset: u64,
    records: Vec<RecordListing>,
}

/// Bytes as people read them.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Shown {
    /// As text, where it is UTF-8.
    text: Option<String>,
    base64: Option<String>,
    /// How many there are.
    bytes: u64,
    /// Whether fewer are shown.
    truncated: bool,
}

/// One record.
#[derive(Debug, Serialize)]
struct RecordListing {
    offset: u64,
    /// What its type says of its value.
    kind: &'static str,
    /// Milliseconds since the Unix epoch, where the producer gave them.
    timestamp_ms: Option<u64>,
    key: Option<Shown>,
    /// None: a record without data.
    value: Option<Shown>,
    headers: Vec<HeaderListing>,
}

/// A header of a record.
#[derive(Debug, Serialize)]
struct HeaderListing {
    name: String,
    value: Shown,
}

/// Answers the request.
pub async fn list_records(
    State(setup): State<Arc<AdminSetup>>,
    State(own): State<Mailbox<AdminActor>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, u16)>, PathRejection>,
    query: Result<Query<RecordsQuery>, QueryRejection>,
) -> Result<Json<RecordsListing>, ApiError> {
    let Path((topic, number)) = path.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    caller.require(&setup, Operation::Read, &topic)?;
    let Query(query) = query.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let (partition, leader) = {
        let view = setup.view.load();
        let known =
            view.topic_by_name(&topic).ok_or_else(|| ApiError::not_found(format!("there is no topic {topic:?}")))?;
        let count = known.partitions.len();
        if usize::from(number) >= count {
            return Err(ApiError::not_found(format!("topic {topic:?} has the partitions 0 to {}", count - 1)));
        }
        let partition = TopicPartition::new(known.id, number);
        (partition, view.leader(partition))
    };
    if leader.is_none() {
        return Err(ApiError::unavailable(format!("nobody leads {topic}-{number} at the moment")));
    }
    let asking = Asking { setup: &setup, own: &own, partition };
    let (end_offset, end_record) = asking.look_up(OffsetQuery::Latest).await?;
    let from = match (query.last, query.offset.as_deref()) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("offset and last exclude each other")),
        (Some(last), None) => OffsetQuery::Record(end_record.saturating_sub(last)),
        (None, None | Some("earliest")) => OffsetQuery::Earliest,
        (None, Some("latest")) => OffsetQuery::Latest,
        (None, Some(text)) => {
            let allowed = || ApiError::invalid(format!("offset is {text:?}: earliest, latest or a number is allowed"));
            OffsetQuery::Offset(text.parse().map_err(|_| allowed())?)
        }
    };
    let offset = match from {
        OffsetQuery::Latest => end_offset,
        OffsetQuery::Offset(offset) if offset >= end_offset => offset,
        // What is committed and not written here yet is found nowhere but by reading on from where a record ended.
        OffsetQuery::Offset(offset) => match asking.look_up(from).await?.0 {
            found if found >= end_offset => offset,
            found => found,
        },
        from => asking.look_up(from).await?.0,
    };
    let limits = Limits {
        records: query.max.unwrap_or(USUAL_RECORDS).clamp(1, MAX_RECORDS),
        value_bytes: query.value_bytes.unwrap_or(USUAL_VALUE_BYTES).min(MAX_VALUE_BYTES),
        end_offset,
    };
    let (records, next_offset) = match offset >= end_offset {
        true => (Vec::new(), offset),
        false => {
            let (data, offset) = asking.fetch(offset).await?;
            list(&data, offset, limits)
        }
    };
    let leader = leader.map(|node| node.0);
    Ok(Json(RecordsListing { topic, partition: number, leader, next_offset, end_offset, records }))
}

struct Asking<'a> {
    setup: &'a AdminSetup,
    own: &'a Mailbox<AdminActor>,
    partition: TopicPartition,
}

impl Asking<'_> {
    async fn ask(&self, question: Question) -> Result<Answer<SegmentRead>, ApiError> {
        match tokio::time::timeout(PATIENCE, self.own.send(AskLeader { partition: self.partition, question })).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(code))) => Err(refused(code)),
            Ok(Err(_)) => Err(ApiError::unavailable("the admin interface is restarting")),
            Err(_) => {
                let leader = self.setup.view.load().leader_address(self.partition).unwrap_or("unknown").to_owned();
                let seconds = PATIENCE.as_secs();
                Err(ApiError::unavailable(format!("the leader at {leader} did not answer in {seconds} s")))
            }
        }
    }

    /// Tells of damage; answers what those who asked hear.
    fn on_read_failed(&self, failure: &ReadFailure) -> ErrorCode {
        if let Some(found) = failure.damage() {
            self.setup.metrics.damaged_batches.add(1);
            damage::report(&self.setup.shards, found);
        }
        failure.code(&self.setup.view.load())
    }

    /// Offset and number of a record.
    async fn look_up(&self, query: OffsetQuery) -> Result<(u64, u64), ApiError> {
        let found = match self.ask(Question::LookUp(query)).await? {
            Answer::LookedUp(found) => found,
            Answer::LookUpSegments(read, query) => {
                let disk = Arc::clone(&self.setup.disk);
                let look = move || look_up(&read, query, &mut Reader::new(&disk, 1));
                let found = actix_rt::task::spawn_blocking(look).await.unwrap_or(Err(ReadFailure::Panicked));
                found.map_err(|failure| self.on_read_failed(&failure))
            }
            Answer::Fetched { .. } | Answer::Produced(_) => Err(ErrorCode::Internal),
        };
        found.map(|(offset, record, _)| (offset, record)).map_err(refused)
    }

    /// Record bytes, and the offset of the first.
    async fn fetch(&self, offset: u64) -> Result<(Bytes, u64), ApiError> {
        let answer = self.ask(Question::Fetch { offset, max_bytes: READ_BYTES }).await?;
        let Answer::Fetched { result, .. } = answer else { return Err(refused(ErrorCode::Internal)) };
        let (bounds, found) = result.map_err(refused)?;
        let offset = offset.max(bounds.log_start_offset);
        match found {
            FetchedData::Tail { data, .. } => Ok((data, offset)),
            FetchedData::Empty | FetchedData::BeyondEnd => Ok((Bytes::new(), offset)),
            FetchedData::Segments(read) => {
                let disk = Arc::clone(&self.setup.disk);
                let read = move || read_committed(&disk, &read, offset, READ_BYTES);
                match actix_rt::task::spawn_blocking(read).await {
                    Ok(Ok((data, _))) => Ok((data.into(), offset)),
                    Ok(Err(error)) => {
                        self.on_read_failed(&error);
                        Err(ApiError::unavailable(format!("the records cannot be read: {error}")))
                    }
                    Err(_) => Err(refused(ErrorCode::Internal)),
                }
            }
        }
    }
}

fn refused(code: ErrorCode) -> ApiError {
    ApiError::of_code(code, code.text())
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    records: usize,
    value_bytes: usize,
    /// No record ends behind it.
    end_offset: u64,
}

/// The records that begin at `offset`, and where the next one begins. Bytes that are no records are one of their own.
fn list(data: &[u8], offset: u64, limits: Limits) -> (Vec<RecordListing>, u64) {
    let (mut listed, mut shown_bytes) = (Vec::new(), 0);
    let mut all = records(data);
    while listed.len() < limits.records && shown_bytes < MAX_ANSWER_BYTES {
        let at = all.consumed_bytes();
        let start = offset + at as u64;
        match all.next() {
            None => break,
            Some(Ok(record)) => {
                listed.push(list_record(start, &record, limits.value_bytes));
                shown_bytes += record.value.len().min(limits.value_bytes);
            }
            // The rest is read with the next request, unless it is all there is.
            Some(Err(_)) if !listed.is_empty() => return (listed, start),
            Some(Err(_)) => {
                let (value, end) = cut_record(&data[at..], limits.end_offset.saturating_sub(start));
                let value = Some(show(value.0, value.1, limits.value_bytes));
                let kind = "raw";
                listed.push(RecordListing {
                    offset: start,
                    kind,
                    timestamp_ms: None,
                    key: None,
                    value,
                    headers: Vec::new(),
                });
                return (listed, start + end);
            }
        }
    }
    (listed, offset + all.consumed_bytes() as u64)
}

/// A record of which only the beginning was read: its value so far and in all, and its length, at most `left`. Other bytes are
/// taken whole.
fn cut_record(data: &[u8], left: u64) -> ((&[u8], u64), u64) {
    let header = data.split_first_chunk::<TLV_HEADER_BYTES>();
    let header = header
        .filter(|(header, _)| RecordType::from_byte(header[0]).is_some())
        .map(|(header, value)| (u64::from(u32::from_le_bytes([header[1], header[2], header[3], header[4]])), value));
    match header.filter(|(length, _)| length + TLV_HEADER_BYTES as u64 <= left) {
        Some((length, value)) => ((value, length), length + TLV_HEADER_BYTES as u64),
        None => ((data, data.len() as u64), data.len() as u64),
    }
}

fn list_record(offset: u64, record: &Record<'_>, value_bytes: usize) -> RecordListing {
    let parts = record.parts();
    let show_all = |bytes: &[u8], most| show(bytes, bytes.len() as u64, most);
    // A value that is shorter than its type asks for is shown as it is.
    let data = parts.map_or(Some(record.value), |parts| parts.data);
    let headers = parts.map(|parts| parts.headers).unwrap_or_default().take(MAX_HEADERS);
    RecordListing {
        offset,
        kind: kind_name(record.kind),
        timestamp_ms: parts.and_then(|parts| parts.timestamp_ns).map(|ns| ns / 1_000_000),
        key: parts.and_then(|parts| parts.key).map(|key| show_all(key, MAX_KEY_BYTES)),
        value: data.map(|data| show_all(data, value_bytes)),
        headers: headers
            .map(|(name, value)| HeaderListing {
                name: name.chars().take(MAX_KEY_BYTES).collect(),
                value: show_all(value, MAX_KEY_BYTES),
            })
            .collect(),
    }
}

fn kind_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::Raw => "raw",
        RecordType::Json => "json",
        RecordType::MessagePack => "messagepack",
        RecordType::Protobuf => "protobuf",
        RecordType::Avro => "avro",
        RecordType::KeyValue => "key-value",
        RecordType::Timestamped => "timestamped",
        RecordType::KeyTimestamped => "key-timestamped",
        RecordType::WithHeaders => "headers",
        RecordType::User(_) => "user",
        RecordType::Null => "null",
    }
}

/// The first `most` bytes of something that has `bytes` in all.
fn show(there: &[u8], bytes: u64, most: usize) -> Shown {
    let cut = &there[..there.len().min(most)];
    let truncated = bytes > cut.len() as u64;
    let text = match std::str::from_utf8(cut) {
        Ok(text) => Some(text),
        // A character that was cut in two is left out; anything else is no text.
        Err(error) if truncated && error.error_len().is_none() => std::str::from_utf8(&cut[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    let base64 = text.is_none().then(|| STANDARD.encode(cut));
    Shown { text: text.map(str::to_owned), base64, bytes, truncated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::record::{put_data, put_record};

    const LIMITS: Limits = Limits { records: 10, value_bytes: 8, end_offset: 10_000 };

    fn text(shown: &Option<Shown>) -> Option<&str> {
        shown.as_ref()?.text.as_deref()
    }

    #[test]
    fn records_are_listed_with_offsets_keys_and_times() {
        let mut data = Vec::new();
        put_record(&mut data, RecordType::Json, b"{}").unwrap();
        let second = data.len() as u64;
        put_data(&mut data, Some(b"k"), Some(7_000_000), b"value").unwrap();
        put_record(&mut data, RecordType::Null, b"").unwrap();
        let (listed, next) = list(&data, 100, LIMITS);
        assert_eq!(next, 100 + data.len() as u64);
        assert_eq!((listed[0].offset, listed[0].kind, text(&listed[0].value)), (100, "json", Some("{}")));
        let keyed = &listed[1];
        assert_eq!((keyed.offset, text(&keyed.key), keyed.timestamp_ms), (100 + second, Some("k"), Some(7)));
        assert_eq!(listed[2].value, None);
        let (one, next) = list(&data, 100, Limits { records: 1, ..LIMITS });
        assert_eq!((one.len(), next), (1, 100 + second));
    }

    #[test]
    fn a_record_that_was_not_read_whole_is_shown_cut_and_passed_over() {
        let mut data = Vec::new();
        put_record(&mut data, RecordType::Raw, &[b'x'; 1000]).unwrap();
        let (listed, next) = list(&data[..100], 0, LIMITS);
        let value = listed[0].value.as_ref().unwrap();
        assert_eq!((next, value.text.as_deref(), value.bytes, value.truncated), (1005, Some("xxxxxxxx"), 1000, true));
        let two = [&data[..], &data[..100]].concat();
        let (listed, next) = list(&two, 0, LIMITS);
        assert_eq!((listed.len(), next), (1, 1005), "the second is read with the next request");
    }

    #[test]
    fn bytes_that_are_no_records_are_one() {
        // Begins like a record of 4 GiB, which cannot be there.
        let (listed, next) = list(b"\x82\xff\xff\xff\xffpack", 5, LIMITS);
        assert_eq!((listed.len(), next, listed[0].value.as_ref().unwrap().bytes), (1, 14, 9));
        let (listed, next) = list(b"\0plain text", 5, LIMITS);
        assert_eq!((listed.len(), next, listed[0].kind), (1, 16, "raw"));
        let no_text = show(&[0xFF, 0xFE], 2, 8);
        assert_eq!((no_text.text, no_text.base64.as_deref()), (None, Some("//4=")));
    }

    #[test]
    fn text_is_cut_between_characters() {
        let long = "aäääää";
        let shown = show(long.as_bytes(), long.len() as u64, 4);
        assert_eq!((shown.text.as_deref(), shown.truncated, shown.bytes), (Some("aä"), true, 11));
        assert_eq!(show(&[b'a', 0xC3], 2, 8).base64.as_deref(), Some("YcM="), "half a character at the end is no text");
    }
}

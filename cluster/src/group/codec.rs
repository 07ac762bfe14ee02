//! Reads and writes the fields of a record.

use super::limits::{MAX_GROUP_NAME_BYTES, MAX_GROUP_PARTITIONS, MAX_RECORD_BYTES};
use super::record::{OFFSET_RECORD_VERSION, STATE_RECORD_VERSION};
use lance_messages::id::TopicId;
use thiserror::Error;

/// Why a record was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OffsetRecordError {
    /// The record ends too early.
    #[error("an offset record of {bytes} bytes ends inside its {field}")]
    Short {
        /// Its size.
        bytes: usize,
        /// Where it ends.
        field: &'static str,
    },
    /// Written by a version this program does not know.
    #[error(
        "offset record version {found} is unknown, this program reads versions {OFFSET_RECORD_VERSION} and {STATE_RECORD_VERSION}"
    )]
    UnknownVersion {
        /// The version byte.
        found: u8,
    },
    /// An unknown kind of record.
    #[error("offset record kind {found} is unknown")]
    UnknownKind {
        /// The kind byte.
        found: u8,
    },
    /// An unknown kind of consumer.
    #[error("consumer kind {found} is unknown")]
    UnknownConsumer {
        /// The kind byte.
        found: u8,
    },
    /// A group name is empty, too long or not UTF-8.
    #[error("a group name of {bytes} bytes must be 1 to {MAX_GROUP_NAME_BYTES} bytes of UTF-8")]
    BadGroupName {
        /// Its size.
        bytes: usize,
    },
    /// A text is too long or not UTF-8, or is missing.
    #[error("a {field} of {bytes} bytes must be {min} to {max} bytes of UTF-8")]
    BadText {
        /// Which text.
        field: &'static str,
        /// Its size.
        bytes: usize,
        /// Its least size.
        min: usize,
        /// Its greatest size.
        max: usize,
    },
    /// A strategy of assignment that this program does not know.
    #[error("assignment strategy {found} is unknown")]
    UnknownStrategy {
        /// Its byte.
        found: u8,
    },
    /// More of something than a record can have.
    #[error("a record has {found} {field}, which are too many")]
    TooMany {
        /// Of what.
        field: &'static str,
        /// How many.
        found: usize,
    },
    /// More partitions than a group can have.
    #[error("a member has {found} partitions, a group can have {MAX_GROUP_PARTITIONS}")]
    TooManyPartitions {
        /// How many, or more.
        found: usize,
    },
    /// A set of partitions is empty, not in order, or of an unknown form.
    #[error("the partitions of topic {topic} in a record are not in order, or of an unknown form")]
    BadPartitions {
        /// The topic.
        topic: TopicId,
    },
    /// A record is longer than any may be.
    #[error("a record of {bytes} bytes is longer than {MAX_RECORD_BYTES}")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// Bytes follow the record.
    #[error("{trailing} bytes follow an offset record")]
    Trailing {
        /// How many.
        trailing: usize,
    },
    /// A snapshot's entry or end without its beginning.
    #[error("a snapshot record outside a snapshot")]
    OutsideSnapshot,
    /// A snapshot does not have the entries it announced.
    #[error("a snapshot of {announced} entries ends with {found}")]
    SnapshotCount {
        /// As many as its beginning says.
        announced: u64,
        /// As many as were found, or as its end says.
        found: u64,
    },
}

pub(super) struct Reader<'a> {
    bytes: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.len(), rest: bytes }
    }

    pub(super) fn trailing(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], OffsetRecordError> {
        let short = OffsetRecordError::Short { bytes: self.bytes, field };
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], OffsetRecordError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, OffsetRecordError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, OffsetRecordError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, OffsetRecordError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, OffsetRecordError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, OffsetRecordError> {
        Ok(i32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn text(&mut self, field: &'static str, min: usize, max: usize) -> Result<String, OffsetRecordError> {
        let bytes = usize::from(self.u16(field)?);
        check_text(field, bytes, min, max)?;
        let text = std::str::from_utf8(self.take(bytes, field)?);
        Ok(text.map_err(|_| OffsetRecordError::BadText { field, bytes, min, max })?.to_owned())
    }

    pub(super) fn group_name(&mut self) -> Result<String, OffsetRecordError> {
        let bytes = usize::from(self.u16("group name length")?);
        group_name_length(bytes)?;
        let name = std::str::from_utf8(self.take(bytes, "group name")?);
        Ok(name.map_err(|_| OffsetRecordError::BadGroupName { bytes })?.to_owned())
    }
}

pub(super) fn put_group_name(name: &str, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
    out.extend(group_name_length(name.len())?.to_le_bytes());
    out.extend(name.as_bytes());
    Ok(())
}

pub(super) fn put_text(
    field: &'static str,
    text: &str,
    (min, max): (usize, usize),
    out: &mut Vec<u8>,
) -> Result<(), OffsetRecordError> {
    out.extend(check_text(field, text.len(), min, max)?.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

fn check_text(field: &'static str, bytes: usize, min: usize, max: usize) -> Result<u16, OffsetRecordError> {
    match u16::try_from(bytes) {
        Ok(length) if (min..=max).contains(&bytes) => Ok(length),
        _ => Err(OffsetRecordError::BadText { field, bytes, min, max }),
    }
}

fn group_name_length(bytes: usize) -> Result<u16, OffsetRecordError> {
    match u16::try_from(bytes) {
        Ok(length) if (1..=MAX_GROUP_NAME_BYTES).contains(&bytes) => Ok(length),
        _ => Err(OffsetRecordError::BadGroupName { bytes }),
    }
}

//! Is this a batch of the log, whole and undamaged? The one answer for readers, the scrubber and journals.

use lance_messages::batch::{BATCH_HEADER_BYTES, BATCH_TYPE, BatchError, BatchHeader, BatchSeed};

/// Why bytes at a place of a segment are not the batch that belongs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchFlaw {
    /// The header cannot be trusted.
    #[error(transparent)]
    Header(#[from] BatchError),
    /// A good header in the wrong place.
    #[error("{field} is {found}, the batch before it ends at {expected}")]
    Chain {
        /// Which number breaks the chain.
        field: &'static str,
        /// What the header says.
        found: u64,
        /// What follows from the batch before it, or from the file's name.
        expected: u64,
    },
    /// The file ends inside the batch.
    #[error("{needed} bytes of records are announced, {left} are there")]
    Cut {
        /// Bytes the header announces.
        needed: u64,
        /// Bytes there are.
        left: u64,
    },
    /// The records are not those that were stored.
    #[error("records checksum {stored:#010x}, their bytes give {computed:#010x}")]
    Records {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The stored bytes do not decompress to what the header announces.
    #[error("stored bytes do not decompress to the {plain_len} bytes announced")]
    Compressed {
        /// Plain bytes the header announces.
        plain_len: u32,
    },
}

/// Where the next batch must continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its log position.
    pub position: u64,
    /// Its first offset, once known.
    pub offset: Option<u64>,
    /// Its first record number, once known.
    pub record: Option<u64>,
}

impl Chain {
    /// The start of a segment named after `position`, nothing else known.
    pub fn at(position: u64) -> Self {
        Self { position, offset: None, record: None }
    }

    /// What must follow `header`.
    pub fn after(header: &BatchHeader) -> Self {
        Self { position: header.end_position(), offset: Some(header.end_offset()), record: Some(header.end_record()) }
    }

    /// Whether `header` continues here.
    pub fn check(&self, header: &BatchHeader) -> Result<(), BatchFlaw> {
        let links = [
            ("position", header.position, Some(self.position)),
            ("base offset", header.base_offset, self.offset),
            ("base record", header.base_record, self.record),
        ];
        for (field, found, expected) in links {
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(BatchFlaw::Chain { field, found, expected });
            }
        }
        Ok(())
    }
}

/// The header at the start of `bytes`, if it continues the chain.
pub(crate) fn header_at(bytes: &[u8], seed: BatchSeed, chain: &Chain) -> Result<BatchHeader, BatchFlaw> {
    let header = BatchHeader::decode(bytes, seed)?;
    chain.check(&header)?;
    Ok(header)
}

/// The whole batch at the start of `bytes`, its records checked.
pub(crate) fn batch_at<'a>(
    bytes: &'a [u8],
    seed: BatchSeed,
    chain: &Chain,
) -> Result<(BatchHeader, &'a [u8]), BatchFlaw> {
    let header = header_at(bytes, seed, chain)?;
    let records = &bytes[BATCH_HEADER_BYTES..];
    let needed = u64::from(header.stored_len);
    let records = usize::try_from(needed)
        .ok()
        .and_then(|len| records.get(..len))
        .ok_or(BatchFlaw::Cut { needed, left: records.len() as u64 })?;
    check_records(&header, crc32fast::hash(records))?;
    Ok((header, records))
}

/// Whether `computed` is the checksum of the records of `header`.
pub(crate) fn check_records(header: &BatchHeader, computed: u32) -> Result<(), BatchFlaw> {
    if header.records_crc == computed {
        Ok(())
    } else {
        Err(BatchFlaw::Records { stored: header.records_crc, computed })
    }
}

/// The next good header in `bytes`, whose first byte has log position `position`, and where it is.
///
/// A header carries its own position under its checksum, so neither records nor stale bytes can pass for one.
pub(crate) fn find_header(bytes: &[u8], seed: BatchSeed, position: u64) -> Option<(usize, BatchHeader)> {
    let last = bytes.len().checked_sub(BATCH_HEADER_BYTES)?;
    (0..=last).find_map(|at| {
        let here = position.checked_add(at as u64)?;
        if bytes[at] != BATCH_TYPE || bytes[at + 16..at + 24] != here.to_le_bytes() {
            return None;
        }
        BatchHeader::decode(&bytes[at..], seed).ok().map(|header| (at, header))
    })
}

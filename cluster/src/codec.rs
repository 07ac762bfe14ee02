//! Persisted values: `[version u8][bincode 2 "standard": little-endian, variable-length integers]`, nothing after it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Largest encoded value that is read back: a snapshot of the whole metadata.
pub const MAX_ENCODED_BYTES: usize = 256 << 20;

/// Why bytes could not be written or read back.
#[derive(Debug, Error)]
pub enum CodecError {
    /// There is not even a version byte.
    #[error("{what}: empty, expected at least a version byte")]
    Empty {
        /// What was being read.
        what: &'static str,
    },
    /// Written by a version this program does not know.
    #[error("{what}: version {found} is unknown, this program reads version {known}")]
    UnknownVersion {
        /// What was being read.
        what: &'static str,
        /// The version byte found.
        found: u8,
        /// The version this program reads.
        known: u8,
    },
    /// The body does not decode.
    #[error("{what}: {bytes} bytes do not decode: {source}")]
    Undecodable {
        /// What was being read.
        what: &'static str,
        /// How many bytes there were.
        bytes: usize,
        /// What bincode says.
        source: bincode::error::DecodeError,
    },
    /// The value ended before the bytes did.
    #[error("{what}: {trailing} bytes follow the value")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many bytes are left over.
        trailing: usize,
    },
    /// The value decodes and contradicts itself.
    #[error("{what}: {reason}")]
    Inconsistent {
        /// What was being read.
        what: &'static str,
        /// The contradiction.
        reason: &'static str,
    },
    /// The value cannot be encoded.
    #[error("{what}: cannot be encoded: {source}")]
    Unencodable {
        /// What was being written.
        what: &'static str,
        /// What bincode says.
        source: bincode::error::EncodeError,
    },
}

/// Encodes `value` behind its version byte.
pub(crate) fn encode<T: Serialize>(what: &'static str, version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec((version, value), bincode::config::standard())
        .map_err(|source| CodecError::Unencodable { what, source })
}

/// Decodes what [`encode`] wrote; every byte must belong to the value.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    let (&found, body) = bytes.split_first().ok_or(CodecError::Empty { what })?;
    if found != version {
        return Err(CodecError::UnknownVersion { what, found, known: version });
    }
    let config = bincode::config::standard().with_limit::<MAX_ENCODED_BYTES>();
    let (value, used) = bincode::serde::decode_from_slice(body, config).map_err(|source| CodecError::Undecodable {
        what,
        bytes: bytes.len(),
        source,
    })?;
    if used != body.len() {
        return Err(CodecError::Trailing { what, trailing: body.len() - used });
    }
    Ok(value)
}

//! Compressed ingest payloads and what is inside them.
//!
//! With COMPRESSED_INGEST negotiated a compressed payload is
//! ```text
//! off size field
//!   0    1 codec: 1 = LZ4 block, 2 = Zstandard frame
//!   1    3 zero
//!   4    4 plain length
//!   8    … compressed records
//! ```
//! Without it the payload is an LZ4 block, with or without a u32 plain length in front.

pub use crate::batch::Codec;
use thiserror::Error;

/// Bytes in front of the compressed records of a payload that names its codec.
pub const COMPRESSION_PREFIX_LEN: usize = 8;

/// How the records of an ingest frame are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By a client that did not say how: LZ4 with or without a size in front.
    Unnamed,
    /// By a named codec.
    Named {
        /// The codec.
        codec: Codec,
        /// Length of the plain records, as the client says.
        plain_len: u32,
    },
}

/// Why bytes could not be decompressed, or compressed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompressionError {
    /// Neither with nor without a size in front do the bytes decompress within the limit.
    #[error("{bytes} compressed bytes do not decode as {codec} within {max_plain_bytes} bytes")]
    Undecodable {
        /// Name of the codec.
        codec: &'static str,
        /// Bytes given.
        bytes: usize,
        /// The limit.
        max_plain_bytes: usize,
    },
    /// The plain length is not what was announced.
    #[error("compressed records hold {found} plain bytes, {announced} were announced")]
    LengthMismatch {
        /// As announced.
        announced: usize,
        /// As found.
        found: usize,
    },
    /// The compressor refused.
    #[error("{codec} cannot compress {bytes} bytes")]
    Compress {
        /// Name of the codec.
        codec: &'static str,
        /// Bytes given.
        bytes: usize,
    },
}

impl Codec {
    /// The codec of a byte on the wire.
    pub const fn from_code(code: u8) -> Option<Codec> {
        match code {
            1 => Some(Codec::Lz4),
            2 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Lz4 => "LZ4",
            Codec::Zstd => "Zstandard",
        }
    }

    /// Compresses `plain`, without any prefix.
    pub fn compress(self, plain: &[u8]) -> Result<Vec<u8>, CompressionError> {
        match self {
            Codec::Lz4 => Ok(lz4_flex::block::compress(plain)),
            Codec::Zstd => zstd::bulk::compress(plain, 1)
                .map_err(|_| CompressionError::Compress { codec: self.name(), bytes: plain.len() }),
        }
    }

    /// Decompresses exactly `plain_len` bytes; allocates no more than that.
    pub fn decompress(self, stored: &[u8], plain_len: usize) -> Result<Vec<u8>, CompressionError> {
        let undecodable =
            || CompressionError::Undecodable { codec: self.name(), bytes: stored.len(), max_plain_bytes: plain_len };
        let plain = match self {
            Codec::Lz4 => lz4_flex::block::decompress(stored, plain_len).map_err(|_| undecodable())?,
            Codec::Zstd => zstd::bulk::decompress(stored, plain_len).map_err(|_| undecodable())?,
        };
        if plain.len() == plain_len {
            Ok(plain)
        } else {
            Err(CompressionError::LengthMismatch { announced: plain_len, found: plain.len() })
        }
    }
}

/// Decompresses what a 1.0 client sent: an LZ4 block with a u32 size in front, else a raw block; at most
/// `max_plain_bytes` come out.
pub fn decompress_unnamed(stored: &[u8], max_plain_bytes: usize) -> Result<Vec<u8>, CompressionError> {
    if let Some((size, block)) = stored.split_first_chunk::<4>() {
        let announced = u32::from_le_bytes(*size) as usize;
        if announced <= max_plain_bytes
            && let Ok(plain) = Codec::Lz4.decompress(block, announced)
        {
            return Ok(plain);
        }
    }
    decompress_raw_block(stored, max_plain_bytes)
}

/// A raw block does not say how much it holds, so the room grows until it suffices.
fn decompress_raw_block(stored: &[u8], max_plain_bytes: usize) -> Result<Vec<u8>, CompressionError> {
    // An LZ4 byte expands to at most 255.
    let most = stored.len().saturating_mul(255).min(max_plain_bytes);
    let mut room = stored.len().saturating_mul(4).clamp(1024, most.max(1024)).min(max_plain_bytes);
    loop {
        let mut plain = vec![0u8; room];
        match lz4_flex::block::decompress_into(stored, &mut plain) {
            Ok(length) => {
                plain.truncate(length);
                return Ok(plain);
            }
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < most => {
                room = room.saturating_mul(4).min(most);
            }
            Err(_) => {
                return Err(CompressionError::Undecodable {
                    codec: Codec::Lz4.name(),
                    bytes: stored.len(),
                    max_plain_bytes,
                });
            }
        }
    }
}

/// The 8 bytes in front of compressed records.
pub fn compression_prefix(codec: Codec, plain_len: u32) -> [u8; COMPRESSION_PREFIX_LEN] {
    let mut bytes = [0u8; COMPRESSION_PREFIX_LEN];
    bytes[0] = codec.code();
    bytes[4..8].copy_from_slice(&plain_len.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    proptest! {
        #[test]
        fn what_clients_compress_comes_back(plain in prop::collection::vec(0u8..4, 0..5000)) {
            for codec in [Codec::Lz4, Codec::Zstd] {
                let stored = codec.compress(&plain).unwrap();
                prop_assert_eq!(&codec.decompress(&stored, plain.len()).unwrap(), &plain);
            }
            let raw = lz4_flex::block::compress(&plain);
            prop_assert_eq!(&decompress_unnamed(&raw, MAX).unwrap(), &plain);
            let sized = lz4_flex::block::compress_prepend_size(&plain);
            prop_assert_eq!(&decompress_unnamed(&sized, MAX).unwrap(), &plain);
        }

        #[test]
        fn noise_is_refused_or_bounded(noise in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(plain) = decompress_unnamed(&noise, 4096) {
                prop_assert!(plain.len() <= 4096);
            }
            for codec in [Codec::Lz4, Codec::Zstd] {
                if let Ok(plain) = codec.decompress(&noise, 100) {
                    prop_assert_eq!(plain.len(), 100);
                }
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let bomb = lz4_flex::block::compress(&vec![0u8; 8 << 20]);
        assert!(decompress_unnamed(&bomb, MAX).is_err());
        assert!(decompress_unnamed(&bomb, 8 << 20).is_ok());
        let sized = lz4_flex::block::compress_prepend_size(&vec![0u8; 8 << 20]);
        assert!(decompress_unnamed(&sized, MAX).is_err());
    }

    #[test]
    fn a_wrong_announced_length_is_an_error() {
        let stored = Codec::Zstd.compress(b"hello").unwrap();
        assert_eq!(
            Codec::Zstd.decompress(&stored, 9),
            Err(CompressionError::LengthMismatch { announced: 9, found: 5 })
        );
    }
}

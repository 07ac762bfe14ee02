//! Cuts frames out of a byte stream, without copying their payloads.

use super::header::{HEADER_LEN, Header, HeaderCrc, MAX_PAYLOAD_BYTES};
use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// What a receiver accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Largest payload.
    pub max_payload_bytes: u32,
    /// Coverage of the header CRC.
    pub header_crc: HeaderCrc,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { max_payload_bytes: MAX_PAYLOAD_BYTES, header_crc: HeaderCrc::Prefix }
    }
}

/// A whole frame whose checksums were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The payload, sharing the receive buffer.
    pub payload: Bytes,
    /// CRC of the payload as computed here, the only time it is.
    pub payload_crc: u32,
}

/// Why a stream of bytes is no LWP, after which the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The first four bytes are not "LANC".
    #[error("Malformed frame: magic is {found:02x?}, expected \"LANC\"")]
    BadMagic {
        /// The bytes in its place.
        found: [u8; 4],
    },
    /// A version we do not speak.
    #[error("Malformed frame: version is {found}, expected 1")]
    BadVersion {
        /// The version byte.
        found: u8,
    },
    /// The header was damaged.
    #[error("Malformed frame: header CRC is {stored:#010x}, computed {computed:#010x} (CRC-32/ISO-HDLC)")]
    HeaderCrc {
        /// As sent.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The payload is over the limit.
    #[error("Malformed frame: payload of {bytes} bytes, at most {max_bytes} are accepted")]
    PayloadTooLarge {
        /// As announced by the header.
        bytes: u32,
        /// The limit.
        max_bytes: u32,
    },
    /// The payload was damaged.
    #[error("Malformed frame: payload CRC is {stored:#010x}, computed {computed:#010x} (CRC-32/ISO-HDLC)")]
    PayloadCrc {
        /// As sent.
        stored: u32,
        /// As computed.
        computed: u32,
    },
}

/// Takes the next frame from the front of `buffer`; `None` when more bytes are needed.
///
/// The header is checked as soon as its 44 bytes are there, so a length over the limit never makes anyone wait or
/// buffer for it. After an error the stream is lost: close the connection.
pub fn next_frame(buffer: &mut BytesMut, limits: &FrameLimits) -> Result<Option<Frame>, FrameError> {
    let Some(header_bytes) = buffer.first_chunk::<HEADER_LEN>() else {
        return refuse_early(buffer).map(|()| None);
    };
    let header = Header::decode(header_bytes, limits.header_crc, limits.max_payload_bytes)?;
    let payload_len = header.payload_len as usize;
    if buffer.len() < HEADER_LEN + payload_len {
        return Ok(None);
    }
    if payload_len == 0 {
        buffer.advance(HEADER_LEN);
        return Ok(Some(Frame { header, payload: Bytes::new(), payload_crc: 0 }));
    }
    let computed = crc32fast::hash(&buffer[HEADER_LEN..HEADER_LEN + payload_len]);
    if computed != header.payload_crc {
        return Err(FrameError::PayloadCrc { stored: header.payload_crc, computed });
    }
    buffer.advance(HEADER_LEN);
    let payload = buffer.split_to(payload_len).freeze();
    Ok(Some(Frame { header, payload, payload_crc: computed }))
}

/// Bytes missing until the frame at the front of `buffer` is whole, as far as is known: of the header first.
///
/// Only meaningful right after [`next_frame`] gave `None`, which checked the length against the limit.
pub fn missing_bytes(buffer: &BytesMut) -> usize {
    let payload_len = match buffer.first_chunk::<HEADER_LEN>() {
        Some(header) => u32::from_le_bytes([header[32], header[33], header[34], header[35]]) as usize,
        None => 0,
    };
    (HEADER_LEN + payload_len).saturating_sub(buffer.len())
}

/// A peer that speaks something else is told so by its first bytes, not after 44 of them.
fn refuse_early(buffer: &BytesMut) -> Result<(), FrameError> {
    let known = buffer.len().min(4);
    if buffer[..known] == super::header::MAGIC[..known] {
        return Ok(());
    }
    let mut found = [0u8; 4];
    found[..known].copy_from_slice(&buffer[..known]);
    Err(FrameError::BadMagic { found })
}

#[cfg(test)]
mod tests {
    use super::super::header::Flags;
    use super::*;
    use proptest::prelude::*;

    fn frame_bytes(batch_id: u64, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            flags: Flags::BATCH_MODE,
            batch_id,
            payload_len: payload.len() as u32,
            payload_crc: crc32fast::hash(payload),
            ..Header::default()
        };
        let mut bytes = header.encode(HeaderCrc::Prefix).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn an_oversized_length_is_refused_from_the_header_alone() {
        let header = Header { flags: Flags::BATCH_MODE, payload_len: MAX_PAYLOAD_BYTES + 1, ..Header::default() };
        let mut buffer = BytesMut::from(&header.encode(HeaderCrc::Prefix)[..]);
        let refused = next_frame(&mut buffer, &FrameLimits::default());
        assert_eq!(refused, Err(FrameError::PayloadTooLarge { bytes: 16_777_217, max_bytes: 16_777_216 }));
    }

    #[test]
    fn the_largest_payload_is_awaited() {
        let header = Header { flags: Flags::BATCH_MODE, payload_len: MAX_PAYLOAD_BYTES, ..Header::default() };
        let mut buffer = BytesMut::from(&header.encode(HeaderCrc::Prefix)[..]);
        assert_eq!(next_frame(&mut buffer, &FrameLimits::default()), Ok(None));
        assert_eq!(missing_bytes(&buffer), MAX_PAYLOAD_BYTES as usize);
    }

    #[test]
    fn a_damaged_payload_is_refused() {
        let mut bytes = frame_bytes(1, b"hello");
        bytes[HEADER_LEN] ^= 1;
        let refused = next_frame(&mut BytesMut::from(&bytes[..]), &FrameLimits::default());
        assert!(matches!(refused, Err(FrameError::PayloadCrc { .. })));
    }

    #[test]
    fn http_is_refused_by_its_first_byte() {
        let refused = next_frame(&mut BytesMut::from(&b"G"[..]), &FrameLimits::default());
        assert_eq!(refused, Err(FrameError::BadMagic { found: *b"G\0\0\0" }));
    }

    #[test]
    fn an_empty_payload_needs_no_crc() {
        let header = Header { flags: Flags::BATCH_MODE, payload_crc: 99, ..Header::default() };
        let mut buffer = BytesMut::from(&header.encode(HeaderCrc::Prefix)[..]);
        assert!(next_frame(&mut buffer, &FrameLimits::default()).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
            cuts in prop::collection::vec(1usize..120, 1..40),
        ) {
            let stream: Vec<u8> =
                payloads.iter().enumerate().flat_map(|(id, payload)| frame_bytes(id as u64, payload)).collect();
            let mut buffer = BytesMut::new();
            let mut received = Vec::new();
            let (mut at, mut turn) = (0, 0);
            while at < stream.len() {
                let end = (at + cuts[turn % cuts.len()]).min(stream.len());
                buffer.extend_from_slice(&stream[at..end]);
                while let Some(frame) = next_frame(&mut buffer, &FrameLimits::default()).unwrap() {
                    prop_assert_eq!(frame.payload_crc, crc32fast::hash(&frame.payload));
                    received.push(frame.payload.to_vec());
                }
                (at, turn) = (end, turn + 1);
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(received, payloads);
        }

        #[test]
        fn arbitrary_bytes_never_panic(noise in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
            let mut bytes = if magic { b"LANC\x01".to_vec() } else { Vec::new() };
            bytes.extend_from_slice(&noise);
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next_frame(&mut buffer, &FrameLimits::default()) {}
        }
    }
}

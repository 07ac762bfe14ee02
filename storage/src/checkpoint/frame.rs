//! The checked frame around the body of a small file; its layout stands in [`super`].

/// The only frame version there is.
pub(super) const VERSION: u8 = 1;
/// Bytes in front of the body.
pub(super) const HEADER_BYTES: usize = 24;

/// What makes a small file untrustworthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Too short to be one.
    #[error("{found} bytes, at least {needed} are needed")]
    Short {
        /// Bytes there.
        found: u64,
        /// Bytes its kind needs.
        needed: u64,
    },
    /// Another kind of file.
    #[error("starts with {found:02x?} instead of {expected:02x?}")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
        /// What they should be.
        expected: [u8; 4],
    },
    /// A checksum does not match.
    #[error("{what} checksum is {stored:08x}, its bytes give {computed:08x}")]
    Crc {
        /// Which checksum.
        what: &'static str,
        /// The one in the file.
        stored: u32,
        /// The one of the bytes in the file.
        computed: u32,
    },
    /// A newer or unknown frame, with a good header checksum.
    #[error("unknown frame version {found}")]
    FrameVersion {
        /// The version in the file.
        found: u8,
    },
    /// Fields that contradict each other under a good checksum.
    #[error("{what} is {found}, {expected} expected")]
    Field {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it must be.
        expected: u64,
    },
}

/// A frame taken apart.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// Version of the body.
    pub body_version: u8,
    /// The checked body.
    pub body: &'a [u8],
}

/// Appends one frame to `out`, its body written by `write_body`.
pub(super) fn encode(out: &mut Vec<u8>, magic: [u8; 4], body_version: u8, write_body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    write_body(out);
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    header[0..4].copy_from_slice(&magic);
    header[4] = VERSION;
    header[5] = body_version;
    header[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[16..20].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let header_crc = crc32fast::hash(&header[0..20]);
    header[20..24].copy_from_slice(&header_crc.to_le_bytes());
}

/// The frame `bytes` start with; what follows it is ignored.
pub(super) fn decode(bytes: &[u8], magic: [u8; 4]) -> Result<Frame<'_>, Flaw> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Flaw::Short { found: bytes.len() as u64, needed: HEADER_BYTES as u64 });
    };
    let found = [header[0], header[1], header[2], header[3]];
    if found != magic {
        return Err(Flaw::Magic { found, expected: magic });
    }
    check_crc("header", u32_at(header, 20), &header[0..20])?;
    if header[4] != VERSION {
        return Err(Flaw::FrameVersion { found: header[4] });
    }
    let body_bytes = u64_at(header, 8);
    let body = usize::try_from(body_bytes)
        .ok()
        .and_then(|count| rest.get(..count))
        .ok_or(Flaw::Short { found: bytes.len() as u64, needed: body_bytes.saturating_add(HEADER_BYTES as u64) })?;
    check_crc("body", u32_at(header, 16), body)?;
    Ok(Frame { body_version: header[5], body })
}

fn check_crc(what: &'static str, stored: u32, bytes: &[u8]) -> Result<(), Flaw> {
    let computed = crc32fast::hash(bytes);
    if stored == computed { Ok(()) } else { Err(Flaw::Crc { what, stored, computed }) }
}

/// The u32 at `at`, which must lie inside `bytes`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The u64 at `at`, which must lie inside `bytes`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, *b"TEST", 7, |out| out.extend_from_slice(b"body"));
        bytes
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sample().iter().map(|byte| format!("{byte:02x}")).collect();
        let body_crc = crc32fast::hash(b"body").to_le_bytes();
        assert!(hex.starts_with("54455354010700000400000000000000"), "{hex}");
        assert_eq!(sample()[16..20], body_crc);
        assert_eq!(&sample()[24..], b"body");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..sample().len() * 8 {
            let mut bytes = sample();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes, *b"TEST").is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], *b"TEST").is_err(), "{len} bytes");
        }
        assert_eq!(decode(&bytes, *b"TEST").unwrap().body, b"body");
    }

    #[test]
    fn a_newer_frame_is_told_from_a_damaged_one() {
        let mut bytes = sample();
        bytes[4] = 9;
        assert!(matches!(decode(&bytes, *b"TEST"), Err(Flaw::Crc { .. })));
        let crc = crc32fast::hash(&bytes[0..20]).to_le_bytes();
        bytes[20..24].copy_from_slice(&crc);
        assert_eq!(decode(&bytes, *b"TEST").unwrap_err(), Flaw::FrameVersion { found: 9 });
    }
}

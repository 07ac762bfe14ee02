//! The 44-byte frame header.
//!
//! ```text
//! off size field
//!   0    4 magic "LANC"
//!   4    1 version = 1
//!   5    1 flags
//!   6    2 partition (PARTITIONS negotiated), else 0 and unchecked
//!   8    4 header CRC: over bytes 0..=7, with HEADER_CRC negotiated over 0..=7 and 12..=43
//!  12    8 batch id (ingest, ack) or command code (control)
//!  20    8 timestamp, ns since the Unix epoch; correlation id of a control frame after Hello
//!  28    4 record count
//!  32    4 payload length
//!  36    4 payload CRC, 0 when there is no payload
//!  40    4 topic id
//! ```
//! Both CRCs are CRC-32/ISO-HDLC.

use super::codec::FrameError;

/// Bytes of a header.
pub const HEADER_LEN: usize = 44;
/// First four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"LANC";
/// The version byte of 1.0 and of all its extensions.
pub const VERSION: u8 = 1;
/// Largest payload of a frame, 16 MiB.
pub const MAX_PAYLOAD_BYTES: u32 = 16 * 1024 * 1024;

/// The flags byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// The payload of an ingest frame is compressed.
    pub const COMPRESSED: Flags = Flags(0x01);
    /// Reserved by 1.0; without meaning to us.
    pub const ENCRYPTED: Flags = Flags(0x02);
    /// An ingest frame.
    pub const BATCH_MODE: Flags = Flags(0x04);
    /// An ingest frame was stored.
    pub const ACK: Flags = Flags(0x08);
    /// The sender should slow down.
    pub const BACKPRESSURE: Flags = Flags(0x10);
    /// Sign of life.
    pub const KEEPALIVE: Flags = Flags(0x20);
    /// A command or its reply.
    pub const CONTROL: Flags = Flags(0x40);
    /// The payload starts with a trace context (TRACE_CONTEXT negotiated), else without meaning.
    pub const TRACED: Flags = Flags(0x80);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// What a frame is, by its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A command or its reply.
    Control,
    /// Sign of life.
    Keepalive,
    /// An ingest frame was stored.
    Ack,
    /// The sender should slow down.
    Backpressure,
    /// Records to store.
    Ingest,
    /// None of these; ignored.
    Unknown,
}

/// Which bytes the header CRC covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCrc {
    /// Bytes 0..=7, as in 1.0.
    #[default]
    Prefix,
    /// Bytes 0..=7 and 12..=43: feature HEADER_CRC.
    Whole,
}

/// A decoded header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The flags byte.
    pub flags: Flags,
    /// The field 1.0 reserves: the partition after Hello.
    pub partition: u16,
    /// Batch id, or the command code of a control frame.
    pub batch_id: u64,
    /// Nanoseconds since the Unix epoch, or the correlation id of a control frame.
    pub timestamp: u64,
    /// How many records the sender says there are; 1.0 clients may be wrong.
    pub record_count: u32,
    /// Bytes of payload that follow.
    pub payload_len: u32,
    /// CRC of the payload.
    pub payload_crc: u32,
    /// Topic of an ingest frame.
    pub topic_id: u32,
}

impl Header {
    /// What the frame is. With several bits set: Control > Keepalive > Ack > Backpressure > Ingest > unknown.
    pub const fn kind(&self) -> FrameKind {
        if self.flags.contains(Flags::CONTROL) {
            FrameKind::Control
        } else if self.flags.contains(Flags::KEEPALIVE) {
            FrameKind::Keepalive
        } else if self.flags.contains(Flags::ACK) {
            FrameKind::Ack
        } else if self.flags.contains(Flags::BACKPRESSURE) {
            FrameKind::Backpressure
        } else if self.flags.contains(Flags::BATCH_MODE) || self.payload_len > 0 {
            FrameKind::Ingest
        } else {
            FrameKind::Unknown
        }
    }

    /// The command of a control frame: the low 8 bits of the batch id.
    pub const fn command(&self) -> u8 {
        self.batch_id.to_le_bytes()[0]
    }

    /// The header's 44 bytes, its own CRC computed.
    pub fn encode(&self, crc: HeaderCrc) -> [u8; HEADER_LEN] {
        let mut bytes = [0u8; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.flags.0;
        bytes[6..8].copy_from_slice(&self.partition.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.batch_id.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.topic_id.to_le_bytes());
        let checksum = header_crc(&bytes, crc);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads and checks a header; its payload is not looked at.
    pub fn decode(bytes: &[u8; HEADER_LEN], crc: HeaderCrc, max_payload_bytes: u32) -> Result<Header, FrameError> {
        if bytes[0..4] != MAGIC {
            return Err(FrameError::BadMagic { found: le_u32(bytes, 0).to_le_bytes() });
        }
        if bytes[4] != VERSION {
            return Err(FrameError::BadVersion { found: bytes[4] });
        }
        let (stored, computed) = (le_u32(bytes, 8), header_crc(bytes, crc));
        if stored != computed {
            return Err(FrameError::HeaderCrc { stored, computed });
        }
        let header = Header {
            flags: Flags(bytes[5]),
            partition: u16::from_le_bytes([bytes[6], bytes[7]]),
            batch_id: le_u64(bytes, 12),
            timestamp: le_u64(bytes, 20),
            record_count: le_u32(bytes, 28),
            payload_len: le_u32(bytes, 32),
            payload_crc: le_u32(bytes, 36),
            topic_id: le_u32(bytes, 40),
        };
        if header.payload_len > max_payload_bytes {
            return Err(FrameError::PayloadTooLarge { bytes: header.payload_len, max_bytes: max_payload_bytes });
        }
        Ok(header)
    }
}

fn header_crc(bytes: &[u8; HEADER_LEN], coverage: HeaderCrc) -> u32 {
    let prefix =
        if bytes[6] == 0 && bytes[7] == 0 { PREFIX_CRC[usize::from(bytes[5])] } else { crc32fast::hash(&bytes[0..8]) };
    match coverage {
        HeaderCrc::Prefix => prefix,
        HeaderCrc::Whole => {
            let mut hasher = crc32fast::Hasher::new_with_initial(prefix);
            hasher.update(&bytes[12..44]);
            hasher.finalize()
        }
    }
}

/// CRC of bytes 0..=7 for each flags byte and partition 0, so that acks and 1.0 frames compute none.
static PREFIX_CRC: [u32; 256] = prefix_crcs();

const fn prefix_crcs() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut flags = 0usize;
    while flags < 256 {
        let bytes = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, flags as u8, 0, 0];
        let mut crc = u32::MAX;
        let mut at = 0;
        while at < bytes.len() {
            crc ^= bytes[at] as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
                bit += 1;
            }
            at += 1;
        }
        table[flags] = !crc;
        flags += 1;
    }
    table
}

fn le_u32(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le_u64(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(le_u32(bytes, at)) | u64::from(le_u32(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_has_its_published_bytes() {
        let bytes = Header { flags: Flags::KEEPALIVE, ..Header::default() }.encode(HeaderCrc::Prefix);
        let mut golden = [0u8; HEADER_LEN];
        golden[..12].copy_from_slice(&[0x4C, 0x41, 0x4E, 0x43, 1, 0x20, 0, 0, 0x06, 0x1E, 0x9C, 0x53]);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn prefix_table_agrees_with_the_crc_crate() {
        for flags in 0..=255u8 {
            let expected = crc32fast::hash(&[0x4C, 0x41, 0x4E, 0x43, 1, flags, 0, 0]);
            assert_eq!(PREFIX_CRC[usize::from(flags)], expected, "flags {flags:#04x}");
        }
    }

    #[test]
    fn kinds_follow_the_order_of_precedence() {
        let kind = |flags: u8, payload_len| Header { flags: Flags(flags), payload_len, ..Header::default() }.kind();
        assert_eq!(kind(0xFF, 0), FrameKind::Control);
        assert_eq!(kind(0x3F, 0), FrameKind::Keepalive);
        assert_eq!(kind(0x1F, 9), FrameKind::Ack);
        assert_eq!(kind(0x17, 9), FrameKind::Backpressure);
        assert_eq!(kind(0x05, 9), FrameKind::Ingest);
        assert_eq!(kind(0x04, 0), FrameKind::Ingest);
        assert_eq!(kind(0x00, 1), FrameKind::Ingest);
        assert_eq!(kind(0x83, 0), FrameKind::Unknown);
    }

    #[test]
    fn whole_crc_notices_a_flip_in_every_byte_and_prefix_crc_only_in_the_first_eight() {
        let header =
            Header { flags: Flags::BATCH_MODE, batch_id: 7, payload_len: 100, topic_id: 3, ..Header::default() };
        for at in 0..HEADER_LEN {
            let mut whole = header.encode(HeaderCrc::Whole);
            whole[at] ^= 0x10;
            assert!(Header::decode(&whole, HeaderCrc::Whole, MAX_PAYLOAD_BYTES).is_err(), "byte {at}");
            let mut prefix = header.encode(HeaderCrc::Prefix);
            prefix[at] ^= 0x10;
            let refused = Header::decode(&prefix, HeaderCrc::Prefix, u32::MAX).is_err();
            assert_eq!(refused, at < 12, "byte {at}");
        }
    }

    #[test]
    fn a_castagnoli_header_crc_is_refused() {
        let mut bytes = Header { flags: Flags::KEEPALIVE, ..Header::default() }.encode(HeaderCrc::Prefix);
        bytes[8..12].copy_from_slice(&0x52C8_6CB0u32.to_le_bytes());
        assert!(matches!(
            Header::decode(&bytes, HeaderCrc::Prefix, MAX_PAYLOAD_BYTES),
            Err(FrameError::HeaderCrc { .. })
        ));
    }
}

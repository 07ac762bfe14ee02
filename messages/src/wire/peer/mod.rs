//! What nodes say to each other on a socket: frames with LWP's 44-byte header and commands of their own.
//!
//! ```text
//! header field   in a peer frame
//! flags          0x40 (control), nothing else
//! header CRC     over bytes 0..=7 and 12..=43; of a refusal over 0..=7, as every ErrorResponse
//! batch id       command code
//! payload CRC    over the payload; of Append over what is in front of its batches, which carry checksums of their own
//! all others     0
//!
//! requests (by who opened the connection)    replies
//! 60 PeerHello                               E0 PeerHelloResponse
//! 61 PeerProof                               E1 PeerWelcome
//! 62 Append                                  E2 AppendAnswer
//! 63 Truncate
//! 64 Control, opaque                         E4 ControlAnswer, opaque
//! 65 Formation, opaque                       E5 FormationAnswer, opaque
//!                                            FF ErrorResponse: refused, UTF-8 text
//! ```
//! A connection begins with PeerHello, PeerHelloResponse, PeerProof, PeerWelcome; [`hello`] and [`replica`] own the
//! payloads.

pub mod error;
pub mod hello;
pub mod replica;

#[cfg(test)]
mod tests;

pub use error::PeerFrameError;
pub use hello::{NONCE_BYTES, PROOF_BYTES, PeerHello, PeerHelloResponse, PeerProof, PeerPurpose};

use super::header::{Flags, HEADER_LEN, Header, HeaderCrc};
use super::payload::PayloadReader;
use crate::peer::{AppendRequest, AppendResponse, TruncateRequest};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest payload of a data frame: the largest batch, and room for what stands around it.
pub const MAX_DATA_PAYLOAD_BYTES: usize = 17 * 1024 * 1024;
/// Largest payload of a control frame.
pub const MAX_CONTROL_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;
/// Largest payload of the frames that open a connection, and of a refusal.
pub const MAX_OPENING_PAYLOAD_BYTES: usize = 4096;
/// Bytes of a stream that tell whether its first frame is a PeerHello.
pub const RECOGNISED_BYTES: usize = 20;

/// Newest version of the peer protocol spoken here.
pub const PEER_VERSION: u16 = 5;
/// Oldest version spoken here: nodes of two releases form one cluster while one after the other is updated.
pub const OLDEST_PEER_VERSION: u16 = 2;
/// From this version on an Append may name batches that are traced.
pub const TRACED_VERSION: u16 = 3;
/// From this version on a node understands feature level 2 of the metadata.
pub const FEATURE_LEVEL_2_VERSION: u16 = 4;
/// From this version on a Truncate may say what lay below a log that begins anew.
pub const BELOW_START_VERSION: u16 = 5;

/// The command code of a peer frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PeerCommand {
    /// Who opens a connection, and for what.
    Hello = 0x60,
    /// The opener's proof.
    Proof = 0x61,
    /// Batches for a follower.
    Append = 0x62,
    /// A cut of a follower's log.
    Truncate = 0x63,
    /// A message between control planes.
    Control = 0x64,
    /// How far the formation of the cluster is.
    Formation = 0x65,
    /// Who was reached.
    HelloResponse = 0xE0,
    /// The opener is proven: the connection is open.
    Welcome = 0xE1,
    /// What followers say of their logs.
    AppendAnswer = 0xE2,
    /// A message between control planes, against the direction of the connection.
    ControlAnswer = 0xE4,
    /// The answer to a Formation.
    FormationAnswer = 0xE5,
    /// The connection ends, and why.
    Refused = 0xFF,
}

impl PeerCommand {
    const ALL: [Self; 12] = [
        Self::Hello,
        Self::Proof,
        Self::Append,
        Self::Truncate,
        Self::Control,
        Self::Formation,
        Self::HelloResponse,
        Self::Welcome,
        Self::AppendAnswer,
        Self::ControlAnswer,
        Self::FormationAnswer,
        Self::Refused,
    ];

    fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|command| u64::from(*command as u8) == code)
    }

    /// Largest payload of a frame of this kind.
    pub const fn max_payload_bytes(self) -> usize {
        match self {
            Self::Append | Self::Truncate | Self::AppendAnswer => MAX_DATA_PAYLOAD_BYTES,
            Self::Control | Self::Formation | Self::ControlAnswer | Self::FormationAnswer => MAX_CONTROL_PAYLOAD_BYTES,
            Self::Hello | Self::Proof | Self::HelloResponse | Self::Welcome | Self::Refused => {
                MAX_OPENING_PAYLOAD_BYTES
            }
        }
    }

    const fn is_opening(self) -> bool {
        matches!(self, Self::Hello | Self::Proof | Self::HelloResponse | Self::Welcome | Self::Refused)
    }

    const fn header_crc(self) -> HeaderCrc {
        match self {
            Self::Refused => HeaderCrc::Prefix,
            _ => HeaderCrc::Whole,
        }
    }
}

/// How far a connection is: nobody makes a stranger's bytes wait in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerStage {
    /// Only the frames that open a connection are accepted.
    Opening,
    /// Both sides are proven.
    Open,
}

/// One frame between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFrame {
    /// See [`PeerCommand::Hello`].
    Hello(PeerHello),
    /// See [`PeerCommand::Proof`].
    Proof(PeerProof),
    /// See [`PeerCommand::Append`].
    Append(AppendRequest),
    /// See [`PeerCommand::Truncate`].
    Truncate(TruncateRequest),
    /// See [`PeerCommand::Control`].
    Control(Bytes),
    /// See [`PeerCommand::Formation`].
    Formation(Bytes),
    /// See [`PeerCommand::HelloResponse`].
    HelloResponse(PeerHelloResponse),
    /// See [`PeerCommand::Welcome`].
    Welcome,
    /// See [`PeerCommand::AppendAnswer`].
    AppendAnswer(Vec<AppendResponse>),
    /// See [`PeerCommand::ControlAnswer`].
    ControlAnswer(Bytes),
    /// See [`PeerCommand::FormationAnswer`].
    FormationAnswer(Bytes),
    /// See [`PeerCommand::Refused`]; cut at [`MAX_OPENING_PAYLOAD_BYTES`].
    Refused(String),
}

impl PeerFrame {
    /// Which command it is.
    pub const fn command(&self) -> PeerCommand {
        match self {
            Self::Hello(_) => PeerCommand::Hello,
            Self::Proof(_) => PeerCommand::Proof,
            Self::Append(_) => PeerCommand::Append,
            Self::Truncate(_) => PeerCommand::Truncate,
            Self::Control(_) => PeerCommand::Control,
            Self::Formation(_) => PeerCommand::Formation,
            Self::HelloResponse(_) => PeerCommand::HelloResponse,
            Self::Welcome => PeerCommand::Welcome,
            Self::AppendAnswer(_) => PeerCommand::AppendAnswer,
            Self::ControlAnswer(_) => PeerCommand::ControlAnswer,
            Self::FormationAnswer(_) => PeerCommand::FormationAnswer,
            Self::Refused(_) => PeerCommand::Refused,
        }
    }

    /// Appends the frame's bytes to `out`, as pieces for one vectored write: records and opaque bodies are shared, not
    /// copied. What does not fit one frame becomes several that mean the same; an opaque body cannot be divided, and is
    /// refused above its limit.
    pub fn encode(&self, out: &mut Vec<Bytes>) -> Result<(), PeerFrameError> {
        let mut payload = BytesMut::with_capacity(HEADER_LEN);
        match self {
            Self::Append(request) => {
                replica::encode_append(request, out);
                return Ok(());
            }
            Self::AppendAnswer(responses) => {
                replica::encode_answers(responses, out);
                return Ok(());
            }
            Self::Control(body) | Self::Formation(body) | Self::ControlAnswer(body) | Self::FormationAnswer(body) => {
                return encode_opaque(self.command(), body, out);
            }
            Self::Hello(hello) => hello.encode(&mut payload),
            Self::Proof(proof) => proof.encode(&mut payload),
            Self::Truncate(request) => replica::encode_truncate(request, &mut payload),
            Self::HelloResponse(response) => response.encode(&mut payload),
            Self::Welcome => {}
            Self::Refused(text) => payload.put_slice(cut(text).as_bytes()),
        }
        out.push(sealed(self.command(), &payload));
        Ok(())
    }
}

/// A frame's header for a payload of which `checked` is what the CRC covers.
fn frame_header(command: PeerCommand, payload_bytes: usize, checked: &[u8]) -> [u8; HEADER_LEN] {
    let header = Header {
        flags: Flags::CONTROL,
        batch_id: u64::from(command as u8),
        payload_len: payload_bytes as u32,
        payload_crc: if checked.is_empty() { 0 } else { crc32fast::hash(checked) },
        ..Header::default()
    };
    header.encode(command.header_crc())
}

fn sealed(command: PeerCommand, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_LEN + payload.len());
    frame.put_slice(&frame_header(command, payload.len(), payload));
    frame.put_slice(payload);
    frame.freeze()
}

fn encode_opaque(command: PeerCommand, body: &Bytes, out: &mut Vec<Bytes>) -> Result<(), PeerFrameError> {
    let max_bytes = command.max_payload_bytes();
    if body.len() > max_bytes {
        return Err(PeerFrameError::TooLarge { command, bytes: body.len(), max_bytes });
    }
    out.push(Bytes::copy_from_slice(&frame_header(command, body.len(), body)));
    if !body.is_empty() {
        out.push(body.clone());
    }
    Ok(())
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_OPENING_PAYLOAD_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether a stream that begins with `bytes` begins with a PeerHello; `None` while there are too few of them to tell.
pub fn begins_with_peer_hello(bytes: &[u8]) -> Option<bool> {
    let mut expected = [0u8; RECOGNISED_BYTES];
    expected[..5].copy_from_slice(b"LANC\x01");
    expected[5] = Flags::CONTROL.0;
    expected[12] = PeerCommand::Hello as u8;
    // The header's CRC stands between; that it is right is seen when the frame is decoded.
    let fits = |at: usize| (8..12).contains(&at) || bytes[at] == expected[at];
    let known = bytes.len().min(RECOGNISED_BYTES);
    match (0..known).all(fits) {
        false => Some(false),
        true => (known == RECOGNISED_BYTES).then_some(true),
    }
}

/// Takes the next frame from the front of `buffer`; `None` when more bytes are needed.
///
/// The header is checked as soon as its 44 bytes are there: an unknown command, or a length above what its command and
/// `stage` allow, makes nobody wait. Records and opaque bodies share the buffer. After an error the stream is lost.
pub fn next_peer_frame(buffer: &mut BytesMut, stage: PeerStage) -> Result<Option<PeerFrame>, PeerFrameError> {
    let Some(bytes) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let (command, header) = check_header(bytes, stage)?;
    let payload_bytes = header.payload_len as usize;
    if buffer.len() < HEADER_LEN + payload_bytes {
        return Ok(None);
    }
    buffer.advance(HEADER_LEN);
    let payload = buffer.split_to(payload_bytes).freeze();
    let checked = match command {
        PeerCommand::Append => replica::append_checked(&payload),
        _ => &payload[..],
    };
    let computed = if checked.is_empty() { 0 } else { crc32fast::hash(checked) };
    if computed != header.payload_crc {
        return Err(PeerFrameError::PayloadCrc { command, stored: header.payload_crc, computed });
    }
    decode_payload(command, payload).map(Some)
}

fn check_header(bytes: &[u8; HEADER_LEN], stage: PeerStage) -> Result<(PeerCommand, Header), PeerFrameError> {
    // The one field that says which bytes the CRC covers; a wrong one fails the CRC.
    let crc = PeerCommand::from_code(u64::from(bytes[12])).map_or(HeaderCrc::Whole, PeerCommand::header_crc);
    let header = Header::decode(bytes, crc, u32::MAX)?;
    if header.flags != Flags::CONTROL {
        return Err(PeerFrameError::Flags { found: header.flags.0 });
    }
    let code = header.batch_id;
    let command = PeerCommand::from_code(code).ok_or(PeerFrameError::UnknownCommand { code })?;
    if stage == PeerStage::Opening && !command.is_opening() {
        return Err(PeerFrameError::TooEarly { command });
    }
    let reserved = [
        ("partition", u64::from(header.partition)),
        ("timestamp", header.timestamp),
        ("record count", u64::from(header.record_count)),
        ("topic id", u64::from(header.topic_id)),
    ];
    // Who refuses may be a server that knows no peers and fills these in.
    if command != PeerCommand::Refused
        && let Some((field, found)) = reserved.into_iter().find(|(_, found)| *found != 0)
    {
        return Err(PeerFrameError::Reserved { command, field, found });
    }
    let (bytes, max_bytes) = (header.payload_len as usize, command.max_payload_bytes());
    if bytes > max_bytes {
        return Err(PeerFrameError::TooLarge { command, bytes, max_bytes });
    }
    Ok((command, header))
}

fn decode_payload(command: PeerCommand, payload: Bytes) -> Result<PeerFrame, PeerFrameError> {
    let malformed = PeerFrameError::Malformed { command, bytes: payload.len() };
    let mut reader = PayloadReader::new(&payload);
    let frame = match command {
        PeerCommand::Append => return replica::decode_append(&payload).map(PeerFrame::Append),
        PeerCommand::Control => return Ok(PeerFrame::Control(payload)),
        PeerCommand::Formation => return Ok(PeerFrame::Formation(payload)),
        PeerCommand::ControlAnswer => return Ok(PeerFrame::ControlAnswer(payload)),
        PeerCommand::FormationAnswer => return Ok(PeerFrame::FormationAnswer(payload)),
        PeerCommand::Refused => return Ok(PeerFrame::Refused(String::from_utf8_lossy(&payload).into_owned())),
        PeerCommand::Hello => PeerHello::decode(&mut reader).map(PeerFrame::Hello),
        PeerCommand::Proof => PeerProof::decode(&mut reader).map(PeerFrame::Proof),
        PeerCommand::Truncate => replica::decode_truncate(&mut reader).map(PeerFrame::Truncate),
        PeerCommand::HelloResponse => PeerHelloResponse::decode(&mut reader).map(PeerFrame::HelloResponse),
        PeerCommand::Welcome => Some(PeerFrame::Welcome),
        PeerCommand::AppendAnswer => replica::decode_answers(&mut reader).map(PeerFrame::AppendAnswer),
    };
    // Every byte belongs to a field: what is longer was made by somebody who means something else.
    frame.filter(|_| reader.remaining() == 0).ok_or(malformed)
}

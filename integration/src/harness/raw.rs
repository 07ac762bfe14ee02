//! A socket that speaks LWP 1.0 from the published byte tables, and whatever else it is told to send.
//!
//! ```text
//! 0 magic "LANC" · 4 version 1 · 5 flags · 6 reserved u16 · 8 CRC of bytes 0..8 · 12 batch id or command u64
//! 20 timestamp u64 · 28 record count u32 · 32 payload length u32 · 36 payload CRC u32 · 40 topic id u32 · 44 payload
//! ```

use super::PATIENCE;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 44;
/// Flags of an ingest frame.
pub const INGEST: u8 = 0x04;
/// Flags of an ingest frame with compressed records.
pub const COMPRESSED_INGEST: u8 = 0x05;
/// Flags of an ack.
pub const ACK: u8 = 0x08;
/// Flags of a keepalive.
pub const KEEPALIVE: u8 = 0x20;
/// Flags of a control frame.
pub const CONTROL: u8 = 0x40;
/// Command of an ErrorResponse.
pub const ERROR: u64 = 0xFF;

/// A frame that was received; both checksums were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The flags byte.
    pub flags: u8,
    /// Bytes 6 and 7.
    pub reserved: u16,
    /// Batch id, or command of a control frame.
    pub batch_id: u64,
    /// The timestamp field.
    pub timestamp: u64,
    /// The record count field.
    pub record_count: u32,
    /// The topic id field.
    pub topic_id: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The payload as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Whether it is an ErrorResponse.
    pub fn is_error(&self) -> bool {
        self.flags == CONTROL && self.batch_id == ERROR
    }

    /// A u64 of the payload.
    pub fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.payload[at..at + 8].try_into().unwrap())
    }

    /// A u32 of the payload.
    pub fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// An answer to Fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where to go on.
    pub next_offset: u64,
    /// Records it claims to hold.
    pub record_count: u32,
    /// The data.
    pub data: Vec<u8>,
}

/// The bytes of a frame with everything but batch id, topic and payload zero.
pub fn frame(flags: u8, batch_id: u64, topic_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(b"LANC");
    bytes.extend_from_slice(&[1, flags, 0, 0]);
    bytes.extend_from_slice(&crc32fast::hash(&bytes[..8]).to_le_bytes());
    bytes.extend_from_slice(&batch_id.to_le_bytes());
    bytes.extend_from_slice(&0u64.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = if payload.is_empty() { 0 } else { crc32fast::hash(payload) };
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&topic_id.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A control frame.
pub fn control(command: u64, payload: &[u8]) -> Vec<u8> {
    frame(CONTROL, command, 0, payload)
}

/// The payload of Fetch.
pub fn fetch_payload(topic_id: u32, offset: u64, max_bytes: u32) -> Vec<u8> {
    [&topic_id.to_le_bytes()[..], &offset.to_le_bytes(), &max_bytes.to_le_bytes()].concat()
}

/// A connection.
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects.
    pub fn connect(address: &str) -> Raw {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects to a server that may not be there.
    pub fn try_connect(address: &str) -> io::Result<Raw> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Raw { stream })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A second handle of the same connection, to write and read from two threads.
    pub fn duplicate(&self) -> Raw {
        Raw { stream: self.stream.try_clone().unwrap() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send {} bytes: {error}", bytes.len()));
    }

    /// Sends bytes to a server that may close the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next frame.
    pub fn read(&mut self) -> Frame {
        self.try_read().unwrap_or_else(|error| panic!("no frame: {error}"))
    }

    /// The next frame, of a server that may close the connection; a broken frame fails the test.
    pub fn try_read(&mut self) -> io::Result<Frame> {
        let (frame, is_intact) = self.try_read_any()?;
        assert!(is_intact, "payload CRC of a frame with flags {:#04x}, id {:#x}", frame.flags, frame.batch_id);
        Ok(frame)
    }

    /// The next frame and whether its payload has its checksum; a broken header fails the test.
    pub fn try_read_any(&mut self) -> io::Result<(Frame, bool)> {
        let mut header = [0u8; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        assert_eq!(&header[..5], b"LANC\x01", "magic and version of {header:02x?}");
        assert_eq!(u32_at(8), crc32fast::hash(&header[..8]), "header CRC of {header:02x?}");
        let mut payload = vec![0u8; u32_at(32) as usize];
        self.stream.read_exact(&mut payload)?;
        let crc = if payload.is_empty() { 0 } else { crc32fast::hash(&payload) };
        let frame = Frame {
            flags: header[5],
            reserved: u16::from_le_bytes([header[6], header[7]]),
            batch_id: u64_at(12),
            timestamp: u64_at(20),
            record_count: u32_at(28),
            topic_id: u32_at(40),
            payload,
        };
        Ok((frame, u32_at(36) == crc))
    }

    /// A frame if one comes within `wait`, else `None`.
    pub fn read_within(&mut self, wait: Duration) -> Option<Frame> {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let mut first = [0u8; 1];
        let found = match self.stream.peek(&mut first) {
            Ok(_) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(error) => panic!("no frame: {error}"),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        found.then(|| self.read())
    }

    /// Waits until the server closes the connection; fails when a frame comes instead.
    pub fn expect_end(&mut self) {
        let mut byte = [0u8; 1];
        match self.stream.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("more data instead of the end"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Sends a control frame and reads its answer.
    pub fn control(&mut self, command: u64, payload: &[u8]) -> Frame {
        self.send(&control(command, payload));
        self.read()
    }

    /// Sends an ingest frame and reads its answer.
    pub fn ingest(&mut self, topic_id: u32, batch_id: u64, payload: &[u8]) -> Frame {
        self.send(&frame(INGEST, batch_id, topic_id, payload));
        self.read()
    }

    /// Stores a payload; fails without an ack.
    pub fn store(&mut self, topic_id: u32, batch_id: u64, payload: &[u8]) {
        let answer = self.ingest(topic_id, batch_id, payload);
        assert_eq!((answer.flags, answer.batch_id), (ACK, batch_id), "{answer:?} {}", answer.text());
    }

    /// Creates a topic; its id.
    pub fn create_topic(&mut self, name: &str) -> u32 {
        let answer = self.control(0x01, name.as_bytes());
        assert_eq!(answer.batch_id, 0x80, "{name}: {}", answer.text());
        answer.json()["id"].as_u64().unwrap() as u32
    }

    /// Fetches; the answer whatever it is.
    pub fn fetch_frame(&mut self, topic_id: u32, offset: u64, max_bytes: u32) -> Frame {
        self.control(0x10, &fetch_payload(topic_id, offset, max_bytes))
    }

    /// Fetches; fails unless there is a FetchResponse.
    pub fn fetch(&mut self, topic_id: u32, offset: u64, max_bytes: u32) -> Fetched {
        fetched(&self.fetch_frame(topic_id, offset, max_bytes))
    }

    /// Everything from `offset` to what is the end when it is reached.
    pub fn read_from(&mut self, topic_id: u32, mut offset: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let fetched = self.fetch(topic_id, offset, 1 << 20);
            if fetched.data.is_empty() {
                return all;
            }
            all.extend_from_slice(&fetched.data);
            offset = fetched.next_offset;
        }
    }

    /// Sends a keepalive and takes its answer, which must be the next frame.
    pub fn ping(&mut self) {
        self.send(&frame(KEEPALIVE, 0, 0, &[]));
        assert_eq!(self.read(), Frame { flags: KEEPALIVE, ..empty_frame() });
    }
}

/// Takes a FetchResponse apart.
pub fn fetched(answer: &Frame) -> Fetched {
    assert_eq!((answer.flags, answer.batch_id), (CONTROL, 0x11), "{}", answer.text());
    let (next_offset, returned, record_count) = (answer.u64_at(0), answer.u32_at(8), answer.u32_at(12));
    let data = answer.payload[16..].to_vec();
    assert_eq!(returned as usize, data.len(), "bytes returned");
    Fetched { next_offset, record_count, data }
}

/// A frame of zeroes.
pub fn empty_frame() -> Frame {
    Frame { flags: 0, reserved: 0, batch_id: 0, timestamp: 0, record_count: 0, topic_id: 0, payload: Vec::new() }
}

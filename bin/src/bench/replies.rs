//! Counting acks in a stream of replies, without copying it.

use lance_client::wire::header::{HEADER_LEN, MAGIC};

/// Bytes of an error's text that are kept.
const MOST_TEXT: usize = 512;

/// What a piece of the stream held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Acks.
    pub acks: u64,
    /// Errors, each instead of an ack.
    pub errors: u64,
}

/// Follows a stream of replies over the cuts between reads.
#[derive(Debug, Default)]
pub struct ReplyCounter {
    /// A header that is not complete.
    header: Vec<u8>,
    /// Payload bytes still to come.
    payload_left: usize,
    /// The payload is an error's, and wanted.
    in_error: bool,
    /// The first error.
    text: Vec<u8>,
    first_kept: bool,
    /// The stream is no LWP.
    broken: bool,
}

impl ReplyCounter {
    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Counted {
        let mut counted = Counted::default();
        while !bytes.is_empty() && !self.broken {
            if self.payload_left > 0 {
                let taken = self.payload_left.min(bytes.len());
                self.keep_text(&bytes[..taken]);
                self.payload_left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            if self.header.is_empty()
                && let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>()
            {
                self.on_header(header, &mut counted);
                bytes = rest;
                continue;
            }
            let taken = (HEADER_LEN - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let Some(&header) = self.header.first_chunk::<HEADER_LEN>() {
                self.header.clear();
                self.on_header(&header, &mut counted);
            }
        }
        counted
    }

    /// The first error's text, or what is wrong with the stream.
    pub fn complaint(&self) -> Option<String> {
        if self.broken {
            return Some("the server's bytes are no LWP frames".to_owned());
        }
        (!self.text.is_empty()).then(|| String::from_utf8_lossy(&self.text).into_owned())
    }

    fn on_header(&mut self, header: &[u8; HEADER_LEN], counted: &mut Counted) {
        if header[..4] != MAGIC {
            self.broken = true;
            return;
        }
        let [.., a, b, c, d, _, _, _, _, _, _, _, _] = *header;
        self.payload_left = u32::from_le_bytes([a, b, c, d]) as usize;
        self.in_error = false;
        match header[5] & 0x7F {
            0x08 => counted.acks += 1,
            flags if flags & 0x40 != 0 => {
                counted.errors += 1;
                self.in_error = !self.first_kept;
                self.first_kept = true;
            }
            _ => {}
        }
    }

    fn keep_text(&mut self, bytes: &[u8]) {
        if self.in_error {
            let room = MOST_TEXT - self.text.len().min(MOST_TEXT);
            self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use lance_client::wire::produce::{AckOffsets, put_ack};
    use lance_client::wire::{Features, Response, ResponseFrame};

    #[test]
    fn acks_and_errors_are_counted_over_every_cut() {
        let mut stream = BytesMut::new();
        let offsets = AckOffsets { base_offset: 1, record_count: 1, duplicate: false };
        for batch_id in 0..7 {
            put_ack(&mut stream, batch_id, &offsets, Features::ACK_OFFSETS);
            put_ack(&mut stream, batch_id, &offsets, Features::NONE);
        }
        let error = Response::ErrorText("Unknown topic".into());
        ResponseFrame { correlation: 0, response: error }.encode(&mut stream, None);
        ResponseFrame { correlation: 0, response: Response::Keepalive }.encode(&mut stream, None);
        for step in 1..stream.len() {
            let mut counter = ReplyCounter::default();
            let mut sum = Counted::default();
            for piece in stream.chunks(step) {
                let counted = counter.feed(piece);
                sum.acks += counted.acks;
                sum.errors += counted.errors;
            }
            assert_eq!(sum, Counted { acks: 14, errors: 1 });
            assert_eq!(counter.complaint().as_deref(), Some("Unknown topic"));
        }
    }

    #[test]
    fn another_protocol_is_noticed() {
        let mut counter = ReplyCounter::default();
        counter.feed(&[b'x'; 60]);
        assert!(counter.complaint().is_some());
    }
}

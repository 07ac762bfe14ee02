//! ErrorResponse: bare UTF-8 text in 1.0, typed once TYPED_ERRORS is negotiated.
//!
//! ```text
//! off size field
//!   0    2 code
//!   2    8 batch id of the ingest frame, or command code of the control frame it answers
//!  10    1 bit 0: retriable, bit 1: answers an ingest frame
//!  11    2 message length m
//!  13    m message, UTF-8
//! 13+m   2 detail length d
//! 15+m   d detail, UTF-8: for NotLeader the leader's address
//! ```

use super::payload::{PayloadReader, put_text};
use crate::error_code::{ErrorCode, RETRIABLE_PREFIX_1_0, not_leader_text};
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;

/// What an error answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The ingest frame with this batch id.
    Ingest(u64),
    /// The control frame with this command code.
    Control(u8),
}

/// An error with everything a client can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedError {
    /// The code.
    pub code: ErrorCode,
    /// The frame it answers.
    pub answers: Answers,
    /// A sentence: what is wrong and with what.
    pub message: Cow<'static, str>,
    /// For programs: for NotLeader the leader's address, else empty.
    pub detail: String,
}

impl TypedError {
    /// An error with the standard sentence of its code.
    pub fn new(code: ErrorCode, answers: Answers) -> Self {
        Self::with_message(code, answers, code.text())
    }

    /// An error with a sentence of its own.
    pub fn with_message(code: ErrorCode, answers: Answers, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, answers, message: message.into(), detail: String::new() }
    }

    /// The text for a connection without TYPED_ERRORS. Retriable errors get the prefix 1.0 clients look for.
    pub fn text_1_0(&self) -> Cow<'_, str> {
        if self.code == ErrorCode::NotLeader {
            return Cow::Owned(not_leader_text((!self.detail.is_empty()).then_some(self.detail.as_str())));
        }
        let keeps_its_text = !self.code.is_retriable() || self.code == ErrorCode::RateLimited;
        if keeps_its_text {
            Cow::Borrowed(&self.message)
        } else {
            Cow::Owned(format!("{RETRIABLE_PREFIX_1_0}{}", self.message))
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Option<TypedError> {
        let mut reader = PayloadReader::new(payload);
        let code = ErrorCode::from_code(reader.u16()?)?;
        let answered = reader.u64()?;
        let flags = reader.u8()?;
        let answers =
            if flags & 2 != 0 { Answers::Ingest(answered) } else { Answers::Control(answered.to_le_bytes()[0]) };
        let message = Cow::Owned(reader.text()?);
        Some(TypedError { code, answers, message, detail: reader.text()? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let (answered, answers_ingest) = match self.answers {
            Answers::Ingest(batch_id) => (batch_id, 2),
            Answers::Control(command) => (u64::from(command), 0),
        };
        out.put_u16_le(self.code.code());
        out.put_u64_le(answered);
        out.put_u8(answers_ingest | u8::from(self.code.is_retriable()));
        put_text(out, &self.message);
        put_text(out, &self.detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_error_has_its_golden_bytes() {
        let mut error = TypedError::with_message(ErrorCode::NotLeader, Answers::Ingest(7), "no");
        error.detail = "h:1".to_owned();
        let mut out = BytesMut::new();
        error.encode(&mut out);
        assert_eq!(&out[..], &[9, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0, b'n', b'o', 3, 0, b'h', b':', b'1'][..]);
        assert_eq!(TypedError::decode(&out), Some(error));
    }

    #[test]
    fn a_1_0_client_recognises_what_it_may_retry() {
        let full = TypedError::new(ErrorCode::NoSpace, Answers::Ingest(1));
        assert!(full.text_1_0().contains("FORWARD_FAILED"));
        let gone = TypedError::new(ErrorCode::UnknownTopic, Answers::Ingest(1));
        assert_eq!(gone.text_1_0(), "Unknown topic");
        let mut moved = TypedError::new(ErrorCode::NotLeader, Answers::Control(0x10));
        assert_eq!(moved.text_1_0(), "NOT_LEADER: leader unknown");
        moved.detail = "10.0.0.2:9000".to_owned();
        assert_eq!(moved.text_1_0(), "NOT_LEADER: redirect to 10.0.0.2:9000");
    }
}

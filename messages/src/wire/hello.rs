//! Hello, its reply, and InitProducer.
//!
//! ```text
//! Hello 0x40                      HelloResponse 0xC0
//!   0 1 minor version               0 1 minor version
//!   1 1 zero                        1 1 zero
//!   2 2 name length n               2 2 node id
//!   4 8 feature bits asked for      4 8 feature bits granted
//!  12 n client name, UTF-8         12 4 largest frame payload, bytes
//!                                  16 8 bytes in flight granted to the connection
//! InitProducer 0x41 and 0xC1
//!   0 8 producer id (0 in a request: a new one)
//!   8 2 epoch
//! ```

use super::features::Features;
use super::payload::{PayloadReader, put_text};
use crate::id::{NodeId, ProducerId};
use bytes::{BufMut, BytesMut};

/// The minor version spoken here: 1.1.
pub const MINOR_VERSION: u8 = 1;

/// What a client is and asks for; the first frame of a connection that goes beyond 1.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Minor version of the client.
    pub minor_version: u8,
    /// Features it can use.
    pub features: Features,
    /// Its name, for logs.
    pub client_name: String,
}

/// What the server grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloResponse {
    /// Minor version of the server.
    pub minor_version: u8,
    /// Who answers.
    pub node_id: NodeId,
    /// Features in force from the next frame on, in both directions.
    pub features: Features,
    /// Largest payload accepted.
    pub max_payload_bytes: u32,
    /// Bytes of unanswered ingest the server takes before it sends Backpressure or stops reading.
    pub max_in_flight_bytes: u64,
}

/// Binds a producer to the connection: a new one, or one this client has, as it is.
///
/// An existing producer keeps its epoch, so that what it sent before on a lost connection is still recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProducer {
    /// The producer to bind again, or `None` for a new one.
    pub existing: Option<ProducerEpoch>,
}

/// A producer and its instance; bound to the connection by the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerEpoch {
    /// The producer.
    pub id: ProducerId,
    /// Its instance; a higher one fences lower ones.
    pub epoch: u16,
}

impl Hello {
    pub(super) fn decode(payload: &[u8]) -> Option<Hello> {
        let mut reader = PayloadReader::new(payload);
        let minor_version = reader.u8()?;
        reader.u8()?;
        let name_len = reader.u16()?;
        let features = Features(reader.u64()?);
        let name = reader.bytes(usize::from(name_len))?;
        let client_name = std::str::from_utf8(name).ok()?.to_owned();
        Some(Hello { minor_version, features, client_name })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.minor_version);
        out.put_u8(0);
        let mut name = BytesMut::new();
        put_text(&mut name, &self.client_name);
        out.put_slice(&name[..2]);
        out.put_u64_le(self.features.0);
        out.put_slice(&name[2..]);
    }
}

impl HelloResponse {
    pub(super) fn decode(payload: &[u8]) -> Option<HelloResponse> {
        let mut reader = PayloadReader::new(payload);
        let minor_version = reader.u8()?;
        reader.u8()?;
        Some(HelloResponse {
            minor_version,
            node_id: NodeId(reader.u16()?),
            features: Features(reader.u64()?),
            max_payload_bytes: reader.u32()?,
            max_in_flight_bytes: reader.u64()?,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.minor_version);
        out.put_u8(0);
        out.put_u16_le(self.node_id.0);
        out.put_u64_le(self.features.0);
        out.put_u32_le(self.max_payload_bytes);
        out.put_u64_le(self.max_in_flight_bytes);
    }
}

impl InitProducer {
    pub(super) fn decode(payload: &[u8]) -> Option<InitProducer> {
        let producer = ProducerEpoch::decode(payload)?;
        Some(InitProducer { existing: (producer.id.0 != 0).then_some(producer) })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        self.existing.unwrap_or(ProducerEpoch { id: ProducerId(0), epoch: 0 }).encode(out);
    }
}

impl ProducerEpoch {
    pub(super) fn decode(payload: &[u8]) -> Option<ProducerEpoch> {
        let mut reader = PayloadReader::new(payload);
        Some(ProducerEpoch { id: ProducerId(reader.u64()?), epoch: reader.u16()? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.id.0);
        out.put_u16_le(self.epoch);
    }
}

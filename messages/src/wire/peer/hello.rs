//! The frames that open a connection between nodes.
//!
//! ```text
//! PeerHello 0x60                              PeerHelloResponse 0xE0
//!   0  2 oldest version spoken                  0  2 version chosen
//!   2  2 newest version spoken                  2  2 node id
//!   4  1 1 control, 2 data, 3 formation         4  1 1 with a proof, 0 without
//!   5  1 zero                                   5  3 zero
//!   6  2 node id                                8  8 cluster id, 0 before genesis
//!   8  8 cluster id, 0 before genesis          16  8 incarnation
//!  16  8 incarnation                           24  8 boot number
//!  24  8 boot number                           32 32 nonce
//!  32 32 nonce                                 64 32 proof, zeros without
//!  64  2 address length n
//!  66  n address others reach it at           PeerProof 0x61
//!                                               0  1 1 with a proof, 0 without
//! PeerWelcome 0xE1: empty                       1 32 proof, zeros without
//! ```
//! A proof is HMAC-SHA256, keyed with the cluster's secret, over the name of the side that makes it and
//! [`PeerHelloResponse::transcript`]: both nonces, both identities, and everything else that was said.

use super::super::payload::{PayloadReader, put_text};
use crate::id::NodeId;
use crate::peer::{LinkKind, PeerIdentity};
use bytes::{BufMut, BytesMut};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// Longest address.
pub const MAX_ADDRESS_BYTES: usize = 512;
/// Bytes of a response in front of its proof.
const RESPONSE_HEAD_BYTES: usize = 64;

/// What a connection between nodes is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerPurpose {
    /// Messages of one cluster.
    Link(LinkKind),
    /// Asking how far the formation of the cluster is; nothing else.
    Formation,
}

/// Who opens a connection, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// Oldest version of the peer protocol it speaks.
    pub min_version: u16,
    /// Newest version it speaks, not below the oldest.
    pub max_version: u16,
    /// What the connection shall carry.
    pub purpose: PeerPurpose,
    /// Its cluster; 0 before genesis.
    pub cluster_id: u64,
    /// Who it is.
    pub identity: PeerIdentity,
    /// Made for this connection.
    pub nonce: [u8; NONCE_BYTES],
    /// Where others reach it, host:port; at most [`MAX_ADDRESS_BYTES`].
    pub address: String,
}

/// Who was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHelloResponse {
    /// The version spoken from here on.
    pub version: u16,
    /// Its cluster; 0 before genesis.
    pub cluster_id: u64,
    /// Who it is.
    pub identity: PeerIdentity,
    /// Made for this connection.
    pub nonce: [u8; NONCE_BYTES],
    /// That it knows the secret; `None` where none is set.
    pub proof: Option<[u8; PROOF_BYTES]>,
}

/// That who opened the connection knows the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProof {
    /// The proof; `None` where no secret is set.
    pub proof: Option<[u8; PROOF_BYTES]>,
}

impl PeerHello {
    pub(super) fn decode(reader: &mut PayloadReader<'_>) -> Option<Self> {
        let (min_version, max_version) = (reader.u16()?, reader.u16()?);
        let purpose = match reader.u8()? {
            1 => PeerPurpose::Link(LinkKind::Control),
            2 => PeerPurpose::Link(LinkKind::Data),
            3 => PeerPurpose::Formation,
            _ => return None,
        };
        let zero = reader.u8()?;
        let node = NodeId(reader.u16()?);
        let cluster_id = reader.u64()?;
        let identity = PeerIdentity { node, incarnation: reader.u64()?, boot_number: reader.u64()? };
        let nonce = array(reader)?;
        let address = reader.text()?;
        let fits = zero == 0 && min_version <= max_version && node.0 != 0 && address.len() <= MAX_ADDRESS_BYTES;
        fits.then_some(Self { min_version, max_version, purpose, cluster_id, identity, nonce, address })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.min_version);
        out.put_u16_le(self.max_version);
        out.put_u8(match self.purpose {
            PeerPurpose::Link(LinkKind::Control) => 1,
            PeerPurpose::Link(LinkKind::Data) => 2,
            PeerPurpose::Formation => 3,
        });
        out.put_u8(0);
        out.put_u16_le(self.identity.node.0);
        out.put_u64_le(self.cluster_id);
        out.put_u64_le(self.identity.incarnation);
        out.put_u64_le(self.identity.boot_number);
        out.put_slice(&self.nonce);
        put_text(out, &self.address);
    }
}

impl PeerHelloResponse {
    /// What both proofs cover: the whole PeerHello, and this response up to its proof.
    pub fn transcript(&self, hello: &PeerHello) -> Vec<u8> {
        let mut said = BytesMut::new();
        hello.encode(&mut said);
        let response_at = said.len();
        Self { proof: None, ..self.clone() }.encode(&mut said);
        said.truncate(response_at + RESPONSE_HEAD_BYTES);
        said.to_vec()
    }

    pub(super) fn decode(reader: &mut PayloadReader<'_>) -> Option<Self> {
        let version = reader.u16()?;
        let node = NodeId(reader.u16()?);
        let proven = reader.u8()?;
        let zero = reader.bytes(3)?;
        let cluster_id = reader.u64()?;
        let identity = PeerIdentity { node, incarnation: reader.u64()?, boot_number: reader.u64()? };
        let nonce = array(reader)?;
        let proof = proof_of(proven, array(reader)?)?;
        (zero == [0; 3] && node.0 != 0).then_some(Self { version, cluster_id, identity, nonce, proof })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.version);
        out.put_u16_le(self.identity.node.0);
        out.put_u8(u8::from(self.proof.is_some()));
        out.put_slice(&[0; 3]);
        out.put_u64_le(self.cluster_id);
        out.put_u64_le(self.identity.incarnation);
        out.put_u64_le(self.identity.boot_number);
        out.put_slice(&self.nonce);
        out.put_slice(&self.proof.unwrap_or_default());
    }
}

impl PeerProof {
    pub(super) fn decode(reader: &mut PayloadReader<'_>) -> Option<Self> {
        let proven = reader.u8()?;
        Some(Self { proof: proof_of(proven, array(reader)?)? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.proof.is_some()));
        out.put_slice(&self.proof.unwrap_or_default());
    }
}

fn array(reader: &mut PayloadReader<'_>) -> Option<[u8; 32]> {
    reader.bytes(32)?.try_into().ok()
}

fn proof_of(proven: u8, bytes: [u8; PROOF_BYTES]) -> Option<Option<[u8; PROOF_BYTES]>> {
    match proven {
        0 if bytes == [0; PROOF_BYTES] => Some(None),
        1 => Some(Some(bytes)),
        _ => None,
    }
}

//! How peers prove themselves: HMAC-SHA256 over what both sides said, keyed with the cluster's secret.
//!
//! The proof covers the opening of a connection, both nonces included; the bytes that follow are as safe as the network.

use hmac::{Hmac, KeyInit, Mac};
use lance_messages::wire::peer::{PROOF_BYTES, PeerHello, PeerHelloResponse};
use sha2::Sha256;

/// Which side makes a proof: one side's is never the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofSide {
    /// Who opened the connection.
    Opener,
    /// Who was reached.
    Reached,
}

/// What makes this node trust a peer.
#[derive(Clone)]
pub enum PeerTrust {
    /// That it knows this secret.
    Secret(Vec<u8>),
    /// That it runs on the same machine: this node listens on loopback only.
    SameMachine,
    /// Nothing can: neither a secret nor loopback. No peer is talked to.
    Nothing,
}

impl std::fmt::Debug for PeerTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(********)",
            Self::SameMachine => "SameMachine",
            Self::Nothing => "Nothing",
        })
    }
}

impl PeerTrust {
    /// The proof of `side`; `None` without a secret.
    pub fn prove(&self, side: ProofSide, hello: &PeerHello, response: &PeerHelloResponse) -> Option<[u8; PROOF_BYTES]> {
        let mac = self.mac(side, hello, response)?;
        Some(mac.finalize().into_bytes().into())
    }

    /// Whether `proof` is that of `side`, compared in constant time; without a secret none may be given.
    pub fn accepts(
        &self,
        side: ProofSide,
        hello: &PeerHello,
        response: &PeerHelloResponse,
        proof: Option<[u8; PROOF_BYTES]>,
    ) -> bool {
        match (self.mac(side, hello, response), proof) {
            (Some(mac), Some(proof)) => mac.verify_slice(&proof).is_ok(),
            (None, None) => matches!(self, Self::SameMachine),
            _ => false,
        }
    }

    fn mac(&self, side: ProofSide, hello: &PeerHello, response: &PeerHelloResponse) -> Option<Hmac<Sha256>> {
        let Self::Secret(secret) = self else { return None };
        // A key of any length will do, so this is never an error.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        mac.update(match side {
            ProofSide::Opener => b"lance peer opener\0",
            ProofSide::Reached => b"lance peer reached\0",
        });
        mac.update(&response.transcript(hello));
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::NodeId;
    use lance_messages::peer::PeerIdentity;
    use lance_messages::wire::peer::PeerPurpose;

    fn said() -> (PeerHello, PeerHelloResponse) {
        let identity = |node| PeerIdentity { node: NodeId(node), incarnation: 5, boot_number: 6 };
        let hello = PeerHello {
            min_version: 1,
            max_version: 1,
            purpose: PeerPurpose::Formation,
            cluster_id: 0,
            identity: identity(1),
            nonce: [1; 32],
            address: "a:1".to_owned(),
        };
        (hello, PeerHelloResponse { version: 1, cluster_id: 0, identity: identity(2), nonce: [2; 32], proof: None })
    }

    #[test]
    fn a_proof_holds_for_its_side_its_secret_and_what_was_said() {
        let (hello, response) = said();
        let trust = PeerTrust::Secret(b"0123456789abcdef".to_vec());
        let proof = trust.prove(ProofSide::Opener, &hello, &response);
        assert!(proof.is_some() && trust.accepts(ProofSide::Opener, &hello, &response, proof));
        assert!(!trust.accepts(ProofSide::Reached, &hello, &response, proof));
        let other = PeerHelloResponse { nonce: [3; 32], ..response.clone() };
        assert!(!trust.accepts(ProofSide::Opener, &hello, &other, proof));
        assert!(!PeerTrust::Secret(b"another secret..".to_vec()).accepts(ProofSide::Opener, &hello, &response, proof));
    }

    #[test]
    fn a_missing_proof_is_enough_on_one_machine_only() {
        let (hello, response) = said();
        let accepts = |trust: PeerTrust, proof| trust.accepts(ProofSide::Opener, &hello, &response, proof);
        assert!(accepts(PeerTrust::SameMachine, None));
        assert!(!accepts(PeerTrust::SameMachine, Some([0; 32])));
        assert!(!accepts(PeerTrust::Nothing, None));
        assert!(!accepts(PeerTrust::Secret(b"0123456789abcdef".to_vec()), None));
    }

    #[test]
    fn a_proof_has_its_golden_bytes() {
        let (hello, response) = said();
        let proof = PeerTrust::Secret(b"0123456789abcdef".to_vec()).prove(ProofSide::Reached, &hello, &response);
        let hex: String = proof.unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        // Computed apart from this code, with Python's `hmac`.
        assert_eq!(hex, GOLDEN_PROOF);
    }

    const GOLDEN_PROOF: &str = "7c8b74ea9a7de808e9694c73c242e38c7e6454f5e9a63e985cf6e417228683d6";
}

//! Which versions of the peer protocol this node speaks, and which others do, as their proven handshakes say.

use arc_swap::ArcSwap;
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;
use lance_messages::wire::peer::{OLDEST_PEER_VERSION, PEER_VERSION};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The versions of this node and its peers; shared by all that open and accept connections.
#[derive(Debug)]
pub struct PeerVersions {
    newest: u16,
    oldest: AtomicU16,
    known: ArcSwap<BTreeMap<NodeId, (PeerIdentity, u16)>>,
}

impl Default for PeerVersions {
    fn default() -> Self {
        Self::up_to(PEER_VERSION)
    }
}

impl PeerVersions {
    /// Speaks nothing newer than `newest`.
    pub fn up_to(newest: u16) -> Self {
        let known = ArcSwap::default();
        Self { newest: newest.max(OLDEST_PEER_VERSION), oldest: AtomicU16::new(OLDEST_PEER_VERSION), known }
    }

    /// The newest that this node speaks.
    pub fn newest(&self) -> u16 {
        self.newest
    }

    /// The oldest that this node speaks.
    pub fn oldest(&self) -> u16 {
        self.oldest.load(Ordering::Acquire)
    }

    /// Nobody is talked to any more who speaks nothing at least as new as `oldest`.
    pub fn require(&self, oldest: u16) {
        self.oldest.fetch_max(oldest.min(self.newest), Ordering::AcqRel);
    }

    /// A proven peer speaks this version, and maybe newer ones.
    pub fn note(&self, peer: PeerIdentity, version: u16) {
        if self.known.load().get(&peer.node) == Some(&(peer, version)) {
            return;
        }
        self.known.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.insert(peer.node, (peer, version));
            Arc::new(known)
        });
    }

    /// What this start of a node speaks, as far as it has said.
    pub fn of(&self, peer: PeerIdentity) -> Option<u16> {
        self.known.load().get(&peer.node).filter(|(known, _)| *known == peer).map(|(_, version)| *version)
    }
}

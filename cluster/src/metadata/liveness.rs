//! Who was heard lately: every node keeps this, so that a new metadata leader can act at once.

use super::state::MetadataState;
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug)]
struct Heard {
    incarnation: u64,
    boot_number: u64,
    at_ms: u64,
}

/// When each node was heard last, in its registered boot.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    heard: BTreeMap<NodeId, Heard>,
    /// Nodes that were never heard have had since then to be.
    since_ms: u64,
    dead: BTreeSet<NodeId>,
    ticked_at_ms: Option<u64>,
}

/// What a look at the clock brought to light.
#[derive(Debug, Default)]
pub(super) struct LivenessChange {
    pub(super) died: BTreeSet<NodeId>,
    pub(super) returned: bool,
}

impl Liveness {
    /// From here on silence is counted; what was heard before still holds.
    pub(super) fn activate(&mut self, state: &MetadataState, now_ms: u64, timeout_ms: u64) {
        self.since_ms = now_ms;
        self.ticked_at_ms = Some(now_ms);
        self.dead =
            state.nodes().map(|(node, _)| node).filter(|node| self.silent(state, *node, now_ms, timeout_ms)).collect();
    }

    /// Another boot than the registered one says nothing about who was chosen to lead. Nor does another life: after a
    /// wipe the boots of a node are counted from one again.
    pub(super) fn on_heard(&mut self, state: &MetadataState, peer: PeerIdentity, now_ms: u64) {
        let PeerIdentity { node, incarnation, boot_number } = peer;
        if state.node(node).is_some_and(|known| (known.incarnation, known.boot_number) == (incarnation, boot_number)) {
            self.heard.insert(node, Heard { incarnation, boot_number, at_ms: now_ms });
        }
    }

    pub(super) fn on_registered(&mut self, peer: PeerIdentity, now_ms: u64) {
        let PeerIdentity { node, incarnation, boot_number } = peer;
        self.heard.insert(node, Heard { incarnation, boot_number, at_ms: now_ms });
        self.dead.remove(&node);
    }

    pub(super) fn on_removed(&mut self, node: NodeId) {
        self.heard.remove(&node);
        self.dead.remove(&node);
    }

    /// Who fell silent since the last look, and whether somebody was heard again.
    pub(super) fn on_tick(&mut self, state: &MetadataState, now_ms: u64, timeout_ms: u64) -> LivenessChange {
        let last = self.ticked_at_ms.replace(now_ms).unwrap_or(now_ms);
        if now_ms.saturating_sub(last) > timeout_ms / 2 {
            // This process stood still: that it heard nobody says nothing about the others.
            for (node, known) in state.nodes().filter(|(node, _)| !self.dead.contains(node)) {
                let (incarnation, boot_number) = (known.incarnation, known.boot_number);
                self.heard.insert(node, Heard { incarnation, boot_number, at_ms: now_ms });
            }
        }
        let mut change = LivenessChange::default();
        for (node, _) in state.nodes() {
            if self.silent(state, node, now_ms, timeout_ms) {
                if self.dead.insert(node) {
                    change.died.insert(node);
                }
            } else {
                change.returned |= self.dead.remove(&node);
            }
        }
        change
    }

    /// Whether the node was not found silent at the last look.
    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        !self.dead.contains(&node)
    }

    /// Whether the node was not heard for `timeout_ms`, in its registered boot.
    pub(super) fn silent(&self, state: &MetadataState, node: NodeId, now_ms: u64, timeout_ms: u64) -> bool {
        let registered = state.node(node).map(|known| (known.incarnation, known.boot_number));
        let heard = self.heard.get(&node).filter(|heard| Some((heard.incarnation, heard.boot_number)) == registered);
        let since = heard.map_or(self.since_ms, |heard| heard.at_ms);
        now_ms >= since.saturating_add(timeout_ms)
    }
}

//! `PeerRegistry`: which start of which node is the newest, and which session of it counts. Pure.

use lance_messages::id::NodeId;
use lance_messages::peer::{LinkKind, PeerIdentity};
use std::collections::BTreeMap;

/// An incarnation takes the place of another once that was not connected for this long.
pub const INCARNATION_SILENCE_MS: u64 = 10_000;
/// Incarnations of a node that are remembered as gone.
const MAX_GONE: usize = 64;

/// Why a session is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outdated {
    /// A later start of the node was seen.
    #[error("node {node} has started {newest} times, and this is its start number {found}")]
    BootNumber {
        /// The node.
        node: NodeId,
        /// Its boot number.
        found: u64,
        /// The newest seen.
        newest: u64,
    },
    /// A later incarnation of the node was seen.
    #[error("incarnation {found:016x} of node {node} is gone: {newest:016x} has taken its place")]
    Incarnation {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        found: u64,
        /// The newest seen.
        newest: u64,
    },
    /// The node's present incarnation is alive, or was a moment ago.
    #[error(
        "node id {node} is in use by incarnation {current:016x} at {address}: {found:016x} is refused until that has \
         been silent for 10 s"
    )]
    InUse {
        /// The node.
        node: NodeId,
        /// The incarnation that asks.
        found: u64,
        /// The incarnation in use.
        current: u64,
        /// Where that one is.
        address: String,
    },
}

struct Node {
    incarnation: u64,
    boot_number: u64,
    address: String,
    gone: Vec<u64>,
    /// The session of each kind, and the boot number it was opened with.
    sessions: BTreeMap<LinkSlot, (u64, u64)>,
    /// When its last session ended, ms of the caller's clock.
    silent_since_ms: u64,
}

/// `LinkKind` in an order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LinkSlot {
    Control,
    Data,
}

impl From<LinkKind> for LinkSlot {
    fn from(kind: LinkKind) -> Self {
        match kind {
            LinkKind::Control => Self::Control,
            LinkKind::Data => Self::Data,
        }
    }
}

/// Every node that has opened a session.
#[derive(Default)]
pub struct PeerRegistry {
    nodes: BTreeMap<NodeId, Node>,
}

impl PeerRegistry {
    /// A proven node opens `session`: gives the sessions that it takes the place of.
    pub fn admit(
        &mut self,
        from: PeerIdentity,
        address: &str,
        kind: LinkKind,
        session: u64,
        now_ms: u64,
    ) -> Result<Vec<u64>, Outdated> {
        let node = self.nodes.entry(from.node).or_insert_with(|| Node {
            incarnation: from.incarnation,
            boot_number: from.boot_number,
            address: address.to_owned(),
            gone: Vec::new(),
            sessions: BTreeMap::new(),
            silent_since_ms: now_ms,
        });
        node.check(from, now_ms)?;
        if node.incarnation != from.incarnation {
            let before = std::mem::replace(&mut node.incarnation, from.incarnation);
            node.gone.push(before);
            if node.gone.len() > MAX_GONE {
                node.gone.remove(0);
            }
            node.boot_number = from.boot_number;
        }
        node.boot_number = node.boot_number.max(from.boot_number);
        node.address = address.to_owned();
        let slot = LinkSlot::from(kind);
        let outdated =
            |(other, (_, boot_number)): (&LinkSlot, &(u64, u64))| *other == slot || *boot_number < from.boot_number;
        let replaced: Vec<LinkSlot> =
            node.sessions.iter().filter(|entry| outdated(*entry)).map(|(slot, _)| *slot).collect();
        let replaced = replaced.iter().filter_map(|slot| node.sessions.remove(slot)).map(|(id, _)| id).collect();
        node.sessions.insert(slot, (session, from.boot_number));
        Ok(replaced)
    }

    /// A session has ended.
    pub fn close(&mut self, session: u64, now_ms: u64) {
        for node in self.nodes.values_mut() {
            let before = node.sessions.len();
            node.sessions.retain(|_, (id, _)| *id != session);
            if node.sessions.len() < before {
                node.silent_since_ms = now_ms;
            }
        }
    }

    /// Sessions that count.
    pub fn session_count(&self) -> usize {
        self.nodes.values().map(|node| node.sessions.len()).sum()
    }
}

impl Node {
    fn check(&self, from: PeerIdentity, now_ms: u64) -> Result<(), Outdated> {
        let (node, found) = (from.node, from.incarnation);
        if self.gone.contains(&found) {
            return Err(Outdated::Incarnation { node, found, newest: self.incarnation });
        }
        if self.incarnation != found {
            let silent = self.sessions.is_empty() && now_ms >= self.silent_since_ms + INCARNATION_SILENCE_MS;
            let (current, address) = (self.incarnation, self.address.clone());
            return if silent { Ok(()) } else { Err(Outdated::InUse { node, found, current, address }) };
        }
        if from.boot_number < self.boot_number {
            return Err(Outdated::BootNumber { node, found: from.boot_number, newest: self.boot_number });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(incarnation: u64, boot_number: u64) -> PeerIdentity {
        PeerIdentity { node: NodeId(2), incarnation, boot_number }
    }

    fn admit(registry: &mut PeerRegistry, from: PeerIdentity, kind: LinkKind, session: u64) -> Result<Vec<u64>, ()> {
        registry.admit(from, "n2:1", kind, session, 0).map_err(drop)
    }

    #[test]
    fn a_newer_connection_of_a_kind_takes_the_place_of_the_older() {
        let mut registry = PeerRegistry::default();
        assert_eq!(admit(&mut registry, node(1, 1), LinkKind::Data, 1), Ok(vec![]));
        assert_eq!(admit(&mut registry, node(1, 1), LinkKind::Control, 2), Ok(vec![]));
        assert_eq!(admit(&mut registry, node(1, 1), LinkKind::Data, 3), Ok(vec![1]));
        assert_eq!(registry.session_count(), 2);
    }

    #[test]
    fn a_newer_start_ends_every_session_of_the_older_and_those_come_no_more() {
        let mut registry = PeerRegistry::default();
        admit(&mut registry, node(1, 1), LinkKind::Data, 1).unwrap();
        admit(&mut registry, node(1, 1), LinkKind::Control, 2).unwrap();
        assert_eq!(admit(&mut registry, node(1, 2), LinkKind::Data, 3), Ok(vec![2, 1]));
        let refused = registry.admit(node(1, 1), "n2:1", LinkKind::Control, 4, 0);
        assert_eq!(refused, Err(Outdated::BootNumber { node: NodeId(2), found: 1, newest: 2 }));
    }

    #[test]
    fn another_incarnation_waits_until_the_one_in_use_was_silent_and_ends_it_for_good() {
        let mut registry = PeerRegistry::default();
        admit(&mut registry, node(1, 7), LinkKind::Data, 1).unwrap();
        let mut late = |session, now_ms| registry.admit(node(9, 1), "n2:2", LinkKind::Data, session, now_ms);
        assert!(matches!(late(2, 50_000), Err(Outdated::InUse { current: 1, found: 9, .. })));
        registry.close(1, 50_000);
        let mut late = |session, now_ms| registry.admit(node(9, 1), "n2:2", LinkKind::Data, session, now_ms);
        assert!(matches!(late(3, 59_999), Err(Outdated::InUse { .. })));
        assert_eq!(late(4, 60_000), Ok(vec![]));
        let old = registry.admit(node(1, 8), "n2:1", LinkKind::Data, 5, 99_000);
        assert_eq!(old, Err(Outdated::Incarnation { node: NodeId(2), found: 1, newest: 9 }));
    }

    #[test]
    fn the_end_of_a_session_that_was_replaced_changes_nothing() {
        let mut registry = PeerRegistry::default();
        admit(&mut registry, node(1, 1), LinkKind::Data, 1).unwrap();
        admit(&mut registry, node(1, 1), LinkKind::Data, 2).unwrap();
        registry.close(1, 5);
        assert_eq!(registry.session_count(), 1);
    }
}

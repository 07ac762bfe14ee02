//! Nodes: they register at each start, are emptied, allowed and removed.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::state::{MAX_ADDRESS_BYTES, MetadataState, Outcome};
use super::topic::{NodeState, RemovedNode};
use lance_messages::id::NodeId;

/// One start of a node, as it registers.
pub(super) struct Registration<'a> {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) boot_number: u64,
    pub(super) nonce: u64,
    pub(super) address: &'a str,
    pub(super) rack: &'a str,
}

impl Registration<'_> {
    /// What no node may register with.
    fn fault(&self) -> Option<&'static str> {
        if self.node.0 == 0 {
            return Some("node id 0");
        }
        if self.incarnation == 0 {
            return Some("incarnation 0");
        }
        if self.boot_number == 0 {
            return Some("boot number 0");
        }
        if !(1..=MAX_ADDRESS_BYTES).contains(&self.address.len()) {
            return Some("address");
        }
        (self.rack.len() > MAX_ADDRESS_BYTES).then_some("rack")
    }
}

impl MetadataState {
    pub(super) fn register_node(&mut self, asked: &Registration<'_>, events: &mut Vec<MetadataEvent>) -> Outcome {
        let &Registration { node, incarnation, boot_number, nonce, address, rack } = asked;
        if let Some(what) = asked.fault() {
            return Err(MetadataRefusal::InvalidRegistration { node, what });
        }
        // Raft ids derive from incarnations: no two nodes may ever have the same.
        if self.had_incarnation(incarnation).is_some_and(|owner| owner != node) {
            return Err(MetadataRefusal::InvalidRegistration { node, what: "incarnation: another node had it" });
        }
        let removed = self.removed.get(&node);
        if removed.is_some() && !self.allowed.contains_key(&node) {
            return Err(MetadataRefusal::NodeNotAllowed { node });
        }
        let mut retired_incarnations = removed.map_or_else(Vec::new, |removed| removed.retired_incarnations.clone());
        let known = self.nodes.get(&node);
        let was_draining = known.is_some_and(|known| known.draining);
        if let Some(known) = known {
            retired_incarnations.clone_from(&known.retired_incarnations);
        }
        if retired_incarnations.contains(&incarnation) {
            return Err(MetadataRefusal::RetiredIncarnation { node, incarnation });
        }
        if let Some(known) = known {
            if known.incarnation != incarnation {
                retired_incarnations.push(known.incarnation);
            } else if (known.boot_number, known.nonce) == (boot_number, nonce) {
                return Ok(MetadataAnswer::NodeRegistered);
            } else if boot_number <= known.boot_number {
                let registered = known.boot_number;
                return Err(MetadataRefusal::RolledBack { node, given: boot_number, registered });
            }
        }
        let (address, rack) = (address.to_owned(), rack.to_owned());
        // A node is emptied before it goes down: once it is back, it serves again, unless it shall leave for good.
        let leaving = known.is_some_and(|known| known.leaving);
        let draining = leaving || self.later.maintenance.contains(&node);
        let state =
            NodeState { incarnation, boot_number, nonce, address, rack, draining, leaving, retired_incarnations };
        self.nodes.insert(node, state);
        self.allowed.remove(&node);
        self.removed.remove(&node);
        events.push(MetadataEvent::NodeRegistered { node, incarnation, boot_number });
        if was_draining && !draining {
            events.push(MetadataEvent::DrainingSet { node, draining });
        }
        Ok(MetadataAnswer::NodeRegistered)
    }

    pub(super) fn set_draining(&mut self, node: NodeId, draining: bool, events: &mut Vec<MetadataEvent>) -> Outcome {
        let state = self.nodes.get_mut(&node).ok_or(MetadataRefusal::NodeNotFound { node })?;
        // Whoever may lead again stays.
        state.leaving &= draining;
        if !draining {
            self.later.maintenance.remove(&node);
        }
        if state.draining != draining {
            state.draining = draining;
            events.push(MetadataEvent::DrainingSet { node, draining });
        }
        Ok(MetadataAnswer::NodeChanged { node })
    }

    /// What is ordered for maintenance is kept over the starts of the node, unlike what it orders itself before it goes down.
    pub(super) fn set_maintenance(&mut self, node: NodeId, on: bool, events: &mut Vec<MetadataEvent>) -> Outcome {
        let answer = self.set_draining(node, on, events)?;
        if on && self.later.maintenance.insert(node) {
            // A node that was being emptied already has said nothing of this yet.
            events.push(MetadataEvent::DrainingSet { node, draining: true });
        }
        Ok(answer)
    }

    /// Whether `node` leads nothing until an operator says otherwise.
    pub fn is_in_maintenance(&self, node: NodeId) -> bool {
        self.later.maintenance.contains(&node)
    }

    /// A node that shall leave is emptied of leaderships first, and then of copies.
    pub(super) fn set_leaving(&mut self, node: NodeId, events: &mut Vec<MetadataEvent>) -> Outcome {
        if self.nodes.len() == 1 && self.nodes.contains_key(&node) {
            return Err(MetadataRefusal::LastNode { node });
        }
        if !self.nodes.contains_key(&node) {
            // Only an allowance is left to be taken back.
            return self.remove_node(node, events);
        }
        // Where its copies could go nowhere it would stay marked for ever.
        let staying = self.nodes.iter().filter(|(id, known)| **id != node && !known.leaving).count();
        let wanted = self.topics.values().filter(|topic| topic.partitions.iter().any(|held| held.has_replica(node)));
        if wanted.map(|topic| usize::from(topic.config.replication_factor)).max() > Some(staying) {
            let replica_count = self.replica_counts().get(&node).copied().unwrap_or_default();
            return Err(MetadataRefusal::NodeHoldsReplicas { node, replica_count });
        }
        let answer = self.set_draining(node, true, events)?;
        self.nodes.get_mut(&node).into_iter().for_each(|state| state.leaving = true);
        Ok(answer)
    }

    pub(super) fn allow_node(&mut self, node: NodeId, address: &str, events: &mut Vec<MetadataEvent>) -> Outcome {
        if node.0 == 0 {
            return Err(MetadataRefusal::InvalidRegistration { node, what: "node id 0" });
        }
        if !(1..=MAX_ADDRESS_BYTES).contains(&address.len()) {
            return Err(MetadataRefusal::InvalidRegistration { node, what: "address" });
        }
        if self.nodes.contains_key(&node) {
            return Err(MetadataRefusal::NodeExists { node });
        }
        if self.allowed.insert(node, address.to_owned()).as_deref() != Some(address) {
            events.push(MetadataEvent::NodeAllowed { node });
        }
        Ok(MetadataAnswer::NodeChanged { node })
    }

    pub(super) fn remove_node(&mut self, node: NodeId, events: &mut Vec<MetadataEvent>) -> Outcome {
        match self.replica_counts().get(&node) {
            Some(&replica_count) => return Err(MetadataRefusal::NodeHoldsReplicas { node, replica_count }),
            None if self.nodes.len() == 1 && self.nodes.contains_key(&node) => {
                return Err(MetadataRefusal::LastNode { node });
            }
            None => {}
        }
        let allowance = self.allowed.remove(&node);
        self.later.maintenance.remove(&node);
        match self.nodes.remove(&node) {
            Some(state) => {
                let mut retired_incarnations = state.retired_incarnations;
                retired_incarnations.push(state.incarnation);
                self.removed.insert(node, RemovedNode { retired_incarnations });
            }
            None if allowance.is_some() => {}
            None => return Err(MetadataRefusal::NodeNotFound { node }),
        }
        events.push(MetadataEvent::NodeRemoved { node });
        Ok(MetadataAnswer::NodeChanged { node })
    }

    /// The node that has or had this incarnation, if it ever registered.
    pub fn had_incarnation(&self, incarnation: u64) -> Option<NodeId> {
        let present = self
            .nodes
            .iter()
            .find(|(_, node)| node.incarnation == incarnation || node.retired_incarnations.contains(&incarnation));
        let removed = self.removed.iter().find(|(_, node)| node.retired_incarnations.contains(&incarnation));
        present.map(|(node, _)| *node).or(removed.map(|(node, _)| *node))
    }

    /// Whether a life of a node that is a member, or may be one again, is over.
    pub fn is_retired(&self, node: NodeId, incarnation: u64) -> bool {
        let known = self.nodes.get(&node).map(|known| &known.retired_incarnations);
        let allowed = || self.removed.get(&node).filter(|_| self.allowed.contains_key(&node));
        let retired = known.or_else(|| allowed().map(|removed| &removed.retired_incarnations));
        retired.is_some_and(|retired| retired.contains(&incarnation))
    }

    /// Nodes that may register and have not yet, with their addresses.
    pub fn allowed_nodes(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.allowed.iter().map(|(node, address)| (*node, address.as_str()))
    }

    /// Nodes that were members and are none any more.
    pub fn removed_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.removed.keys().copied()
    }

    /// Whether `node` was a member and is none any more.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains_key(&node)
    }
}

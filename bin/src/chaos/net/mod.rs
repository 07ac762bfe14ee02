//! The network between the nodes and to the clients, and how it fails.

pub mod namespaces;
pub mod plan;
pub mod proxy;

use super::faults::FaultKind;
use clap::ValueEnum;
use namespaces::Namespaces;
use plan::{Flow, Party, Shaper, Weather, between, others};
use proxy::{LinkState, Proxy};

/// The first preference of rules; every kind of fault has a hundred.
const FIRST_PREFERENCE: usize = 1_000;

/// Which network is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NetworkKind {
    /// Namespaces where they can be made, else proxies.
    #[default]
    Auto,
    /// A namespace for each node; takes root.
    Namespaces,
    /// A proxy before each node.
    Proxy,
}

/// What carries the packets.
#[derive(Debug)]
pub enum Network {
    /// A namespace for each node.
    Namespaces(Namespaces),
    /// A proxy before each node, in their order; and why there are no namespaces.
    Proxies(Vec<Proxy>, String),
}

/// Something that is broken.
#[derive(Debug)]
pub enum Broken {
    /// Packets of these flows vanish.
    Dropped(usize, Vec<Flow>),
    /// These flows are bad.
    Shaped(Vec<Flow>),
    /// The proxy of this node is not open.
    Proxied(usize),
}

impl Network {
    /// What it is, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Namespaces(made) => {
                let shaped = match made.shaper() {
                    Shaper::Netem => "packets are delayed, lost and reordered by tc netem",
                    Shaper::Narrow => "no netem in this kernel: slow links are narrow ones (tc htb)",
                    Shaper::Nothing => "no netem and no htb in this kernel: links do not get slow",
                };
                format!("a namespace for each node ({}0/24); {shaped}", made.plan().prefix())
            }
            Self::Proxies(_, reason) => format!("a proxy before each node, no namespaces: {reason}"),
        }
    }

    /// Whether single pairs and directions can fail.
    pub fn is_per_pair(&self) -> bool {
        matches!(self, Self::Namespaces(_))
    }

    /// Whether it can fail in this way.
    pub fn supports(&self, kind: FaultKind) -> bool {
        match (self, kind) {
            (Self::Namespaces(made), FaultKind::LinkSlow) => made.shaper() != Shaper::Nothing,
            (Self::Proxies(..), FaultKind::LinkBridge | FaultKind::LinkOneWay) => false,
            _ => true,
        }
    }

    /// Breaks links of `victim`; those to `peer` where it takes two. `nodes` are all there are.
    pub fn break_links(
        &self,
        kind: FaultKind,
        (victim, peer): (usize, usize),
        weather: Weather,
        nodes: usize,
    ) -> Result<Broken, String> {
        match self {
            Self::Namespaces(made) => {
                let flows = flows_of(kind, (victim, peer), nodes);
                if kind == FaultKind::LinkSlow {
                    let broken = Broken::Shaped(flows.clone());
                    // What is half done is undone.
                    return made.shape(weather, &flows).inspect_err(|_| drop(made.calm(&flows))).map(|()| broken);
                }
                let preference = FIRST_PREFERENCE + 100 * kind as usize;
                made.drop_packets(preference, &flows).map(|()| Broken::Dropped(preference, flows))
            }
            Self::Proxies(proxies, _) => {
                let state = match kind {
                    FaultKind::LinkStall => LinkState::Stalled,
                    FaultKind::LinkSlow => LinkState::Slow(weather.delay),
                    _ => LinkState::Cut,
                };
                proxies[victim].set(state);
                Ok(Broken::Proxied(victim))
            }
        }
    }

    /// Makes it good again.
    pub fn heal(&self, broken: &Broken) -> Result<(), String> {
        match (self, broken) {
            (Self::Namespaces(made), Broken::Dropped(preference, flows)) => made.pass_packets(*preference, flows),
            (Self::Namespaces(made), Broken::Shaped(flows)) => made.calm(flows),
            (Self::Proxies(proxies, _), Broken::Proxied(victim)) => {
                proxies[*victim].set(LinkState::Open);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Which packets a fault concerns.
fn flows_of(kind: FaultKind, (victim, peer): (usize, usize), nodes: usize) -> Vec<Flow> {
    let (node, other) = (Party::Node(victim), Party::Node(peer));
    match kind {
        FaultKind::LinkOneWay => vec![Flow { from: node, to: other }],
        FaultKind::LinkBridge => between(node, other).to_vec(),
        FaultKind::LinkCut => others(nodes, victim).map(|from| Flow { from, to: node }).collect(),
        _ => others(nodes, victim).flat_map(|other| between(node, other)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_leaves_the_third_node_between_the_two() {
        let flows = flows_of(FaultKind::LinkBridge, (0, 2), 3);
        let cut = |from, to| flows.contains(&Flow { from: Party::Node(from), to: Party::Node(to) });
        assert!(cut(0, 2) && cut(2, 0));
        assert!(!cut(0, 1) && !cut(1, 0) && !cut(1, 2) && !cut(2, 1));
    }

    #[test]
    fn an_isolated_node_hears_nobody_and_is_heard_by_nobody() {
        let flows = flows_of(FaultKind::LinkStall, (1, 0), 5);
        assert_eq!(flows.len(), 2 * 5, "four peers and the clients, both ways");
        assert!(flows.iter().all(|flow| flow.from == Party::Node(1) || flow.to == Party::Node(1)));
        let inwards = flows_of(FaultKind::LinkCut, (1, 0), 5);
        assert!(inwards.len() == 5 && inwards.iter().all(|flow| flow.to == Party::Node(1)));
    }
}

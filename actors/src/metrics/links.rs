//! Whether the links to other nodes stand.

use super::Figure;
use arc_swap::ArcSwap;
use lance_messages::id::NodeId;
use lance_messages::peer::LinkKind;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One link.
#[derive(Debug, Default)]
pub struct LinkFigure {
    /// 1 while it stands.
    pub up: Figure,
    /// How often it was lost.
    pub losses: Figure,
}

type Links = BTreeMap<(NodeId, &'static str), Arc<LinkFigure>>;

/// Every link that this node keeps.
#[derive(Debug, Default)]
pub struct LinkFigures(ArcSwap<Links>);

impl LinkFigures {
    /// The figure of a link, which is shown from now on.
    pub fn of(&self, peer: NodeId, kind: LinkKind) -> Arc<LinkFigure> {
        let figure = Arc::new(LinkFigure::default());
        self.0.rcu(|links| {
            let mut links = Links::clone(links);
            links.insert((peer, label(kind)), Arc::clone(&figure));
            links
        });
        figure
    }

    /// It is shown no more.
    pub fn forget(&self, peer: NodeId, kind: LinkKind) {
        self.0.rcu(|links| {
            let mut links = Links::clone(links);
            links.remove(&(peer, label(kind)));
            links
        });
    }

    /// All of them, by node and what they carry.
    pub fn shown(&self) -> Arc<BTreeMap<(NodeId, &'static str), Arc<LinkFigure>>> {
        self.0.load_full()
    }
}

fn label(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Control => "control",
        LinkKind::Data => "data",
    }
}

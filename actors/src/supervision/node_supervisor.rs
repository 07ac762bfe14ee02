//! `NodeSupervisor`: the root of the actor tree. Knows every actor, answers what the tree looks like, and ends
//! the process when a child has used up its restarts.

use super::policy::RestartPolicy;
use super::shell::{Escalated, InjectPanic, Life, Shell};
use super::vitals::{ActorKind, ActorState, Vitals};
use crate::supervised_shell;
use actix::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Mailbox capacity of the root supervisor.
pub const NODE_MAILBOX: usize = 1024;

/// A new actor joins the tree.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ActorStarted {
    /// Its vital signs.
    pub vitals: Arc<Vitals>,
    /// Name of its parent; empty for a child of the root.
    pub parent: String,
    /// Where fault injection reaches it.
    pub panic: Recipient<InjectPanic>,
}

/// An actor left the tree for good.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ActorStopped {
    /// Its name.
    pub name: String,
}

/// Asks for the whole tree.
#[derive(Message)]
#[rtype(result = "ActorNode")]
pub struct DescribeTree;

/// Asks every vital sign, as a flat list, for metrics.
#[derive(Message)]
#[rtype(result = "VitalsList")]
pub struct ListVitals;

/// Every actor's vital signs.
#[derive(MessageResponse)]
pub struct VitalsList(pub Vec<Arc<Vitals>>);

/// Makes the actor of this name panic; answers whether there is one.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct PanicActor {
    /// Its name.
    pub name: String,
}

/// One actor of the tree, as JSON shows it.
#[derive(Clone, Debug, Serialize, MessageResponse)]
pub struct ActorNode {
    /// Unique name.
    pub name: String,
    /// What it is for.
    pub kind: ActorKind,
    /// Where it is in its life.
    pub state: ActorState,
    /// Restarts since the process started.
    pub restarts: u64,
    /// Messages waiting.
    pub mailbox_depth: u64,
    /// Messages its mailbox takes.
    pub mailbox_capacity: usize,
    /// Its children.
    pub children: Vec<ActorNode>,
}

struct Member {
    vitals: Arc<Vitals>,
    parent: String,
    panic: Option<Recipient<InjectPanic>>,
}

/// The root of the actor tree.
pub struct NodeSupervisor {
    life: Life,
    members: BTreeMap<String, Member>,
    on_fatal: Box<dyn FnMut(Escalated)>,
}

struct RootEscalation;

impl Actor for RootEscalation {
    type Context = Context<Self>;
}

impl Handler<Escalated> for RootEscalation {
    type Result = ();

    fn handle(&mut self, message: Escalated, _: &mut Self::Context) {
        tracing::error!(actor = %message.name, "the root supervisor failed too often");
        std::process::exit(70);
    }
}

impl NodeSupervisor {
    /// Starts the root on the current thread; `on_fatal` is told of a child that used up its budget.
    pub fn start(policy: RestartPolicy, on_fatal: impl FnMut(Escalated) + 'static) -> Addr<Self> {
        let parent = RootEscalation.start().recipient();
        let vitals = Vitals::new("node", ActorKind::Node, NODE_MAILBOX);
        let life = Life::new(vitals, policy, parent);
        let on_fatal = Box::new(on_fatal);
        actix::Supervisor::start(move |_| Self { life, members: BTreeMap::new(), on_fatal })
    }

    fn describe(&self, vitals: &Vitals) -> ActorNode {
        let children = self
            .members
            .values()
            .filter(|member| {
                member.parent == vitals.name || (vitals.kind == ActorKind::Node && member.parent.is_empty())
            })
            .map(|member| self.describe(&member.vitals))
            .collect();
        ActorNode {
            name: vitals.name.clone(),
            kind: vitals.kind,
            state: vitals.state(),
            restarts: vitals.restarts(),
            mailbox_depth: vitals.mailbox_depth(),
            mailbox_capacity: vitals.mailbox_capacity,
            children,
        }
    }
}

supervised_shell!(NodeSupervisor, NODE_MAILBOX);

impl Shell for NodeSupervisor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// The list of members holds no derived state, so it outlives a failure of its owner.
    fn drop_core(&mut self, _: &mut Self::Context) {}

    fn begin(&mut self, _: &mut Self::Context) {
        self.life.vitals.set_state(ActorState::Running);
    }
}

impl Handler<ActorStarted> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, message: ActorStarted, _: &mut Self::Context) {
        let ActorStarted { vitals, parent, panic } = message;
        self.members.insert(vitals.name.clone(), Member { vitals, parent, panic: Some(panic) });
    }
}

impl Handler<ActorStopped> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, message: ActorStopped, _: &mut Self::Context) {
        if let Some(member) = self.members.remove(&message.name) {
            member.vitals.set_state(ActorState::Stopped);
        }
    }
}

impl Handler<DescribeTree> for NodeSupervisor {
    type Result = ActorNode;

    fn handle(&mut self, _: DescribeTree, _: &mut Self::Context) -> ActorNode {
        let vitals = Arc::clone(&self.life.vitals);
        self.describe(&vitals)
    }
}

impl Handler<ListVitals> for NodeSupervisor {
    type Result = VitalsList;

    fn handle(&mut self, _: ListVitals, _: &mut Self::Context) -> VitalsList {
        let own = std::iter::once(Arc::clone(&self.life.vitals));
        VitalsList(own.chain(self.members.values().map(|member| Arc::clone(&member.vitals))).collect())
    }
}

impl Handler<PanicActor> for NodeSupervisor {
    type Result = bool;

    fn handle(&mut self, message: PanicActor, ctx: &mut Self::Context) -> bool {
        if message.name == self.life.vitals.name {
            ctx.notify(InjectPanic);
            return true;
        }
        let Some(panic) = self.members.get(&message.name).and_then(|member| member.panic.as_ref()) else {
            return false;
        };
        panic.try_send(InjectPanic).is_ok()
    }
}

impl Handler<Escalated> for NodeSupervisor {
    type Result = ();

    fn handle(&mut self, message: Escalated, _: &mut Self::Context) {
        (self.on_fatal)(message);
    }
}

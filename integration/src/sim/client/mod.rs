//! Clients: what each wants to do, over simulated sockets that break.

mod admin;
mod consumer;
mod legacy;
mod producer;
mod wire;

pub use admin::Admin;
pub use consumer::Consumer;
pub use legacy::Legacy;
pub use producer::Producer;

use super::context::{Context, Phase};
use super::mail::{Address, Mail, Wake};
use lance_messages::wire::{Response, ResponseFrame};
use std::time::Duration;
use wire::Wire;

/// A request without an answer for so long makes a client connect again, while things go wrong.
const REQUEST_TIMEOUT_NS: u64 = 8_000_000_000;

/// Among several nodes a client looks for another one after this.
const CLUSTER_TIMEOUT_NS: u64 = 2_000_000_000;

/// What a client does.
pub enum Role {
    /// Writes with Hello.
    Producer(Producer),
    /// Writes as a 1.0 client does.
    Legacy(Legacy),
    /// Reads and looks up.
    Consumer(Consumer),
    /// Makes and deletes topics.
    Admin(Admin),
}

/// One client.
pub struct Client {
    wire: Wire,
    role: Role,
    /// Its newest idea; older ones are forgotten.
    idea: u64,
    heard_ns: u64,
    /// Nodes it may connect to.
    nodes: u16,
}

impl Client {
    /// A client of the node `node`.
    pub fn new(index: u16, node: u16, role: Role) -> Self {
        let hello = !matches!(role, Role::Legacy(_));
        Self { wire: Wire::new(index, node, hello), role, idea: 0, heard_ns: 0, nodes: 1 }
    }

    /// A client that finds the right one among several nodes.
    pub fn of_cluster(index: u16, nodes: u16, role: Role) -> Self {
        Self { nodes, ..Self::new(index, index % nodes, role) }
    }

    /// What it still has to do, if anything.
    pub fn unfinished(&self, ctx: &Context<'_>) -> Option<String> {
        match &self.role {
            Role::Producer(producer) => producer.unfinished(),
            Role::Legacy(legacy) => legacy.unfinished(),
            Role::Consumer(consumer) => consumer.unfinished(ctx),
            Role::Admin(admin) => admin.unfinished(ctx.phase),
        }
    }

    /// The connection it uses.
    pub fn connection(&self) -> Option<u64> {
        self.wire.connection
    }

    /// Makes the client act soon.
    pub fn nudge(&mut self, ctx: &mut Context<'_>) {
        self.idea += 1;
        let delay = ctx.rng.range(10_000, 3_000_000);
        ctx.wake(Wake::Idea(self.idea), Duration::from_nanos(delay));
    }

    /// One message.
    pub fn handle(&mut self, mail: Mail, ctx: &mut Context<'_>) {
        match mail {
            Mail::Wake(Wake::Idea(idea)) if idea == self.idea => self.act(ctx),
            Mail::Bytes(connection, bytes) if self.wire.connection == Some(connection) => {
                self.heard_ns = ctx.now_ns;
                self.wire.receive(&bytes);
                self.take_replies(ctx);
            }
            Mail::Closed(connection) if self.wire.connection == Some(connection) => self.lost(ctx),
            _ => {}
        }
    }

    fn lost(&mut self, ctx: &mut Context<'_>) {
        self.wire.forget();
        match &mut self.role {
            Role::Producer(producer) => producer.on_lost(),
            Role::Legacy(legacy) => legacy.on_lost(),
            Role::Consumer(consumer) => consumer.on_lost(),
            Role::Admin(admin) => admin.on_lost(),
        }
        if self.nodes > 1 {
            let ahead = 1 + ctx.rng.below(u64::from(self.nodes) - 1) as u16;
            self.wire.turn_to((self.wire.node() + ahead) % self.nodes);
        }
        let pause = ctx.rng.range(1_000_000, 80_000_000);
        self.idea += 1;
        ctx.wake(Wake::Idea(self.idea), Duration::from_nanos(pause));
    }

    fn take_replies(&mut self, ctx: &mut Context<'_>) {
        loop {
            match self.wire.next_reply() {
                Ok(Some(frame)) => self.on_reply(frame, ctx),
                Ok(None) => break,
                Err(error) => {
                    if !ctx.oracle.damage {
                        ctx.oracle.violated(format!("a client received a malformed frame: {error}"));
                    }
                    self.hang_up(ctx);
                    break;
                }
            }
        }
        if self.wire.connection.is_some() && self.nodes > 1 && self.is_misled() {
            return self.hang_up(ctx);
        }
        if self.wire.connection.is_some() {
            self.work(ctx);
        }
    }

    /// Whether it was told to ask another node.
    fn is_misled(&mut self) -> bool {
        match &mut self.role {
            Role::Producer(producer) => std::mem::take(&mut producer.misled),
            Role::Consumer(consumer) => std::mem::take(&mut consumer.misled),
            Role::Legacy(_) | Role::Admin(_) => false,
        }
    }

    fn hang_up(&mut self, ctx: &mut Context<'_>) {
        self.wire.hang_up(ctx);
        self.lost(ctx);
    }

    fn on_reply(&mut self, frame: ResponseFrame, ctx: &mut Context<'_>) {
        let ResponseFrame { correlation, response } = frame;
        match response {
            Response::Hello(granted) => self.wire.greeted(&granted),
            Response::Keepalive | Response::Backpressure => {}
            response => match &mut self.role {
                Role::Producer(producer) => producer.on_reply(response, ctx),
                Role::Legacy(legacy) => legacy.on_reply(response, ctx),
                Role::Consumer(consumer) => consumer.on_reply(correlation, response, ctx),
                Role::Admin(admin) => admin.on_reply(response, ctx),
            },
        }
    }

    fn work(&mut self, ctx: &mut Context<'_>) {
        if !self.wire.is_ready() {
            return;
        }
        match &mut self.role {
            Role::Producer(producer) => producer.work(&mut self.wire, ctx),
            Role::Legacy(legacy) => legacy.work(&mut self.wire, ctx),
            Role::Consumer(consumer) => consumer.work(&mut self.wire, ctx),
            Role::Admin(admin) => admin.work(&mut self.wire, ctx),
        }
    }

    fn act(&mut self, ctx: &mut Context<'_>) {
        if self.wire.connection.is_none() {
            self.heard_ns = ctx.now_ns;
            self.wire.connect(ctx);
        } else if ctx.phase == Phase::Chaos && ctx.now_ns > self.heard_ns + REQUEST_TIMEOUT_NS
            || self.nodes > 1 && ctx.now_ns > self.heard_ns + CLUSTER_TIMEOUT_NS
        {
            return self.hang_up(ctx);
        }
        if let Role::Producer(producer) = &mut self.role {
            producer.have_ideas(ctx);
        } else if let Role::Legacy(legacy) = &mut self.role {
            legacy.have_ideas(ctx);
        }
        self.work(ctx);
        self.idea += 1;
        let pause = ctx.rng.range(2_000_000, 30_000_000);
        ctx.wake(Wake::Idea(self.idea), Duration::from_nanos(pause));
    }
}

/// The address of a client.
pub fn address(client: u16) -> Address {
    Address::Client(client)
}

//! The connection actor's shell, as `actors/src/network/connection.rs` is, with a simulated socket.

use crate::sim::context::Context;
use crate::sim::mail::{Address, Mail, Part};
use bytes::{Bytes, BytesMut};
use lance_actors::network::session::output::OutputItem;
use lance_actors::network::session::{DEFAULT_TOPIC_REQUEST, SessionCore, SessionEffect, SessionLimits};
use lance_actors::view::ClusterView;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::ConnectionId;
use lance_messages::mail::ingestion::{Produce, ProduceRequest};

/// Largest piece of a file that is read at once.
const FILE_PIECE_BYTES: u64 = 256 * 1024;

/// The shell of a session core.
pub struct Connection {
    node: u16,
    id: u64,
    client: u16,
    core: SessionCore,
    input: BytesMut,
}

impl Connection {
    /// An accepted connection of a client.
    pub fn new(node: u16, id: u64, client: u16, limits: SessionLimits) -> Self {
        Self { node, id, client, core: SessionCore::new(ConnectionId(id), limits), input: BytesMut::new() }
    }

    /// One message; `false` when the connection is closed.
    pub fn handle(&mut self, mail: Mail, view: &ClusterView, ctx: &mut Context<'_>) -> bool {
        let now = ctx.now.elapsed;
        let mut effects = Vec::new();
        match mail {
            Mail::Bytes(_, bytes) => {
                self.input.extend_from_slice(&bytes);
                self.core.on_input(&mut self.input, view, now, &mut effects);
            }
            Mail::Closed(_) => return false,
            Mail::Replies(replies) => self.core.on_replies(replies, view, now, &mut effects),
            Mail::ShardRestarted(shard) => self.core.on_shard_restarted(shard, now, &mut effects),
            Mail::Planned { request, part, plan } => self.core.on_plan(request, part, plan, (view, now), &mut effects),
            Mail::LookedUp { request, result } => self.core.on_look_up_done(request, result, view, now, &mut effects),
            Mail::Answered { request, result } if request == DEFAULT_TOPIC_REQUEST => {
                self.core.on_default_topic(result.is_ok(), view, now, &mut effects);
            }
            Mail::Answered { request, result } => self.core.on_metadata(request, result, view, now, &mut effects),
            _ => {}
        }
        self.perform(&mut effects, view, ctx);
        // What was read before but had to wait for room.
        if !self.input.is_empty() && self.core.wants_input() {
            self.core.on_input(&mut self.input, view, now, &mut effects);
            self.perform(&mut effects, view, ctx);
        }
        if !self.write(ctx) || (self.core.is_closing() && self.core.is_idle()) {
            ctx.send(Address::Client(self.client), Mail::Closed(self.id));
            return false;
        }
        true
    }

    fn to(&self, part: Part) -> Address {
        Address::Node(self.node, part)
    }

    fn perform(&mut self, effects: &mut Vec<SessionEffect>, view: &ClusterView, ctx: &mut Context<'_>) {
        let (connection, mut produces): (u64, Vec<(u16, Vec<ProduceRequest>)>) = (self.id, Vec::new());
        for effect in effects.drain(..) {
            if !matches!(effect, SessionEffect::Produce(..)) {
                self.send_produces(&mut produces, ctx);
            }
            match effect {
                SessionEffect::Produce(shard, request) => {
                    match produces.iter_mut().find(|(other, _)| *other == shard) {
                        Some((_, requests)) => requests.push(request),
                        None => produces.push((shard, vec![request])),
                    }
                }
                SessionEffect::Fetch(shard, fetch) => ctx.send(self.to(Part::Ingestion(shard)), Mail::Fetch(fetch)),
                SessionEffect::CancelWait(shard, cancel) => {
                    ctx.send(self.to(Part::Ingestion(shard)), Mail::CancelWait(cancel));
                }
                SessionEffect::LookUp(shard, look_up) => {
                    ctx.send(self.to(Part::Ingestion(shard)), Mail::LookUp(look_up))
                }
                SessionEffect::Metadata(request, call) => {
                    ctx.send(self.to(Part::Metadata), Mail::Call { connection, request, call });
                }
                // Nobody copies logs here.
                SessionEffect::Plan { request, part, read, offset, max_bytes, .. } => {
                    ctx.send(self.to(Part::Reader), Mail::Plan { connection, request, part, read, offset, max_bytes });
                }
                SessionEffect::PlanLookUp { request, read, query } => {
                    ctx.send(self.to(Part::Reader), Mail::LookUpSegments { connection, request, read, query });
                }
                // Committed offsets belong to the group actor, which is not simulated yet.
                SessionEffect::Commit(request, _) => {
                    let (refused, now) = (Err(ErrorCode::Unavailable), ctx.now.elapsed);
                    self.core.on_committed(request, refused, view, now, &mut Vec::new());
                }
                SessionEffect::Committed(request, _) => {
                    let (refused, now) = (Err(ErrorCode::Unavailable), ctx.now.elapsed);
                    self.core.on_committed_offset(request, refused, view, now, &mut Vec::new());
                }
                _ => {}
            }
        }
        self.send_produces(&mut produces, ctx);
    }

    fn send_produces(&self, produces: &mut Vec<(u16, Vec<ProduceRequest>)>, ctx: &mut Context<'_>) {
        for (shard, requests) in produces.drain(..) {
            let produce = Produce { connection: ConnectionId(self.id), requests };
            ctx.send(self.to(Part::Ingestion(shard)), Mail::Produce(produce));
        }
    }

    /// Writes everything, in pieces; `false` when a file is not what it was.
    fn write(&mut self, ctx: &mut Context<'_>) -> bool {
        loop {
            let bytes = match self.core.output.front() {
                None => return true,
                Some(OutputItem::Bytes(bytes)) => bytes.clone(),
                Some(OutputItem::File { file, file_offset, len }) => {
                    let mut piece = vec![0; (*len).min(FILE_PIECE_BYTES) as usize];
                    match file.read_at(&mut piece, *file_offset) {
                        Ok(count) if count > 0 => piece.truncate(count),
                        _ => return false,
                    }
                    Bytes::from(piece)
                }
            };
            self.core.output.advance(bytes.len());
            send_in_pieces(Address::Client(self.client), self.id, bytes, ctx);
        }
    }
}

/// Sends bytes over a simulated socket, now and then cut where nobody expects it.
pub fn send_in_pieces(to: Address, connection: u64, mut bytes: Bytes, ctx: &mut Context<'_>) {
    while bytes.len() > 1 && ctx.rng.once_in(12) {
        let cut = ctx.rng.range(1, bytes.len() as u64) as usize;
        ctx.send(to, Mail::Bytes(connection, bytes.split_to(cut)));
    }
    ctx.send(to, Mail::Bytes(connection, bytes));
}

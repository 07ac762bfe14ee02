//! `TeeActor`: the shell of the tee core. It reads like a follower, sends like a client, and remembers in the metadata.

use super::core::flow::FlowId;
use super::core::{TEE_FEATURES, TeeCore, TeeEffect, TeeNote, TeeOptions};
use super::target::{self, Caller};
use crate::background::spawn_guarded;
use crate::clock::NodeClock;
use crate::ingestion::actor::{IngestionActor, RegisterConnection, ReplyTo};
use crate::mailbox::Mailbox;
use crate::metadata::actor::{MetadataActor, ProposeChange};
use crate::network::session::shard_of;
use crate::outbound::LinkId;
use crate::outbound::socket::{self, LinkCredentials, LinkHandle, LinkHello, LinkOwner};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use hashbrown::HashMap;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, TeeAdvance, TeeClaim};
use lance_messages::id::{ConnectionId, TeeId, TopicPartition};
use lance_messages::mail::ingestion::Fetch;
use lance_storage::disk::Disk;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Mailbox capacity of the tee actor.
pub const TEE_MAILBOX: usize = 8192;
/// The tee actor's id as seen by shards.
pub(super) const CONNECTION: ConnectionId = ConnectionId(2);
/// How long a wait for something to be committed may last.
const WAIT: Duration = Duration::from_secs(5);

/// What a tee actor is made of.
pub struct TeeSetup {
    /// Whether rules are carried out here.
    pub enabled: bool,
    /// Memory of one rule for what was read and not acked.
    pub buffer_bytes: usize,
    /// Whether batches may go from files to targets inside the kernel; never to those that are encrypted to.
    pub in_kernel: bool,
    /// The metadata actor, which keeps rules and checkpoints.
    pub metadata: Mailbox<MetadataActor>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Where the logs are.
    pub disk: Arc<dyn Disk>,
    /// The node's clock.
    pub clock: NodeClock,
    /// What targets demand.
    pub credentials: LinkCredentials,
}

/// The shell of the tee core.
pub struct TeeActor {
    pub(super) life: Life,
    pub(super) setup: TeeSetup,
    pub(super) core: Option<TeeCore>,
    effects: Vec<TeeEffect>,
    pub(super) links: HashMap<LinkId, LinkHandle>,
    /// Where the core's successor goes on numbering: what is said of earlier flows and links is no news of its own.
    numbers: (FlowId, LinkId),
    seed: u64,
    shown: Option<Arc<ClusterView>>,
}

impl TeeActor {
    /// A tee actor.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: TeeSetup) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            core: None,
            effects: Vec::new(),
            links: HashMap::new(),
            numbers: (1, 1),
            seed: rand::random(),
            shown: None,
        }
    }

    /// Runs the core inside the guard and carries out what it wants done.
    pub(super) fn with_core(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut TeeCore, u64, &mut Vec<TeeEffect>),
    ) {
        let now_ms = u64::try_from(self.setup.clock.now().elapsed.as_millis()).unwrap_or(u64::MAX);
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            if let Some(core) = actor.core.as_mut() {
                work(core, now_ms, &mut actor.effects);
                actor.numbers = core.next_numbers();
                actor.perform(ctx);
            }
            Ok(())
        });
    }

    fn perform(&mut self, ctx: &mut Context<Self>) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                TeeEffect::Claim(claims) => self.claim(claims, ctx),
                TeeEffect::Advance(advances) => self.advance(advances, ctx),
                TeeEffect::Read { flow, ticket, partition, from, max_bytes, in_files } => {
                    let read = self.read(partition, from, max_bytes, in_files);
                    spawn_guarded(ctx, read, move |outcome, actor, ctx| {
                        actor.with_core(ctx, |core, now_ms, effects| {
                            core.on_read(flow, ticket, outcome, now_ms, effects);
                        });
                    });
                }
                TeeEffect::Wait { flow, partition, offset } => self.wait(flow, partition, offset, ctx),
                TeeEffect::Look(partitions) => {
                    let looked = self.look(partitions);
                    spawn_guarded(ctx, looked, |bounds, actor, ctx| {
                        actor.with_core(ctx, |core, now_ms, effects| core.on_bounds(&bounds, now_ms, effects));
                    });
                }
                TeeEffect::Survey { tee, addresses, topic, partitions } => {
                    let caller = self.caller();
                    let surveyed = async move { target::survey(&addresses, &topic, partitions, &caller).await };
                    spawn_guarded(ctx, surveyed, move |found, actor, ctx| {
                        actor.with_core(ctx, |core, now_ms, effects| core.on_survey(tee, found, now_ms, effects));
                    });
                }
                TeeEffect::Open { link, address } => {
                    let Caller { hello, credentials } = self.caller();
                    self.links.insert(link, socket::start(link, address, hello, credentials, owner(ctx)));
                }
                TeeEffect::Send { link, pieces } => {
                    // The queue has room for all that the core lets be unanswered. A link that cannot take a frame is
                    // given up: its end is heard of, and everything on it is sent again.
                    let sent = self.links.get(&link).map(|handle| handle.queue.try_send(pieces));
                    if !matches!(sent, Some(Ok(()))) {
                        self.links.remove(&link);
                    }
                }
                TeeEffect::Close(link) => {
                    self.links.remove(&link);
                }
                TeeEffect::Note { tee, partition, note } => log_note(tee, partition, note),
            }
        }
    }

    /// What this node says of itself to targets: whose records these are stands in their logs.
    pub(super) fn caller(&self) -> Caller {
        let cluster = self.setup.view.load().cluster;
        let hello = LinkHello { client_name: format!("lance-tee/{cluster:016x}"), features: TEE_FEATURES };
        Caller { hello, credentials: self.setup.credentials.clone() }
    }

    fn claim(&self, claims: Vec<(FlowId, TeeClaim)>, ctx: &mut Context<Self>) {
        let command = MetadataCommand::ClaimTees { claims: claims.iter().map(|claim| claim.1).collect() };
        let proposed = self.setup.metadata.send(ProposeChange(command));
        spawn_guarded(ctx, proposed, move |answer, actor, ctx| {
            let claimed = match answer {
                Ok(Ok(MetadataAnswer::TeesClaimed { claimed })) => Some(claimed),
                _ => None,
            };
            actor.with_core(ctx, |core, now_ms, effects| {
                core.on_claimed(&claims, claimed.as_deref(), now_ms, effects);
            });
        });
    }

    fn advance(&self, advances: Vec<(FlowId, TeeAdvance)>, ctx: &mut Context<Self>) {
        let command = MetadataCommand::AdvanceTees { advances: advances.iter().map(|advance| advance.1).collect() };
        let proposed = self.setup.metadata.send(ProposeChange(command));
        spawn_guarded(ctx, proposed, move |answer, actor, ctx| {
            let advanced = match answer {
                Ok(Ok(MetadataAnswer::TeesAdvanced { advanced })) => Some(advanced),
                _ => None,
            };
            actor.with_core(ctx, |core, now_ms, effects| {
                core.on_advanced(&advances, advanced.as_deref(), now_ms, effects);
            });
        });
    }

    pub(super) fn shard(&self, partition: TopicPartition) -> Option<&Mailbox<IngestionActor>> {
        self.setup.shards.get(usize::from(shard_of(partition, self.setup.shards.len() as u16)))
    }

    /// A fetch that is answered once there is something: what it brings is one byte.
    fn wait(&self, flow: FlowId, partition: TopicPartition, offset: u64, ctx: &mut Context<Self>) {
        let fetch = Fetch {
            connection: CONNECTION,
            request: flow,
            part: 0,
            partition,
            offset,
            max_bytes: 1,
            max_wait: WAIT,
            stored: false,
            near: false,
            trace: None,
        };
        let Some(shard) = self.shard(partition).cloned() else { return };
        spawn_guarded(ctx, async move { shard.send(fetch).await }, |_, _, _| {});
    }

    /// Follows the metadata, and time.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        let view = self.setup.view.load_full();
        let changed = self.shown.as_ref().is_none_or(|shown| !Arc::ptr_eq(shown, &view));
        self.with_core(ctx, |core, now_ms, effects| {
            if changed {
                core.on_view(&view, now_ms, effects);
            }
            core.on_tick(now_ms, effects);
        });
        self.shown = Some(view);
        if let Some(next_ms) = self.core.as_ref().map(TeeCore::next_tick_ms) {
            ctx.run_later(Duration::from_millis(next_ms), Self::tick);
        }
    }
}

fn owner(ctx: &Context<TeeActor>) -> LinkOwner {
    let address = ctx.address();
    LinkOwner { up: address.clone().recipient(), answered: address.clone().recipient(), ended: address.recipient() }
}

fn log_note(tee: TeeId, partition: TopicPartition, note: TeeNote) {
    match note {
        TeeNote::Began { position } => tracing::info!(%tee, %partition, position, "forwarding"),
        TeeNote::Lost { records, bytes } => {
            tracing::error!(%tee, %partition, records, bytes, "records were removed before they were forwarded");
        }
        TeeNote::Failed { reason, stuck: true } => {
            tracing::error!(%tee, %partition, %reason, "forwarding is stuck, and tried again");
        }
        TeeNote::Failed { reason, stuck: false } => {
            tracing::warn!(%tee, %partition, %reason, "forwarding waits");
        }
        TeeNote::Rewound { reason } => {
            tracing::warn!(%tee, %partition, %reason, "forwarding goes on from its last checkpoint");
        }
        TeeNote::ProducerReplaced { reason } => {
            tracing::warn!(%tee, %partition, %reason, "forwarding goes on from its last checkpoint, as a new producer");
        }
    }
}

supervised_shell!(TeeActor, TEE_MAILBOX);

impl Shell for TeeActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Everything that matters is in the metadata and in the logs: the next core claims its flows anew.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.core = None;
        self.effects.clear();
        self.links.clear();
        self.shown = None;
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        self.life.vitals.set_state(ActorState::Running);
        if !self.setup.enabled {
            return;
        }
        let address = ctx.address();
        let reply_to = || ReplyTo { replies: address.clone().recipient(), restarted: address.clone().recipient() };
        let registrations: Vec<_> = self
            .setup
            .shards
            .iter()
            .map(|shard| shard.addr().send(RegisterConnection { connection: CONNECTION, reply_to: reply_to() }))
            .collect();
        let register = async move {
            for registration in registrations {
                // A shard that is gone takes the node with it.
                let _ = registration.await;
            }
        };
        ctx.wait(actix::fut::wrap_future::<_, Self>(register).map(|(), actor, ctx| actor.run(ctx)));
    }
}

impl TeeActor {
    fn run(&mut self, ctx: &mut Context<Self>) {
        let (first_flow, first_link) = self.numbers;
        self.core = Some(TeeCore::new(TeeOptions {
            buffer_bytes: self.setup.buffer_bytes,
            in_kernel: self.setup.in_kernel && self.setup.credentials.tls.is_none(),
            seed: self.seed,
            first_flow,
            first_link,
        }));
        self.tick(ctx);
    }
}

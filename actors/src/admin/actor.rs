//! `AdminActor`: serves the HTTP interface on its own thread's runtime. Its socket outlives a restart.

use super::asking::Asked;
use super::bounded::Bounded;
use super::encrypted::EncryptedListener;
use super::groups::ListGroups;
use super::health::Health;
use super::router::{AdminState, router};
use crate::background::spawn_guarded;
use crate::forward::actor::ForwardActor;
use crate::ingestion::actor::IngestionActor;
use crate::mailbox::Mailbox;
use crate::metadata::actor::MetadataActor;
use crate::metrics::Metrics;
use crate::network::session::access::AuthGate;
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail};
use crate::supervision::{ActorState, Escalated, NodeSupervisor, RestartPolicy, Vitals};
use crate::tee::actor::TeeActor;
use crate::telemetry::LogLevel;
use crate::tls::TlsKeeper;
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use lance_storage::disk::{Disk, FaultSwitch};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Mailbox capacity of the admin actor; requests come by HTTP.
pub const ADMIN_MAILBOX: usize = 64;

/// What the admin interface shows and moves.
pub struct AdminSetup {
    /// Where it listens.
    pub listener: TcpListener,
    /// The root of the actor tree.
    pub supervisor: Addr<NodeSupervisor>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// The node's figures.
    pub metrics: Arc<Metrics>,
    /// How far the node is.
    pub health: Arc<Health>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// Name of the disk backend.
    pub backend: String,
    /// Orders a graceful drain.
    pub drain: mpsc::Sender<()>,
    /// The switch of disk faults; `None` keeps everything that breaks things on purpose shut.
    pub faults: Option<Arc<FaultSwitch>>,
    /// Changes the log level.
    pub log_level: Option<LogLevel>,
    /// Lists consumer groups.
    pub groups: ListGroups,
    /// Forwards topics.
    pub tee: Mailbox<TeeActor>,
    /// Encrypts it.
    pub tls: Option<Arc<TlsKeeper>>,
    /// What tokens are held against.
    pub auth: Option<Arc<AuthGate>>,
    /// Public host names under which it may be asked for without authentication.
    pub allowed_hosts: Vec<String>,
    /// Where the logs are.
    pub disk: Arc<dyn Disk>,
    /// Changes the metadata.
    pub metadata: Mailbox<MetadataActor>,
    /// Asks other nodes for records.
    pub forward: Mailbox<ForwardActor>,
}

/// The shell of the admin interface.
pub struct AdminActor {
    pub(super) life: Life,
    pub(super) setup: Arc<AdminSetup>,
    /// What shards and other nodes were asked.
    pub(super) asked: Asked,
}

impl AdminActor {
    /// An admin interface.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: AdminSetup) -> Self {
        Self { life: Life::new(vitals, policy, parent), setup: Arc::new(setup), asked: Asked::default() }
    }

    fn listen(&self) -> io::Result<tokio::net::TcpListener> {
        let listener = self.setup.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }
}

supervised_shell!(AdminActor, ADMIN_MAILBOX);

impl Shell for AdminActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// What it serves ends with its context, and with it who waits for answers.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.asked.forget();
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        let listener = match self.listen() {
            Ok(listener) => listener,
            Err(error) => return fail(self, ctx, format!("the admin interface cannot listen: {error}")),
        };
        let own = Mailbox::new(ctx.address(), Arc::clone(&self.life.vitals));
        let router = router(AdminState { setup: Arc::clone(&self.setup), own });
        self.register(ctx);
        let (tls, asks_clients) = (self.setup.tls.clone(), self.setup.auth.is_none());
        let serve = async move {
            match tls {
                None => axum::serve(Bounded::new(listener), router).await,
                // Probes have no certificate: where tokens decide, none is asked for.
                Some(tls) => {
                    let listener = EncryptedListener::start(listener, tls, asks_clients)?;
                    axum::serve(Bounded::new(listener), router).await
                }
            }
        };
        spawn_guarded(ctx, serve, |served, actor, ctx| {
            let reason = served.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
            fail(actor, ctx, format!("the admin interface stopped: {reason}"));
        });
        self.life.vitals.set_state(ActorState::Running);
    }
}

//! A node: every actor, started sink first and wired together.

mod links;
mod own_threads;
mod peering;
pub mod side;

use self::peering::Peering;
use self::side::{SideParts, SideRoutes};
use crate::admin::Health;
use crate::admin::early::EarlyProbes;
use crate::clock::NodeClock;
use crate::forward::actor::{FORWARD_MAILBOX, ForwardActor, ForwardSetup};
use crate::group::actor::{GROUP_MAILBOX, GroupActor, GroupSetup};
use crate::ingestion::actor::{INGESTION_MAILBOX, IngestionActor, IngestionSetup, ServeReplication};
use crate::ingestion::opener::LogOpener;
use crate::lease::LeaseWatch;
use crate::mailbox::Mailbox;
use crate::metadata::actor::{METADATA_MAILBOX, MetadataActor, MetadataSetup, ServeMetadata};
use crate::metrics::Metrics;
use crate::network::actor::{NETWORK_MAILBOX, NetworkActor, NetworkSetup};
use crate::network::budget::ByteBudget;
use crate::network::connection::ConnectionSetup;
use crate::network::readers::ReaderPool;
use crate::network::session::access::AuthGate;
use crate::numa::{self, plan::Plan};
use crate::options;
use crate::outbound::socket::LinkCredentials;
use crate::peer::{FormationError, PeerVersions};
use crate::poller::actor::{POLLER_MAILBOX, PollerActor, PollerSetup, ServeIngestion};
use crate::replication::actor::{REPLICATION_MAILBOX, ReplicationActor, ReplicationSetup};
use crate::supervision::shell::{Escalated, InjectPanic, Shell};
use crate::supervision::{ActorKind, ActorStarted, NodeSupervisor, RestartPolicy, Vitals};
use crate::tee::actor::{TEE_MAILBOX, TeeActor, TeeSetup};
use crate::threads::Thread;
use crate::tls::{TlsFiles, TlsFilesError, TlsKeeper};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use hashbrown::HashMap;
use lance_cluster::formation::Voter;
use lance_cluster::metadata::GenesisNode;
use lance_config::model::Config;
use lance_messages::id::{NodeId, TopicPartition};
use lance_storage::checkpoint::{CheckpointError, DataDir, FlushedFile, FlushedMarks};
use lance_storage::disk::{Arena, ArenaError, Disk, DiskError};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The disk.
    #[error("cannot use the disk: {0}")]
    Disk(#[from] DiskError),
    /// The data directory.
    #[error("cannot use the data directory: {0}")]
    DataDir(#[from] CheckpointError),
    /// The memory of the buffer pool.
    #[error("cannot allocate the buffer pool: {0}")]
    Arena(#[from] ArenaError),
    /// An address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The cluster.
    #[error("cannot join a cluster: {0}")]
    Formation(#[from] FormationError),
    /// The files of `[tls]`.
    #[error("cannot serve TLS: {0}")]
    Tls(#[from] TlsFilesError),
    /// An actor did not take part.
    #[error("the {0} actor did not start")]
    Actor(&'static str),
}

/// A running node.
pub struct Node {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the admin API listens.
    pub admin_address: SocketAddr,
    /// The disk, as it really runs.
    pub backend: String,
    /// The root of the actor tree.
    pub supervisor: Addr<NodeSupervisor>,
    /// The listener's actor.
    pub network: Mailbox<NetworkActor>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// The replication actor.
    pub replication: Mailbox<ReplicationActor>,
    /// The metadata actor.
    pub metadata: Mailbox<MetadataActor>,
    /// The group actor.
    pub group: Mailbox<GroupActor>,
    /// The tee actor.
    pub tee: Mailbox<TeeActor>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Its place among the files; holds the lock.
    pub data_dir: DataDir,
    /// Threads; they end with the process.
    pub threads: Vec<Thread>,
}

/// What every actor of a node is started with.
#[derive(Clone)]
pub struct Starter {
    supervisor: Addr<NodeSupervisor>,
    policy: RestartPolicy,
}

impl Starter {
    /// A starter of actors below `supervisor`.
    pub fn new(supervisor: Addr<NodeSupervisor>, policy: RestartPolicy) -> Self {
        Self { supervisor, policy }
    }

    /// Starts a supervised actor on a thread and shows it in the tree.
    pub async fn start<A>(
        &self,
        thread: &ArbiterHandle,
        name: String,
        kind: ActorKind,
        capacity: usize,
        build: impl FnOnce(Arc<Vitals>, RestartPolicy, Recipient<Escalated>) -> A + Send + 'static,
    ) -> Mailbox<A>
    where
        A: Shell + Handler<InjectPanic>,
    {
        let vitals = Vitals::new(name, kind, capacity);
        let (policy, parent) = (self.policy, self.supervisor.clone().recipient());
        let own = Arc::clone(&vitals);
        let address = Supervisor::start_in_arbiter(thread, move |_| build(own, policy, parent));
        let panic = address.clone().recipient();
        let started = ActorStarted { vitals: Arc::clone(&vitals), parent: String::new(), panic };
        // The root outlives its children.
        let _ = self.supervisor.send(started).await;
        Mailbox::new(address, vitals)
    }
}

struct Foundations {
    disk: Arc<dyn Disk>,
    data_dir: DataDir,
    flushed: Vec<FlushedFile>,
    marks: HashMap<TopicPartition, u64>,
    listener: TcpListener,
    address: SocketAddr,
}

fn listen(address: &str) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn lay_foundations(config: &Config, disk: Arc<dyn Disk>) -> Result<Foundations, StartError> {
    let listener = listen(&config.network.bind)?;
    let address =
        listener.local_addr().map_err(|source| StartError::Listen { address: config.network.bind.clone(), source })?;
    let (path, node, format) = (&config.node.data_dir, NodeId(config.node.id), options::newest_format(config));
    let mut data_dir = DataDir::open_up_to(&disk, path, node, rand::random(), format)?;
    if data_dir.record().cluster_id == 0 && config.replication.peers.is_empty() {
        // Without peers the genesis is one of a single voter, at once.
        data_dir.adopt_cluster(rand::random::<u64>().max(1))?;
    }
    disk.create_dir_all(&data_dir.logs_dir())?;
    let shards = options::thread_plan(config).shards;
    let shard_of = |partition| u32::from(crate::network::session::shard_of(partition, shards));
    let (FlushedMarks { positions, damaged }, flushed) =
        FlushedMarks::open(&disk, data_dir.path(), u32::from(shards), shard_of)?;
    for path in damaged {
        tracing::warn!(path = %path.display(), "flushed marks were damaged: recovery reads more");
    }
    let marks = positions.into_iter().collect();
    Ok(Foundations { disk, data_dir, flushed, marks, listener, address })
}

/// Starts a node on the running actix system, below `supervisor`.
pub async fn start(
    config: &Config,
    disk: Arc<dyn Disk>,
    supervisor: Addr<NodeSupervisor>,
    metrics: Arc<Metrics>,
    view: Arc<ArcSwap<ClusterView>>,
    side: SideParts,
) -> Result<Node, StartError> {
    let admin_listener = listen(&config.admin.bind)?;
    let tls = TlsFiles::of(config).map(TlsKeeper::open).transpose()?.map(Arc::new);
    let probes = EarlyProbes::start(&admin_listener, Arc::clone(&side.health), tls.clone(), !config.auth.enabled);
    let early = probes.map_err(StartError::Thread)?;
    let Foundations { disk, mut data_dir, flushed, marks, listener, address } = lay_foundations(config, disk)?;
    let starter = Starter::new(supervisor, options::restart_policy(config));
    let plan = numa::decide(config);
    let clock = NodeClock::start();
    let copies = ByteBudget::default();
    let lease = LeaseWatch::default();
    let wiring = Wiring {
        config,
        starter: &starter,
        disk: &disk,
        metrics: &metrics,
        view: &view,
        clock,
        copies,
        lease,
        tls: tls.clone(),
        auth: options::auth_gate(config).map(Arc::new),
        versions: Arc::new(options::peer_versions(config)),
    };
    let (shards, mut threads) = wiring.start_shards(&plan, &data_dir, flushed, marks).await?;
    let control = Thread::start("control", &[]).map_err(StartError::Thread)?;
    let durable = Thread::start("metadata", &[]).map_err(StartError::Thread)?;
    own_threads::follow_certificates(&control, tls.clone());
    let data_threads = threads.iter().map(Thread::handle).collect();
    let peering = wiring.join_cluster(&mut data_dir, (&listener, address), data_threads, &side.health).await?;
    let (metadata, replication) =
        wiring.start_metadata(&durable, &data_dir, address, &shards, peering.as_ref()).await?;
    let own_forward = own_threads::forward_thread(config)?;
    let forward = wiring.start_forward(own_forward.as_ref().unwrap_or(&control), plan.shards.len() as u16).await;
    let own_tee = Thread::start("tee", &[]).map_err(StartError::Thread)?;
    let tee = wiring.start_tee(&own_tee, &metadata, &shards).await;
    let group = wiring.start_group(&control, &metadata, &shards, &forward).await;
    let keeper = match (&peering, threads.first()) {
        (Some(peering), Some(first)) => {
            Some(peering.open_links(&starter, &first.handle(), (&shards, &metadata), (&view, &metrics)).await?)
        }
        _ => None,
    };
    let (links, data_links) =
        keeper.as_ref().map(|keeper| (keeper.control.clone(), keeper.data.clone())).unwrap_or_default();
    let serve = ServeMetadata { replication: replication.clone(), shards: shards.clone(), links, data_links };
    metadata.addr().send(serve).await.map_err(|_| StartError::Actor("metadata"))?;

    let network_threads = own_threads::start_placed(&plan.network)?;
    let serving = if network_threads.is_empty() { &threads } else { &network_threads };
    let first = serving.first().map_or_else(|| control.handle(), Thread::handle);
    let serving = serving.iter().map(Thread::handle).collect();
    let routes = SideRoutes { disk: Arc::clone(&disk), forward: forward.clone() };
    let mut network_setup = wiring.network_setup(listener, serving, &shards, forward, &metadata, (&group, &tee))?;
    network_setup.connection.peers = peering.as_ref().map(Peering::door);
    if let (Some(peering), Some(keeper)) = (&peering, keeper) {
        peering.serve(&shards, &metadata, keeper).await?;
    }
    let network = starter
        .start(&first, "network".into(), ActorKind::Network, NETWORK_MAILBOX, |vitals, policy, parent| {
            NetworkActor::new(vitals, policy, parent, network_setup)
        })
        .await;
    threads.extend(network_threads);
    let side = SideParts { tls, auth: wiring.auth.clone(), ..side };
    let mut node = Node {
        address,
        admin_address: address,
        backend: disk.backend().to_string(),
        supervisor: starter.supervisor.clone(),
        network,
        shards,
        replication,
        metadata,
        group,
        tee,
        metrics,
        view,
        data_dir,
        threads,
    };
    // Nobody else accepts on the admin address from here on.
    drop(early);
    side::start(config, &starter, &control.handle(), routes, clock, (side, admin_listener), &mut node).await?;
    node.threads
        .extend([control, durable, own_tee].into_iter().chain(own_forward).chain(peering.map(Peering::into_thread)));
    Ok(node)
}

/// What the actors of the data path and of the metadata are made from.
struct Wiring<'a> {
    config: &'a Config,
    starter: &'a Starter,
    disk: &'a Arc<dyn Disk>,
    metrics: &'a Arc<Metrics>,
    view: &'a Arc<ArcSwap<ClusterView>>,
    clock: NodeClock,
    copies: ByteBudget,
    lease: LeaseWatch,
    tls: Option<Arc<TlsKeeper>>,
    auth: Option<Arc<AuthGate>>,
    versions: Arc<PeerVersions>,
}

impl Wiring<'_> {
    /// Finds or makes the cluster, where there are peers.
    async fn join_cluster(
        &self,
        data_dir: &mut DataDir,
        listening: (&TcpListener, SocketAddr),
        data_threads: Vec<ArbiterHandle>,
        health: &Arc<Health>,
    ) -> Result<Option<Peering>, StartError> {
        if self.config.replication.peers.is_empty() {
            return Ok(None);
        }
        let health = Arc::clone(health);
        let on_problem = move |problem: String| {
            tracing::warn!(%problem, "no cluster yet");
            health.set_reason(&problem);
        };
        let (serving, tls) = ((data_threads, self.clock), (self.tls.clone(), Arc::clone(&self.versions)));
        let (config, starter, disk) = (self.config, self.starter, self.disk);
        peering::join(config, starter, disk, data_dir, listening, serving, tls, on_problem).await.map(Some)
    }

    /// One ingestion actor and its poller for each shard, on a thread of their own.
    async fn start_shards(
        &self,
        plan: &Plan,
        data_dir: &DataDir,
        flushed: Vec<FlushedFile>,
        mut marks: HashMap<TopicPartition, u64>,
    ) -> Result<(Vec<Mailbox<IngestionActor>>, Vec<Thread>), StartError> {
        let storage = &self.config.storage;
        let opener = Arc::new(LogOpener {
            disk: Arc::clone(self.disk),
            logs_dir: data_dir.logs_dir(),
            segment_bytes: storage.segment_bytes,
            index_interval_bytes: storage.index_interval_bytes,
            zero_ahead_bytes: storage.zero_ahead_bytes,
        });
        let threads = own_threads::start_placed(&plan.shards)?;
        let (mut shards, count) = (Vec::new(), plan.shards.len() as u16);
        for (((shard, flushed), place), thread) in (0..count).zip(flushed).zip(&plan.shards).zip(&threads) {
            let owns = |partition: &TopicPartition| crate::network::session::shard_of(*partition, count) == shard;
            let own_marks = marks.extract_if(|partition, _| owns(partition)).collect();
            let opener = Arc::clone(&opener);
            let copies = self.copies.clone();
            let memory_node = place.memory_node;
            let parts = ShardParts { shard, memory_node, flushed, marks: own_marks, opener, clock: self.clock, copies };
            let (disk, metrics) = (Arc::clone(self.disk), Arc::clone(self.metrics));
            shards.push(start_shard(self.config, self.starter, thread, disk, metrics, parts).await?);
        }
        Ok((shards, threads))
    }

    /// The metadata and the replication actor, on a thread that may wait for the disk.
    async fn start_metadata(
        &self,
        thread: &Thread,
        data_dir: &DataDir,
        address: SocketAddr,
        shards: &[Mailbox<IngestionActor>],
        peering: Option<&Peering>,
    ) -> Result<(Mailbox<MetadataActor>, Mailbox<ReplicationActor>), StartError> {
        let record = *data_dir.record();
        let own = peering::advertised(self.config, address);
        let genesis = peering.and_then(|peering| peering.formed.genesis.as_ref());
        let genesis = match genesis {
            Some(genesis) => genesis.voters.iter().map(genesis_node).collect(),
            None => vec![GenesisNode { node: record.node_id, incarnation: record.incarnation, address: own.clone() }],
        };
        let setup = MetadataSetup {
            disk: Arc::clone(self.disk),
            dir: data_dir.meta_dir(),
            node: NodeId(self.config.node.id),
            incarnation: record.incarnation,
            boot_number: record.boot_number,
            nonce: data_dir.nonce(),
            past: data_dir.starts().clone(),
            address: own,
            topic_defaults: options::topic_defaults(self.config),
            topic_limits: options::topic_limits(self.config),
            view: Arc::clone(self.view),
            lease: self.lease.clone(),
            clock: self.clock,
            rack: self.config.node.rack.clone().unwrap_or_default(),
            genesis,
            is_voter: peering.is_none_or(|peering| peering.formed.is_voter),
            cluster_id: record.cluster_id,
            versions: Arc::clone(&self.versions),
        };
        let handle = thread.handle();
        let metadata = self
            .starter
            .start(&handle, "metadata".into(), ActorKind::Metadata, METADATA_MAILBOX, |vitals, policy, parent| {
                MetadataActor::new(vitals, policy, parent, setup)
            })
            .await;
        let setup = ReplicationSetup {
            disk: Arc::clone(self.disk),
            promises: data_dir.promises_path(),
            incarnation: record.incarnation,
            boot_number: record.boot_number,
            metadata: metadata.clone(),
            shards: shards.to_vec(),
            view: Arc::clone(self.view),
            eviction: options::eviction_options(self.config),
            eviction_window: self.config.eviction.window,
            clock: self.clock,
            metrics: Arc::clone(self.metrics),
            cluster_id: record.cluster_id,
        };
        let (name, kind) = ("replication".to_owned(), ActorKind::Replication);
        let replication = self
            .starter
            .start(&handle, name, kind, REPLICATION_MAILBOX, |vitals, policy, parent| {
                ReplicationActor::new(vitals, policy, parent, setup)
            })
            .await;
        for shard in shards {
            let serve = ServeReplication(replication.clone());
            shard.addr().send(serve).await.map_err(|_| StartError::Actor("ingestion"))?;
        }
        Ok((metadata, replication))
    }

    async fn start_group(
        &self,
        thread: &Thread,
        metadata: &Mailbox<MetadataActor>,
        shards: &[Mailbox<IngestionActor>],
        forward: &Mailbox<ForwardActor>,
    ) -> Mailbox<GroupActor> {
        let setup = GroupSetup {
            metadata: metadata.clone(),
            shards: shards.to_vec(),
            forward: forward.clone(),
            view: Arc::clone(self.view),
            lease: self.lease.clone(),
            disk: Arc::clone(self.disk),
            clock: self.clock,
            metrics: Arc::clone(self.metrics),
        };
        self.starter
            .start(&thread.handle(), "group".into(), ActorKind::Group, GROUP_MAILBOX, |vitals, policy, parent| {
                GroupActor::new(vitals, policy, parent, setup)
            })
            .await
    }

    /// It moves data to where it may take its time: on a thread of its own nobody else waits for that.
    async fn start_tee(
        &self,
        thread: &Thread,
        metadata: &Mailbox<MetadataActor>,
        shards: &[Mailbox<IngestionActor>],
    ) -> Mailbox<TeeActor> {
        let setup = TeeSetup {
            enabled: self.config.tee.enabled,
            buffer_bytes: usize::try_from(self.config.tee.buffer_bytes).unwrap_or(usize::MAX),
            in_kernel: self.config.tee.in_kernel,
            metadata: metadata.clone(),
            shards: shards.to_vec(),
            view: Arc::clone(self.view),
            disk: Arc::clone(self.disk),
            clock: self.clock,
            credentials: LinkCredentials { tls: self.tls.clone(), token: options::tee_token(self.config) },
        };
        self.starter
            .start(&thread.handle(), "tee".into(), ActorKind::Tee, TEE_MAILBOX, |vitals, policy, parent| {
                TeeActor::new(vitals, policy, parent, setup)
            })
            .await
    }

    /// The forwarder moves data: in a cluster it shares no thread with what must not wait for that.
    async fn start_forward(&self, thread: &Thread, index: u16) -> Mailbox<ForwardActor> {
        let credentials = LinkCredentials { tls: self.tls.clone(), token: options::node_token(self.config) };
        let setup = ForwardSetup { index, view: Arc::clone(self.view), clock: self.clock, credentials };
        let (name, kind) = ("forward".to_owned(), ActorKind::Forward);
        self.starter
            .start(&thread.handle(), name, kind, FORWARD_MAILBOX, |vitals, policy, parent| {
                ForwardActor::new(vitals, policy, parent, setup)
            })
            .await
    }

    fn network_setup(
        &self,
        listener: TcpListener,
        threads: Vec<ArbiterHandle>,
        shards: &[Mailbox<IngestionActor>],
        forward: Mailbox<ForwardActor>,
        metadata: &Mailbox<MetadataActor>,
        (group, tee): (&Mailbox<GroupActor>, &Mailbox<TeeActor>),
    ) -> Result<NetworkSetup, StartError> {
        let Config { storage, limits, network, .. } = self.config;
        let (reader_threads, open_files) = (storage.reader_threads as usize, storage.open_files as usize);
        let readers =
            ReaderPool::start(reader_threads, Arc::clone(self.disk), open_files).map_err(StartError::Thread)?;
        Ok(NetworkSetup {
            listener,
            max_connections: limits.max_connections as usize,
            tcp_keepalive: network.tcp_keepalive,
            tcp_user_timeout: network.tcp_user_timeout,
            connection: ConnectionSetup {
                limits: options::session_limits(self.config),
                idle_timeout: limits.idle_timeout,
                view: Arc::clone(self.view),
                shards: shards.to_vec(),
                forward,
                metadata: metadata.clone(),
                group: group.clone(),
                tee: tee.clone(),
                readers,
                frames: ByteBudget::default(),
                copies: self.copies.clone(),
                quotas: Arc::new(options::quotas(self.config)),
                auth: self.auth.clone(),
                clock: self.clock,
                metrics: Arc::clone(self.metrics),
                peers: None,
            },
            threads,
            supervisor: self.starter.supervisor.clone(),
            tls: self.tls.clone(),
        })
    }
}

fn genesis_node(voter: &Voter) -> GenesisNode {
    GenesisNode { node: voter.node, incarnation: voter.incarnation, address: voter.address.clone() }
}

struct ShardParts {
    shard: u16,
    memory_node: Option<u32>,
    flushed: FlushedFile,
    marks: HashMap<TopicPartition, u64>,
    opener: Arc<LogOpener>,
    clock: NodeClock,
    copies: ByteBudget,
}

async fn start_shard(
    config: &Config,
    starter: &Starter,
    thread: &Thread,
    disk: Arc<dyn Disk>,
    metrics: Arc<Metrics>,
    parts: ShardParts,
) -> Result<Mailbox<IngestionActor>, StartError> {
    let ShardParts { shard, memory_node, flushed, marks, opener, clock, copies } = parts;
    let (slot_bytes, slots) = options::arena_shape(config);
    let arena = Arena::new(slot_bytes, slots)?;
    if let Some(Err(error)) = memory_node.map(|node| arena.prefer_node(node)) {
        tracing::warn!(shard, memory_node, %error, "cannot bind write buffers to their memory node");
    }
    let poller_setup = PollerSetup {
        disk,
        arena: Arc::clone(&arena),
        queue: options::queue_options(config),
        metrics: Arc::clone(&metrics),
    };
    let poller = starter
        .start(
            &thread.handle(),
            format!("poller-{shard}"),
            ActorKind::Poller,
            POLLER_MAILBOX,
            |vitals, policy, parent| PollerActor::new(vitals, policy, parent, poller_setup),
        )
        .await;
    let setup = IngestionSetup {
        options: options::ingestion_options(config, shard),
        opener,
        arena,
        tail_bytes: usize::try_from(config.storage.tail_ring_bytes).unwrap_or(usize::MAX),
        sync_interval: options::sync_interval(config),
        copies,
        clock,
        metrics,
        poller: poller.clone(),
    };
    let ingestion = starter
        .start(
            &thread.handle(),
            format!("ingestion-{shard}"),
            ActorKind::Ingestion,
            INGESTION_MAILBOX,
            move |vitals, policy, parent| IngestionActor::new(vitals, policy, parent, setup, flushed, marks),
        )
        .await;
    poller.addr().send(ServeIngestion(ingestion.clone())).await.map_err(|_| StartError::Actor("poller"))?;
    Ok(ingestion)
}

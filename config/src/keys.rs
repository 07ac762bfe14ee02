//! Every key there is: its name, its rule, what it means, and the field of the model it sets.

use std::time::Duration;

use crate::effective::value_text;
use crate::field::Field;
use crate::model::{ClientAuth, Config, IoBackend, LogFormat, OtlpProtocol, Placement, ReplicationMode};
use crate::quota::MAX_QUOTA;
use crate::rule::{Parsed, Rule, Unit};

/// One key of the configuration.
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it takes.
    pub rule: Rule,
    /// What it means, in one sentence.
    pub doc: &'static str,
    pub(crate) set: fn(&mut Config, Parsed) -> bool,
    pub(crate) get: fn(&Config) -> Parsed,
}

impl Key {
    /// The key of this full name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The part before the dot.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(section, _)| section)
    }

    /// The part after the dot.
    pub fn short_name(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, short)| short)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("LANCE_{}__{}", self.section().to_uppercase(), self.short_name().to_uppercase())
    }

    /// The default as TOML writes it, or a dash.
    pub fn default_text(&self) -> String {
        value_text(self.rule, &(self.get)(&Config::default())).unwrap_or_else(|| "–".to_owned())
    }
}

/// The sections, in the order of [`KEYS`].
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&'static str> = KEYS.iter().map(Key::section).collect();
    sections.dedup();
    sections
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const fn integer(min: u64, max: u64) -> Rule {
    Rule::Integer { min, max }
}

const fn size(min: u64, max: u64) -> Rule {
    Rule::Size { min, max, multiple_of: 1 }
}

const fn blocks(min: u64, max: u64) -> Rule {
    Rule::Size { min, max, multiple_of: 4096 }
}

const fn millis(min: u64, max: u64) -> Rule {
    Rule::Duration { unit: Unit::Milliseconds, min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

const fn secs(min: u64, max: u64) -> Rule {
    Rule::Duration { unit: Unit::Seconds, min: Duration::from_secs(min), max: Duration::from_secs(max) }
}

const HOUR_MS: u64 = 3_600_000;
const TEN_YEARS_SECS: u64 = 10 * 365 * 86_400;

macro_rules! key {
    ($name:literal, $section:ident . $field:ident, $rule:expr, $doc:literal) => {
        Key {
            name: $name,
            rule: $rule,
            doc: $doc,
            set: |config, value| Field::set(&mut config.$section.$field, value),
            get: |config| Field::get(&config.$section.$field),
        }
    };
}

/// Every key, section by section.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    key!("node.id", node.id, integer(1, 65_535),
        "Number of this node, unique in its cluster. Missing beside peers: the ordinal of the host name + 1."),
    key!("node.data_dir", node.data_dir, Rule::Path, "Folder of everything this node stores."),
    key!("node.rack", node.rack, Rule::Text, "What fails together with this node: copies are spread over racks first."),

    key!("network.bind", network.bind, Rule::Listen, "Address that clients and peers connect to."),
    key!("network.advertise", network.advertise, Rule::Reachable, "Address told to others in place of bind."),
    key!("network.nic_pci_addr", network.nic_pci_addr, Rule::Pci,
        "PCI address of the network card, to find its NUMA node."),
    key!("network.tcp_keepalive_ms", network.tcp_keepalive, millis(1_000, HOUR_MS),
        "Silence after which the kernel probes a connection."),
    key!("network.tcp_user_timeout_ms", network.tcp_user_timeout, millis(1_000, HOUR_MS),
        "How long sent bytes may stay unacknowledged before a connection is given up."),

    key!("io.uring_sq_depth", io.uring_sq_depth, integer(8, 32_768), "Entries of a shard's submission queue."),
    key!("io.batch_size", io.batch_size, blocks(16_384, 4 * MIB),
        "Bytes of one slot of the write buffer pool, and so of one write."),
    key!("io.o_direct", io.o_direct, Rule::Bool, "Bypasses the page cache where the file system allows it."),
    key!("io.backend", io.backend, Rule::OneOf(IoBackend::WORDS),
        "Which disk implementation serves; auto takes io_uring where the kernel allows it and reports what runs."),
    key!("io.buffer_pool_bytes", io.buffer_pool_bytes, size(MIB, 64 * GIB),
        "Bytes of the write buffer pool of one shard."),

    key!("numa.enabled", numa.enabled, Rule::Bool, "Binds threads and their memory to NUMA nodes."),
    key!("numa.nic_node", numa.nic_node, integer(0, 1023),
        "Node of the network card; found from network.nic_pci_addr when absent."),
    key!("numa.nvme_node", numa.nvme_node, integer(0, 1023),
        "Node of the disk; found from node.data_dir when absent."),
    key!("numa.steer_irqs", numa.steer_irqs, Rule::Bool,
        "Moves the interrupts of the network card to the CPUs of its node, where the process is permitted to; they are not moved back."),

    key!("replication.mode", replication.mode, Rule::OneOf(ReplicationMode::WORDS),
        "Mode of topics that do not say their own: L1 acks when the leader's disk has it, L2 when a quorum has it."),
    key!("replication.peers", replication.peers, Rule::Peers,
        "Addresses of the nodes, with or without this one; empty for a single node."),

    key!("cluster.secret", cluster.secret, Rule::Secret, "Shared secret by which peers prove themselves."),

    key!("admin.bind", admin.bind, Rule::Listen, "Address of the HTTP interface."),
    key!("admin.allowed_hosts", admin.allowed_hosts, Rule::Names,
        "Public host names under which the HTTP interface may be asked for while auth.enabled is false; addresses and private names always may."),
    key!("admin.fault_injection", admin.fault_injection, Rule::Bool,
        "Opens the endpoints that break things on purpose, for tests."),

    key!("storage.sync", storage.sync, Rule::Sync,
        "When written bytes are made durable: before every ack, or after this time or this many bytes."),
    key!("storage.segment_bytes", storage.segment_bytes, size(MIB, 4 * GIB - 32 * MIB),
        "Length at which a segment is closed and the next one begun."),
    key!("storage.index_interval_bytes", storage.index_interval_bytes, size(4096, 16 * MIB),
        "Distance between two entries of a segment's index."),
    key!("storage.zero_ahead_bytes", storage.zero_ahead_bytes, blocks(0, GIB),
        "Zeroes written ahead of a busy log, which halves the cost of a small sync; 0 switches it off."),
    key!("storage.tail_ring_bytes", storage.tail_ring_bytes, size(MIB, 64 * GIB),
        "Bytes of the ring of recent batches that a shard serves readers at the tail from."),
    key!("storage.open_files", storage.open_files, integer(16, 1_000_000),
        "Segment files that reader threads keep open at most."),
    key!("storage.reader_threads", storage.reader_threads, integer(1, 256), "Threads that read cold data."),
    key!("storage.retention_interval_ms", storage.retention_interval, millis(100, 24 * HOUR_MS),
        "Time between two looks for segments past their retention."),
    key!("storage.scrub_interval_secs", storage.scrub_interval, secs(0, TEN_YEARS_SECS),
        "Time in which every closed segment is read and checked once; 0 switches the scrubber off."),
    key!("storage.scrub_bytes_per_second", storage.scrub_bytes_per_second, size(4096, 64 * GIB),
        "Rate the scrubber reads at, at most."),
    key!("storage.disk_low_free_bytes", storage.disk_low_free_bytes, size(0, 1024 * TIB),
        "Free disk space below which a warning is given."),
    key!("storage.disk_min_free_bytes", storage.disk_min_free_bytes, size(0, 1024 * TIB),
        "Free disk space below which appends get a retriable error."),
    key!("storage.reserve_bytes", storage.reserve_bytes, blocks(0, GIB),
        "File given back when the disk is full, so that metadata can still be written."),

    key!("topics.auto_create", topics.auto_create, Rule::Bool, "Creates a topic at its first use."),
    key!("topics.default_partitions", topics.default_partitions, integer(1, 65_535),
        "Partitions of a topic that does not say its own number."),
    key!("topics.default_replication_factor", topics.default_replication_factor, integer(0, 255),
        "Copies of a topic that does not say its own number; 0 = three, or as many as there are nodes."),
    key!("topics.default_retention_age_secs", topics.default_retention_age, secs(0, TEN_YEARS_SECS),
        "Age at which records go; 0 keeps them for ever."),
    key!("topics.default_retention_bytes", topics.default_retention_bytes, size(0, 1024 * TIB),
        "Bytes of a partition above which its oldest segments go; 0 keeps them for ever."),

    key!("telemetry.log_level", telemetry.log_level, Rule::Text,
        "Filter of the log: a level, or levels by module such as \"info,lance_storage=debug\"."),
    key!("telemetry.log_format", telemetry.log_format, Rule::OneOf(LogFormat::WORDS), "Shape of a log line."),
    key!("telemetry.otlp_endpoint", telemetry.otlp_endpoint, Rule::Url,
        "Base URL of the collector of traces; when absent OTEL_EXPORTER_OTLP_ENDPOINT counts, without either none are exported."),
    key!("telemetry.otlp_protocol", telemetry.otlp_protocol, Rule::OneOf(OtlpProtocol::WORDS),
        "Transport to that collector; http is protobuf, and /v1/traces is appended to the URL."),
    key!("telemetry.sample_ratio", telemetry.sample_ratio, Rule::Number { min: 0.0, max: 1.0 },
        "Share of the requests without a trace of their own that are traced; what a client traces goes on in any case."),

    key!("tls.enabled", tls.enabled, Rule::Bool,
        "Serves TLS only, to clients, peers and on the admin address. A connection that begins in plaintext is closed."),
    key!("tls.cert_file", tls.cert_file, Rule::Path,
        "Certificate chain, PEM; read again when it changes. Also shown to other nodes."),
    key!("tls.key_file", tls.key_file, Rule::Path, "Private key, PEM; read again when it changes."),
    key!("tls.ca_file", tls.ca_file, Rule::Path,
        "Authorities of the certificates that clients and peers show, PEM; read again when it changes."),
    key!("tls.client_auth", tls.client_auth, Rule::OneOf(ClientAuth::WORDS),
        "Whether clients show a certificate: its subject's common name, else its first alternative name, is who they are."),

    key!("auth.enabled", auth.enabled, Rule::Bool,
        "Requires every client to authenticate; what it may do then is what rules allow, and nothing else."),
    key!("auth.token", auth.token, Rule::Secret,
        "The token of the bootstrap administrator, who may do everything. Best set by environment."),
    key!("auth.superusers", auth.superusers, Rule::Names, "Users and names in certificates that may do everything."),

    key!("limits.max_frame_bytes", limits.max_frame_bytes, size(65_536, 16 * MIB), "Largest payload of one frame."),
    key!("limits.max_record_bytes", limits.max_record_bytes, size(1024, 16 * MIB),
        "Longest record that is taken, its header of 5 bytes included; a payload that is no records counts as one."),
    key!("limits.max_topics", limits.max_topics, integer(1, 1_000_000),
        "Topics of a cluster, those of the broker itself not counted."),
    key!("limits.max_partitions_per_topic", limits.max_partitions_per_topic, integer(1, 65_535),
        "Partitions of one topic."),
    key!("limits.max_connections", limits.max_connections, integer(1, 1_000_000),
        "Client connections of a node; peers are not counted."),
    key!("limits.max_in_flight_bytes", limits.max_in_flight_bytes, size(65_536, 16 * GIB),
        "Bytes of requests one connection may have unanswered."),
    key!("limits.max_in_flight_requests", limits.max_in_flight_requests, integer(1, 1_000_000),
        "Requests one connection may have unanswered."),
    key!("limits.max_fetch_bytes", limits.max_fetch_bytes, size(4096, 16 * MIB - 60),
        "Largest data of one fetch reply."),
    key!("limits.max_fetch_wait_ms", limits.max_fetch_wait, millis(0, HOUR_MS), "Longest time a fetch may wait for data."),
    key!("limits.idle_timeout_ms", limits.idle_timeout, millis(0, 24 * HOUR_MS),
        "Silence after which a connection that said Hello is closed; 0 never closes one."),

    key!("quotas.produce_bytes_per_second", quotas.produce_bytes_per_second, size(0, MAX_QUOTA),
        "Bytes a second the clients of one name may produce at this node; faster ones are slowed down. 0 = unlimited."),
    key!("quotas.fetch_bytes_per_second", quotas.fetch_bytes_per_second, size(0, MAX_QUOTA),
        "Bytes a second the clients of one name may fetch from this node; faster ones are slowed down. 0 = unlimited."),
    key!("quotas.clients", quotas.clients, Rule::Quotas, "Clients with quotas of their own, by the name in their Hello."),
    key!("quotas.principals", quotas.principals, Rule::Quotas,
        "Users with quotas, over all their connections and besides those of client names."),

    key!("shutdown.drain_timeout_ms", shutdown.drain_timeout, millis(0, HOUR_MS), "Time a graceful drain may take."),

    key!("tee.enabled", tee.enabled, Rule::Bool,
        "Carries out the rules by which topics go on to other ones, for the partitions that this node leads."),
    key!("tee.buffer_bytes", tee.buffer_bytes, size(MIB, 16 * GIB),
        "Memory of one rule for what was read and not yet acked by its target."),
    key!("tee.in_kernel", tee.in_kernel, Rule::Bool,
        "Hands large batches of closed segments on inside the kernel (sendfile), where targets are not encrypted to."),
    key!("tee.token", tee.token, Rule::Secret,
        "The token that this node authenticates with to the targets of rules. Best set by environment."),

    key!("eviction.enabled", eviction.enabled, Rule::Bool, "Judges followers at all."),
    key!("eviction.window_ms", eviction.window, millis(100, 60_000), "Length of a window of measurement."),
    key!("eviction.slow_windows", eviction.slow_windows, integer(1, 1000), "Slow windows in a row that evict."),
    key!("eviction.slow_factor", eviction.slow_factor, Rule::Number { min: 1.0, max: 1000.0 },
        "A follower is slow above this many times the median of the others, and above slow_floor_ms."),
    key!("eviction.slow_floor_ms", eviction.slow_floor, millis(1, 60_000), "Latency below which no follower is slow."),
    key!("eviction.ack_timeout_ms", eviction.ack_timeout, millis(100, 60_000),
        "Silence with requests outstanding that evicts."),
    key!("eviction.rejoin_windows", eviction.rejoin_windows, integer(1, 1000), "Windows looked back on before a return."),
    key!("eviction.rejoin_factor", eviction.rejoin_factor, Rule::Number { min: 0.0, max: 1.0 },
        "A follower returns below this share of the threshold it was evicted by."),
    key!("eviction.backoff_ms", eviction.backoff, millis(0, HOUR_MS),
        "Wait before the return from a second eviction; doubles with each further one."),
    key!("eviction.backoff_window_ms", eviction.backoff_window, millis(1_000, 24 * HOUR_MS),
        "Time within which evictions count as repeated."),

    key!("shards.count", shards.count, integer(1, 255), "Shards of the node; a partition belongs to one by hash."),
    key!("shards.placement", shards.placement, Rule::OneOf(Placement::WORDS),
        "fused: connections share the thread of a shard; dedicated: they have threads of their own, one for each shard."),
    key!("shards.cpus", shards.cpus, Rule::Cpus, "CPUs that shard threads are pinned to, in order; none when empty."),

    key!("supervision.backoff_min_ms", supervision.backoff_min, millis(1, 60_000),
        "Wait before the first restart of an actor; doubles with each further one."),
    key!("supervision.backoff_max_ms", supervision.backoff_max, millis(1, HOUR_MS), "Longest wait before a restart."),
    key!("supervision.max_restarts", supervision.max_restarts, integer(0, 10_000),
        "Restarts of one actor within restart_window_ms above which its parent fails."),
    key!("supervision.restart_window_ms", supervision.restart_window, millis(1_000, 24 * HOUR_MS),
        "Time over which restarts are counted."),
];

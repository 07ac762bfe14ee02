//! Applies the layers to the defaults, and checks what no single key's rule can: rules between keys, and settings that
//! work and deserve a warning.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::{Address, PortRule};
use crate::cluster;
use crate::effective::value_text;
use crate::keys::Key;
use crate::layers::{Assignment, Layers};
use crate::model::{ClientAuth, Config, SyncPolicy};
use crate::problem::{ConfigProblem, ConfigWarning, Origin};
use crate::rule::Rule;
use crate::units::{duration_text, size_text};
use crate::{LoadRequest, Loaded};

/// Loads and checks; see [`crate::load`].
pub(crate) fn load(request: &LoadRequest) -> Result<Loaded, Vec<ConfigProblem>> {
    let mut layers = Layers::default();
    if let Some(path) = &request.file {
        layers.add_file(path);
    }
    layers.add_environment(&request.environment);
    layers.add_flags(&request.sets);
    let mut check = Check {
        config: Config::default(),
        origins: BTreeMap::new(),
        bad_keys: BTreeSet::new(),
        problems: layers.problems,
        warnings: Vec::new(),
        host_name: request.host_name.clone(),
        node_count: 1,
    };
    for assignment in layers.assignments {
        check.apply(assignment);
    }
    check.finish()
}

/// A configuration under way.
struct Check {
    config: Config,
    origins: BTreeMap<&'static str, Origin>,
    bad_keys: BTreeSet<&'static str>,
    problems: Vec<ConfigProblem>,
    warnings: Vec<ConfigWarning>,
    host_name: Option<String>,
    node_count: usize,
}

impl Check {
    /// Sets one value. A bad one is reported even where a later layer overrides it.
    fn apply(&mut self, assignment: Assignment) {
        let Assignment { key, value, origin } = assignment;
        let accepted = key.rule.parse(&value).is_some_and(|parsed| (key.set)(&mut self.config, parsed));
        if accepted {
            self.origins.insert(key.name, origin);
            return;
        }
        self.bad_keys.insert(key.name);
        self.problems.push(ConfigProblem::BadValue {
            origin,
            key: key.name.to_owned(),
            value: value.display(key.rule),
            allowed: key.rule.allowed(),
        });
    }

    fn finish(mut self) -> Result<Loaded, Vec<ConfigProblem>> {
        self.resolve_node_id();
        self.count_nodes();
        self.check_addresses();
        self.check_sizes();
        self.check_topics();
        self.check_shards();
        self.check_tls();
        self.check_auth();
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        self.warn_of_cluster();
        self.warn_of_risks();
        self.warn_of_open_doors();
        let Self { config, origins, warnings, node_count, .. } = self;
        Ok(Loaded { config, warnings, origins, node_count })
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The value of a key as TOML, a secret masked.
    fn shown(&self, key: &str) -> String {
        Key::find(key).map_or_else(String::new, |key| {
            let shown = value_text(key.rule, &(key.get)(&self.config));
            shown.unwrap_or_else(|| if key.rule == Rule::Secret { "********" } else { "not set" }.to_owned())
        })
    }

    /// Reports that the value of the first key does not go with those of the others. Says nothing when one of them was
    /// bad by itself, since its value is then a default nobody asked for.
    fn conflict(&mut self, keys: &[&'static str], reason: String, allowed: String) {
        if keys.iter().any(|key| self.bad_keys.contains(key)) {
            return;
        }
        // Name the key somebody wrote, not the default it collides with.
        let written = keys.iter().find(|key| self.origins.contains_key(*key)).or(keys.first());
        if let Some(&key) = written {
            let (origin, value) = (self.origin(key), self.shown(key));
            self.problems.push(ConfigProblem::Conflict { origin, key: key.to_owned(), value, reason, allowed });
        }
    }

    fn warn(&mut self, key: &'static str, message: String) {
        self.warnings.push(ConfigWarning { origin: self.origin(key), key, message });
    }

    fn resolve_node_id(&mut self) {
        let given = self.origins.contains_key("node.id") || self.bad_keys.contains("node.id");
        if given || self.config.replication.peers.is_empty() {
            return;
        }
        let host_name = self.host_name.clone().unwrap_or_default();
        match cluster::node_id_of_host(&host_name) {
            Some(id) => {
                self.config.node.id = id;
                self.origins.insert("node.id", Origin::HostName(host_name));
            }
            None => {
                let reason = format!("replication.peers is set and the host name {host_name:?} ends in no ordinal");
                let allowed = "an integer from 1 to 65535, or a host name such as lance-0".to_owned();
                self.problems.push(ConfigProblem::Conflict {
                    origin: self.origin("replication.peers"),
                    key: "node.id".to_owned(),
                    value: "not set".to_owned(),
                    reason,
                    allowed,
                });
            }
        }
    }

    fn count_nodes(&mut self) {
        self.node_count = 1 + cluster::other_peers(&self.config, self.host_name.as_deref()).len();
    }

    fn check_addresses(&mut self) {
        let parse = |text: &str| Address::parse(text, PortRule::AnyFree);
        let (Some(bind), Some(admin)) = (parse(&self.config.network.bind), parse(&self.config.admin.bind)) else {
            return;
        };
        let same_host = bind.host == admin.host || bind.is_unspecified() || admin.is_unspecified();
        if bind.port != 0 && bind.port == admin.port && same_host {
            let reason = format!("admin.bind and network.bind are both on port {}", bind.port);
            self.conflict(&["admin.bind", "network.bind"], reason, "two different ports".to_owned());
        }
    }

    fn check_sizes(&mut self) {
        let (io, limits, storage) = (&self.config.io, &self.config.limits, &self.config.storage);
        let pool_least = u64::from(limits.max_frame_bytes) + 2 * u64::from(io.batch_size);
        let (pool, frame) = (io.buffer_pool_bytes, u64::from(limits.max_frame_bytes));
        let in_flight = limits.max_in_flight_bytes;
        let (low, least) = (storage.disk_low_free_bytes, storage.disk_min_free_bytes);
        let (first, longest) = (self.config.supervision.backoff_min, self.config.supervision.backoff_max);
        if pool < pool_least {
            let keys = ["io.buffer_pool_bytes", "limits.max_frame_bytes", "io.batch_size"];
            let reason = "the largest frame and two slots must fit the pool".to_owned();
            let allowed = format!("at least {} (limits.max_frame_bytes + 2 × io.batch_size)", size_text(pool_least));
            self.conflict(&keys, reason, allowed);
        }
        if in_flight < frame {
            let reason = format!("limits.max_frame_bytes is {}", size_text(frame));
            let allowed = format!("limits.max_in_flight_bytes of at least {}", size_text(frame));
            self.conflict(&["limits.max_in_flight_bytes", "limits.max_frame_bytes"], reason, allowed);
        }
        if low < least {
            let reason = format!("storage.disk_min_free_bytes is {}", size_text(least));
            let allowed = "a disk_low_free_bytes of at least disk_min_free_bytes: warn before refusing".to_owned();
            self.conflict(&["storage.disk_low_free_bytes", "storage.disk_min_free_bytes"], reason, allowed);
        }
        if first > longest {
            let reason = format!("supervision.backoff_max_ms is {}", duration_text(longest));
            let allowed = "a backoff_min_ms of at most backoff_max_ms".to_owned();
            self.conflict(&["supervision.backoff_min_ms", "supervision.backoff_max_ms"], reason, allowed);
        }
    }

    fn check_topics(&mut self) {
        let copies = usize::from(self.config.topics.default_replication_factor);
        if copies > self.node_count {
            let reason = format!("the cluster has {} node(s)", self.node_count);
            let allowed = format!("an integer from 0 to {}", self.node_count);
            self.conflict(&["topics.default_replication_factor", "replication.peers"], reason, allowed);
        }
        let (partitions, most) = (self.config.topics.default_partitions, self.config.limits.max_partitions_per_topic);
        if partitions > most {
            let reason = format!("limits.max_partitions_per_topic is {most}");
            let allowed = format!("a default_partitions of at most {most}");
            self.conflict(&["topics.default_partitions", "limits.max_partitions_per_topic"], reason, allowed);
        }
    }

    fn check_shards(&mut self) {
        let (cpus, count) = (self.config.shards.cpus.len(), usize::from(self.config.shards.count));
        if cpus > 0 && cpus < count {
            let reason = format!("shards.count is {count} and shards.cpus names {cpus}");
            self.conflict(&["shards.cpus", "shards.count"], reason, "a CPU for each shard, or none".to_owned());
        }
    }

    /// TLS with nothing to show, and a cluster whose nodes could not check each other.
    fn check_tls(&mut self) {
        let tls = &self.config.tls;
        if !tls.enabled {
            return;
        }
        let (cert, key, ca) = (tls.cert_file.is_some(), tls.key_file.is_some(), tls.ca_file.is_some());
        let asks = tls.client_auth != ClientAuth::None;
        if !cert {
            let reason = "tls.enabled is true and there is no certificate".to_owned();
            self.conflict(&["tls.cert_file", "tls.enabled"], reason, "a tls.cert_file".to_owned());
        }
        if !key {
            let reason = "tls.enabled is true and there is no private key".to_owned();
            self.conflict(&["tls.key_file", "tls.enabled"], reason, "a tls.key_file".to_owned());
        }
        if asks && !ca {
            let reason = "nothing says which authorities are trusted".to_owned();
            self.conflict(&["tls.client_auth", "tls.ca_file"], reason, "a tls.ca_file, or \"none\"".to_owned());
        }
        if !ca && !self.config.replication.peers.is_empty() {
            let reason = "with replication.peers, nodes check each other's certificates".to_owned();
            self.conflict(&["tls.ca_file", "tls.enabled", "replication.peers"], reason, "a tls.ca_file".to_owned());
        }
    }

    /// A server that nobody could open, and nodes that could not prove themselves to each other.
    fn check_auth(&mut self) {
        let auth = &self.config.auth;
        if !auth.enabled {
            return;
        }
        if auth.token.is_none() && auth.superusers.is_empty() {
            let reason = "there is no credential: nobody could administrate the server".to_owned();
            let allowed = "an auth.token, or names in auth.superusers".to_owned();
            self.conflict(&["auth.enabled", "auth.token", "auth.superusers"], reason, allowed);
        }
        if !self.config.replication.peers.is_empty() && self.config.cluster.secret.is_none() {
            let reason = "nodes forward to each other, and prove themselves by cluster.secret".to_owned();
            let allowed = "a cluster.secret".to_owned();
            self.conflict(&["auth.enabled", "cluster.secret", "replication.peers"], reason, allowed);
        }
    }

    fn warn_of_cluster(&mut self) {
        if self.config.replication.peers.is_empty() {
            return;
        }
        let bind = Address::parse(&self.config.network.bind, PortRule::AnyFree);
        let loopback = bind.is_some_and(|address| address.is_loopback());
        if !loopback && self.config.cluster.secret.is_none() {
            let message = format!(
                "{} is not loopback and there is no cluster.secret: peers cannot prove themselves and are refused",
                self.config.network.bind
            );
            self.warn("network.bind", message);
        }
        if self.node_count == 2 {
            let message = "two nodes: nothing is ever evicted, and the death of one stops L2 commits; use three";
            self.warn("replication.peers", message.to_owned());
        } else if self.config.topics.default_replication_factor == 2 {
            let message = "two copies: nothing is ever evicted, and the death of one stops L2 commits; use three";
            self.warn("topics.default_replication_factor", message.to_owned());
        }
    }

    fn warn_of_open_doors(&mut self) {
        let Config { tls, auth, .. } = &self.config;
        let bind = Address::parse(&self.config.network.bind, PortRule::AnyFree);
        let loopback = bind.is_some_and(|address| address.is_loopback());
        let (tls_set, tls_on) = (tls.cert_file.is_some() || tls.key_file.is_some(), tls.enabled);
        let (auth_set, auth_on) = (auth.token.is_some() || !auth.superusers.is_empty(), auth.enabled);
        if tls_set && !tls_on {
            self.warn("tls.enabled", "a certificate is set and TLS is off: nothing is encrypted".to_owned());
        }
        if auth_set && !auth_on {
            self.warn("auth.enabled", "credentials are set and auth is off: anybody may do everything".to_owned());
        }
        if auth_on && !tls_on && !loopback {
            self.warn(
                "tls.enabled",
                "auth is on and TLS is off: tokens and records cross the network readable".to_owned(),
            );
        }
    }

    fn warn_of_risks(&mut self) {
        if let SyncPolicy::Window { interval, bytes } = self.config.storage.sync {
            let (interval, bytes) = (duration_text(interval), size_text(bytes));
            let message = format!("acks come before the sync: a power cut may lose {interval} or {bytes} of them");
            self.warn("storage.sync", message);
        }
        let admin = Address::parse(&self.config.admin.bind, PortRule::AnyFree);
        if self.config.admin.fault_injection {
            let reach = match admin.is_some_and(|address| address.is_loopback()) {
                true => "anybody on this machine",
                false => "anybody who reaches admin.bind",
            };
            self.warn("admin.fault_injection", format!("{reach} can break this node on purpose"));
        }
    }
}

//! The arguments of `lnc cluster`.

use clap::{Args, Subcommand};
use std::time::Duration;

/// Commands on the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommands {
    /// Show nodes and partitions.
    #[command(after_help = "\
Examples:
  lnc cluster status
  lnc cluster status --server lance-1:9000,lance-2:9000 --output json

States of a node: serving, draining (it is being emptied), down (it was not heard of lately).
Positions are those of a partition's leader; they are unknown while it cannot be reached.")]
    Status,
    /// Have other nodes lead what a node leads, and wait for that; it serves again with its next start, or with --off.
    #[command(after_help = "Examples:\n  lnc cluster drain 3\n  lnc cluster drain 3 --off")]
    Drain(DrainArgs),
    /// As drain, but it lasts over any number of starts of the node, until `resume`. Its copies stay in sync.
    #[command(after_help = "\
Examples:
  lnc cluster maintenance 3
  lnc cluster resume 3

A node in maintenance serves what it is asked for, takes part in quorums, and leads only what no other node could lead.")]
    Maintenance(MaintenanceArgs),
    /// Let a node that was drained or put in maintenance lead again; it gets its share of leaderships back.
    #[command(after_help = "Example:\n  lnc cluster resume 3")]
    Resume {
        /// The node.
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
        node: u16,
    },
    /// Have leaders wait for a node's acks no longer; its copies are still fed.
    #[command(after_help = "Example:\n  lnc cluster evict 3")]
    Evict {
        /// The node.
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
        node: u16,
    },
    /// Have leaders wait for a node's acks again, wherever its copy holds everything that is committed.
    #[command(after_help = "Example:\n  lnc cluster admit 3")]
    Admit {
        /// The node.
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
        node: u16,
    },
    /// Let a node join that the cluster does not know.
    #[command(after_help = "Example:\n  lnc cluster add-node 4 lance-4:9000")]
    AddNode {
        /// The id it is configured with.
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
        node: u16,
        /// Where it is reached.
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Move what a node leads and holds to other nodes, then take it out of the cluster for good.
    #[command(after_help = "\
Examples:
  lnc cluster remove-node 4
  lnc cluster remove-node 4 --wait 0s

Copies are moved one by one while everything goes on. Until the node is gone, lnc cluster drain NODE --off keeps it.")]
    RemoveNode(RemoveArgs),
    /// Go on with one copy of a partition that has no leader because too many copies are lost; records may be lost.
    #[command(after_help = "\
Example:
  lnc cluster recover events 0 --accept-data-loss

Without --node it goes on with the copy that reaches furthest among those that can be asked. The order is kept, with who gave
it and which log positions may be lost.")]
    Recover(RecoverArgs),
}

/// Arguments of `lnc cluster drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The node.
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// Let it lead again.
    #[arg(long)]
    pub off: bool,
    /// How long to wait until it leads nothing; 0s does not wait.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
}

/// Arguments of `lnc cluster maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    /// The node.
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// How long to wait until it leads nothing; 0s does not wait.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub wait: Duration,
}

/// Arguments of `lnc cluster remove-node`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The node.
    #[arg(value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: u16,
    /// How long to wait until it is gone; 0s does not wait.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub wait: Duration,
}

/// Arguments of `lnc cluster recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: u16,
    /// The node whose copy it goes on with.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u16).range(1..))]
    pub node: Option<u16>,
    /// Records that only the other copies have are given up.
    #[arg(long)]
    pub accept_data_loss: bool,
}

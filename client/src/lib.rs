#![doc = include_str!("../README.md")]

pub mod address;
pub mod admin;
pub mod blocking;
pub mod client;
mod cluster;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod group;
mod links;
pub mod metadata;
pub mod offsets;
pub mod options;
pub mod partitioner;
pub mod producer;
pub mod record;
mod security;
mod spans;
mod stored;
mod tee;

pub use admin::{Admin, NewTopic, TopicChange, TopicDescription};
pub use client::Client;
pub use consumer::{ConsumedChunk, ConsumedRecord, Consumer, ConsumerOptions, OutOfRange, Position, StartOffset};
pub use error::{ClientError, TrySendError};
pub use group::{
    AssignedPartition, GroupConsumer, GroupDescription, GroupOptions, GroupPartition, MemberDescription,
    NamedPartition, RebalanceListener,
};
/// Batches as they are stored, for tools that copy logs.
pub use lance_messages::batch;
pub use lance_messages::id::{NodeId, TeeId, TopicId, TopicPartition};
/// Passwords, for tools that set them.
pub use lance_messages::scram;
/// Users and rules.
pub use lance_messages::security as rules;
/// The frames, for tools that speak them by themselves.
pub use lance_messages::wire;
pub use lance_messages::wire::compression::Codec;
pub use lance_messages::wire::group::AssignmentStrategy;
pub use lance_messages::wire::topics::TopicMode;
pub use options::{ClientOptions, Login};
pub use partitioner::Partitioner;
pub use producer::{Acks, Delivery, DeliveryFuture, Producer, ProducerOptions, ProducerStats};
pub use record::{Header, ProducerRecord};
pub use stored::{StoredBatches, StoredLogs, split_stored};
pub use tee::NewTee;

//! A disk and a source of chance for the tests.

use lance_cluster::metadata::{MetadataCommand, Persist, PersistedRaft, RaftConf, RaftSnapshot, TopicConfig};
use lance_messages::id::NodeId;

/// SplitMix64: the same seed gives the same run.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// What one node's Raft has on disk, and what it asked to be written.
pub struct RaftDisk {
    pub durable: PersistedRaft,
    pub pending: Vec<Persist>,
}

impl RaftDisk {
    pub fn new(voters: &[u64]) -> Self {
        let durable = PersistedRaft { conf: RaftConf::of_voters(voters.iter().copied()), ..PersistedRaft::default() };
        Self { durable, pending: Vec::new() }
    }

    /// Makes the oldest batch durable and gives its number.
    pub fn sync_one(&mut self) -> Option<u64> {
        if self.pending.is_empty() {
            return None;
        }
        let batch = self.pending.remove(0);
        self.write(&batch, 5);
        Some(batch.number)
    }

    /// The power goes: some batches were written, the last of them in part.
    pub fn crash(&mut self, chance: &mut Chance) {
        let written = chance.below(self.pending.len() + 1);
        let pending = std::mem::take(&mut self.pending);
        for (number, batch) in pending.iter().take(written).enumerate() {
            let steps = if number + 1 == written { chance.below(6) } else { 5 };
            self.write(batch, steps);
        }
    }

    pub fn save_snapshot(&mut self, snapshot: RaftSnapshot, drop_through: u64) {
        self.durable.entries.retain(|entry| entry.index > drop_through);
        self.durable.snapshot = Some(snapshot);
    }

    fn write(&mut self, batch: &Persist, steps: usize) {
        let durable = &mut self.durable;
        if let (true, Some(snapshot)) = (steps > 0, &batch.snapshot) {
            durable.snapshot = Some(snapshot.clone());
        }
        if steps > 1 && batch.snapshot.is_some() {
            durable.entries.clear();
        }
        if let (true, Some(from)) = (steps > 2, batch.truncate_from) {
            durable.entries.retain(|entry| entry.index < from);
        }
        if steps > 3 {
            if let (Some(first), Some(last)) = (batch.entries.first(), durable.entries.last()) {
                assert_eq!(first.index, last.index + 1, "the log on disk has no holes and no overlaps");
            }
            durable.entries.extend(batch.entries.iter().cloned());
        }
        if let (true, Some(hard_state)) = (steps > 4, batch.hard_state) {
            durable.hard_state = hard_state;
        }
    }
}

pub fn register(node: u16, incarnation: u64, boot_number: u64) -> MetadataCommand {
    MetadataCommand::RegisterNode {
        node: NodeId(node),
        incarnation,
        boot_number,
        nonce: boot_number * 1000,
        address: format!("lance-{node}:9000"),
        rack: String::new(),
    }
}

pub fn create(name: &str, partitions: u16, replication_factor: u8) -> MetadataCommand {
    let config = TopicConfig { partitions, replication_factor, ..TopicConfig::default() };
    MetadataCommand::CreateTopic { name: name.to_owned(), config, created_at_secs: 1_700_000_000, request: 0 }
}

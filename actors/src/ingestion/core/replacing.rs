//! The planned change of a partition's replica set: it is proposed once nothing can be lost by it, and from then on, until
//! the outcome is known, what is committed is on a quorum of both sets.

use super::{IngestionCore, Now};
use lance_cluster::metadata::MetadataCommand;
use std::time::Duration;

/// A proposal that nothing was heard of is made again after this: it names the version it changes, so that one counts.
const PROPOSAL_INTERVAL: Duration = Duration::from_secs(1);

impl IngestionCore {
    /// Exchanges of replicas to be proposed to the metadata now.
    pub fn take_replacements(&mut self, now: Now) -> Vec<MetadataCommand> {
        let led = self.partitions.iter_mut().flatten().filter(|partition| partition.leading_epoch().is_some());
        let mut found = Vec::new();
        for leader in led.filter_map(|partition| partition.leader.as_mut()) {
            let role = &leader.role;
            if role.planned.is_empty() {
                continue;
            }
            match leader.replacing {
                Some(proposed_at) if now.elapsed < proposed_at + PROPOSAL_INTERVAL => continue,
                // It will be refused, and until that is certain nothing is committed and nobody returns to Q: the plan is
                // ended, which makes what was proposed void, and made anew.
                Some(_) if !leader.quorum.may_become(&role.planned) => {
                    leader.replacing = Some(now.elapsed);
                    found.push(MetadataCommand::PlanReplicas {
                        partition: role.partition,
                        replicas_version: role.replicas_version,
                        replicas: Vec::new(),
                    });
                    continue;
                }
                Some(_) => {}
                None if leader.quorum.may_change_replicas(&role.planned) => {
                    leader.quorum.on_replicas_change_proposed(&role.planned);
                }
                None => continue,
            }
            leader.replacing = Some(now.elapsed);
            let newcomer = role.newcomer();
            let facts = leader.quorum.followers().find(|follower| Some(follower.node) == newcomer);
            found.push(MetadataCommand::ReplaceReplica {
                partition: role.partition,
                epoch: role.epoch,
                replicas_version: role.replicas_version,
                replicas: role.planned.clone(),
                newcomer: facts.map(|newcomer| (newcomer.node, newcomer.admitted)),
            });
        }
        found
    }
}

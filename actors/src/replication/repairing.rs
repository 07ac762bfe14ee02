//! Damaged replicas: what is done about them, and what is said.

use super::actor::ReplicationActor;
use super::repair::RepairEffect;
use crate::ingestion::replica_handlers::MoveLeadership;
use crate::supervision::shell::guarded;
use actix::prelude::*;
use std::convert::Infallible;

impl ReplicationActor {
    /// Looks whether damaged replicas may be cut by now.
    pub(super) fn look_after_damage(&mut self, ctx: &mut Context<Self>) {
        let effects = guarded(self, ctx, |actor, _| -> Result<_, Infallible> {
            let (mut effects, view) = (Vec::new(), actor.setup.view.load());
            if !actor.repair.is_idle() {
                let (now, boot_number) = (actor.setup.clock.now().elapsed, actor.setup.boot_number);
                actor.repair.on_tick(now, |partition| view.standing(partition, boot_number), &mut effects);
            }
            actor.setup.metrics.damaged_replicas_waiting.set(actor.repair.waiting_count() as u64);
            Ok(effects)
        });
        for effect in effects.unwrap_or_default() {
            match effect {
                RepairEffect::Cut(partition, good_end) => {
                    tracing::error!(%partition, good_end, "a damaged replica is cut back and refills from its leader");
                    self.with_core(ctx, |core, effects| core.on_damaged(partition, good_end, effects));
                }
                RepairEffect::HandOver(partition, epoch, to) => {
                    tracing::warn!(%partition, %epoch, %to, "a damaged replica leads: another node is to take over");
                    let wanted = MoveLeadership { partition, epoch, to };
                    self.tell_shards(vec![wanted], |wanted| wanted.partition, move |_| wanted);
                }
                RepairEffect::Waits(partition, good_end, standing) => {
                    tracing::error!(
                        %partition,
                        good_end,
                        counting = ?standing.counting,
                        needed = standing.needed(),
                        leads = ?standing.leads,
                        "a damaged replica is not refilled before another node leads and enough others count: bring back those that are missing, or order lnc cluster recover where all are damaged"
                    );
                }
            }
        }
    }
}

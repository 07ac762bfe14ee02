//! Rounds of claims and checkpoints: those of all flows together, so that the metadata has one entry a second from a node.

use super::flow::{FlowId, Stage};
use super::{Effects, TeeCore, TeeEffect};
use lance_cluster::metadata::{TeeAdvance, TeeClaim, TeeProgress, TeeRefusal};

/// How often a flow that moves stores where it is.
const ADVANCE_MS: u64 = 1000;
/// A flow that acked so many batches since does not wait for that.
const ADVANCE_BATCHES: u64 = 4096;
/// The pause before another round where one came to nothing.
const ROUND_REST_MS: u64 = 250;
/// Most claims or checkpoints of a round.
const ROUND: usize = 4096;

impl TeeCore {
    pub(super) fn begin_rounds(&mut self, now_ms: u64, effects: &mut Effects) {
        if now_ms < self.rounds_not_before_ms {
            return;
        }
        if !self.claiming {
            let unclaimed = self.flows.iter_mut().filter(|(_, flow)| flow.stage == Stage::Unclaimed).take(ROUND);
            let claims: Vec<(FlowId, TeeClaim)> = unclaimed
                .map(|(id, flow)| {
                    flow.stage = Stage::Claiming;
                    (*id, TeeClaim { tee: flow.tee, partition: flow.partition.partition, epoch: flow.epoch })
                })
                .collect();
            if !claims.is_empty() {
                self.claiming = true;
                effects.push(TeeEffect::Claim(claims));
            }
        }
        if !self.advancing {
            self.advance(now_ms, effects);
        }
    }

    fn advance(&mut self, now_ms: u64, effects: &mut Effects) {
        let mut advances = Vec::new();
        for (id, flow) in &mut self.flows {
            let due = flow.unstored || flow.acked_since >= ADVANCE_BATCHES || now_ms >= flow.stored_ms + ADVANCE_MS;
            if flow.stage != Stage::Running || !due || advances.len() >= ROUND {
                continue;
            }
            let checkpoint = flow.checkpoint();
            if Some(checkpoint) == flow.durable {
                continue;
            }
            flow.acked_since = 0;
            flow.stored_ms = now_ms;
            let (tee, partition, claim) = (flow.tee, flow.partition.partition, flow.claim);
            advances.push((*id, TeeAdvance { tee, partition, claim, checkpoint }));
        }
        if !advances.is_empty() {
            self.advancing = true;
            effects.push(TeeEffect::Advance(advances));
        }
    }

    /// The outcome of claims, in the order they were asked in; `None`: none is known.
    pub fn on_claimed(
        &mut self,
        asked: &[(FlowId, TeeClaim)],
        claimed: Option<&[Result<TeeProgress, TeeRefusal>]>,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        self.claiming = false;
        let mut outcomes = claimed.unwrap_or_default().iter();
        for (id, claim) in asked {
            let outcome = outcomes.next();
            let Some(flow) = self.flows.get_mut(id).filter(|flow| flow.epoch == claim.epoch) else { continue };
            match outcome {
                Some(Ok(progress)) => {
                    flow.claim = progress.claim;
                    flow.stage = Stage::Placing;
                    flow.stored_ms = now_ms;
                    if let Some(checkpoint) = progress.checkpoint {
                        flow.resume(checkpoint);
                    }
                }
                // What is not led here, or no rule, ends as soon as the view shows it.
                Some(Err(_)) | None => {
                    flow.stage = Stage::Unclaimed;
                    self.rounds_not_before_ms = now_ms + ROUND_REST_MS;
                }
            }
        }
        self.pump_all(now_ms, effects);
    }

    /// The outcome of checkpoints, in the order they were asked in; `None`: none is known.
    pub fn on_advanced(
        &mut self,
        asked: &[(FlowId, TeeAdvance)],
        advanced: Option<&[Result<(), TeeRefusal>]>,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        self.advancing = false;
        let mut outcomes = advanced.unwrap_or_default().iter();
        for (id, advance) in asked {
            let outcome = outcomes.next();
            let Some(flow) = self.flows.get_mut(id).filter(|flow| flow.claim == advance.claim) else { continue };
            match outcome {
                Some(Ok(())) => {
                    flow.durable = Some(advance.checkpoint);
                    let same = flow.producer == advance.checkpoint.producer;
                    flow.unstored &= !same;
                }
                // Somebody else has claimed it, or this node did in another life: everything begins with a claim.
                Some(Err(_)) => {
                    flow.stage = Stage::Unclaimed;
                    let freed = flow.unload();
                    let tee = flow.tee;
                    self.free(tee, freed);
                    self.close_link(*id, effects);
                    self.rounds_not_before_ms = now_ms + ROUND_REST_MS;
                }
                None => {
                    // Tried again with what is acked by then.
                    flow.stored_ms = flow.stored_ms.saturating_sub(ADVANCE_MS);
                    self.rounds_not_before_ms = now_ms + ROUND_REST_MS;
                }
            }
        }
        self.pump_all(now_ms, effects);
    }
}

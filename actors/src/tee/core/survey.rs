//! What is at a rule's target: asked when a flow has something to send and nowhere to send it.

use super::bucket::rest_ms;
use super::flow::{FlowId, Stage};
use super::{Effects, TeeCore, TeeEffect};
use lance_messages::id::{TeeId, TopicId};

/// What was found at a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFound {
    /// The cluster that answers.
    pub cluster: u64,
    /// The topic there.
    pub topic: TopicId,
    /// Where the leader of each partition is; `None` while nobody leads it.
    pub leaders: Vec<Option<String>>,
}

#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) found: Option<TargetFound>,
    pub(super) wanted: bool,
    pub(super) asked: bool,
    failures: u32,
    not_before_ms: u64,
}

/// The least time between two looks at one target.
const SURVEY_REST_MS: u64 = 100;

impl TeeCore {
    /// What is known of the target no longer holds.
    pub(super) fn doubt_survey(&mut self, tee: TeeId) {
        if let Some(rule) = self.rules.get_mut(&tee) {
            rule.survey.found = None;
        }
    }

    pub(super) fn begin_surveys(&mut self, now_ms: u64, effects: &mut Effects) {
        for (tee, rule) in &mut self.rules {
            let survey = &mut rule.survey;
            if !survey.wanted || survey.asked || survey.found.is_some() || now_ms < survey.not_before_ms {
                continue;
            }
            (survey.asked, survey.wanted) = (true, false);
            let target = &rule.rule.target;
            effects.push(TeeEffect::Survey {
                tee: *tee,
                addresses: target.addresses.clone(),
                topic: target.topic.clone(),
                partitions: rule.partitions,
            });
        }
    }

    /// The outcome of a look at a target.
    pub fn on_survey(&mut self, tee: TeeId, outcome: Result<TargetFound, String>, now_ms: u64, effects: &mut Effects) {
        let seed = self.options.seed;
        let Some(rule) = self.rules.get_mut(&tee) else { return };
        rule.survey.asked = false;
        let meant = rule.rule.target.cluster;
        // Nobody looked for circles through another cluster, and what was forwarded is not there.
        let outcome = outcome.and_then(|found| match found.cluster == meant {
            true => Ok(found),
            false => Err(format!(
                "cluster {:016x} is there, and not {meant:016x}, which was when the rule was added: remove it and add it anew",
                found.cluster
            )),
        });
        match outcome {
            Ok(found) => {
                rule.survey.failures = 0;
                rule.survey.not_before_ms = now_ms + SURVEY_REST_MS;
                rule.survey.found = Some(found);
                self.pump_rule(tee, now_ms, effects);
            }
            Err(reason) => {
                rule.survey.failures = rule.survey.failures.saturating_add(1);
                rule.survey.not_before_ms = now_ms + rest_ms(rule.survey.failures, seed ^ u64::from(tee.0));
                let not_before_ms = rule.survey.not_before_ms;
                let waits = |flow: &super::Flow| flow.tee == tee && flow.stage == Stage::Running && flow.link.is_none();
                let waiting: Vec<FlowId> =
                    self.flows.iter().filter(|(_, flow)| waits(flow) && !flow.is_empty()).map(|(id, _)| *id).collect();
                for id in waiting {
                    self.fail(id, reason.clone(), false, now_ms, effects);
                    // The rule rests for all of them.
                    if let Some(flow) = self.flows.get_mut(&id) {
                        flow.not_before_ms = not_before_ms;
                    }
                }
            }
        }
    }
}

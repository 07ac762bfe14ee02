//! `Health`: how far the node is with starting, serving and stopping; written by whoever runs it, read by probes.

use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The state of the node as probes see it.
#[derive(Debug)]
pub struct Health {
    started: AtomicBool,
    serving: AtomicBool,
    draining: AtomicBool,
    reason: ArcSwap<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A node that is starting.
    pub fn new() -> Self {
        Self {
            started: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            reason: ArcSwap::from_pointee("the node is starting".to_owned()),
        }
    }

    /// Says what the node is waiting for while it does not serve.
    pub fn set_reason(&self, reason: impl Into<String>) {
        self.reason.store(Arc::new(reason.into()));
    }

    /// Every actor was started.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Every log is open and led, or is not any more.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    /// The node takes no new work and will end.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether every actor was started.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether the node will end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// `starting`, `recovering`, `serving` or `draining`.
    pub fn state(&self) -> &'static str {
        match (self.is_draining(), self.is_started(), self.serving.load(Ordering::Acquire)) {
            (true, _, _) => "draining",
            (false, false, _) => "starting",
            (false, true, false) => "recovering",
            (false, true, true) => "serving",
        }
    }

    /// Why the node does not serve; `None` when it does.
    pub fn not_serving(&self) -> Option<String> {
        match self.state() {
            "serving" => None,
            "draining" => Some("the node is draining".to_owned()),
            _ => Some(self.reason.load().as_ref().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_outweighs_serving_and_cannot_be_taken_back() {
        let health = Health::new();
        assert_eq!((health.state(), health.not_serving()), ("starting", Some("the node is starting".to_owned())));
        health.set_started();
        health.set_reason("12 logs are being opened");
        assert_eq!((health.state(), health.not_serving()), ("recovering", Some("12 logs are being opened".to_owned())));
        health.set_serving(true);
        assert_eq!((health.state(), health.not_serving()), ("serving", None));
        health.set_draining();
        health.set_serving(true);
        assert_eq!((health.state(), health.not_serving()), ("draining", Some("the node is draining".to_owned())));
    }
}

//! When a failed actor is started again, and when its failure becomes its parent's.

use std::collections::VecDeque;
use std::time::Duration;

/// The restart policy of one actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Pause before the first restart.
    pub backoff_min: Duration,
    /// Longest pause; the pause doubles with each failure inside the window.
    pub backoff_max: Duration,
    /// Restarts allowed inside one window.
    pub budget: u32,
    /// Length of the window over which failures are counted.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            budget: 10,
            window: Duration::from_secs(60),
        }
    }
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start again after this pause.
    RestartAfter(Duration),
    /// The budget is used up: the parent has to decide.
    Escalate,
}

/// The failures of one actor inside the window of its policy.
#[derive(Debug)]
pub struct RestartHistory {
    policy: RestartPolicy,
    failures: VecDeque<Duration>,
}

impl RestartHistory {
    /// An empty history.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, failures: VecDeque::new() }
    }

    /// Records a failure at `now` (time since the process started) and decides.
    pub fn on_failure(&mut self, now: Duration) -> Verdict {
        while self.failures.front().is_some_and(|&at| at + self.policy.window < now) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let count = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        if count > self.policy.budget {
            return Verdict::Escalate;
        }
        let doublings = (count - 1).min(20);
        let pause = self.policy.backoff_min.saturating_mul(1 << doublings);
        Verdict::RestartAfter(pause.min(self.policy.backoff_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let mut history = RestartHistory::new(RestartPolicy::default());
        let pauses: Vec<u128> = (0..10)
            .map(|i| match history.on_failure(at(i)) {
                Verdict::RestartAfter(pause) => pause.as_millis(),
                Verdict::Escalate => 0,
            })
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn the_eleventh_failure_in_a_minute_escalates() {
        let mut history = RestartHistory::new(RestartPolicy::default());
        for i in 0..10 {
            assert_ne!(history.on_failure(at(i)), Verdict::Escalate);
        }
        assert_eq!(history.on_failure(at(11)), Verdict::Escalate);
    }

    #[test]
    fn failures_older_than_the_window_are_forgotten() {
        let mut history = RestartHistory::new(RestartPolicy::default());
        for i in 0..10 {
            history.on_failure(at(i));
        }
        assert_eq!(history.on_failure(at(100)), Verdict::RestartAfter(Duration::from_millis(50)));
    }
}

//! When frames are due: at a fixed rate, whatever the server does.

/// A fixed-rate schedule of one generator thread.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start_ns: u64,
    /// Nanoseconds between frames.
    interval_ns: f64,
    next: u64,
}

impl Schedule {
    /// Frames from `start_ns` on, `frames_per_second` of them each second.
    pub fn new(start_ns: u64, frames_per_second: f64) -> Self {
        Self { start_ns, interval_ns: 1e9 / frames_per_second.max(1e-3), next: 0 }
    }

    /// When frame `number` is due.
    pub fn due_ns(&self, number: u64) -> u64 {
        self.start_ns + (number as f64 * self.interval_ns) as u64
    }

    /// When the next frame is due.
    pub fn next_due_ns(&self) -> u64 {
        self.due_ns(self.next)
    }

    /// The next frame's number and due time, when it is due.
    pub fn take(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due = self.next_due_ns();
        if due > now_ns {
            return None;
        }
        self.next += 1;
        Some((self.next - 1, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_at_even_distances_and_late_ones_keep_their_time() {
        let mut schedule = Schedule::new(1000, 1e6);
        assert_eq!(schedule.take(999), None);
        assert_eq!(schedule.take(5000), Some((0, 1000)));
        assert_eq!(schedule.take(5000), Some((1, 2000)));
        assert_eq!(schedule.next_due_ns(), 3000);
    }
}

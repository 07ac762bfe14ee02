//! The monotonic clock of a machine: it runs at a rate of its own, and may stand still for a while.

/// Parts of a million that a true clock advances.
const TRUE_RATE: u64 = 1_000_000;

/// What a timer may be late on a clock that is not right.
const TIMER_GRAIN: u64 = 1_000_000;

/// A clock, read in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it showed at its last change, and when that was.
    shown_ns: u64,
    at_ns: u64,
    rate: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { shown_ns: 0, at_ns: 0, rate: TRUE_RATE }
    }
}

impl Clock {
    /// What it shows at a simulated time.
    pub fn read(&self, now_ns: u64) -> u64 {
        let passed = u128::from(now_ns.saturating_sub(self.at_ns)) * u128::from(self.rate) / u128::from(TRUE_RATE);
        self.shown_ns + u64::try_from(passed).unwrap_or(u64::MAX)
    }

    /// It advances by so many parts of a million from now on; 0 stops it.
    pub fn run_at(&mut self, rate: u64, now_ns: u64) {
        *self = Self { shown_ns: self.read(now_ns), at_ns: now_ns, rate };
    }

    /// It is right again from now on, though not in what it shows.
    pub fn mend(&mut self, now_ns: u64) {
        self.run_at(TRUE_RATE, now_ns);
    }

    /// How long a timer takes that shall fire once it has advanced by `delay_ns`: a little too long on a clock that is not
    /// right, and not for ever on one that stands still.
    pub fn time_for(&self, delay_ns: u64) -> u64 {
        if self.rate == TRUE_RATE {
            return delay_ns;
        }
        let parts = u128::from(delay_ns) * u128::from(TRUE_RATE) / u128::from(self.rate.max(TRUE_RATE / 4));
        u64::try_from(parts).unwrap_or(u64::MAX).saturating_add(TIMER_GRAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_goes_back_and_keeps_its_rate() {
        let mut clock = Clock::default();
        assert_eq!(clock.read(1_000), 1_000);
        clock.run_at(500_000, 1_000);
        assert_eq!((clock.read(3_000), clock.time_for(1_000)), (2_000, 1_002_000));
        clock.run_at(0, 3_000);
        assert_eq!(clock.read(9_000), 2_000);
        clock.mend(9_000);
        assert_eq!((clock.read(10_000), clock.time_for(1_000)), (3_000, 1_000));
    }
}

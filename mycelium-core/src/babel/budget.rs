//! Token buckets: how much work a neighbour may cause.

use crate::time::{Duration, Time};

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Sustained events a second.
    pub per_second: u32,
    /// Events at once after a pause.
    pub burst: u32,
}

/// A token bucket. Starts full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    allowance: Allowance,
    /// Micro-tokens: one event costs a million, so a rate per second accrues as micro-tokens per microsecond.
    level: u64,
    /// Micro-tokens owed for events that could not wait. Paid before `level` rises.
    debt: u64,
    filled_at: Time,
}

const EVENT: u64 = 1_000_000;

impl Budget {
    pub(crate) fn new(allowance: Allowance, now: Time) -> Self {
        Self {
            allowance,
            level: u64::from(allowance.burst) * EVENT,
            debt: 0,
            filled_at: now,
        }
    }

    /// Pay for one event; `false` if it must not happen.
    #[must_use]
    pub(crate) fn take(&mut self, now: Time) -> bool {
        self.fill(now);
        match self.level.checked_sub(EVENT) {
            Some(level) => {
                self.level = level;
                true
            }
            None => false,
        }
    }

    /// Pay for one event that happens anyhow, on credit if need be; `false` if as much is owed as a whole burst.
    #[must_use]
    pub(crate) fn charge(&mut self, now: Time) -> bool {
        if !self.take(now) {
            self.debt += EVENT;
        }
        self.debt <= u64::from(self.allowance.burst) * EVENT
    }

    /// When nothing will be owed any more; `None`: nothing is.
    #[must_use]
    pub(crate) fn paid_at(&self) -> Option<Time> {
        let per_second = u64::from(self.allowance.per_second).max(1);
        let wait = Duration::from_micros(self.debt.div_ceil(per_second));
        (self.debt > 0).then(|| self.filled_at + wait)
    }

    /// Whether `take` would succeed.
    #[must_use]
    pub(crate) fn is_ready(&mut self, now: Time) -> bool {
        self.fill(now);
        self.level >= EVENT
    }

    fn fill(&mut self, now: Time) {
        let full = u64::from(self.allowance.burst) * EVENT;
        let elapsed = now
            .since(self.filled_at)
            .min(Duration::from_secs(3600))
            .as_micros();
        let accrued = u64::try_from(elapsed).unwrap_or(0) * u64::from(self.allowance.per_second);
        let paid = accrued.min(self.debt);
        self.debt -= paid;
        self.level = self.level.saturating_add(accrued - paid).min(full);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let allowance = Allowance {
            per_second: 10,
            burst: 3,
        };
        let mut budget = Budget::new(allowance, Time::ZERO);
        let mut taken = |at: u64| {
            (0..100)
                .take_while(|_| budget.take(Time::from_millis(at)))
                .count()
        };
        assert_eq!(taken(0), 3);
        assert_eq!(taken(99), 0);
        assert_eq!(taken(100), 1);
        assert_eq!(taken(300), 2);
        assert_eq!(taken(100_000), 3);
    }

    #[test]
    fn what_is_owed_is_paid_first() {
        let allowance = Allowance {
            per_second: 10,
            burst: 3,
        };
        let mut budget = Budget::new(allowance, Time::ZERO);
        let charged = (0..100).take_while(|_| budget.charge(Time::ZERO)).count();
        assert_eq!(charged, 6, "a burst, and another one on credit");
        assert_eq!(budget.paid_at(), Some(Time::from_millis(400)));
        assert!(!budget.take(Time::from_millis(399)));
        assert!(budget.take(Time::from_millis(500)));
        assert_eq!(budget.paid_at(), None);
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let allowance = Allowance {
            per_second: 1000,
            burst: 1,
        };
        let mut budget = Budget::new(allowance, Time::from_millis(1000));
        assert!(budget.take(Time::from_millis(1000)));
        assert!(!budget.take(Time::from_millis(10)));
        assert!(!budget.take(Time::from_millis(1000)));
    }
}

//! A token bucket on the caller's clock.

use crate::time::{Duration, Time};

/// Lets `burst` events pass at once and `per_second` of them in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Events a second; 0 means never more than the first burst.
    pub per_second: u32,
    /// Events at once.
    pub burst: u32,
}

/// The state of one limit. Credit is counted in time, so refilling needs no division.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    cost: Duration,
    capacity: Duration,
    credit: Duration,
    filled_at: Time,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(limit: RateLimit) -> Self {
        // A rate of zero is a rate of once a century.
        let cost = Duration::from_secs(1)
            .checked_div(limit.per_second)
            .unwrap_or(Duration::from_secs(100 * 365 * 86_400));
        let capacity = cost.saturating_mul(limit.burst);
        Self {
            cost,
            capacity,
            credit: capacity,
            filled_at: Time::ZERO,
        }
    }

    /// Whether one more event could pass.
    pub(crate) fn has(&mut self, now: Time) -> bool {
        self.fill(now);
        self.credit >= self.cost
    }

    /// Whether one more event may pass.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        self.fill(now);
        match self.credit.checked_sub(self.cost) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }

    /// When one more event may pass.
    pub(crate) fn ready_at(&self) -> Time {
        self.filled_at + self.cost.saturating_sub(self.credit)
    }

    fn fill(&mut self, now: Time) {
        self.credit = self
            .credit
            .saturating_add(now.since(self.filled_at))
            .min(self.capacity);
        self.filled_at = now.max(self.filled_at);
    }
}

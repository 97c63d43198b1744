//! When to try a peer again.

use std::time::Duration;

/// Waits after the first failures. A node that is just starting answers within them: the whole series takes 255 ms.
const FAST: [Duration; 6] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(100),
];
/// No peer waits longer for us than this after it has come back.
const MAX: Duration = Duration::from_secs(30);
/// Least wait after a failure that took its time or cost others something (time-out, DNS).
const SLOW_FLOOR: Duration = Duration::from_secs(1);
/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Refused, or no way to the network: known at once, and soon different.
    Immediate,
    /// Took its time.
    Slow,
}

/// Waits of 5 ms doubling to 100 ms, then growing by an eighth up to 30 s: whoever was away for a time is tried again
/// within about an eighth of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: usize,
    last: Duration,
}

impl Backoff {
    /// Note a failure; how long to wait. `random` spreads the later waits over ±12.5 %.
    pub(crate) fn failed(&mut self, failure: Failure, random: u8) -> Duration {
        self.last = match FAST.get(self.failures) {
            Some(&wait) => wait,
            None => (self.last + self.last / 8).min(MAX),
        };
        self.failures = self.failures.saturating_add(1);
        if failure == Failure::Slow {
            self.last = self.last.max(SLOW_FLOOR);
        }
        if self.failures <= FAST.len() && failure == Failure::Immediate {
            return self.last;
        }
        let eighth = self.last / 8;
        self.last - eighth + eighth * u32::from(random) / 128
    }

    /// Note a success, or a reason to begin anew.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_peer_is_tried_fast_and_then_ever_more_slowly() {
        let mut backoff = Backoff::default();
        let fast: Vec<_> = (0..6)
            .map(|_| backoff.failed(Failure::Immediate, 128).as_millis())
            .collect();
        assert_eq!(fast, [5, 10, 20, 40, 80, 100]);
        let mut elapsed = Duration::from_millis(255);
        for _ in 0..100 {
            let wait = backoff.failed(Failure::Immediate, 255);
            // Whatever the length of the outage, the peer is back soon in proportion.
            assert!(
                wait <= elapsed / 2 && wait <= MAX * 9 / 8,
                "{wait:?} after {elapsed:?}"
            );
            elapsed += wait;
        }
        assert!(backoff.failed(Failure::Immediate, 0) >= MAX * 7 / 8);
        backoff.reset();
        assert_eq!(backoff.failed(Failure::Immediate, 0), FAST[0]);
    }

    #[test]
    fn a_slow_failure_is_never_repeated_at_once() {
        assert!(Backoff::default().failed(Failure::Slow, 0) >= SLOW_FLOOR * 7 / 8);
    }
}

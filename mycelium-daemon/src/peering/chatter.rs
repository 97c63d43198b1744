//! A budget for log lines that strangers can cause: connecting and hanging up costs them nothing.

use std::time::Duration;

use tokio::time::Instant;

/// Lines at once.
const BURST: u32 = 20;
/// A further line every so often.
const REFILL: Duration = Duration::from_secs(1);

/// Twenty lines, then one a second; how many were left out is said with the next one.
#[derive(Debug)]
pub(super) struct Chatter {
    left: u32,
    refilled: Instant,
    left_out: u64,
}

impl Chatter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            refilled: now,
            left_out: 0,
        }
    }

    /// Whether a line may be written now, and if so how many were left out before it.
    pub(super) fn allow(&mut self, now: Instant) -> Option<u64> {
        while self.left < BURST && now.duration_since(self.refilled) >= REFILL {
            self.refilled += REFILL;
            self.left += 1;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_line_a_second_and_says_how_much_it_was() {
        let start = Instant::now();
        let mut chatter = Chatter::new(start);
        let mut written = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            written += u64::from(chatter.allow(now).is_some());
        }
        assert!((28..=30).contains(&written), "{written} lines");
        let left_out = chatter.allow(start + Duration::from_secs(11)).unwrap();
        assert!(left_out > 900, "{left_out}");
        // Quiet for an hour is no more than a burst.
        let later = start + Duration::from_secs(3600);
        assert_eq!(
            (0..100).filter(|_| chatter.allow(later).is_some()).count(),
            20
        );
    }
}

//! Hot path: see docs/architecture.md#hot-path. Which counters were seen (RFC 6479: a ring of words instead of a shift).

/// How far behind the highest counter one is still accepted.
pub const WINDOW: u64 = 8192;
/// Words of the ring: a window that begins and ends within a word touches one more than `WINDOW / 64`.
const WORDS: u64 = WINDOW / 64 + 1;
/// Words of a window that has not seen much, so that an idle session costs 16 bytes and not a kilobyte.
const FIRST_WORDS: usize = 2;

/// Why a counter is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It was accepted before.
    #[error("counter seen before")]
    Seen,
    /// It is `WINDOW` or more behind the highest: whether it was seen is forgotten.
    #[error("counter behind the window")]
    Old,
}

/// The window of one receiving key. Check before opening, accept after authentication.
#[derive(Clone, Debug)]
pub struct Window {
    highest: u64,
    /// Bit `c % 64` of word `c / 64 % WORDS`. Shorter than the ring until a counter needs the rest: up to there no two
    /// counters share a word, so growing moves nothing.
    seen: Vec<u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self {
            highest: 0,
            seen: vec![0; FIRST_WORDS],
        }
    }

    /// The highest counter accepted; 0 also if there was none yet.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether `counter` may be accepted. Changes nothing.
    pub fn check(&self, counter: u64) -> Result<(), ReplayError> {
        if counter > self.highest {
            return Ok(());
        }
        if self.highest - counter >= WINDOW {
            return Err(ReplayError::Old);
        }
        // Words beyond the end are those that nothing was ever written to.
        match self.seen.get(slot(counter)) {
            Some(word) if word & bit(counter) != 0 => Err(ReplayError::Seen),
            _ => Ok(()),
        }
    }

    /// Remember an authenticated `counter`. The only allocations are the few as the window fills for the first time.
    pub fn accept(&mut self, counter: u64) -> Result<(), ReplayError> {
        self.check(counter)?;
        if counter > self.highest {
            let (from, to) = (self.highest / 64, counter / 64);
            self.grow(to);
            for word in from + 1..=to.min(from + WORDS) {
                self.seen[slot_of_word(word)] = 0;
            }
            self.highest = counter;
        }
        self.seen[slot(counter)] |= bit(counter);
        Ok(())
    }

    /// Make room for `word` of the number line.
    fn grow(&mut self, word: u64) {
        let needed = usize::try_from(word + 1).map_or(RING, |words| words.min(RING));
        if needed > self.seen.len() {
            let len = needed.next_power_of_two().min(RING);
            self.seen.reserve_exact(len - self.seen.len());
            self.seen.resize(len, 0);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "129")]
const RING: usize = WORDS as usize;

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

fn slot(counter: u64) -> usize {
    slot_of_word(counter / 64)
}

fn slot_of_word(word: u64) -> usize {
    (word % WORDS) as usize
}

#[cfg(test)]
mod tests;

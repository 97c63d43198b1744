//! Where a run's decisions come from: a seed (tests) or a byte string (the fuzzer). Same scenarios, same harness.

use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A stream of decisions. Two equal streams give two equal runs.
#[derive(Debug)]
pub struct Choices(Source);

#[derive(Debug)]
enum Source {
    Seed(Box<ChaCha8Rng>),
    Bytes { bytes: Vec<u8>, at: usize },
}

impl Choices {
    /// Endless decisions from a number.
    pub fn from_seed(seed: u64) -> Self {
        Self(Source::Seed(Box::new(ChaCha8Rng::seed_from_u64(seed))))
    }

    /// Decisions from bytes. Past their end every decision is the quiet one: zero, and no to every chance.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Source::Bytes {
            bytes: bytes.to_vec(),
            at: 0,
        })
    }

    /// Whether the byte string is used up. Never, for a seed.
    pub fn exhausted(&self) -> bool {
        match &self.0 {
            Source::Seed(_) => false,
            Source::Bytes { bytes, at } => *at >= bytes.len(),
        }
    }

    /// A number in `0..bound`; 0 if `bound` is 0 or 1.
    pub fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 | 1 => 0,
            // A byte string spends one byte where one is enough: mutations then hit decisions, not padding.
            2..=256 => usize::from(self.byte()) * bound / 256,
            _ => {
                let wide = u128::from(self.word()) * bound as u128;
                usize::try_from(wide >> 64).unwrap_or(0)
            }
        }
    }

    /// One of these. Panics if there are none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A number in the range; its start if it is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        let span = range.end.saturating_sub(range.start);
        range.start + self.below(usize::try_from(span).unwrap_or(usize::MAX)) as u64
    }

    /// A duration in the range, at microsecond resolution.
    pub fn duration(&mut self, range: Range<Duration>) -> Duration {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.within(micros(range.start)..micros(range.end)))
    }

    /// Yes, in `per_million` of a million cases. 0 decides nothing and costs nothing.
    pub fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0
            && self.below(1_000_000) >= 1_000_000_usize.saturating_sub(per_million as usize)
    }

    /// A 32-byte seed for something that has its own generator.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for chunk in seed.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes());
        }
        seed
    }

    /// `len` arbitrary bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    /// One arbitrary byte.
    pub fn byte(&mut self) -> u8 {
        match &mut self.0 {
            Source::Seed(rng) => rng.next_u32().to_le_bytes()[0],
            Source::Bytes { bytes, at } => {
                let byte = bytes.get(*at).copied().unwrap_or(0);
                *at += 1;
                byte
            }
        }
    }

    /// Put `items` into an arbitrary order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn word(&mut self) -> u64 {
        match &mut self.0 {
            Source::Seed(rng) => rng.next_u64(),
            Source::Bytes { .. } => (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_their_bound_and_reach_it() {
        let mut choices = Choices::from_seed(1);
        for bound in [1, 2, 3, 255, 256, 257, 100_000] {
            let largest = (0..2000).map(|_| choices.below(bound)).max().unwrap();
            assert!(largest < bound);
            assert!(largest >= bound * 9 / 10 - bound.min(2) / 2);
        }
    }

    #[test]
    fn an_empty_byte_string_decides_nothing() {
        let mut choices = Choices::from_bytes(&[]);
        assert!(choices.exhausted());
        assert!(!choices.chance(999_999));
        assert_eq!((choices.below(7), choices.within(5..9)), (0, 5));
    }

    #[test]
    fn equal_seeds_decide_equally() {
        let mut one = Choices::from_seed(7);
        let mut two = Choices::from_seed(7);
        assert_eq!(one.seed(), two.seed());
        assert_eq!(one.chance(500_000), two.chance(500_000));
    }
}

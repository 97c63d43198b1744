//! Randomness of the core: a stream that the caller seeds, so that every run can be replayed.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A seeded stream of random bytes. As good as its seed: the daemon seeds it from the operating system.
#[derive(Debug)]
pub struct Rng(ChaCha12Rng);

impl Rng {
    /// The stream that belongs to `seed`.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// The next eight bytes as a number.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

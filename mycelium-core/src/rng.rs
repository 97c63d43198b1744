//! Randomness of the core: a stream that the caller seeds, so that every run can be replayed.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use zeroize::{Zeroize as _, Zeroizing};

/// A seeded stream of random bytes. As good as its seed: the daemon seeds it from the operating system.
#[derive(Debug)]
pub struct Rng(ChaCha12Rng);

impl Rng {
    /// The stream that belongs to `seed`, of which nothing stays behind but the stream.
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let stream = ChaCha12Rng::from_seed(seed);
        seed.zeroize();
        Self(stream)
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

    /// The next `N` bytes, which nobody can find out from this stream afterwards: it goes on from a new seed.
    ///
    /// For what must be forgotten. A plain stream keeps what it gave out lately, and the seed of all of it.
    pub fn secret<const N: usize>(&mut self) -> Zeroizing<[u8; N]> {
        let mut bytes = Zeroizing::new([0; N]);
        self.0.fill_bytes(&mut *bytes);
        let mut seed = self.array();
        *self = Self::from_seed(seed);
        seed.zeroize();
        bytes
    }
}

impl Drop for Rng {
    /// What is left could tell what it would have given out next.
    fn drop(&mut self) {
        self.0 = ChaCha12Rng::from_seed([0; 32]);
        // Otherwise nobody looks at it any more, and the compiler need not write it.
        std::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_can_be_replayed() {
        let draw = |mut rng: Rng| (rng.array::<5>(), *rng.secret::<7>(), rng.next_u64());
        assert_eq!(draw(Rng::from_seed([1; 32])), draw(Rng::from_seed([1; 32])));
        assert_ne!(draw(Rng::from_seed([1; 32])), draw(Rng::from_seed([2; 32])));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_stream_does_not_hold_what_it_gave_out_as_secret() {
        use std::io::{Read as _, Seek as _, SeekFrom};

        fn holds<T>(place: &T, bytes: &[u8]) -> usize {
            let mut memory = vec![0; size_of::<T>()];
            let place = std::ptr::from_ref(place).addr().try_into().unwrap();
            let mut file = std::fs::File::open("/proc/self/mem").unwrap();
            file.seek(SeekFrom::Start(place)).unwrap();
            file.read_exact(&mut memory).unwrap();
            let parts = bytes.chunks_exact(4);
            parts
                .filter(|part| memory.windows(4).any(|window| window == *part))
                .count()
        }
        let mut rng = Box::new(Rng::from_seed([1; 32]));
        let plain: [u8; 32] = rng.array();
        assert_ne!(holds(&*rng, &plain), 0);
        let secret = rng.secret::<64>();
        assert_eq!(holds(&*rng, &secret[..]), 0);
        assert_eq!(holds(&*rng, &plain), 0);
        let mut place = Box::new(Some(*rng));
        let last: [u8; 32] = place.as_mut().as_mut().unwrap().array();
        assert_ne!(holds(&*place, &last), 0);
        *place = None;
        assert_eq!(holds(&*place, &last), 0);
    }
}

//! Packets that came in two sealed halves because the path is narrow. Bounded per session and in all; the oldest goes.

use std::collections::{BTreeMap, VecDeque};

use crate::time::{Duration, Time};

const PER_SESSION: usize = 8;
const BYTES: usize = 1 << 20;
/// What a half counts for at least, so that small ones, of which there are more to look through, are bounded in number as well.
const LEAST: usize = 512;
const LIFETIME: Duration = Duration::from_secs(1);

/// A half that waits for the other one.
#[derive(Debug)]
struct Half {
    at: Time,
    second: bool,
    hop_limit: u8,
    bytes: Box<[u8]>,
}

/// The halves that wait, by session index and packet id.
#[derive(Debug, Default)]
pub(crate) struct Halves {
    waiting: BTreeMap<(u32, u32), Half>,
    order: VecDeque<(u32, u32)>,
    bytes: usize,
    dropped: u64,
}

impl Halves {
    /// Take a half. The plaintext of the packet and the lower hop limit if it is whole now.
    pub(crate) fn add(
        &mut self,
        session: u32,
        id: u32,
        second: bool,
        hop_limit: u8,
        bytes: &[u8],
        now: Time,
    ) -> Option<(Vec<u8>, u8)> {
        self.expire(now);
        let key = (session, id);
        if let Some(half) = self.waiting.get(&key) {
            if half.second == second {
                return None;
            }
            let half = self.remove(key)?;
            let hop_limit = half.hop_limit.min(hop_limit);
            let whole = match second {
                true => [&half.bytes, bytes].concat(),
                false => [bytes, &half.bytes].concat(),
            };
            return Some((whole, hop_limit));
        }
        let of_session = (session, 0)..=(session, u32::MAX);
        if self.waiting.range(of_session).count() >= PER_SESSION
            && let Some(oldest) = self.order.iter().find(|key| key.0 == session).copied()
        {
            self.drop_half(oldest);
        }
        let counted = bytes.len().max(LEAST);
        while self.bytes + counted > BYTES
            && let Some(&oldest) = self.order.front()
        {
            self.drop_half(oldest);
        }
        self.bytes += counted;
        self.order.push_back(key);
        self.waiting.insert(
            key,
            Half {
                at: now,
                second,
                hop_limit,
                bytes: bytes.into(),
            },
        );
        None
    }

    /// Halves whose other half did not come.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn expire(&mut self, now: Time) {
        while let Some(&key) = self.order.front()
            && self
                .waiting
                .get(&key)
                .is_none_or(|half| now.since(half.at) >= LIFETIME)
        {
            self.drop_half(key);
        }
    }

    fn drop_half(&mut self, key: (u32, u32)) {
        self.remove(key);
        self.dropped += 1;
    }

    fn remove(&mut self, key: (u32, u32)) -> Option<Half> {
        let half = self.waiting.remove(&key)?;
        self.bytes -= half.bytes.len().max(LEAST);
        if self.order.front() == Some(&key) {
            self.order.pop_front();
        } else {
            self.order.retain(|&other| other != key);
        }
        Some(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_meet_in_either_order_and_only_within_a_session() {
        let mut halves = Halves::default();
        let now = Time::ZERO;
        assert!(halves.add(1, 7, true, 9, b"cd", now).is_none());
        assert!(halves.add(2, 7, false, 9, b"xx", now).is_none());
        assert!(halves.add(1, 7, true, 9, b"zz", now).is_none());
        let whole = halves.add(1, 7, false, 5, b"ab", now);
        assert_eq!(whole, Some((b"abcd".to_vec(), 5)));
        assert_eq!(halves.waiting.len(), 1);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut halves = Halves::default();
        for id in 0..100 {
            halves.add(1, id, false, 9, &[0; 700], Time::ZERO);
        }
        assert_eq!(halves.waiting.len(), PER_SESSION);
        for session in 2..3000 {
            halves.add(session, 0, false, 9, &[0; 700], Time::ZERO);
        }
        assert!(halves.bytes <= BYTES);
        assert_eq!(halves.order.len(), halves.waiting.len());
        halves.add(1, 0, false, 9, b"", Time::from_millis(1000));
        assert_eq!((halves.waiting.len(), halves.bytes), (1, LEAST));
    }

    #[test]
    fn small_halves_cost_as_much_as_what_is_kept_for_them() {
        let mut halves = Halves::default();
        for session in 0..20_000 {
            halves.add(session, 0, false, 9, b"", Time::ZERO);
        }
        assert!(halves.waiting.len() <= 2048, "{}", halves.waiting.len());
    }
}

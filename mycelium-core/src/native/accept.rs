//! What strangers may cost: who gets a handshake, and sessions whose initiator has not shown itself yet.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::NativeConfig;
use crate::babel::Allowance;
use crate::babel::budget::Budget;
use crate::crypto::identity::PublicKey;
use crate::rng::Rng;
use crate::session::cookie::{CookieJar, CookieKey, REPLY_LEN, ReturnAddress};
use crate::session::fragment::{Fragment, Whole};
use crate::session::handshake::Established;
use crate::time::{Duration, Time};

/// Handshakes answered and not confirmed; one more, and the oldest goes. About 3 kB each.
const MAX_HALF_OPEN: usize = 1024;
/// The same of one remote key, and how many of them whoever showed no cookie may hold: replays of old first messages must
/// not keep out their author.
const MAX_HALF_OPEN_PER_REMOTE: usize = 4;
const MAX_UNPROVEN_PER_REMOTE: usize = 2;
/// How long an initiator has for its confirmation.
const LIFETIME: Duration = Duration::from_secs(5);
/// An initiator is not pushed out before it had so much time.
const MIN_STAY: Duration = Duration::from_millis(500);
/// A message 2 is sent again at most so often.
const REPEAT_INTERVAL: Duration = Duration::from_millis(100);
const COOKIES: Allowance = Allowance {
    per_second: 1000,
    burst: 1000,
};
/// Of what the addresses of links get, whatever strangers do: their keys have to be renewed.
const LINKED: Allowance = Allowance {
    per_second: 200,
    burst: 8,
};
const LINKED_EACH: Allowance = Allowance {
    per_second: 8,
    burst: 16,
};
/// How old what is known of the addresses of links may be.
const LINKED_FOR: Duration = Duration::from_secs(1);
/// Buckets that sources share by hash: a bound on memory, at the price of innocent neighbours.
const SOURCE_BUCKETS: usize = 1024;

/// What to do with a fragment of message 1 that has the right MAC1.
#[derive(Debug)]
pub(super) enum Admission {
    /// Collect it.
    Pass {
        /// Its source receives at its address.
        proven: bool,
    },
    /// Send this instead.
    Cookie([u8; REPLY_LEN]),
    /// Drop it.
    Drop,
}

/// One budget for everybody, and one for each source.
#[derive(Debug)]
struct Purse {
    all: Budget,
    sources: Box<[Budget]>,
}

impl Purse {
    fn new(all: Allowance, each: Allowance, now: Time) -> Self {
        Self {
            all: Budget::new(all, now),
            sources: vec![Budget::new(each, now); SOURCE_BUCKETS].into_boxed_slice(),
        }
    }

    fn is_ready(&mut self, bucket: usize, now: Time) -> bool {
        let source = self.sources.get_mut(bucket);
        source.is_some_and(|source| source.is_ready(now)) && self.all.is_ready(now)
    }

    fn take(&mut self, bucket: usize, now: Time) -> bool {
        self.is_ready(bucket, now)
            && self.all.take(now)
            && self
                .sources
                .get_mut(bucket)
                .is_some_and(|source| source.take(now))
    }
}

/// Budgets for strangers.
#[derive(Debug)]
pub(super) struct Gate {
    unproven: Purse,
    proven: Purse,
    who: Purse,
    cookies: Budget,
    /// Where links are, and until when that holds.
    linked: BTreeSet<IpAddr>,
    linked_until: Time,
    /// Handshakes and cookies for those.
    linked_handshakes: Purse,
    linked_cookies: Purse,
    hash_key: [u8; 32],
    jar: CookieJar,
}

impl Gate {
    pub(super) fn new(config: &NativeConfig, rng: &mut Rng, now: Time) -> Self {
        Self {
            unproven: Purse::new(config.handshakes, config.handshakes_per_source, now),
            proven: Purse::new(
                config.proven_handshakes,
                config.proven_handshakes_per_source,
                now,
            ),
            who: Purse::new(config.who, config.who_per_source, now),
            cookies: Budget::new(COOKIES, now),
            linked: BTreeSet::new(),
            linked_until: now,
            linked_handshakes: Purse::new(LINKED, LINKED_EACH, now),
            linked_cookies: Purse::new(COOKIES, LINKED_EACH, now),
            hash_key: rng.array(),
            jar: CookieJar::default(),
        }
    }

    /// Learn now and then where links are.
    pub(super) fn learn(&mut self, now: Time, linked: impl FnOnce() -> BTreeSet<IpAddr>) {
        if now >= self.linked_until {
            self.linked = linked();
            self.linked_until = now + LINKED_FOR;
        }
    }

    /// Judge a fragment before it is kept. Only when the budget of the unproven is spent does a cookie matter, so that a forged
    /// one can break nothing before.
    pub(super) fn admit(
        &mut self,
        fragment: &Fragment<'_>,
        from: SocketAddr,
        key: &CookieKey,
        rng: &mut Rng,
        now: Time,
    ) -> Admission {
        let bucket = self.bucket(from.ip());
        if self.unproven.is_ready(bucket, now) {
            return Admission::Pass { proven: false };
        }
        self.challenge(fragment, from, key, rng, now)
    }

    /// Let a fragment pass whose sender has a cookie; tell others one.
    pub(super) fn challenge(
        &mut self,
        fragment: &Fragment<'_>,
        from: SocketAddr,
        key: &CookieKey,
        rng: &mut Rng,
        now: Time,
    ) -> Admission {
        let address = ReturnAddress::link(from);
        if self.jar.verify(now, &address, fragment) {
            return Admission::Pass { proven: true };
        }
        if !self.pay_cookie(from, now) {
            return Admission::Drop;
        }
        match self.jar.reply(now, &address, fragment, key, rng) {
            Some(reply) => Admission::Cookie(reply),
            None => Admission::Drop,
        }
    }

    /// Pay for looking into a complete message; `false` if it must be dropped.
    pub(super) fn pay(&mut self, proven: bool, from: SocketAddr, now: Time) -> bool {
        let bucket = self.bucket(from.ip());
        let linked = proven && self.linked.contains(&from.ip());
        if linked && self.linked_handshakes.take(bucket, now) {
            return true;
        }
        match proven {
            true => self.proven.take(bucket, now),
            false => self.unproven.take(bucket, now),
        }
    }

    /// Whether a fragment shows that its source receives at its address.
    pub(super) fn is_proven(&self, fragment: &Fragment<'_>, from: SocketAddr, now: Time) -> bool {
        let address = ReturnAddress::link(from);
        self.jar.verify(now, &address, fragment)
    }

    /// The reply to a whole message for which there is room only with a cookie.
    pub(super) fn cookie(
        &mut self,
        whole: &Whole,
        sender: u32,
        from: SocketAddr,
        key: &CookieKey,
        rng: &mut Rng,
        now: Time,
    ) -> Option<[u8; REPLY_LEN]> {
        let address = ReturnAddress::link(from);
        let mac1 = &whole.mac1;
        let paid = self.pay_cookie(from, now);
        let jar = &mut self.jar;
        paid.then(|| jar.reply_to(now, &address, sender, mac1, key, rng))
    }

    /// Pay for telling our key.
    pub(super) fn pay_who(&mut self, from: SocketAddr, now: Time) -> bool {
        let bucket = self.bucket(from.ip());
        self.who.take(bucket, now)
    }

    fn pay_cookie(&mut self, from: SocketAddr, now: Time) -> bool {
        let bucket = self.bucket(from.ip());
        self.linked.contains(&from.ip()) && self.linked_cookies.take(bucket, now)
            || self.cookies.take(now)
    }

    fn bucket(&self, ip: IpAddr) -> usize {
        let hash = match ip {
            IpAddr::V4(ip) => blake3::keyed_hash(&self.hash_key, &ip.octets()),
            IpAddr::V6(ip) => blake3::keyed_hash(&self.hash_key, &ip.octets()[..8]),
        };
        let &[low, high, ..] = hash.as_bytes();
        usize::from(u16::from_le_bytes([low, high])) % SOURCE_BUCKETS
    }
}

/// A handshake that was answered.
#[derive(Debug)]
pub(super) struct HalfOpen {
    pub(super) established: Established,
    /// Where the answer went.
    pub(super) address: SocketAddr,
    pub(super) since: Time,
    /// BLAKE3 of message 1.
    pub(super) first_message: [u8; 32],
    /// Message 2 in its datagrams.
    answer: [Vec<u8>; 2],
    answered: Time,
    proven: bool,
}

impl HalfOpen {
    pub(super) fn new(
        established: Established,
        address: SocketAddr,
        first_message: [u8; 32],
        answer: [Vec<u8>; 2],
        proven: bool,
        now: Time,
    ) -> Self {
        Self {
            established,
            address,
            since: now,
            first_message,
            answer,
            answered: now,
            proven,
        }
    }

    fn index(&self) -> u32 {
        self.established.local_index
    }

    /// The answer once more, if the last one was long enough ago.
    pub(super) fn repeat(&mut self, now: Time) -> Option<&[Vec<u8>; 2]> {
        if now.since(self.answered) < REPEAT_INTERVAL {
            return None;
        }
        self.answered = now;
        Some(&self.answer)
    }
}

/// Whether there is room for a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is.
    Free,
    /// Only for who shows a cookie.
    WithCookie,
    /// None for this moment.
    None,
}

/// The table of them, oldest first.
#[derive(Debug, Default)]
pub(super) struct HalfOpens {
    entries: VecDeque<HalfOpen>,
}

impl HalfOpens {
    /// The one that answers this first message.
    pub(super) fn of_message(&mut self, first_message: &[u8; 32]) -> Option<&mut HalfOpen> {
        let mut entries = self.entries.iter_mut();
        entries.find(|entry| entry.first_message == *first_message)
    }

    /// Whether another handshake of `remote` may be answered.
    pub(super) fn room(&self, remote: &PublicKey, proven: bool, now: Time) -> Room {
        let count = self.of(remote).count();
        let unproven = self.of(remote).filter(|entry| !entry.proven).count();
        if !proven {
            return match unproven < MAX_UNPROVEN_PER_REMOTE && count < MAX_HALF_OPEN_PER_REMOTE {
                true => Room::Free,
                false => Room::WithCookie,
            };
        }
        let replaceable = |entry: &HalfOpen| now.since(entry.since) >= MIN_STAY;
        match count < MAX_HALF_OPEN_PER_REMOTE || self.of(remote).next().is_some_and(replaceable) {
            true => Room::Free,
            false => Room::None,
        }
    }

    /// Add one; the index of the one that made room. There must be [`Room`].
    pub(super) fn insert(&mut self, half_open: HalfOpen) -> Option<u32> {
        let remote = half_open.established.remote_key;
        let victim = if self.of(&remote).count() >= MAX_HALF_OPEN_PER_REMOTE {
            let mut entries = self.entries.iter();
            entries.position(|entry| entry.established.remote_key == remote)
        } else {
            (self.entries.len() >= MAX_HALF_OPEN).then_some(0)
        };
        let displaced = victim.and_then(|at| self.entries.remove(at));
        self.entries.push_back(half_open);
        displaced.map(|entry| entry.index())
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut HalfOpen> {
        self.entries.iter_mut().find(|entry| entry.index() == index)
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<HalfOpen> {
        let mut entries = self.entries.iter();
        let at = entries.position(|entry| entry.index() == index)?;
        self.entries.remove(at)
    }

    /// When the oldest is to be forgotten.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.entries.front().map(|entry| entry.since + LIFETIME)
    }

    /// Forget one that is too old; its index.
    pub(super) fn pop_expired(&mut self, now: Time) -> Option<u32> {
        if self.deadline()? > now {
            return None;
        }
        self.entries.pop_front().map(|entry| entry.index())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn of<'a>(&'a self, remote: &PublicKey) -> impl Iterator<Item = &'a HalfOpen> {
        let remote = *remote;
        let entries = self.entries.iter();
        entries.filter(move |entry| entry.established.remote_key == remote)
    }
}

//! Two halves to a message, in bounded space (docs/protocol.md §14.4).
//!
//! Whoever can see a first message can forge halves of it (without a network key, MAC1 keeps out only those who do not know the
//! receiver's key). So a half is never trusted to be the one: up to two that claim the same place are kept, and what makes a
//! message whole is its hash.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{DIGEST_LEN, Fragment, LIFETIME, digest, hash};
use crate::addr::Subnet;
use crate::io::IdentityId;
use crate::session::mac::MAC_LEN;
use crate::time::Time;

/// Halves kept that claim the same place in the same message.
const VARIANTS: usize = 2;

/// A message that is what its fragments say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its bytes.
    pub message: Vec<u8>,
    /// Its BLAKE3, all 32 bytes: what tells a repeated message.
    pub hash: [u8; 32],
    /// MAC1 of its first half, which a cookie reply answers whatever half came last.
    pub mac1: [u8; MAC_LEN],
}

/// What a fragment did to the halves that were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// It waits for the other half.
    New,
    /// It was there.
    Duplicate,
    /// Enough others claim its place. The genuine one is not lost by this if its other half is there: it would have matched.
    TooMany,
}

/// What claims to be the first and the second half of one message.
#[derive(Debug, Default)]
struct Claims([Vec<Claim>; 2]);

#[derive(Debug)]
struct Claim {
    half: Box<[u8]>,
    mac1: [u8; MAC_LEN],
}

impl Claims {
    /// The message, if `fragment` completes one.
    fn complete(&self, fragment: &Fragment<'_>) -> Option<Whole> {
        let place = usize::from(fragment.number);
        self.0[1 - place].iter().find_map(|other| {
            let (halves, mac1) = match place {
                0 => ([fragment.half, &other.half], *fragment.mac1),
                _ => ([&other.half, fragment.half], other.mac1),
            };
            let hash = hash(&halves);
            (digest(&hash) == fragment.digest).then(|| Whole {
                message: halves.concat(),
                hash,
                mac1,
            })
        })
    }

    fn keep(&mut self, fragment: &Fragment<'_>) -> Kept {
        let claims = &mut self.0[usize::from(fragment.number)];
        if claims.iter().any(|claim| *claim.half == *fragment.half) {
            Kept::Duplicate
        } else if claims.len() < VARIANTS {
            claims.push(Claim {
                half: fragment.half.into(),
                mac1: *fragment.mac1,
            });
            Kept::New
        } else {
            Kept::TooMany
        }
    }
}

/// The second message of one pending handshake. Only for fragments whose reply MAC is right, so only the responder can fill it.
#[derive(Debug, Default)]
pub struct SecondMessage(Option<Second>);

#[derive(Debug)]
struct Second {
    arrived: Time,
    sender: u32,
    digest: [u8; DIGEST_LEN],
    claims: Claims,
}

impl SecondMessage {
    /// Take a fragment. The message, if it is complete now.
    ///
    /// A fragment of another message than the last takes its place: the responder answered again.
    pub fn add(&mut self, now: Time, fragment: &Fragment<'_>) -> Option<Whole> {
        let same = |second: &Second| {
            (second.sender, second.digest) == (fragment.sender, fragment.digest)
                && now.since(second.arrived) < LIFETIME
        };
        let second = match self.0.take() {
            Some(second) if same(&second) => second,
            _ => Second {
                arrived: now,
                sender: fragment.sender,
                digest: fragment.digest,
                claims: Claims::default(),
            },
        };
        let whole = second.claims.complete(fragment);
        if whole.is_none() {
            self.0.insert(second).claims.keep(fragment);
        }
        whole
    }
}

/// Whose fragments are counted together: a /64, or the address that datagrams come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u128);

impl Source {
    /// The /64 of the outer source of a data packet.
    pub fn overlay(subnet: Subnet) -> Self {
        Self(subnet.network_address().to_bits())
    }

    /// The address that a datagram comes from: an IPv4 address, or the /64 of an IPv6 address, which is what one host has.
    pub fn underlay(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self::overlay(Subnet::containing(v6)),
        }
    }
}

/// Where a fragment came from and went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which of our identities it is for.
    pub identity: IdentityId,
    /// Whom it comes from, as it says.
    pub source: Source,
    /// Over which link it came, as the caller numbers them.
    pub link: u32,
    /// Its sender showed a cookie: it is where it says to be.
    pub proven: bool,
}

/// Bounds of a [`Reassembly`]. A place holds at most four halves, 2.6 kB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Incomplete messages at once.
    pub messages: usize,
    /// The same that came over one link.
    pub messages_per_link: usize,
    /// The same from one source.
    pub messages_per_source: usize,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self {
            messages: 1024,
            messages_per_link: 256,
            messages_per_source: 4,
        }
    }
}

/// What became of fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReassemblyStats {
    /// Messages completed.
    pub completed: u64,
    /// Fragments that were here already.
    pub duplicates: u64,
    /// Fragments that claim a place which enough others claim: some of them are forged.
    pub forged: u64,
    /// Incomplete messages whose time was over.
    pub expired: u64,
    /// Incomplete messages that made room for newer ones.
    pub evicted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    identity: IdentityId,
    source: Source,
    sender: u32,
    digest: [u8; DIGEST_LEN],
}

impl Key {
    fn new(route: Route, fragment: &Fragment<'_>) -> Self {
        Self {
            identity: route.identity,
            source: route.source,
            sender: fragment.sender,
            digest: fragment.digest,
        }
    }
}

#[derive(Debug)]
struct Partial {
    arrived: Time,
    ordinal: u64,
    link: u32,
    proven: bool,
    claims: Claims,
}

/// The first messages of which one half is here. When it is full, the oldest makes room: of the same source, else of the same
/// link, so that one neighbour cannot push out what came over another. Of one source, those of a sender that only claims to be
/// there make room for those of one that showed a cookie.
#[derive(Debug)]
pub struct Reassembly {
    limits: ReassemblyLimits,
    partials: BTreeMap<Key, Partial>,
    /// By order of arrival, of all, of a source, of a link.
    order: BTreeMap<u64, Key>,
    by_source: BTreeSet<(Source, u64)>,
    by_link: BTreeMap<u32, BTreeSet<u64>>,
    next_ordinal: u64,
    stats: ReassemblyStats,
}

impl Reassembly {
    /// An empty table.
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self {
            limits,
            partials: BTreeMap::new(),
            order: BTreeMap::new(),
            by_source: BTreeSet::new(),
            by_link: BTreeMap::new(),
            next_ordinal: 0,
            stats: ReassemblyStats::default(),
        }
    }

    /// What became of fragments so far.
    pub fn stats(&self) -> &ReassemblyStats {
        &self.stats
    }

    /// How many messages are incomplete.
    pub fn len(&self) -> usize {
        self.partials.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// When the oldest is to be forgotten.
    pub fn poll_timeout(&self) -> Option<Time> {
        let (_, key) = self.order.first_key_value()?;
        let partial = self.partials.get(key)?;
        Some(partial.arrived + LIFETIME)
    }

    /// Whether taking a fragment would push another message of the same source out. If its sender has not shown a cookie it may
    /// be anybody, and is better told one.
    pub fn is_crowded(&mut self, now: Time, route: Route, fragment: &Fragment<'_>) -> bool {
        self.expire(now);
        let key = Key::new(route, fragment);
        !self.partials.contains_key(&key)
            && self.of_source(key.source).count() >= self.limits.messages_per_source
    }

    /// Take a fragment of a first message whose MAC1 was right. The message, if it is complete now.
    pub fn add(&mut self, now: Time, route: Route, fragment: &Fragment<'_>) -> Option<Whole> {
        self.expire(now);
        let key = Key::new(route, fragment);
        let Some(partial) = self.partials.get_mut(&key) else {
            self.insert(now, key, route, fragment);
            return None;
        };
        partial.proven |= route.proven;
        let whole = partial.claims.complete(fragment);
        if whole.is_some() {
            self.remove(&key);
            self.stats.completed += 1;
            return whole;
        }
        match partial.claims.keep(fragment) {
            Kept::New => {}
            Kept::Duplicate => self.stats.duplicates += 1,
            Kept::TooMany => self.stats.forged += 1,
        }
        None
    }

    /// Forget what is too old. Also done whenever a fragment comes.
    pub fn expire(&mut self, now: Time) {
        while self.poll_timeout().is_some_and(|at| at <= now) {
            self.remove_ordinal(self.order.first_key_value().map(|(ordinal, _)| *ordinal));
            self.stats.expired += 1;
        }
    }

    /// The ordinals of the messages of a source, oldest first.
    fn of_source(&self, source: Source) -> impl Iterator<Item = u64> {
        let range = self.by_source.range((source, 0)..=(source, u64::MAX));
        range.map(|&(_, ordinal)| ordinal)
    }

    fn insert(&mut self, now: Time, key: Key, route: Route, fragment: &Fragment<'_>) {
        let link = route.link;
        self.make_room(key.source, link);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.order.insert(ordinal, key);
        self.by_source.insert((key.source, ordinal));
        self.by_link.entry(link).or_default().insert(ordinal);
        let mut claims = Claims::default();
        claims.keep(fragment);
        let partial = Partial {
            arrived: now,
            ordinal,
            link,
            proven: route.proven,
            claims,
        };
        self.partials.insert(key, partial);
    }

    fn make_room(&mut self, source: Source, link: u32) {
        if self.of_source(source).count() >= self.limits.messages_per_source {
            let is_proven = |ordinal: &u64| {
                let partial = self
                    .order
                    .get(ordinal)
                    .and_then(|key| self.partials.get(key));
                partial.is_some_and(|partial| partial.proven)
            };
            let unproven = self.of_source(source).find(|ordinal| !is_proven(ordinal));
            let oldest = unproven.or_else(|| self.of_source(source).next());
            self.evict(oldest);
        }
        let of_link = self.by_link.get(&link);
        let link_is_full = of_link.is_some_and(|of| of.len() >= self.limits.messages_per_link);
        if link_is_full || self.partials.len() >= self.limits.messages {
            let of_link = of_link.and_then(|of| of.first().copied());
            let of_all = || self.order.first_key_value().map(|(ordinal, _)| *ordinal);
            self.evict(of_link.or_else(of_all));
        }
    }

    fn evict(&mut self, ordinal: Option<u64>) {
        self.remove_ordinal(ordinal);
        self.stats.evicted += u64::from(ordinal.is_some());
    }

    fn remove(&mut self, key: &Key) {
        if let Some(partial) = self.partials.remove(key) {
            self.order.remove(&partial.ordinal);
            self.by_source.remove(&(key.source, partial.ordinal));
            if let Entry::Occupied(mut of_link) = self.by_link.entry(partial.link) {
                of_link.get_mut().remove(&partial.ordinal);
                if of_link.get().is_empty() {
                    of_link.remove();
                }
            }
        }
    }

    fn remove_ordinal(&mut self, ordinal: Option<u64>) {
        if let Some(key) = ordinal.and_then(|ordinal| self.order.get(&ordinal).copied()) {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;

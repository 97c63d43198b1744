//! Handshake messages on the wire, each in two halves because one datagram may not carry the whole, and the bounded table that
//! puts first messages together again (docs/protocol.md §14.3, §14.4).
//!
//! Whoever can see a first message can forge halves of it (without a network key, MAC1 keeps out only those who do not know the
//! receiver's key). So a half is never trusted to be the one: up to two that claim the same place are kept, and what makes a
//! message whole is its hash.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::cookie::REPLY_LEN;
use super::handshake::{MESSAGE_1_LEN, MESSAGE_2_LEN};
use super::mac::{MAC_LEN, MACS_LEN, MacKey, ReplyKey, Scope};
use crate::addr::Subnet;
use crate::crypto::aead::TAG_LEN;
use crate::io::IdentityId;
use crate::time::{Duration, Time};

/// Bytes before the half of the message.
pub const HEADER_LEN: usize = 20;
/// Bytes of a fragment of a first message.
pub const UNIT_1_LEN: usize = HEADER_LEN + MESSAGE_1_LEN / 2 + MACS_LEN;
/// Bytes of a fragment of a second message.
pub const UNIT_2_LEN: usize = HEADER_LEN + MESSAGE_2_LEN / 2 + MACS_LEN;
/// How long one half waits for the other.
pub const LIFETIME: Duration = Duration::from_secs(2);

const HASH_LEN: usize = 32;
const DIGEST_LEN: usize = 8;
/// Halves kept that claim the same place in the same message.
const VARIANTS: usize = 2;

const _: () = assert!(MESSAGE_1_LEN.is_multiple_of(2) && MESSAGE_2_LEN.is_multiple_of(2));

/// Which message of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// Initiator to responder.
    One,
    /// Responder to initiator.
    Two,
}

impl MessageKind {
    const fn byte(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Bytes of the whole message.
    const fn len(self) -> usize {
        match self {
            Self::One => MESSAGE_1_LEN,
            Self::Two => MESSAGE_2_LEN,
        }
    }
}

const COOKIE_REPLY: u8 = 3;

/// Why bytes are not a handshake unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Too short, or not the length that the rest says.
    #[error("wrong length")]
    Length,
    /// Neither message nor cookie reply.
    #[error("unknown kind")]
    Kind,
    /// Not one of two fragments, or a cookie reply that is not one of one.
    #[error("impossible fragment number")]
    Number,
    /// An index is 0 that must not be, or is not that must.
    #[error("impossible index")]
    Index,
}

/// What follows the zero index in a data packet, or the type byte in a datagram of a native link. Nothing in it is authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit<'a> {
    /// Of a message.
    Fragment(Fragment<'a>),
    /// Instead of message 2.
    CookieReply(CookieReply<'a>),
}

impl<'a> Unit<'a> {
    /// Read a unit. Its length is exactly what its header says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UnitError> {
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(UnitError::Length)?;
        let [
            kind,
            numbers,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            r0,
            r1,
            r2,
            r3,
            digest @ ..,
        ] = *header;
        let sender = u32::from_be_bytes([s0, s1, s2, s3]);
        let receiver = u32::from_be_bytes([r0, r1, r2, r3]);
        let (kind, number) = match (kind, numbers) {
            (1, 0x20 | 0x21) => (MessageKind::One, numbers & 1),
            (2, 0x20 | 0x21) => (MessageKind::Two, numbers & 1),
            (COOKIE_REPLY, 0x10) => {
                return CookieReply::parse(bytes, sender, receiver).map(Self::CookieReply);
            }
            (1 | 2 | COOKIE_REPLY, _) => return Err(UnitError::Number),
            _ => return Err(UnitError::Kind),
        };
        if sender == 0 || (receiver == 0) != (kind == MessageKind::One) {
            return Err(UnitError::Index);
        }
        let (half, macs) = rest
            .split_last_chunk::<MACS_LEN>()
            .ok_or(UnitError::Length)?;
        if half.len() != kind.len() / 2 {
            return Err(UnitError::Length);
        }
        let (mac1, mac2) = halves(macs);
        Ok(Self::Fragment(Fragment {
            kind,
            number,
            sender,
            receiver,
            digest,
            half,
            mac1,
            mac2,
            bytes,
        }))
    }
}

fn halves(macs: &[u8; MACS_LEN]) -> (&[u8; MAC_LEN], &[u8; MAC_LEN]) {
    let (first, rest) = macs.split_first_chunk().expect("MACS_LEN is twice MAC_LEN");
    (
        first,
        rest.first_chunk().expect("MACS_LEN is twice MAC_LEN"),
    )
}

/// One half of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    kind: MessageKind,
    number: u8,
    sender: u32,
    receiver: u32,
    digest: [u8; DIGEST_LEN],
    half: &'a [u8],
    mac1: &'a [u8; MAC_LEN],
    mac2: &'a [u8; MAC_LEN],
    bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Of which message.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The index of whoever sends; not 0.
    pub fn sender(&self) -> u32 {
        self.sender
    }

    /// The index of whom it goes to; 0 in message 1 and only there.
    pub fn receiver(&self) -> u32 {
        self.receiver
    }

    /// 0 for the first half, 1 for the second.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// MAC1, as it is.
    pub fn mac1(&self) -> &'a [u8; MAC_LEN] {
        self.mac1
    }

    /// MAC2, or in a second message the reply MAC, as it is.
    pub fn mac2(&self) -> &'a [u8; MAC_LEN] {
        self.mac2
    }

    /// The whole unit.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// "Come back with this in MAC2": the answer of somebody under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply<'a> {
    receiver: u32,
    nonce: &'a [u8; 24],
    cookie: &'a [u8; MAC_LEN],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> CookieReply<'a> {
    fn parse(bytes: &'a [u8], sender: u32, receiver: u32) -> Result<Self, UnitError> {
        if sender != 0 || receiver == 0 {
            return Err(UnitError::Index);
        }
        let bytes: &[u8; REPLY_LEN] = bytes.try_into().map_err(|_| UnitError::Length)?;
        let (_, rest) = bytes.split_first_chunk::<12>().ok_or(UnitError::Length)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(UnitError::Length)?;
        let (cookie, rest) = rest.split_first_chunk().ok_or(UnitError::Length)?;
        let tag = rest.first_chunk().ok_or(UnitError::Length)?;
        Ok(Self {
            receiver,
            nonce,
            cookie,
            tag,
        })
    }

    /// The first 12 bytes of a reply to whoever knows its handshake as `receiver`.
    pub(super) fn header(receiver: u32) -> [u8; 12] {
        let mut header = [0; 12];
        header[0] = COOKIE_REPLY;
        header[1] = 1 << 4;
        header[8..].copy_from_slice(&receiver.to_be_bytes());
        header
    }

    /// The index that the fragment it answers had as sender.
    pub fn receiver(&self) -> u32 {
        self.receiver
    }

    pub(super) fn nonce(&self) -> &'a [u8; 24] {
        self.nonce
    }

    /// Ciphertext and tag.
    pub(super) fn sealed(&self) -> (&'a [u8; MAC_LEN], &'a [u8; TAG_LEN]) {
        (self.cookie, self.tag)
    }
}

/// The two units of a first message. MAC2 is zero until a [`CookieMemory`](super::cookie::CookieMemory) puts it in.
///
/// `sender` is the index that message 1 carries.
pub fn split_first(message: &[u8], sender: u32, scope: Scope, mac_key: &MacKey) -> [Vec<u8>; 2] {
    let header = Header {
        kind: MessageKind::One,
        sender,
        receiver: 0,
    };
    header.split(message, scope, mac_key)
}

/// The two units of a second message. `sender` is the index it carries, `receiver` that of the first message.
pub fn split_second(
    message: &[u8],
    sender: u32,
    receiver: u32,
    scope: Scope,
    mac_key: &MacKey,
    reply_key: &ReplyKey,
) -> [Vec<u8>; 2] {
    let header = Header {
        kind: MessageKind::Two,
        sender,
        receiver,
    };
    let mut units = header.split(message, scope, mac_key);
    for unit in &mut units {
        if let Some(mac) = reply_key.mac(unit)
            && let Some(field) = unit.last_chunk_mut()
        {
            *field = mac;
        }
    }
    units
}

struct Header {
    kind: MessageKind,
    sender: u32,
    receiver: u32,
}

impl Header {
    fn split(&self, message: &[u8], scope: Scope, mac_key: &MacKey) -> [Vec<u8>; 2] {
        let digest = digest(&hash(&[message]));
        let (first, second) = message.split_at(message.len() / 2);
        [(0x20, first), (0x21, second)].map(|(number, half)| {
            let mut unit = Vec::with_capacity(HEADER_LEN + half.len() + MACS_LEN);
            unit.extend_from_slice(&[self.kind.byte(), number, 0, 0]);
            unit.extend_from_slice(&self.sender.to_be_bytes());
            unit.extend_from_slice(&self.receiver.to_be_bytes());
            unit.extend_from_slice(&digest);
            unit.extend_from_slice(half);
            let end = unit.len();
            unit.extend_from_slice(&[0; MACS_LEN]);
            if let Some(mac1) = mac_key.mac1(scope, &unit) {
                unit[end..end + MAC_LEN].copy_from_slice(&mac1);
            }
            unit
        })
    }
}

fn hash(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn digest(hash: &[u8; HASH_LEN]) -> [u8; DIGEST_LEN] {
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(&hash[..DIGEST_LEN]);
    digest
}

/// A message that is what its fragments say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its bytes.
    pub message: Vec<u8>,
    /// Its BLAKE3, all 32 bytes: what tells a repeated message.
    pub hash: [u8; 32],
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
struct Claims([Vec<Box<[u8]>>; 2]);

impl Claims {
    /// The message, if `half` completes one.
    fn complete(&self, place: usize, half: &[u8], expected: &[u8; DIGEST_LEN]) -> Option<Whole> {
        self.0[1 - place].iter().find_map(|other| {
            let halves = match place {
                0 => [half, other],
                _ => [other, half],
            };
            let hash = hash(&halves);
            (digest(&hash) == *expected).then(|| Whole {
                message: halves.concat(),
                hash,
            })
        })
    }

    fn keep(&mut self, place: usize, half: &[u8]) -> Kept {
        let claims = &mut self.0[place];
        if claims.iter().any(|claim| **claim == *half) {
            Kept::Duplicate
        } else if claims.len() < VARIANTS {
            claims.push(half.into());
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
        let place = usize::from(fragment.number);
        let whole = second.claims.complete(place, fragment.half, &second.digest);
        if whole.is_none() {
            self.0.insert(second).claims.keep(place, fragment.half);
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

#[derive(Debug)]
struct Partial {
    arrived: Time,
    ordinal: u64,
    link: u32,
    claims: Claims,
}

/// The first messages of which one half is here. When it is full, the oldest makes room: of the same source, else of the same
/// link, so that one neighbour cannot push out what came over another.
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

    /// Take a fragment of a first message whose MAC1 was right. The message, if it is complete now.
    pub fn add(&mut self, now: Time, route: Route, fragment: &Fragment<'_>) -> Option<Whole> {
        self.expire(now);
        let key = Key {
            identity: route.identity,
            source: route.source,
            sender: fragment.sender,
            digest: fragment.digest,
        };
        let place = usize::from(fragment.number);
        let Some(partial) = self.partials.get_mut(&key) else {
            self.insert(now, key, route.link, place, fragment.half);
            return None;
        };
        let whole = partial.claims.complete(place, fragment.half, &key.digest);
        if whole.is_some() {
            self.remove(&key);
            self.stats.completed += 1;
            return whole;
        }
        match partial.claims.keep(place, fragment.half) {
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

    fn insert(&mut self, now: Time, key: Key, link: u32, place: usize, half: &[u8]) {
        self.make_room(key.source, link);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.order.insert(ordinal, key);
        self.by_source.insert((key.source, ordinal));
        self.by_link.entry(link).or_default().insert(ordinal);
        let mut claims = Claims::default();
        claims.keep(place, half);
        let partial = Partial {
            arrived: now,
            ordinal,
            link,
            claims,
        };
        self.partials.insert(key, partial);
    }

    fn make_room(&mut self, source: Source, link: u32) {
        let mut of_source = self.by_source.range((source, 0)..=(source, u64::MAX));
        if of_source.clone().count() >= self.limits.messages_per_source {
            let oldest = of_source.next().map(|(_, ordinal)| *ordinal);
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

//! Handshake messages on the wire: up to two fragments each, because one datagram may not carry the whole, and the bounded
//! table that puts them together again.
//!
//! Whoever can see a handshake can forge fragments of it (without a network key MAC1 keeps out only those who do not know the
//! receiver's key). So a chunk is never trusted to be the one: up to two that claim the same place are kept, and what makes a
//! message whole is its hash.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use super::cookie::REPLY_LEN;
use super::handshake::{MESSAGE_1_LEN, MESSAGE_2_LEN};
use super::mac::{MAC_LEN, MACS_LEN, MacKey, Scope};
use crate::addr::Subnet;
use crate::crypto::aead::TAG_LEN;
use crate::time::{Duration, Time};

/// Bytes before the chunk.
pub const HEADER_LEN: usize = 20;
/// Longest unit in the body of a data packet of 1162 bytes, which every link passes: 4 bytes of packet header, 36 of data
/// header and the zero index come before it.
pub const MAX_UNIT_LEN: usize = 1162 - 44;

const DIGEST_LEN: usize = 8;
/// Chunks kept that claim the same place in the same message.
const VARIANTS: usize = 2;

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
    /// Not one of one or two fragments.
    #[error("impossible fragment number")]
    Number,
    /// An index is 0 that must not be, or is not that must.
    #[error("impossible index")]
    Index,
}

/// What follows the zero index in a data packet, or the type byte in a datagram. Nothing in it is authenticated yet.
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
        let (count, number) = (numbers >> 4, numbers & 0x0f);
        if !(1..=2).contains(&count) || number >= count {
            return Err(UnitError::Number);
        }
        let kind = match kind {
            1 => MessageKind::One,
            2 => MessageKind::Two,
            COOKIE_REPLY => {
                return CookieReply::parse(bytes, sender, receiver).map(Self::CookieReply);
            }
            _ => return Err(UnitError::Kind),
        };
        if sender == 0 || (receiver == 0) != (kind == MessageKind::One) {
            return Err(UnitError::Index);
        }
        let (chunk, macs) = rest
            .split_last_chunk::<MACS_LEN>()
            .ok_or(UnitError::Length)?;
        if chunk.len() != chunk_len(kind.len(), count, number) {
            return Err(UnitError::Length);
        }
        let (mac1, mac2) = halves(macs);
        Ok(Self::Fragment(Fragment {
            kind,
            count,
            number,
            sender,
            receiver,
            digest,
            chunk,
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

/// Messages are cut in half, the first half being the longer one.
const fn chunk_len(message: usize, count: u8, number: u8) -> usize {
    match (count, number) {
        (1, _) => message,
        (_, 0) => message.div_ceil(2),
        _ => message / 2,
    }
}

/// A part of a message, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    kind: MessageKind,
    count: u8,
    number: u8,
    sender: u32,
    receiver: u32,
    digest: [u8; DIGEST_LEN],
    chunk: &'a [u8],
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

    /// MAC1, as it is.
    pub fn mac1(&self) -> &'a [u8; MAC_LEN] {
        self.mac1
    }

    /// MAC2, as it is.
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

/// Cut `message` into units with their MAC1: one if `max_unit_len` bytes are enough for it, else two.
///
/// `sender` is our index, `receiver` theirs, or 0 in message 1. MAC2 is zero until a
/// [`CookieMemory`](super::cookie::CookieMemory) puts it in.
pub fn split(
    kind: MessageKind,
    message: &[u8],
    sender: u32,
    receiver: u32,
    scope: Scope,
    mac_key: &MacKey,
    max_unit_len: usize,
) -> Vec<Vec<u8>> {
    let count = match message.len() + HEADER_LEN + MACS_LEN {
        len if len <= max_unit_len => 1,
        _ => 2,
    };
    let digest = digest(&[message]);
    let middle = chunk_len(message.len(), count, 0);
    let chunks = [&message[..middle], &message[middle..]];
    let units = chunks.iter().zip(0u8..).take(usize::from(count));
    units
        .map(|(chunk, number)| {
            let mut unit = Vec::with_capacity(HEADER_LEN + chunk.len() + MACS_LEN);
            unit.extend_from_slice(&[kind.byte(), count << 4 | number, 0, 0]);
            unit.extend_from_slice(&sender.to_be_bytes());
            unit.extend_from_slice(&receiver.to_be_bytes());
            unit.extend_from_slice(&digest);
            unit.extend_from_slice(chunk);
            unit.extend_from_slice(&[0; MACS_LEN]);
            if let Some(mac1) = mac_key.mac1(scope, &unit) {
                let at = unit.len() - MACS_LEN;
                unit[at..at + MAC_LEN].copy_from_slice(&mac1);
            }
            unit
        })
        .collect()
}

fn digest(parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..DIGEST_LEN]);
    digest
}

/// Where fragments come from, as far as their number is limited: a /64, or an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u8, u64);

impl Source {
    /// The /64 of the outer source of a data packet.
    pub fn overlay(subnet: Subnet) -> Self {
        Self(0, subnet.bits())
    }

    /// The address that a datagram comes from.
    pub fn underlay(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(4, u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self(6, leading_bits(v6)),
        }
    }
}

const fn leading_bits(address: Ipv6Addr) -> u64 {
    Subnet::containing(address).bits()
}

/// Bounds of a [`Reassembly`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Incomplete messages at once; the oldest makes room. Each holds at most four chunks, 2.6 kB.
    pub messages: usize,
    /// The same from one source.
    pub messages_per_source: usize,
    /// How long the other half is waited for.
    pub lifetime: Duration,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self {
            messages: 1024,
            messages_per_source: 8,
            lifetime: Duration::from_secs(2),
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
    /// Fragments that claim a place which enough others claim, or messages that are not what they say: forged.
    pub forged: u64,
    /// Incomplete messages whose time was over.
    pub expired: u64,
    /// Incomplete messages that made room for newer ones.
    pub evicted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: Source,
    kind: MessageKind,
    sender: u32,
    receiver: u32,
    digest: [u8; DIGEST_LEN],
}

#[derive(Debug)]
struct Partial {
    arrived: Time,
    ordinal: u64,
    /// What claims to be the first and the second half.
    claims: [Vec<Box<[u8]>>; 2],
}

/// The messages of which one half is here.
#[derive(Debug)]
pub struct Reassembly {
    limits: ReassemblyLimits,
    partials: BTreeMap<Key, Partial>,
    /// By order of arrival.
    order: BTreeMap<u64, Key>,
    by_source: BTreeSet<(Source, u64)>,
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
        Some(partial.arrived + self.limits.lifetime)
    }

    /// Take a fragment whose MAC1 was right. The message, if it is complete now.
    pub fn add(&mut self, now: Time, source: Source, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        self.expire(now);
        if fragment.count == 1 {
            let whole = digest(&[fragment.chunk]) == fragment.digest;
            let counter = match whole {
                true => &mut self.stats.completed,
                false => &mut self.stats.forged,
            };
            *counter += 1;
            return whole.then(|| fragment.chunk.to_vec());
        }
        let key = Key {
            source,
            kind: fragment.kind,
            sender: fragment.sender,
            receiver: fragment.receiver,
            digest: fragment.digest,
        };
        let place = usize::from(fragment.number);
        let Some(partial) = self.partials.get(&key) else {
            self.insert(now, key, place, fragment.chunk);
            return None;
        };
        let whole = partial.claims[1 - place].iter().find_map(|other| {
            let halves = match place {
                0 => [fragment.chunk, other],
                _ => [other, fragment.chunk],
            };
            (digest(&halves) == key.digest).then(|| halves.concat())
        });
        if whole.is_some() {
            self.remove(&key);
            self.stats.completed += 1;
            return whole;
        }
        self.keep(&key, place, fragment.chunk);
        None
    }

    /// Forget what is too old. Also done whenever a fragment comes.
    pub fn expire(&mut self, now: Time) {
        while self.poll_timeout().is_some_and(|at| at <= now) {
            self.remove_oldest();
            self.stats.expired += 1;
        }
    }

    /// Another claim beside one that did not make the message whole.
    fn keep(&mut self, key: &Key, place: usize, chunk: &[u8]) {
        let Some(partial) = self.partials.get_mut(key) else {
            return;
        };
        let claims = &mut partial.claims[place];
        if claims.iter().any(|claim| **claim == *chunk) {
            self.stats.duplicates += 1;
        } else if claims.len() < VARIANTS {
            claims.push(chunk.into());
        } else {
            // The genuine one is not lost by this if its other half is here: it would have matched.
            self.stats.forged += 1;
        }
    }

    fn insert(&mut self, now: Time, key: Key, place: usize, chunk: &[u8]) {
        let of_source = (key.source, 0)..=(key.source, u64::MAX);
        if self.by_source.range(of_source.clone()).count() >= self.limits.messages_per_source {
            let oldest = self.by_source.range(of_source).next();
            if let Some(key) = oldest.and_then(|(_, ordinal)| self.order.get(ordinal).copied()) {
                self.remove(&key);
                self.stats.evicted += 1;
            }
        } else if self.partials.len() >= self.limits.messages {
            self.remove_oldest();
            self.stats.evicted += 1;
        }
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        let mut claims = [Vec::new(), Vec::new()];
        claims[place].push(chunk.into());
        self.order.insert(ordinal, key);
        self.by_source.insert((key.source, ordinal));
        let partial = Partial {
            arrived: now,
            ordinal,
            claims,
        };
        self.partials.insert(key, partial);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(partial) = self.partials.remove(key) {
            self.order.remove(&partial.ordinal);
            self.by_source.remove(&(key.source, partial.ordinal));
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((_, &key)) = self.order.first_key_value() {
            self.remove(&key);
        }
    }
}

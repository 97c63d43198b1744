//! Sessions that wait for the initiator's proof, and the budgets of handshakes that others begin.
//!
//! Bounds: four half-open sessions per pair of identities, of which the third and fourth need a cookie; a stated number in all,
//! of which the oldest goes. Budgets are counted by the link a handshake comes over and by the /64 it says to come from,
//! separately for senders that have proved their address and for those that have not; a link over budget is told cookies. Who has
//! proved its address waits for its turn where only the node as a whole has just done enough.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv6Addr;

use crate::dataplane::limiter::{RateLimit, TokenBucket};
use crate::fib::SubnetHash;
use crate::io::PeerId;
use crate::time::{Duration, Time};

use super::config::{HALF_OPEN_PER_REMOTE, HANDSHAKE_LIFETIME, SessionConfig};
use super::fragment::Whole;
use super::handshake::Established;
use super::remote::Pair;

/// A message 2 is repeated for the same message 1 no sooner than this.
const REPEAT: Duration = Duration::from_millis(100);
/// Half-open sessions without a cookie, per pair.
const FREE: usize = 2;
/// A half-open session is left in peace for so long.
const PEACE: Duration = Duration::from_millis(500);
/// Buckets by link and by source. Two that share one share its budget.
const BUCKETS: usize = 1024;
/// Handshakes of others in one go. Each takes a quarter of a millisecond, and packets of sessions wait behind them.
const ANSWER_BURST: u32 = 8;
/// First messages of senders with a cookie that wait for their turn: when many turn to one node at once, the last is answered
/// before it asks again (400 ms).
const LINE: usize = 256;
/// Handshakes of ours because of packets that fit no session, in one go, for the same reason.
const STRAY_BURST: u32 = 8;

/// A session that the initiator has not proved yet.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    pub(crate) pair: Pair,
    pub(crate) established: Established,
    pub(crate) created: Time,
    pub(crate) message_hash: [u8; 32],
    /// Message 2.
    pub(crate) units: Vec<Vec<u8>>,
    pub(crate) sent: Time,
    /// There was no route when message 2 was to be sent.
    pub(crate) unsent: bool,
    pub(crate) from: PeerId,
    /// We had begun a handshake as well.
    pub(crate) crossed: bool,
}

/// Whether there is room for one more half-open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    /// For somebody with a cookie.
    WithCookie,
    No,
}

/// A whole first message of somebody who proved its address.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) pair: Pair,
    pub(crate) source: Ipv6Addr,
    /// The index that the initiator chose.
    pub(crate) sender: u32,
    pub(crate) message: Whole,
    pub(crate) from: PeerId,
}

/// Whether a handshake of somebody else's is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Now,
    /// When its turn comes: the sender has paid, the node has just done enough.
    InTurn,
    Refused,
}

/// All of them, by our index.
#[derive(Debug)]
pub(crate) struct HalfOpens {
    by_index: BTreeMap<u32, HalfOpen>,
    by_pair: HashMap<Pair, Vec<u32>, SubnetHash>,
    order: VecDeque<(Time, u32)>,
    capacity: usize,
    unsent: usize,
}

impl HalfOpens {
    pub(crate) fn new(capacity: usize, hash_key: u64) -> Self {
        Self {
            by_index: BTreeMap::new(),
            by_pair: HashMap::with_hasher(SubnetHash::new(hash_key)),
            order: VecDeque::new(),
            capacity: capacity.max(1),
            unsent: 0,
        }
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut HalfOpen> {
        self.by_index.get_mut(&index)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Whether any of this pair's waits for its proof.
    pub(crate) fn has(&self, pair: Pair) -> bool {
        self.by_pair.contains_key(&pair)
    }

    /// The one that answered this very message 1.
    pub(crate) fn find(&mut self, pair: Pair, message_hash: &[u8; 32]) -> Option<&mut HalfOpen> {
        let indices = self.by_pair.get(&pair)?;
        let index = *indices.iter().find(|index| {
            self.by_index
                .get(index)
                .is_some_and(|half| half.message_hash == *message_hash)
        })?;
        self.by_index.get_mut(&index)
    }

    pub(crate) fn room(&self, pair: Pair, now: Time) -> Room {
        let Some(indices) = self.by_pair.get(&pair) else {
            return Room::Yes;
        };
        match indices.len() {
            0..FREE => Room::Yes,
            FREE..HALF_OPEN_PER_REMOTE => Room::WithCookie,
            _ => {
                let oldest = indices.first().and_then(|index| self.by_index.get(index));
                match oldest {
                    Some(half) if now.since(half.created) < PEACE => Room::No,
                    _ => Room::WithCookie,
                }
            }
        }
    }

    /// Keep one; the indices of those that made room.
    pub(crate) fn insert(&mut self, half: HalfOpen) -> Vec<u32> {
        let mut gone = Vec::new();
        let indices = self.by_pair.get(&half.pair);
        if let Some(indices) = indices
            && indices.len() >= HALF_OPEN_PER_REMOTE
            && let Some(&oldest) = indices.first()
        {
            gone.push(oldest);
        }
        if self.by_index.len() >= self.capacity
            && let Some(&(_, oldest)) = self.order.front()
        {
            gone.push(oldest);
        }
        for index in &gone {
            self.remove(*index);
        }
        let index = half.established.local_index;
        self.by_pair.entry(half.pair).or_default().push(index);
        self.order.push_back((half.created, index));
        self.by_index.insert(index, half);
        gone
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<HalfOpen> {
        let half = self.by_index.remove(&index)?;
        self.unsent -= usize::from(half.unsent);
        if let Some(indices) = self.by_pair.get_mut(&half.pair) {
            indices.retain(|&other| other != index);
            if indices.is_empty() {
                self.by_pair.remove(&half.pair);
            }
        }
        // So that the first is always one that is still there: the oldest makes room.
        while self
            .order
            .front()
            .is_some_and(|(_, first)| !self.by_index.contains_key(first))
        {
            self.order.pop_front();
        }
        Some(half)
    }

    /// Forget those whose initiators took too long; their indices.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<u32> {
        let mut gone = Vec::new();
        while let Some(&(created, index)) = self.order.front()
            && now.since(created) >= HANDSHAKE_LIFETIME
            && self.remove(index).is_some()
        {
            gone.push(index);
        }
        gone
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let (created, _) = self.order.front()?;
        Some(*created + HANDSHAKE_LIFETIME)
    }

    /// Message 2 of `index` found no route.
    pub(crate) fn mark_unsent(&mut self, index: u32) {
        if let Some(half) = self.by_index.get_mut(&index)
            && !half.unsent
        {
            half.unsent = true;
            self.unsent += 1;
        }
    }

    /// Those whose message 2 waits for a route, which `ready` says is there.
    pub(crate) fn take_sendable(&mut self, ready: impl Fn(Pair) -> bool) -> Vec<u32> {
        if self.unsent == 0 {
            return Vec::new();
        }
        let mut sendable = Vec::new();
        for (&index, half) in &mut self.by_index {
            if half.unsent && ready(half.pair) {
                half.unsent = false;
                sendable.push(index);
            }
        }
        self.unsent -= sendable.len();
        sendable
    }
}

impl HalfOpen {
    /// Whether message 2 may be sent once more.
    pub(crate) fn may_repeat(&mut self, now: Time) -> bool {
        let may = now.since(self.sent) >= REPEAT;
        if may {
            self.sent = now;
        }
        may
    }
}

/// Who may make us work, and how much.
#[derive(Debug)]
pub(crate) struct Budgets {
    unproven_links: Vec<TokenBucket>,
    proven_links: Vec<TokenBucket>,
    unproven_sources: Vec<TokenBucket>,
    proven_sources: Vec<TokenBucket>,
    cookies: Vec<TokenBucket>,
    queries: Vec<TokenBucket>,
    stray_links: Vec<TokenBucket>,
    node: TokenBucket,
    /// Who waits for `node`, in the order of arrival.
    line: VecDeque<Asked>,
    host: TokenBucket,
    strays: TokenBucket,
    hash: SubnetHash,
}

impl Budgets {
    pub(crate) fn new(config: &SessionConfig, hash_key: u64) -> Self {
        let buckets = |per_second, burst| vec![bucket(per_second, burst); BUCKETS];
        Self {
            unproven_links: buckets(config.unproven_per_link, config.unproven_per_link),
            proven_links: buckets(config.proven_per_link, config.proven_per_link),
            unproven_sources: buckets(4, 8),
            proven_sources: buckets(8, 16),
            cookies: buckets(1000, 100),
            queries: buckets(10, 10),
            stray_links: buckets(10, 20),
            node: bucket(config.handshakes, ANSWER_BURST),
            line: VecDeque::new(),
            host: bucket(1000, 256),
            strays: bucket(50, STRAY_BURST),
            hash: SubnetHash::new(hash_key),
        }
    }

    /// Whether `source` is told a cookie, or ignored if it has one, instead of being heard: before any of its halves is kept,
    /// since keeping and joining them costs more than anything else that a forger may cause.
    pub(crate) fn is_loaded(
        &mut self,
        from: PeerId,
        source: Pair,
        proven: bool,
        now: Time,
    ) -> bool {
        let place = source_bucket(self.hash, source);
        let (links, sources) = match proven {
            true => (&mut self.proven_links, &mut self.proven_sources),
            false => (&mut self.unproven_links, &mut self.unproven_sources),
        };
        let node = match proven {
            true => self.line.len() < LINE,
            false => self.line.is_empty() && self.node.has(now),
        };
        !(links[link(from)].has(now) && sources[place].has(now) && node)
    }

    /// Pay for one handshake of somebody else's.
    pub(crate) fn take(&mut self, from: PeerId, source: Pair, proven: bool, now: Time) -> Verdict {
        let free = self.line.is_empty() && self.node.has(now);
        let waits = proven && self.line.len() < LINE;
        if !(free || waits) {
            return Verdict::Refused;
        }
        let (links, sources) = match proven {
            true => (&mut self.proven_links, &mut self.proven_sources),
            false => (&mut self.unproven_links, &mut self.unproven_sources),
        };
        let place = source_bucket(self.hash, source);
        // Nobody pays for what another lacks.
        let pays =
            sources[place].has(now) && links[link(from)].take(now) && sources[place].take(now);
        match (pays, free) {
            (false, _) => Verdict::Refused,
            (true, true) => {
                self.node.take(now);
                Verdict::Now
            }
            (true, false) => Verdict::InTurn,
        }
    }

    /// Whether this very message waits.
    pub(crate) fn waits(&self, hash: &[u8; 32]) -> bool {
        self.line.iter().any(|asked| asked.message.hash == *hash)
    }

    /// Let it wait, after [`Verdict::InTurn`].
    pub(crate) fn line_up(&mut self, asked: Asked) {
        self.line.push_back(asked);
    }

    /// The next whose turn it is.
    pub(crate) fn next_in_line(&mut self, now: Time) -> Option<Asked> {
        if self.line.is_empty() || !self.node.take(now) {
            return None;
        }
        self.line.pop_front()
    }

    /// When the next has its turn.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        (!self.line.is_empty()).then(|| self.node.ready_at())
    }

    pub(crate) fn take_cookie(&mut self, from: PeerId, now: Time) -> bool {
        self.cookies[link(from)].take(now)
    }

    /// A request for the route to an initiator.
    pub(crate) fn take_query(&mut self, from: PeerId, now: Time) -> bool {
        self.queries[link(from)].take(now)
    }

    /// A handshake that packets of our host need.
    pub(crate) fn take_host(&mut self, now: Time) -> bool {
        self.host.take(now)
    }

    /// A handshake because of a packet that fits no session.
    pub(crate) fn take_stray(&mut self, from: PeerId, now: Time) -> bool {
        self.stray_links[link(from)].has(now)
            && self.strays.take(now)
            && self.stray_links[link(from)].take(now)
    }
}

fn bucket(per_second: u32, burst: u32) -> TokenBucket {
    TokenBucket::new(RateLimit { per_second, burst })
}

fn link(peer: PeerId) -> usize {
    peer.0 as usize % BUCKETS
}

fn source_bucket(hash: SubnetHash, (_, subnet): Pair) -> usize {
    use std::hash::BuildHasher as _;

    // The remainder of a 64-bit number fits.
    usize::try_from(hash.hash_one(subnet) % BUCKETS as u64).unwrap_or(0)
}

//! The forwarding table: what the control plane publishes and the data plane reads.
//!
//! Immutable once published. A hash table of /64s in 256 shards behind `Arc`s, so that a change copies one shard and
//! publishing copies 256 pointers. See docs/adr/0003-forwarding-table.md.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::addr::Subnet;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::io::{IdentityId, PeerId};

const SHARDS: usize = 256;

/// How to reach a subnet, and who is there.
#[derive(Debug)]
pub struct FibEntry {
    /// The link to send on.
    pub next_hop: PeerId,
    /// Whose subnet it is: the key that packets to and from it are sealed with.
    pub public_key: PublicKey,
    /// Its router-id says that it speaks session v2. Anybody on the way can say, or hide, that.
    pub speaks_v2: bool,
    /// The next hop is the destination itself.
    pub direct: bool,
    /// Set by the data plane when a packet used the route, cleared by the control plane when it looks.
    used: AtomicBool,
}

impl FibEntry {
    /// A route nobody has used yet.
    pub fn new(next_hop: PeerId, public_key: PublicKey) -> Self {
        Self {
            next_hop,
            public_key,
            speaks_v2: false,
            direct: false,
            used: AtomicBool::new(false),
        }
    }

    /// Whether packets would go the same way to the same owner.
    pub fn leads_the_same_way(&self, other: &Self) -> bool {
        self.next_hop == other.next_hop
            && self.public_key == other.public_key
            && self.speaks_v2 == other.speaks_v2
            && self.direct == other.direct
    }

    /// Note that a packet used this route. Cheap when already noted: no write.
    pub fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a packet used the route since the last call.
    pub fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

/// One identity that this node originates.
#[derive(Debug)]
pub struct Origin {
    /// Which.
    pub id: IdentityId,
    /// Its /64.
    pub subnet: Subnet,
    /// Its secret.
    pub secret: SecretKey,
}

/// What the table says of an address.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// It belongs to one of our identities.
    Local(&'a Origin),
    /// It is elsewhere.
    Remote(&'a FibEntry),
    /// Nobody knows (yet).
    Unknown,
}

/// Room of a shard that is always kept.
const SHARD_KEPT: usize = 16;

type Shard = HashMap<u64, Arc<FibEntry>, SubnetHash>;

/// The table. Cloning is cheap (256 reference counts).
#[derive(Clone, Debug)]
pub struct Fib {
    origins: Arc<HashMap<u64, Arc<Origin>, SubnetHash>>,
    shards: Box<[Arc<Shard>]>,
    hash: SubnetHash,
}

impl Fib {
    /// An empty table. `key` makes the hash unpredictable to those who choose subnets.
    pub fn new(key: u64) -> Self {
        let hash = SubnetHash::new(key);
        Self {
            origins: Arc::new(HashMap::with_hasher(hash)),
            shards: (0..SHARDS)
                .map(|_| Arc::new(HashMap::with_hasher(hash)))
                .collect(),
            hash,
        }
    }

    /// Where packets to `subnet` go.
    #[inline]
    pub fn lookup(&self, subnet: Subnet) -> Lookup<'_> {
        if let Some(origin) = self.origins.get(&subnet.bits()) {
            return Lookup::Local(origin);
        }
        match self.route(subnet) {
            Some(entry) => Lookup::Remote(entry),
            None => Lookup::Unknown,
        }
    }

    /// The route to `subnet`, origins aside.
    #[inline]
    pub fn route(&self, subnet: Subnet) -> Option<&Arc<FibEntry>> {
        self.shards
            .get(self.shard_index(subnet))?
            .get(&subnet.bits())
    }

    /// The origin with this id (few origins: a scan).
    pub fn origin(&self, subnet: Subnet) -> Option<&Arc<Origin>> {
        self.origins.get(&subnet.bits())
    }

    /// Every origin, in no particular order.
    #[expect(
        clippy::iter_over_hash_type,
        reason = "callers must not depend on order"
    )]
    pub fn for_each_origin(&self, mut f: impl FnMut(&Arc<Origin>)) {
        for origin in self.origins.values() {
            f(origin);
        }
    }

    /// Number of remote routes.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is no remote route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Install or replace a route.
    pub fn insert(&mut self, subnet: Subnet, entry: Arc<FibEntry>) {
        let index = self.shard_index(subnet);
        Arc::make_mut(&mut self.shards[index]).insert(subnet.bits(), entry);
    }

    /// Remove a route.
    pub fn remove(&mut self, subnet: Subnet) {
        let index = self.shard_index(subnet);
        if self.shards[index].contains_key(&subnet.bits()) {
            let shard = Arc::make_mut(&mut self.shards[index]);
            shard.remove(&subnet.bits());
            // Room that a flood left. Twice what is needed stays, so that a route that comes and goes costs nothing.
            if shard.capacity() > SHARD_KEPT && shard.len() < shard.capacity() / 8 {
                shard.shrink_to((shard.len() * 2).max(SHARD_KEPT));
            }
        }
    }

    /// Add or replace an origin.
    pub fn insert_origin(&mut self, origin: Origin) {
        Arc::make_mut(&mut self.origins).insert(origin.subnet.bits(), Arc::new(origin));
    }

    /// Remove an origin.
    pub fn remove_origin(&mut self, subnet: Subnet) {
        Arc::make_mut(&mut self.origins).remove(&subnet.bits());
    }

    fn shard_index(&self, subnet: Subnet) -> usize {
        // The low byte picks the bucket inside a shard, so the high byte picks the shard.
        (self.hash.mix(subnet.bits()) >> 56) as usize
    }
}

/// Hands tables from the control plane to the data plane.
#[derive(Debug)]
pub struct FibPublisher(Arc<Published>);

/// The data plane's side: one atomic load a batch while nothing changes.
#[derive(Debug)]
pub struct FibReader {
    published: Arc<Published>,
    seen: u64,
    current: Fib,
}

#[derive(Debug)]
struct Published {
    generation: AtomicU64,
    fib: Mutex<Fib>,
}

impl FibPublisher {
    /// Start with `fib`.
    pub fn new(fib: Fib) -> Self {
        Self(Arc::new(Published {
            generation: AtomicU64::new(0),
            fib: Mutex::new(fib),
        }))
    }

    /// Another reader, as of now.
    pub fn reader(&self) -> FibReader {
        let seen = self.0.generation.load(Ordering::Acquire);
        let current = self
            .0
            .fib
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        FibReader {
            published: Arc::clone(&self.0),
            seen,
            current,
        }
    }

    /// Replace the table.
    pub fn publish(&self, fib: Fib) {
        *self.0.fib.lock().unwrap_or_else(PoisonError::into_inner) = fib;
        self.0.generation.fetch_add(1, Ordering::Release);
    }
}

impl FibReader {
    /// Take the newest table; `true` if it changed.
    pub fn refresh(&mut self) -> bool {
        let generation = self.published.generation.load(Ordering::Acquire);
        if generation == self.seen {
            return false;
        }
        self.seen = generation;
        self.current = self
            .published
            .fib
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        true
    }

    /// The table as of the last `refresh`.
    pub fn fib(&self) -> &Fib {
        &self.current
    }
}

/// Multiply-and-fold under a secret odd key: subnets are hashes already, but their owners may have picked them.
#[derive(Clone, Copy, Debug)]
pub struct SubnetHash(u64);

impl SubnetHash {
    /// A hash under this secret key.
    pub fn new(key: u64) -> Self {
        Self(key | 1)
    }

    fn mix(self, bits: u64) -> u64 {
        let wide = u128::from(bits ^ self.0) * u128::from(self.0 | 1 << 63 | 1);
        #[expect(clippy::cast_possible_truncation, reason = "folding the two halves")]
        let folded = (wide >> 64) as u64 ^ wide as u64;
        folded
    }
}

impl BuildHasher for SubnetHash {
    type Hasher = SubnetHasher;

    fn build_hasher(&self) -> SubnetHasher {
        SubnetHasher {
            hash: *self,
            state: 0,
        }
    }
}

/// See [`SubnetHash`].
#[derive(Debug)]
pub struct SubnetHasher {
    hash: SubnetHash,
    state: u64,
}

impl Hasher for SubnetHasher {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = self.hash.mix(self.state ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, bits: u64) {
        self.state = self.hash.mix(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_table_does_not_change_under_a_reader() {
        let subnet = Subnet::from_octets([4, 0, 0, 0, 0, 0, 0, 1]);
        let mut fib = Fib::new(42);
        let publisher = FibPublisher::new(fib.clone());
        let mut reader = publisher.reader();
        fib.insert(
            subnet,
            Arc::new(FibEntry::new(PeerId(1), PublicKey([1; 32]))),
        );
        publisher.publish(fib.clone());
        assert!(matches!(reader.fib().lookup(subnet), Lookup::Unknown));
        assert!(reader.refresh());
        assert!(!reader.refresh());
        assert!(
            matches!(reader.fib().lookup(subnet), Lookup::Remote(e) if e.next_hop == PeerId(1))
        );
        fib.remove(subnet);
        assert!(reader.fib().route(subnet).is_some());
        assert_eq!((fib.len(), reader.fib().len()), (0, 1));
    }

    #[test]
    fn a_table_gives_back_what_a_flood_took() {
        let subnet = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            Subnet::from_octets([4, 0, 0, 0, a, b, c, d])
        };
        let mut fib = Fib::new(42);
        let room = |fib: &Fib| -> usize { fib.shards.iter().map(|shard| shard.capacity()).sum() };
        let entry = Arc::new(FibEntry::new(PeerId(1), PublicKey([1; 32])));
        for number in 0..50_000 {
            fib.insert(subnet(number), Arc::clone(&entry));
        }
        assert!(room(&fib) >= 50_000);
        for number in 1..50_000 {
            fib.remove(subnet(number));
        }
        assert!(room(&fib) <= 2 * SHARD_KEPT * SHARDS, "{}", room(&fib));
        assert!(fib.route(subnet(0)).is_some());
    }
}

//! Hot path: see docs/architecture.md#hot-path. The v1 keys in use, so that X25519 runs once per pair and not per packet.
//!
//! Bound: [`KeyCache::new`]'s capacity. Eviction: second chance (CLOCK). A key that sealed or opened a packet since the hand
//! last passed stays; one that was agreed but never proved itself (a spoofed source) goes first. New agreements are paid from
//! two separate budgets, so that strangers can neither starve this node's own flows nor occupy a core.

use std::collections::HashMap;

use crate::addr::Subnet;
use crate::crypto::aead::AeadKey;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::fib::SubnetHash;
use crate::io::IdentityId;
use crate::time::Time;

use super::limiter::{RateLimit, TokenBucket};

/// Who caused an agreement, and hence whose budget pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payer {
    /// A packet of a local host.
    Host,
    /// A packet from a peer.
    Peer,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The budget for new agreements is spent.
    Budget,
    /// The remote key is of low order: nobody could read the packet, or everybody.
    LowOrder,
}

/// Keys by (local identity, remote /64), checked against the remote key that the route names.
#[derive(Debug)]
pub(super) struct KeyCache {
    index: HashMap<(IdentityId, Subnet), usize, SubnetHash>,
    slots: Vec<Slot>,
    capacity: usize,
    hand: usize,
    host_budget: TokenBucket,
    peer_budget: TokenBucket,
    agreements: u64,
}

#[derive(Debug)]
struct Slot {
    at: (IdentityId, Subnet),
    public_key: PublicKey,
    /// `None`: a low-order key, remembered so that asking again costs nothing.
    key: Option<AeadKey>,
    used: bool,
}

/// A key, and where to note that it proved itself.
#[derive(Debug)]
pub(super) struct CachedKey<'a> {
    pub(super) key: &'a AeadKey,
    used: &'a mut bool,
}

impl CachedKey<'_> {
    /// The key sealed or opened a packet.
    pub(super) fn mark_used(self) {
        if !*self.used {
            *self.used = true;
        }
    }
}

impl KeyCache {
    pub(super) fn new(capacity: usize, host: RateLimit, peer: RateLimit, hash_key: u64) -> Self {
        Self {
            index: HashMap::with_hasher(SubnetHash::new(hash_key)),
            slots: Vec::new(),
            capacity: capacity.max(1),
            hand: 0,
            host_budget: TokenBucket::new(host),
            peer_budget: TokenBucket::new(peer),
            agreements: 0,
        }
    }

    /// The key of `identity` and the owner of `subnet`.
    #[inline]
    pub(super) fn get(
        &mut self,
        identity: IdentityId,
        secret: &SecretKey,
        subnet: Subnet,
        public_key: &PublicKey,
        payer: Payer,
        now: Time,
    ) -> Result<CachedKey<'_>, NoKey> {
        let at = (identity, subnet);
        let slot = match self.index.get(&at) {
            Some(&slot) if self.slots[slot].public_key == *public_key => slot,
            known => {
                let known = known.copied();
                self.agree(at, known, secret, public_key, payer, now)?
            }
        };
        let slot = &mut self.slots[slot];
        match &slot.key {
            Some(key) => Ok(CachedKey {
                key,
                used: &mut slot.used,
            }),
            None => Err(NoKey::LowOrder),
        }
    }

    /// Number of keys held.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Number of X25519 agreements computed so far.
    pub(super) fn agreements(&self) -> u64 {
        self.agreements
    }

    /// Forget every key of identities that `keep` refuses: their secrets must not outlive them.
    pub(super) fn retain_identities(&mut self, keep: impl Fn(IdentityId) -> bool) {
        if self.slots.iter().all(|slot| keep(slot.at.0)) {
            return;
        }
        self.slots.retain(|slot| keep(slot.at.0));
        self.index = self
            .slots
            .iter()
            .enumerate()
            .map(|(position, slot)| (slot.at, position))
            .fold(
                HashMap::with_hasher(*self.index.hasher()),
                |mut index, (at, position)| {
                    index.insert(at, position);
                    index
                },
            );
        self.hand = 0;
    }

    #[cold]
    fn agree(
        &mut self,
        at: (IdentityId, Subnet),
        known: Option<usize>,
        secret: &SecretKey,
        public_key: &PublicKey,
        payer: Payer,
        now: Time,
    ) -> Result<usize, NoKey> {
        let budget = match payer {
            Payer::Host => &mut self.host_budget,
            Payer::Peer => &mut self.peer_budget,
        };
        if !budget.take(now) {
            return Err(NoKey::Budget);
        }
        self.agreements += 1;
        let slot = Slot {
            at,
            public_key: *public_key,
            key: secret.agree(public_key).as_ref().map(AeadKey::v1),
            used: false,
        };
        let position = match known {
            Some(position) => {
                self.slots[position] = slot;
                position
            }
            None if self.slots.len() < self.capacity => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
            None => {
                let position = self.victim();
                self.index.remove(&self.slots[position].at);
                self.slots[position] = slot;
                position
            }
        };
        self.index.insert(at, position);
        Ok(position)
    }

    /// The next slot without a second chance. Ends: the first round clears every mark.
    fn victim(&mut self) -> usize {
        loop {
            let position = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            if !std::mem::take(&mut self.slots[position].used) {
                return position;
            }
        }
    }
}

//! The local identities as the data plane needs them: by id, with their address and their budgets for errors.

use std::net::Ipv6Addr;
use std::sync::Arc;

use crate::crypto::identity::SecretKey;
use crate::fib::{Fib, Origin};
use crate::io::IdentityId;

use super::limiter::{RateLimit, TokenBucket};

/// One local identity.
#[derive(Debug)]
pub(super) struct LocalIdentity {
    pub(super) origin: Arc<Origin>,
    pub(super) address: Ipv6Addr,
    /// For ICMPv6 errors about what the host sent.
    pub(super) errors: TokenBucket,
    /// For ICMPv6 errors that remote routers cause, so that they cannot use up the other budget.
    pub(super) notices: TokenBucket,
}

/// All of them, sorted by id: few, and mostly one.
#[derive(Debug)]
pub(super) struct Identities {
    sorted: Vec<LocalIdentity>,
    errors: RateLimit,
}

impl Identities {
    pub(super) fn new(errors: RateLimit, fib: &Fib) -> Self {
        let mut identities = Self {
            sorted: Vec::new(),
            errors,
        };
        identities.update(fib);
        identities
    }

    /// Take over the origins of `fib`; `true` if an identity is gone. Ids are never reused, so known ones keep their state.
    pub(super) fn update(&mut self, fib: &Fib) -> bool {
        let before = self.sorted.len();
        self.sorted.retain(|known| {
            fib.origin(known.origin.subnet)
                .is_some_and(|origin| origin.id == known.origin.id)
        });
        let gone = self.sorted.len() != before;
        fib.for_each_origin(|origin| {
            if let Err(position) = self
                .sorted
                .binary_search_by_key(&origin.id, |known| known.origin.id)
            {
                let identity = LocalIdentity {
                    address: origin.secret.public_key().address(),
                    origin: Arc::clone(origin),
                    errors: TokenBucket::new(self.errors),
                    notices: TokenBucket::new(self.errors),
                };
                self.sorted.insert(position, identity);
            }
        });
        gone
    }

    #[inline]
    pub(super) fn get(&self, id: IdentityId) -> Option<&LocalIdentity> {
        let position = self
            .sorted
            .binary_search_by_key(&id, |known| known.origin.id)
            .ok()?;
        self.sorted.get(position)
    }

    pub(super) fn get_mut(&mut self, id: IdentityId) -> Option<&mut LocalIdentity> {
        let position = self
            .sorted
            .binary_search_by_key(&id, |known| known.origin.id)
            .ok()?;
        self.sorted.get_mut(position)
    }

    /// All ids, in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = IdentityId> {
        self.sorted.iter().map(|known| known.origin.id)
    }

    /// All ids with their secrets, in order.
    pub(super) fn secrets(&self) -> impl Iterator<Item = (IdentityId, &SecretKey)> {
        self.sorted
            .iter()
            .map(|known| (known.origin.id, &known.origin.secret))
    }

    /// Whether the table has this identity.
    pub(super) fn contains(&self, id: IdentityId) -> bool {
        self.get(id).is_some()
    }
}

//! What lets a receiver throw away handshake fragments for the price of a hash (docs/protocol.md §14.3): MAC1 shows that the
//! sender knows whom it talks to (and the network key), MAC2 that it receives at the address it sends from, the reply MAC that
//! it decrypted our first message.

use std::fmt;
use std::net::Ipv6Addr;

use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::derive_key;
use crate::crypto::identity::PublicKey;

/// Bytes of every MAC, and of a cookie.
pub const MAC_LEN: usize = 16;
/// Bytes at the end of a fragment that are its MACs.
pub const MACS_LEN: usize = 2 * MAC_LEN;

/// The 32-byte secret of a closed network, mixed into everything (docs/protocol.md §14). Never all zero, which means none.
#[derive(Clone)]
pub struct NetworkKey(Zeroizing<[u8; 32]>);

impl NetworkKey {
    /// Take over the 32 bytes; `None` if they are all zero.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Option<Self> {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        (*key.0 != [0; 32]).then_some(key)
    }

    /// What goes into derivations: the key, or zeros where there is none.
    pub fn or_zeros(key: Option<&Self>) -> &[u8; 32] {
        key.map_or(&[0; 32], |key| &key.0)
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

/// What MAC1 covers besides the fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The addresses of the outer header.
    EndToEnd {
        /// Where the fragment comes from.
        source: Ipv6Addr,
        /// Where it goes to.
        destination: Ipv6Addr,
    },
    /// Nothing: a link's addresses change on the way.
    Link,
}

/// The key of MAC1 towards one recipient. Costs a hash to make.
#[derive(Clone)]
pub struct MacKey(Zeroizing<[u8; 32]>);

impl MacKey {
    /// The key for what goes to `recipient`.
    pub fn new(recipient: &PublicKey, network_key: Option<&NetworkKey>) -> Self {
        let network_key = NetworkKey::or_zeros(network_key);
        Self(derive_key(
            "mycelium session v2 mac1",
            &[&recipient.0, network_key],
        ))
    }

    /// MAC1 of a fragment; `None` if it is too short to have one.
    pub fn mac1(&self, scope: Scope, unit: &[u8]) -> Option<[u8; MAC_LEN]> {
        let covered = &unit[..unit.len().checked_sub(MACS_LEN)?];
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        if let Scope::EndToEnd {
            source,
            destination,
        } = scope
        {
            hasher.update(&source.octets());
            hasher.update(&destination.octets());
        }
        hasher.update(covered);
        let mac = truncate(hasher.finalize());
        hasher.zeroize();
        Some(mac)
    }

    /// Whether the MAC1 in `unit` is right. In constant time.
    pub fn verify(&self, scope: Scope, unit: &[u8]) -> bool {
        let (Some(expected), Some(found)) = (self.mac1(scope, unit), mac1_of(unit)) else {
            return false;
        };
        expected.ct_eq(found).into()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// Which second messages answer a first one: only its two ends know this key.
#[derive(Clone)]
pub struct ReplyKey(Zeroizing<[u8; 32]>);

impl ReplyKey {
    /// From the chaining key after the first message.
    pub(super) fn new(chaining: &[u8; 32]) -> Self {
        Self(derive_key("mycelium session v2 reply", &[chaining]))
    }

    /// The reply MAC of a fragment; `None` if it is too short to have one.
    pub(super) fn mac(&self, unit: &[u8]) -> Option<[u8; MAC_LEN]> {
        let covered = &unit[..unit.len().checked_sub(MAC_LEN)?];
        Some(truncate(blake3::keyed_hash(&self.0, covered)))
    }

    /// Whether the reply MAC in `unit` is right. In constant time.
    pub fn verify(&self, unit: &[u8]) -> bool {
        let (Some(expected), Some(found)) = (self.mac(unit), unit.last_chunk::<MAC_LEN>()) else {
            return false;
        };
        expected.ct_eq(found).into()
    }
}

impl fmt::Debug for ReplyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKey(..)")
    }
}

/// The field of MAC1 in a fragment.
pub(super) fn mac1_of(unit: &[u8]) -> Option<&[u8; MAC_LEN]> {
    let (rest, _) = unit.split_last_chunk::<MAC_LEN>()?;
    rest.last_chunk()
}

/// MAC2 of a fragment for a cookie; `None` if the fragment is too short to have one.
pub(super) fn mac2(cookie: &[u8; MAC_LEN], unit: &[u8]) -> Option<[u8; MAC_LEN]> {
    let covered = &unit[..unit.len().checked_sub(MAC_LEN)?];
    let key = derive_key("mycelium session v2 mac2", &[cookie]);
    Some(truncate(blake3::keyed_hash(&key, covered)))
}

/// The first half of a hash.
pub(super) fn truncate(hash: blake3::Hash) -> [u8; MAC_LEN] {
    let mut mac = [0; MAC_LEN];
    mac.copy_from_slice(&hash.as_bytes()[..MAC_LEN]);
    mac
}

#[cfg(test)]
mod tests;

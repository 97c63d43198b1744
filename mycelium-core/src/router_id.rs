//! Router-ids: who originated an Update (wire spec §1.4).

use std::fmt;

use crate::crypto::identity::PublicKey;

/// 40 bytes: public key ‖ zone (2) ‖ random (6). Fixed for the life of a process; compared as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId([u8; Self::LEN]);

impl RouterId {
    /// Bytes on the wire.
    pub const LEN: usize = 40;

    /// A router-id of `public_key`. Upstream always uses zone 0.
    pub fn new(public_key: PublicKey, zone: [u8; 2], random: [u8; 6]) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..32].copy_from_slice(&public_key.0);
        bytes[32..34].copy_from_slice(&zone);
        bytes[34..].copy_from_slice(&random);
        Self(bytes)
    }

    /// As read from the wire.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// As written to the wire.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The identity behind the announcement.
    pub fn public_key(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(&self.0[..32]);
        PublicKey(key)
    }

    /// The zone bytes of a node that speaks session v2 (docs/protocol.md §14): a version and a set of flags.
    pub const SPEAKS_V2: [u8; 2] = [2, 1];

    /// Whether the zone bytes say that its owner speaks session v2. Unauthenticated.
    pub const fn speaks_v2(&self) -> bool {
        let [version, flags] = self.zone();
        version == Self::SPEAKS_V2[0] && flags & Self::SPEAKS_V2[1] != 0
    }

    /// The zone bytes, carried verbatim through the network.
    pub const fn zone(&self) -> [u8; 2] {
        [self.0[32], self.0[33]]
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if index == 32 || index == 34 {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

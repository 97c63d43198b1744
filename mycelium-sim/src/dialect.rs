//! How the nodes of a run seal what their hosts send: as the present network does, or on sessions (docs/protocol.md §14.2).

use std::time::Duration;

use mycelium_core::session::config::{Policy, SessionConfig};
use mycelium_core::session::mac::NetworkKey;

/// What a node speaks to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Protocol v1, and nothing else.
    #[default]
    V1,
    /// Sessions with those that have them, v1 with the others.
    Prefer,
    /// Sessions only.
    Require,
    /// Sessions only, in a closed network whose key is this byte, 32 times. Not 0.
    Closed(u8),
}

impl Dialect {
    /// Whether it has sessions.
    pub fn speaks_v2(self) -> bool {
        self != Self::V1
    }

    /// Whether it ever sends or accepts a v1 body.
    pub fn allows_v1(self) -> bool {
        matches!(self, Self::V1 | Self::Prefer)
    }

    /// Whether two that speak so can ever exchange a packet.
    pub fn understands(self, other: Self) -> bool {
        match (self, other) {
            (Self::Closed(key), Self::Closed(other)) => key == other,
            (Self::Closed(_), _) | (_, Self::Closed(_)) => false,
            _ => self.speaks_v2() && other.speaks_v2() || self.allows_v1() && other.allows_v1(),
        }
    }

    /// Settings of the data plane of such a node.
    pub(crate) fn config(self, has_aes: bool, rekey_after: Option<Duration>) -> SessionConfig {
        let default = SessionConfig::default();
        SessionConfig {
            policy: match self {
                Self::V1 => Policy::Off,
                Self::Prefer => Policy::Prefer,
                Self::Require | Self::Closed(_) => Policy::Require,
            },
            network_key: match self {
                Self::Closed(key) => NetworkKey::from_bytes([key; 32]),
                _ => None,
            },
            has_aes,
            rekey_after: rekey_after.unwrap_or(default.rekey_after),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dialect::{Closed, Prefer, Require, V1};

    #[test]
    fn who_understands_whom() {
        for (a, b, expected) in [
            (V1, V1, true),
            (V1, Prefer, true),
            (V1, Require, false),
            (Prefer, Require, true),
            (Closed(1), Closed(1), true),
            (Closed(1), Closed(2), false),
            (Closed(1), Require, false),
            (Closed(1), V1, false),
        ] {
            assert_eq!(a.understands(b), expected, "{a:?} {b:?}");
            assert_eq!(b.understands(a), expected, "{b:?} {a:?}");
        }
    }
}

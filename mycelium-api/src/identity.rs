//! Identities of the node (ours): every further one is a user network or workload with its own key and /64.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::key::bytes_from_hex;
use crate::{ParseKeyError, PublicKey};

/// One element of `GET /admin/identities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its number in this process; 0 is the node's own. Never used twice.
    pub id: u32,
    /// What the operator calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its public key.
    pub public_key: PublicKey,
    /// Its overlay address.
    pub address: Ipv6Addr,
    /// Its subnet, `x:x:x:x::/64`.
    pub subnet: String,
    /// Its interface; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tun_name: Option<String>,
    /// The network namespace of that interface; `None`: the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

/// Request of `POST /admin/identities`.
///
/// The secret itself, not the name of a file: the caller proves by having it that the identity is theirs, and
/// the node never opens files on behalf of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddIdentity {
    /// Its secret key, 64 hexadecimal digits.
    pub secret_key: SecretKey,
    /// What to call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Create this TUN interface for it; `None`: no interface, it is only announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tun_name: Option<String>,
    /// Path of the network namespace to put that interface in; `None`: the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

/// An X25519 secret on its way to the node. Wiped when dropped, and does not print.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// From the bytes of a key file.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of a key file.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl TryFrom<String> for SecretKey {
    type Error = ParseKeyError;

    fn try_from(mut text: String) -> Result<Self, ParseKeyError> {
        let bytes = bytes_from_hex(&text);
        text.zeroize();
        let key = bytes.map(Self)?;
        if key.0 == [0; 32] {
            return Err(ParseKeyError::Zero);
        }
        Ok(key)
    }
}

impl From<SecretKey> for String {
    fn from(key: SecretKey) -> Self {
        PublicKey(key.0).to_string()
    }
}

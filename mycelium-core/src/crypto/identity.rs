//! X25519 identities. Secrets are zeroised on drop and have no textual form.

use std::fmt;
use std::net::Ipv6Addr;

use zeroize::{Zeroize, Zeroizing};

use crate::addr::{Subnet, address_of_key};

/// A node's, network's or workload's secret. The unclamped 32 bytes, as in the key file.
#[derive(Clone)]
pub struct SecretKey(x25519_dalek::StaticSecret);

impl SecretKey {
    /// Take over the 32 bytes of a key file.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self(x25519_dalek::StaticSecret::from(bytes));
        bytes.zeroize();
        key
    }

    /// The bytes to write to a key file.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// X25519 with `remote`; `None` if the result is all zero (a low-order key, RFC 7748 §6.1).
    pub fn agree(&self, remote: &PublicKey) -> Option<SharedSecret> {
        let shared = self
            .0
            .diffie_hellman(&x25519_dalek::PublicKey::from(remote.0));
        shared
            .was_contributory()
            .then(|| SharedSecret(shared.to_bytes()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// The result of a key agreement; protocol v1 uses it as AES key as it stands.
pub struct SharedSecret([u8; 32]);

impl SharedSecret {
    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for SharedSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

/// An X25519 public key: who somebody is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The overlay address of this identity.
    pub fn address(&self) -> Ipv6Addr {
        address_of_key(&self.0)
    }

    /// The /64 of this identity.
    pub fn subnet(&self) -> Subnet {
        Subnet::containing(self.address())
    }

    /// Read 64 hexadecimal digits of either case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high << 4 | low).ok()?;
        }
        Some(Self(key))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> [u8; 32] {
        PublicKey::from_hex(text).unwrap().0
    }

    #[test]
    fn vectors_of_the_present_network() {
        let counting = |first: u8| {
            SecretKey::from_bytes(std::array::from_fn(|i| first + u8::try_from(i).unwrap()))
        };
        let (a, b) = (counting(0), counting(32));
        assert_eq!(
            a.public_key().to_string(),
            "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
        );
        assert_eq!(
            a.public_key().address().to_string(),
            "430:9364:d8d8:84a9:dd60:de78:c767:d361"
        );
        assert_eq!(
            b.public_key().address().to_string(),
            "437:5106:5530:1589:7c53:fa73:c63e:1ddb"
        );
        let shared = hex("9663aa1da97e848a914a436d04163dfbb89178f107f1b5b77ed3854203382854");
        assert_eq!(a.agree(&b.public_key()).unwrap().as_bytes(), &shared);
        assert_eq!(b.agree(&a.public_key()).unwrap().as_bytes(), &shared);
        let odd = PublicKey(hex(
            "bb39b4a3a4efd70f3e05e37887677e02efbda14681d0acd3882bc0f754792c32",
        ));
        assert_eq!(
            odd.address().to_string(),
            "57f:ad8b:cfa2:e46a:adb7:fe0d:4878:1f71"
        );
    }

    #[test]
    fn a_low_order_key_is_refused() {
        let a = SecretKey::from_bytes([7; 32]);
        assert!(a.agree(&PublicKey([0; 32])).is_none());
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(
            format!("{:?}", SecretKey::from_bytes([7; 32])),
            "SecretKey(..)"
        );
    }
}

//! Under load only senders that receive where they send from are served: they are told a cookie and show it in MAC2.
//!
//! A cookie proves return-routability and nothing else; the responder keeps no state per sender (as WireGuard §5.4.7).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _, Tag};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::derive_key;
use super::fragment::{CookieReply, Fragment, MessageKind};
use super::mac::{MAC_LEN, NetworkKey, mac1_of, mac2, truncate};
use crate::crypto::aead::TAG_LEN;
use crate::crypto::identity::PublicKey;
use crate::rng::Rng;
use crate::time::{Duration, Time};

/// Bytes of a cookie reply.
pub const REPLY_LEN: usize = 68;
/// How long a secret makes cookies; for as long again it accepts them. So long does a sender use one.
pub const LIFETIME: Duration = Duration::from_secs(120);

const NONCE_LEN: usize = 24;
const SEALED_LEN: usize = MAC_LEN + TAG_LEN;

/// What a cookie is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnAddress {
    bytes: [u8; 18],
    len: usize,
}

impl ReturnAddress {
    /// The source of a data packet.
    pub fn end_to_end(source: Ipv6Addr) -> Self {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&source.octets());
        Self { bytes, len: 16 }
    }

    /// The source of a datagram.
    pub fn link(source: SocketAddr) -> Self {
        let address = match source.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&address.octets());
        bytes[16..].copy_from_slice(&source.port().to_be_bytes());
        Self { bytes, len: 18 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Under which the cookie replies of one node are sealed. Costs a hash to make.
#[derive(Clone)]
pub struct CookieKey(Zeroizing<[u8; 32]>);

impl CookieKey {
    /// The key for the replies that `sender` gives.
    pub fn new(sender: &PublicKey, network_key: Option<&NetworkKey>) -> Self {
        let network_key = NetworkKey::or_zeros(network_key);
        Self(derive_key(
            "mycelium session v2 cookie",
            &[&sender.0, network_key],
        ))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new_from_slice(&self.0[..]).expect("takes exactly 32 bytes")
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

struct Secret {
    key: Zeroizing<[u8; 32]>,
    since: Time,
}

impl Secret {
    fn cookie(&self, address: &ReturnAddress) -> Zeroizing<[u8; MAC_LEN]> {
        Zeroizing::new(truncate(blake3::keyed_hash(&self.key, address.bytes())))
    }
}

/// The responder's side: two secrets, whatever the number of senders.
#[derive(Default)]
pub struct CookieJar {
    current: Option<Secret>,
    previous: Option<Secret>,
}

impl CookieJar {
    /// The reply to `fragment`, which came from `address` and had a right MAC1. `key` is that of the identity it was for.
    ///
    /// `None` if it is not the first half of a first message: nothing else is answered, so that a message costs one reply.
    pub fn reply(
        &mut self,
        now: Time,
        address: &ReturnAddress,
        fragment: &Fragment<'_>,
        key: &CookieKey,
        rng: &mut Rng,
    ) -> Option<[u8; REPLY_LEN]> {
        if (fragment.kind(), fragment.number()) != (MessageKind::One, 0) {
            return None;
        }
        Some(self.reply_to(now, address, fragment.sender(), fragment.mac1(), key, rng))
    }

    /// The same for a first message that is whole: `sender` is its index, `mac1` the [MAC1 of its first
    /// half](super::fragment::Whole::mac1).
    pub fn reply_to(
        &mut self,
        now: Time,
        address: &ReturnAddress,
        sender: u32,
        mac1: &[u8; MAC_LEN],
        key: &CookieKey,
        rng: &mut Rng,
    ) -> [u8; REPLY_LEN] {
        let mut sealed = *self.fresh(now, rng).cookie(address);
        let nonce = rng.array();
        let tag = key
            .cipher()
            .encrypt_inout_detached(&XNonce::from(nonce), mac1, sealed[..].as_mut().into())
            .expect("refuses only inputs above 256 GiB");
        let mut reply = [0; REPLY_LEN];
        reply[..12].copy_from_slice(&CookieReply::header(sender));
        reply[12..36].copy_from_slice(&nonce);
        reply[36..52].copy_from_slice(&sealed);
        reply[52..].copy_from_slice(&tag);
        reply
    }

    /// Whether `fragment` shows a cookie that its source was told lately.
    pub fn verify(&self, now: Time, address: &ReturnAddress, fragment: &Fragment<'_>) -> bool {
        let found = fragment.mac2();
        if *found == [0; MAC_LEN] {
            return false;
        }
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .filter(|secret| now.since(secret.since) < 2 * LIFETIME)
            .filter_map(|secret| mac2(&secret.cookie(address), fragment.bytes()))
            .any(|expected| expected.ct_eq(found).into())
    }

    /// The secret that makes cookies, renewed when it is due.
    fn fresh(&mut self, now: Time, rng: &mut Rng) -> &Secret {
        if let Some(old) = self
            .current
            .take_if(|secret| now.since(secret.since) >= LIFETIME)
        {
            self.previous = Some(old);
        }
        self.current.get_or_insert_with(|| Secret {
            key: rng.secret(),
            since: now,
        })
    }
}

impl fmt::Debug for CookieJar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieJar(..)")
    }
}

/// The sender's side, one per remote identity or link: what it sent last, and the cookie it was told.
#[derive(Default)]
pub struct CookieMemory {
    /// MAC1 of the first half of the last message.
    sent: Option<[u8; MAC_LEN]>,
    cookie: Option<(Zeroizing<[u8; MAC_LEN]>, Time)>,
}

impl CookieMemory {
    /// Put MAC2 into the fragments of a first message that is about to be sent, if there is a cookie, and remember the message:
    /// a reply must be to the last one.
    pub fn stamp(&mut self, now: Time, units: &mut [Vec<u8>; 2]) {
        self.sent = mac1_of(&units[0]).copied();
        self.cookie
            .take_if(|(_, told)| now.since(*told) >= LIFETIME);
        let Some((cookie, _)) = &self.cookie else {
            return;
        };
        for unit in units {
            if let Some(mac) = mac2(cookie, unit)
                && let Some(field) = unit.last_chunk_mut()
            {
                *field = mac;
            }
        }
    }

    /// Take a reply; `key` is that of the identity which the message went to. False if it answers something else.
    ///
    /// The message was not processed: it is to be stamped and sent again.
    pub fn accept(&mut self, now: Time, key: &CookieKey, reply: &CookieReply<'_>) -> bool {
        let (sealed, tag) = reply.sealed();
        let cipher = key.cipher();
        let nonce = XNonce::from(*reply.nonce());
        let tag = Tag::<XChaCha20Poly1305>::from(*tag);
        let Some(mac1) = &self.sent else {
            return false;
        };
        let mut cookie = Zeroizing::new(*sealed);
        let opened = cipher.decrypt_inout_detached(&nonce, mac1, cookie[..].as_mut().into(), &tag);
        if opened.is_ok() {
            self.sent = None;
            self.cookie = Some((cookie, now));
        }
        opened.is_ok()
    }

    /// Whether fragments would get a MAC2 now.
    pub fn has_cookie(&self, now: Time) -> bool {
        self.cookie
            .as_ref()
            .is_some_and(|(_, told)| now.since(*told) < LIFETIME)
    }
}

impl fmt::Debug for CookieMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieMemory(..)")
    }
}

const _: () = assert!(12 + NONCE_LEN + SEALED_LEN == REPLY_LEN);

#[cfg(test)]
mod tests;

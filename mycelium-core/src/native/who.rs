//! "Who are you?": the static key of whoever listens at an address that a user typed (docs/protocol.md §15).
//!
//! The MAC is keyed by the network key, or by zeros: then it only keeps out garbage. The nonce ties the answer to the
//! question, so that somebody must see the question to forge an answer. An answer is shorter than its question.

use subtle::ConstantTimeEq as _;

use super::datagram::WHO;
use crate::crypto::identity::PublicKey;
use crate::session::mac::NetworkKey;

const REQUEST: u8 = 0;
const REPLY: u8 = 1;
const NONCE_AT: usize = 2;
const KEY_AT: usize = NONCE_AT + 8;
const MAC_LEN: usize = 16;
const REQUEST_LEN: usize = 64 + MAC_LEN;
const REPLY_LEN: usize = KEY_AT + 32 + MAC_LEN;

const _: () = assert!(REPLY_LEN < REQUEST_LEN);

/// What a datagram of type [`WHO`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Request { nonce: [u8; 8] },
    Reply { nonce: [u8; 8], key: PublicKey },
}

/// The key of the MACs.
#[derive(Clone)]
pub(super) struct WhoKey([u8; 32]);

impl std::fmt::Debug for WhoKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WhoKey(..)")
    }
}

impl Drop for WhoKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl WhoKey {
    pub(super) fn new(network_key: Option<&NetworkKey>) -> Self {
        Self(blake3::derive_key(
            "mycelium session v2 who",
            NetworkKey::or_zeros(network_key),
        ))
    }

    pub(super) fn request(&self, nonce: [u8; 8]) -> Vec<u8> {
        let mut message = vec![0; REQUEST_LEN - MAC_LEN];
        message[..NONCE_AT].copy_from_slice(&[WHO, REQUEST]);
        message[NONCE_AT..KEY_AT].copy_from_slice(&nonce);
        self.finish(message)
    }

    pub(super) fn reply(&self, nonce: [u8; 8], key: &PublicKey) -> Vec<u8> {
        let mut message = vec![WHO, REPLY];
        message.extend_from_slice(&nonce);
        message.extend_from_slice(&key.0);
        self.finish(message)
    }

    /// `None` if it is not exactly one of both, with the right MAC.
    pub(super) fn parse(&self, datagram: &[u8]) -> Option<Who> {
        let (covered, mac) = datagram.split_last_chunk::<MAC_LEN>()?;
        let (head, rest) = covered.split_first_chunk::<KEY_AT>()?;
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&head[NONCE_AT..]);
        let who = match (head[1], datagram.len()) {
            (REQUEST, REQUEST_LEN) => Who::Request { nonce },
            (REPLY, REPLY_LEN) => Who::Reply {
                nonce,
                key: PublicKey(*rest.first_chunk()?),
            },
            _ => return None,
        };
        bool::from(self.mac(covered).ct_eq(mac)).then_some(who)
    }

    fn finish(&self, mut message: Vec<u8>) -> Vec<u8> {
        let mac = self.mac(&message);
        message.extend_from_slice(&mac);
        message
    }

    fn mac(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        let mut mac = [0; MAC_LEN];
        let hash = blake3::keyed_hash(&self.0, covered);
        mac.copy_from_slice(&hash.as_bytes()[..MAC_LEN]);
        mac
    }
}

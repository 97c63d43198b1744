//! What lets a restarted node end the connections of its former self (RFC 9000 §10.3).
//!
//! A peer that learnt a stateless reset token with a connection id drops the connection when a packet comes back that ends
//! in that token. A node that starts again therefore computes the same tokens: from its secret, through HKDF, so that
//! tokens say nothing about the secret nor about each other. Address family and port go in as well: a token that one
//! socket gives away for an id it does not know must not end a connection that another one has (RFC 9000 §21.11).
//!
//! A connection id is five bytes that nobody can foresee and three that show it to be ours, so that rubbish is not answered.

use std::net::SocketAddr;

use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::time::Duration;
use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::{hkdf, hmac};

const SALT: &[u8] = b"mycelium QUIC endpoint, secrets that survive a restart, v1";
const RESET_TOKENS: &[u8] = b"stateless reset tokens";
const CONNECTION_IDS: &[u8] = b"connection ids";
/// Random bytes of a connection id.
const NONCE_LEN: usize = 5;
/// Together with those that show it to be ours.
const ID_LEN: usize = 8;

/// Whatever QUIC sockets of a node need to know again after a restart. Prints nothing.
#[derive(Clone, Debug)]
pub struct ResetSecret(hkdf::Prk);

impl ResetSecret {
    /// Of the node with this secret, which cannot be found out from it.
    pub fn of(secret: &SecretKey) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&secret.to_bytes()[..]))
    }

    /// Computes the reset token of each connection id of the socket at `local`.
    pub(super) fn reset_key(&self, local: SocketAddr) -> Result<hmac::Key, Unspecified> {
        self.key(RESET_TOKENS, local)
    }

    /// Makes and recognises the connection ids of the socket at `local`.
    pub(super) fn connection_ids(&self, local: SocketAddr) -> Result<ConnectionIds, Unspecified> {
        Ok(ConnectionIds {
            ours: self.key(CONNECTION_IDS, local)?,
            nonces: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            made: 0,
        })
    }

    fn key(&self, purpose: &[u8], local: SocketAddr) -> Result<hmac::Key, Unspecified> {
        let family = [if local.is_ipv6() { 6 } else { 4 }];
        let port = local.port().to_be_bytes();
        let info = [purpose, &family, &port];
        Ok(self.0.expand(&info, hmac::HMAC_SHA256)?.into())
    }
}

/// Connection ids that this node recognises after a restart.
#[derive(Clone)]
pub(super) struct ConnectionIds {
    ours: hmac::Key,
    /// Of this process: the same number gives another nonce after a restart.
    nonces: hmac::Key,
    made: u64,
}

impl ConnectionIds {
    fn id(&self, nonce: &[u8]) -> ConnectionId {
        let mark = hmac::sign(&self.ours, nonce);
        let mut id = [0; ID_LEN];
        let (head, tail) = id.split_at_mut(NONCE_LEN);
        head.copy_from_slice(nonce);
        tail.copy_from_slice(&mark.as_ref()[..ID_LEN - NONCE_LEN]);
        ConnectionId::new(&id)
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.made += 1;
        let nonce = hmac::sign(&self.nonces, &self.made.to_be_bytes());
        self.id(&nonce.as_ref()[..NONCE_LEN])
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.get(..NONCE_LEN) {
            Some(nonce) if self.id(nonce) == *id => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn ids(secret: u8, local: impl Into<SocketAddr>) -> ConnectionIds {
        ResetSecret::of(&SecretKey::from_bytes([secret; 32]))
            .connection_ids(local.into())
            .unwrap()
    }

    #[test]
    fn a_connection_id_is_recognised_by_the_next_process_and_by_no_other_socket() {
        let local = (Ipv6Addr::UNSPECIFIED, 9651);
        let mut before = ids(1, local);
        let (first, second) = (before.generate_cid(), before.generate_cid());
        assert_ne!(first[..NONCE_LEN], second[..NONCE_LEN]);
        let mut after = ids(1, local);
        assert!(after.validate(&first).is_ok() && after.validate(&second).is_ok());
        assert_ne!(after.generate_cid(), first, "an id is used again");
        for other in [
            ids(2, local),
            ids(1, (Ipv6Addr::UNSPECIFIED, 9652)),
            ids(1, (Ipv4Addr::UNSPECIFIED, 9651)),
        ] {
            assert!(other.validate(&first).is_err());
        }
        let mut altered = [0; ID_LEN];
        altered.copy_from_slice(&first);
        altered[0] ^= 1;
        for bytes in [&altered[..], &first[..NONCE_LEN], &[]] {
            assert!(after.validate(&ConnectionId::new(bytes)).is_err());
        }
    }

    #[test]
    fn reset_tokens_differ_by_socket_and_node_and_survive_a_restart() {
        let token = |secret, local: SocketAddr| {
            let secret = ResetSecret::of(&SecretKey::from_bytes([secret; 32]));
            hmac::sign(&secret.reset_key(local).unwrap(), b"an id")
                .as_ref()
                .to_vec()
        };
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9651));
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9651));
        assert_eq!(token(1, v6), token(1, v6));
        assert_ne!(token(1, v6), token(1, v4));
        assert_ne!(token(1, v6), token(2, v6));
    }

    #[test]
    fn secrets_do_not_print() {
        let text = format!("{:?}", ResetSecret::of(&SecretKey::from_bytes([7; 32])));
        assert!(!text.contains('7') && !text.contains("07"), "{text}");
    }
}

//! The handshake: Noise IKpsk2 over both static keys, with ML-KEM-768 and the network key as PSK (docs/protocol.md §14).
//!
//! A responder pays step by step and can stop after each: [`Identified`] (one agreement) says who it would be,
//! [`Authenticated`] (another) that this once was true, and [`Authenticated::respond`] (two and an encapsulation) makes keys.
//! That message 1 is no replay is not known until a transport packet opens: until then nothing may be sent, pinned or retired
//! on the session ([`Sender::release`](super::transport::Sender::release)).

use std::fmt;
use std::net::Ipv6Addr;

use zeroize::Zeroizing;

use super::derive_key;
use super::kem::{self, CT_LEN, DecapsulationKey, EK_LEN, EncapsulationKey};
use super::mac::{NetworkKey, ReplyKey};
use super::noise::{Mismatch, Symmetric};
use super::transport::{Receiver, Sender};
use crate::crypto::aead::{Suite, TAG_LEN};
use crate::crypto::identity::{PublicKey, SecretKey, SharedSecret};
use crate::rng::Rng;

/// Bytes of message 1.
pub const MESSAGE_1_LEN: usize = KEY_LEN + KEY_LEN + TAG_LEN + PAYLOAD_1_LEN + TAG_LEN;
/// Bytes of message 2.
pub const MESSAGE_2_LEN: usize = CT_LEN + KEY_LEN + PAYLOAD_2_LEN + TAG_LEN;

const KEY_LEN: usize = 32;
const PAYLOAD_1_LEN: usize = 20 + EK_LEN;
const PAYLOAD_2_LEN: usize = 8;
const AES: u8 = 1;
const CHACHA: u8 = 2;

/// What a session protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// Packets between two identities, through any number of nodes.
    EndToEnd,
    /// A native link between two neighbours.
    Link,
}

/// The same, from the view of somebody who receives message 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// In a data packet from this address, which must turn out to be that of the initiator's key.
    EndToEnd {
        /// Of the outer header.
        source: Ipv6Addr,
    },
    /// On the UDP port.
    Link,
}

/// One of our identities, with what its key leads to, computed once.
#[derive(Clone, Debug)]
pub struct Local {
    secret: SecretKey,
    public: PublicKey,
    address: Ipv6Addr,
}

impl Local {
    /// Costs one multiplication on the curve.
    pub fn new(secret: SecretKey) -> Self {
        let public = secret.public_key();
        Self {
            secret,
            public,
            address: public.address(),
        }
    }

    /// Its public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Its address, canonical.
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }
}

/// When an initiator started, by its own clock: seconds and nanoseconds since 1970, big-endian, so that bytes compare as times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub [u8; 12]);

impl Timestamp {
    /// The time that a clock shows `since_1970`.
    pub fn from_unix(since_1970: std::time::Duration) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&since_1970.as_secs().to_be_bytes());
        bytes[8..].copy_from_slice(&since_1970.subsec_nanos().to_be_bytes());
        Self(bytes)
    }
}

/// What an initiator says of itself, under the seal of message 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The index by which it will know the session; not 0.
    pub index: u32,
    /// Its clock.
    pub timestamp: Timestamp,
    /// Whether it has instructions for AES.
    pub has_aes: bool,
}

/// A static key with which no agreement is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the remote key is of low order")]
pub struct LowOrder;

/// Why a message is not accepted. No answer is ever sent to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not the length of that message.
    #[error("wrong length")]
    Length,
    /// Not sealed by whom it claims, for us, with the same network key; or changed.
    #[error("authentication failed")]
    Authentication,
    /// A key of low order, static or ephemeral.
    #[error("key of low order")]
    LowOrder,
    /// The initiator's key has a second encoding, and so would have a second address.
    #[error("the key is not in canonical form")]
    NonCanonical,
    /// The initiator's key does not own the address it sends from.
    #[error("the key does not own the source address")]
    Source,
    /// The sealed index is 0 or not that of the fragment.
    #[error("sealed index differs")]
    Index,
    /// A suite we did not offer.
    #[error("suite not offered")]
    Suite,
    /// Not an encoding of an ML-KEM-768 key.
    #[error("invalid encapsulation key")]
    KemKey,
    /// The handshake made its session already: a second one would repeat its nonces.
    #[error("handshake already finished")]
    Finished,
}

impl From<Mismatch> for HandshakeError {
    fn from(Mismatch: Mismatch) -> Self {
        Self::Authentication
    }
}

/// Keys for both directions.
#[derive(Debug)]
pub struct Established {
    /// Ours to them. A responder's is not released yet.
    pub sender: Sender,
    /// Theirs to us.
    pub receiver: Receiver,
    /// With which AEAD.
    pub suite: Suite,
    /// By which index we know the session.
    pub local_index: u32,
    /// By which index they do.
    pub remote_index: u32,
    /// Who they are.
    pub remote_key: PublicKey,
}

/// A handshake of ours that waits for message 2.
pub struct Initiator {
    secret: SecretKey,
    ephemeral: SecretKey,
    state: Symmetric,
    kem: DecapsulationKey,
    kem_key_hash: [u8; 32],
    remote: PublicKey,
    index: u32,
    has_aes: bool,
    reply_key: ReplyKey,
    finished: bool,
}

impl Initiator {
    /// Begin with `remote`: the second part is message 1. Every attempt, also a repeated one, starts anew.
    pub fn start(
        context: Context,
        local: &Local,
        remote: &PublicKey,
        hello: &Hello,
        rng: &mut Rng,
    ) -> Result<(Self, Vec<u8>), LowOrder> {
        let ephemeral = SecretKey::from_bytes(*rng.secret());
        let seed = rng.secret();
        Self::start_with(context, local, remote, hello, ephemeral, seed)
    }

    fn start_with(
        context: Context,
        local: &Local,
        remote: &PublicKey,
        hello: &Hello,
        ephemeral: SecretKey,
        kem_seed: Zeroizing<[u8; 64]>,
    ) -> Result<(Self, Vec<u8>), LowOrder> {
        let prologue = Prologue::new(context, local.address, remote.address());
        let mut state = Symmetric::start(prologue.bytes(), &remote.0);
        let mut message = Vec::with_capacity(MESSAGE_1_LEN);
        let ephemeral_key = ephemeral.public_key();
        message.extend_from_slice(&ephemeral_key.0);
        state.ephemeral(&ephemeral_key.0);
        state.agreement(&ephemeral.agree(remote).ok_or(LowOrder)?);
        state.seal(&local.public.0, &mut message);
        state.agreement(&local.secret.agree(remote).ok_or(LowOrder)?);

        let (kem, kem_key) = DecapsulationKey::from_seed(kem_seed);
        let mut payload = [0; PAYLOAD_1_LEN];
        payload[..4].copy_from_slice(&hello.index.to_be_bytes());
        payload[4..16].copy_from_slice(&hello.timestamp.0);
        payload[16] = CHACHA | if hello.has_aes { AES } else { 0 };
        payload[20..].copy_from_slice(&kem_key);
        state.seal(&payload, &mut message);

        let reply_key = ReplyKey::new(state.chaining());
        let initiator = Self {
            secret: local.secret.clone(),
            ephemeral,
            state,
            kem,
            kem_key_hash: blake3::hash(&kem_key).into(),
            remote: *remote,
            index: hello.index,
            has_aes: hello.has_aes,
            reply_key,
            finished: false,
        };
        Ok((initiator, message))
    }

    /// By which index we will know the session.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// With whom.
    pub fn remote_key(&self) -> &PublicKey {
        &self.remote
    }

    /// What tells fragments of the answer from forged ones.
    pub fn reply_key(&self) -> &ReplyKey {
        &self.reply_key
    }

    /// Take message 2, which came in fragments of `sender_index`. The session is ready to send. It is made once.
    ///
    /// # Errors
    /// Nothing is lost by a forged message: the genuine one may still come.
    pub fn finish(
        &mut self,
        sender_index: u32,
        message: &[u8],
        network_key: Option<&NetworkKey>,
    ) -> Result<Established, HandshakeError> {
        if self.finished {
            return Err(HandshakeError::Finished);
        }
        let message: &[u8; MESSAGE_2_LEN] =
            message.try_into().map_err(|_| HandshakeError::Length)?;
        let (ciphertext, rest) = split::<CT_LEN>(message)?;
        let (ephemeral, sealed) = split::<KEY_LEN>(rest)?;

        let mut state = self.state.clone();
        state.ephemeral(ephemeral);
        let ephemeral = PublicKey(*ephemeral);
        state.agreement(&agree(&self.ephemeral, &ephemeral)?);
        state.agreement(&agree(&self.secret, &ephemeral)?);
        let secret = self.kem.decapsulate(ciphertext);
        state.psk(&psk(&secret, &self.kem_key_hash, ciphertext, network_key));
        let payload = state.open::<PAYLOAD_2_LEN>(sealed)?;

        let remote_index = sealed_index(&payload[..], sender_index)?;
        let suite = match Suite::from_byte(payload[4]) {
            Some(Suite::Aes256Gcm) if !self.has_aes => return Err(HandshakeError::Suite),
            Some(suite) => suite,
            None => return Err(HandshakeError::Suite),
        };
        self.finished = true;
        let [to_responder, to_initiator] = &*state.split();
        let mut sender = Sender::new(suite, &transport_key(to_responder, suite, 0), remote_index);
        sender.release();
        Ok(Established {
            sender,
            receiver: Receiver::new(suite, &transport_key(to_initiator, suite, 1), self.index),
            suite,
            local_index: self.index,
            remote_index,
            remote_key: self.remote,
        })
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator")
            .field("index", &self.index)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Message 1 after one agreement: somebody who knew our key says who it is.
pub struct Identified<'a> {
    local: &'a Local,
    state: Symmetric,
    ephemeral: PublicKey,
    initiator: PublicKey,
    sealed: &'a [u8],
}

/// The other end of [`Initiator::start`].
#[derive(Debug)]
pub struct Responder;

impl Responder {
    /// Decrypt who sent message 1. Where it came in a data packet, the key owns its source.
    pub fn identify<'a>(
        arrival: Arrival,
        local: &'a Local,
        message: &'a [u8],
    ) -> Result<Identified<'a>, HandshakeError> {
        let message: &[u8; MESSAGE_1_LEN] =
            message.try_into().map_err(|_| HandshakeError::Length)?;
        let (ephemeral, rest) = split::<KEY_LEN>(message)?;
        let (sealed_key, sealed) = split::<{ KEY_LEN + TAG_LEN }>(rest)?;

        let prologue = match arrival {
            Arrival::EndToEnd { source } => Prologue::new(Context::EndToEnd, source, local.address),
            Arrival::Link => Prologue::new(Context::Link, Ipv6Addr::UNSPECIFIED, local.address),
        };
        let mut state = Symmetric::start(prologue.bytes(), &local.public.0);
        state.ephemeral(ephemeral);
        let ephemeral = PublicKey(*ephemeral);
        state.agreement(&agree(&local.secret, &ephemeral)?);
        let initiator = PublicKey(*state.open::<KEY_LEN>(sealed_key)?);
        match arrival {
            _ if !is_canonical(&initiator) => Err(HandshakeError::NonCanonical),
            Arrival::EndToEnd { source } if initiator.address() != source => {
                Err(HandshakeError::Source)
            }
            _ => Ok(Identified {
                local,
                state,
                ephemeral,
                initiator,
                sealed,
            }),
        }
    }
}

impl Identified<'_> {
    /// Who the initiator says it is. Anybody can say so.
    pub fn remote_key(&self) -> &PublicKey {
        &self.initiator
    }

    /// Check that the initiator's key, or ours, made message 1, which came in fragments of `sender_index`.
    pub fn authenticate(mut self, sender_index: u32) -> Result<Authenticated, HandshakeError> {
        let shared = agree(&self.local.secret, &self.initiator)?;
        self.state.agreement(&shared);
        let payload = self.state.open::<PAYLOAD_1_LEN>(self.sealed)?;
        let (head, kem_key) = split::<20>(&payload[..])?;
        let kem_key = kem_key.try_into().map_err(|_| HandshakeError::Length)?;
        let mut timestamp = [0; 12];
        timestamp.copy_from_slice(&head[4..16]);
        Ok(Authenticated {
            ephemeral: self.ephemeral,
            initiator: self.initiator,
            hello: Hello {
                index: sealed_index(head, sender_index)?,
                timestamp: Timestamp(timestamp),
                has_aes: head[16] & AES != 0,
            },
            kem_key: EncapsulationKey::parse(kem_key).map_err(|_| HandshakeError::KemKey)?,
            state: self.state,
        })
    }
}

impl fmt::Debug for Identified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identified")
            .field("initiator", &self.initiator)
            .finish_non_exhaustive()
    }
}

/// Message 1 after the second agreement: the initiator made it, once; or somebody who stole our key did.
pub struct Authenticated {
    state: Symmetric,
    ephemeral: PublicKey,
    initiator: PublicKey,
    hello: Hello,
    kem_key: EncapsulationKey,
}

impl Authenticated {
    /// The initiator's key.
    pub fn remote_key(&self) -> &PublicKey {
        &self.initiator
    }

    /// What the initiator says of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Make message 2 and the keys. The sender is held back until it is released, see [`Sender::release`].
    ///
    /// `local_index` is ours for the session and not 0; `has_aes`: this machine has instructions for AES.
    pub fn respond(
        self,
        local_index: u32,
        has_aes: bool,
        network_key: Option<&NetworkKey>,
        rng: &mut Rng,
    ) -> Result<Response, HandshakeError> {
        let ephemeral = SecretKey::from_bytes(*rng.secret());
        let randomness = rng.secret();
        self.respond_with(local_index, has_aes, network_key, &ephemeral, &randomness)
    }

    fn respond_with(
        mut self,
        local_index: u32,
        has_aes: bool,
        network_key: Option<&NetworkKey>,
        ephemeral: &SecretKey,
        kem_randomness: &[u8; 32],
    ) -> Result<Response, HandshakeError> {
        let suite = if has_aes && self.hello.has_aes {
            Suite::Aes256Gcm
        } else {
            Suite::ChaCha20Poly1305
        };
        let reply_key = ReplyKey::new(self.state.chaining());
        let mut message = Vec::with_capacity(MESSAGE_2_LEN);
        let (ciphertext, secret) = kem::encapsulate(&self.kem_key, kem_randomness);
        message.extend_from_slice(&ciphertext);
        let ephemeral_key = ephemeral.public_key();
        message.extend_from_slice(&ephemeral_key.0);
        self.state.ephemeral(&ephemeral_key.0);
        self.state.agreement(&agree(ephemeral, &self.ephemeral)?);
        self.state.agreement(&agree(ephemeral, &self.initiator)?);
        let kem_key_hash = blake3::hash(self.kem_key.bytes()).into();
        let psk = psk(&secret, &kem_key_hash, &ciphertext, network_key);
        self.state.psk(&psk);
        let mut payload = [0; PAYLOAD_2_LEN];
        payload[..4].copy_from_slice(&local_index.to_be_bytes());
        payload[4] = suite.byte();
        self.state.seal(&payload, &mut message);

        let [to_responder, to_initiator] = &*self.state.split();
        let remote_index = self.hello.index;
        let established = Established {
            sender: Sender::new(suite, &transport_key(to_initiator, suite, 1), remote_index),
            receiver: Receiver::new(suite, &transport_key(to_responder, suite, 0), local_index),
            suite,
            local_index,
            remote_index,
            remote_key: self.initiator,
        };
        Ok(Response {
            message,
            reply_key,
            established,
        })
    }
}

impl fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticated")
            .field("initiator", &self.initiator)
            .field("hello", &self.hello)
            .finish_non_exhaustive()
    }
}

/// What a responder has after its part.
#[derive(Debug)]
pub struct Response {
    /// Message 2.
    pub message: Vec<u8>,
    /// For the fragments of message 2.
    pub reply_key: ReplyKey,
    /// Not confirmed: the sender is not released.
    pub established: Established,
}

/// What both ends must agree on before they start.
struct Prologue([u8; Self::LEN]);

impl Prologue {
    const VERSION: &'static [u8; 19] = b"mycelium session v2";
    const LEN: usize = Self::VERSION.len() + 1 + 16 + 16;

    /// `initiator` counts end to end only: on a link the key alone says who it is.
    fn new(context: Context, initiator: Ipv6Addr, responder: Ipv6Addr) -> Self {
        let (context, initiator) = match context {
            Context::EndToEnd => (0, initiator.octets()),
            Context::Link => (1, [0; 16]),
        };
        let mut bytes = [0; Self::LEN];
        bytes[..19].copy_from_slice(Self::VERSION);
        bytes[19] = context;
        bytes[20..36].copy_from_slice(&initiator);
        bytes[36..].copy_from_slice(&responder.octets());
        Self(bytes)
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether `key` is below 2^255 − 19: X25519 takes every other number for the one it is congruent to.
fn is_canonical(PublicKey(key): &PublicKey) -> bool {
    let [low, middle @ .., high] = key;
    *high < 0x7f || (*high == 0x7f && (*low < 0xed || middle.iter().any(|byte| *byte != 0xff)))
}

fn agree(ours: &SecretKey, theirs: &PublicKey) -> Result<SharedSecret, HandshakeError> {
    ours.agree(theirs).ok_or(HandshakeError::LowOrder)
}

fn psk(
    kem_secret: &kem::Secret,
    kem_key_hash: &[u8; 32],
    ciphertext: &[u8; CT_LEN],
    network_key: Option<&NetworkKey>,
) -> Zeroizing<[u8; 32]> {
    derive_key(
        "mycelium session v2 psk",
        &[
            &kem_secret[..],
            kem_key_hash,
            blake3::hash(ciphertext).as_bytes(),
            NetworkKey::or_zeros(network_key),
        ],
    )
}

fn transport_key(split_key: &[u8; 32], suite: Suite, direction: u8) -> Zeroizing<[u8; 32]> {
    derive_key(
        "mycelium session v2 transport",
        &[split_key, &[suite.byte(), direction]],
    )
}

/// The index at the start of a payload, which must be the one in the clear.
fn sealed_index(payload: &[u8], in_clear: u32) -> Result<u32, HandshakeError> {
    let (index, _) = split::<4>(payload)?;
    match u32::from_be_bytes(*index) {
        index if index == in_clear && index != 0 => Ok(index),
        _ => Err(HandshakeError::Index),
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), HandshakeError> {
    bytes.split_first_chunk().ok_or(HandshakeError::Length)
}

#[cfg(test)]
mod tests;

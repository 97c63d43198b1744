//! Hot path: see docs/architecture.md#hot-path. The two directions of an established session: count, seal, open, once each.
//!
//! One pair serves both carriers (docs/protocol.md §14 and §15): bodies of data packets, laid out here, and datagrams of a
//! native link, which lay themselves out and use [`Sender::seal`] and [`Receiver::open_at`].

use std::fmt;
use std::net::Ipv6Addr;

use zeroize::Zeroizing;

use super::replay::{ReplayError, Window};
use crate::crypto::aead::{AeadKey, NONCE_LEN, OpenError, Suite, TAG_LEN};

/// Bytes before the ciphertext in a body: index and counter.
pub const HEAD_LEN: usize = 10;
/// Bytes of a body that are not plaintext.
pub const OVERHEAD: usize = HEAD_LEN + TAG_LEN;
/// Packets after which a new handshake is due.
pub const SOFT_LIMIT: u64 = 1 << 32;
/// Packets after which nothing is sent under a key.
pub const SEND_LIMIT: u64 = HARD_LIMIT - (1 << 20);
/// Packets after which nothing is accepted under a key.
pub const HARD_LIMIT: u64 = 1 << 33;

const AAD_LEN: usize = 36;

/// Why nothing can be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The initiator has not yet proved that it finished the handshake ([`Sender::release`]).
    #[error("session not confirmed")]
    Unconfirmed,
    /// The key has done its [`SEND_LIMIT`].
    #[error("key used up")]
    Exhausted,
    /// No room for what goes around the plaintext.
    #[error("buffer too short")]
    Length,
}

/// Why a packet is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Too short to be sealed by anybody.
    #[error("too short")]
    Length,
    /// For another session.
    #[error("index of another session")]
    Index,
    /// Counted already, or too old to tell.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A counter that no key may reach.
    #[error("key used up")]
    Exhausted,
    /// Sealed by somebody else, for other addresses, or changed.
    #[error("authentication failed")]
    Authentication,
}

impl From<OpenError> for ReceiveError {
    fn from(OpenError: OpenError) -> Self {
        Self::Authentication
    }
}

/// The sending direction.
pub struct Sender {
    key: Box<AeadKey>,
    /// The index by which the other end knows the session.
    index: u32,
    next: u64,
    /// Zero until released.
    limit: u64,
}

impl Sender {
    /// Unreleased: a responder's half of a session may not send before it is confirmed.
    pub(super) fn new(suite: Suite, key: &Zeroizing<[u8; 32]>, index: u32) -> Self {
        Self {
            key: Box::new(AeadKey::new(suite, key)),
            index,
            next: 0,
            limit: 0,
        }
    }

    /// The session is confirmed: from now on it may send. For an initiator it is so from the start.
    ///
    /// A responder's state machine calls this when, and only when, the first packet of the initiator opened: whoever stole our
    /// key can make a handshake look as if it came from anybody, but cannot derive what message 2 encrypts to (KCI).
    pub fn release(&mut self) {
        self.limit = SEND_LIMIT;
    }

    /// Whether [`release`](Self::release) was called.
    pub fn is_released(&self) -> bool {
        self.limit != 0
    }

    /// The index by which the other end knows the session.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Packets sealed so far.
    pub fn count(&self) -> u64 {
        self.next
    }

    /// Whether the count alone asks for a new handshake.
    pub fn is_worn(&self) -> bool {
        self.next >= SOFT_LIMIT
    }

    /// Whether nothing more can be sealed.
    pub fn is_exhausted(&self) -> bool {
        self.next >= SEND_LIMIT
    }

    /// Seal a body of a data packet where it lies: `body` has room for [`HEAD_LEN`] bytes, the plaintext, and room for
    /// [`TAG_LEN`] bytes. `source` and `destination` are those of the outer header.
    pub fn seal_body(
        &mut self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        body: &mut [u8],
    ) -> Result<(), SealError> {
        let Some((head, rest)) = body.split_first_chunk_mut::<HEAD_LEN>() else {
            return Err(SealError::Length);
        };
        let Some((plaintext, room)) = rest.split_last_chunk_mut::<TAG_LEN>() else {
            return Err(SealError::Length);
        };
        let counter = self.take_counter()?;
        head[..4].copy_from_slice(&self.index.to_be_bytes());
        // The limit keeps it below 2^48.
        head[4..].copy_from_slice(&counter.to_be_bytes()[2..]);
        let aad = aad(source, destination, self.index);
        *room = self.key.seal(nonce(counter), &aad, plaintext);
        Ok(())
    }

    /// Take the next counter, for [`seal`](Self::seal). It is spent, whatever becomes of the packet.
    pub fn take_counter(&mut self) -> Result<u64, SealError> {
        if self.next >= self.limit {
            return Err(match self.limit {
                0 => SealError::Unconfirmed,
                _ => SealError::Exhausted,
            });
        }
        let counter = self.next;
        self.next += 1;
        Ok(counter)
    }

    /// Seal anything, in place, under a counter that came from [`take_counter`](Self::take_counter) and is used this once.
    pub fn seal(&self, counter: u64, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LEN] {
        self.key.seal(nonce(counter), aad, in_out)
    }

    /// Open a body that we sealed ourselves and somebody quotes to us. Outside any window: a quote may come twice.
    ///
    /// # Errors
    /// Not ours, not whole, or for other addresses.
    pub fn open_own<'a>(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        body: &'a mut [u8],
    ) -> Result<&'a mut [u8], ReceiveError> {
        let (counter, sealed) = split_body(self.index, body)?;
        if counter >= self.next {
            return Err(ReceiveError::Authentication);
        }
        let aad = aad(source, destination, self.index);
        Ok(self.key.open(nonce(counter), &aad, sealed)?)
    }
}

#[cfg(test)]
impl Sender {
    /// Half a session from a known key.
    pub(crate) fn known(suite: Suite, key: [u8; 32], index: u32) -> Self {
        let mut sender = Self::new(suite, &Zeroizing::new(key), index);
        sender.release();
        sender
    }

    /// As if `count` packets had been sealed.
    pub(crate) fn set_count(&mut self, count: u64) {
        self.next = count;
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("key", &self.key)
            .field("index", &self.index)
            .field("next", &self.next)
            .field("limit", &self.limit)
            .finish()
    }
}

/// The receiving direction.
pub struct Receiver {
    key: Box<AeadKey>,
    /// The index by which we know the session.
    index: u32,
    window: Window,
    accepted: u64,
}

impl Receiver {
    pub(super) fn new(suite: Suite, key: &Zeroizing<[u8; 32]>, index: u32) -> Self {
        Self {
            key: Box::new(AeadKey::new(suite, key)),
            index,
            window: Window::new(),
            accepted: 0,
        }
    }

    /// The index by which we know the session.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The highest counter that arrived; 0 also if none did.
    pub fn highest(&self) -> u64 {
        self.window.highest()
    }

    /// Packets accepted. With [`highest`](Self::highest), what was lost.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Open a body of a data packet in place. `source` and `destination` are those of the outer header.
    ///
    /// # Errors
    /// Then `body` holds nothing of use if the error is `Authentication`, and is untouched otherwise.
    pub fn open_body<'a>(
        &mut self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        body: &'a mut [u8],
    ) -> Result<&'a mut [u8], ReceiveError> {
        let (counter, sealed) = split_body(self.index, body)?;
        self.check(counter)?;
        let aad = aad(source, destination, self.index);
        let plaintext = self.key.open(nonce(counter), &aad, sealed)?;
        self.accept(counter)?;
        Ok(plaintext)
    }

    /// The whole counter of which `low` are the lower 32 bits: the one nearest to what is expected next, and never below 0 (as
    /// RFC 3711 §3.3.1).
    pub fn reconstruct(&self, low: u32) -> u64 {
        const TURN: u64 = 1 << 32;
        const HALF: u64 = TURN / 2;
        let expected = match self.accepted {
            0 => 0,
            _ => self.window.highest() + 1,
        };
        let same_turn = expected & !(TURN - 1) | u64::from(low);
        if same_turn + HALF < expected {
            same_turn + TURN
        } else if same_turn > expected + HALF && same_turn >= TURN {
            same_turn - TURN
        } else {
            same_turn
        }
    }

    /// Open anything, in place, under a counter of the sender's, once. `in_out` is the ciphertext without `tag`.
    ///
    /// # Errors
    /// Then `in_out` holds nothing of use if the error is `Authentication`, and is untouched otherwise.
    pub fn open_at(
        &mut self,
        counter: u64,
        aad: &[u8],
        tag: [u8; TAG_LEN],
        in_out: &mut [u8],
    ) -> Result<(), ReceiveError> {
        self.check(counter)?;
        self.key.open_separate(nonce(counter), aad, tag, in_out)?;
        self.accept(counter)
    }

    fn check(&self, counter: u64) -> Result<(), ReceiveError> {
        if counter >= HARD_LIMIT {
            return Err(ReceiveError::Exhausted);
        }
        Ok(self.window.check(counter)?)
    }

    fn accept(&mut self, counter: u64) -> Result<(), ReceiveError> {
        self.window.accept(counter)?;
        self.accepted += 1;
        Ok(())
    }
}

#[cfg(test)]
impl Receiver {
    /// Half a session from a known key.
    pub(crate) fn known(suite: Suite, key: [u8; 32], index: u32) -> Self {
        Self::new(suite, &Zeroizing::new(key), index)
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("key", &self.key)
            .field("index", &self.index)
            .field("highest", &self.window.highest())
            .finish_non_exhaustive()
    }
}

/// The index at the start of a body, 0 for a handshake; `None` if it is too short.
pub fn index_of(body: &[u8]) -> Option<u32> {
    body.first_chunk().copied().map(u32::from_be_bytes)
}

/// Counter and sealed part of a body that must be for `index`.
fn split_body(index: u32, body: &mut [u8]) -> Result<(u64, &mut [u8]), ReceiveError> {
    if body.len() < OVERHEAD {
        return Err(ReceiveError::Length);
    }
    let (head, sealed) = body.split_at_mut(HEAD_LEN);
    if head[..4] != index.to_be_bytes() {
        return Err(ReceiveError::Index);
    }
    let mut counter = [0; 8];
    counter[2..].copy_from_slice(&head[4..]);
    Ok((u64::from_be_bytes(counter), sealed))
}

fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

fn aad(source: Ipv6Addr, destination: Ipv6Addr, index: u32) -> [u8; AAD_LEN] {
    let mut aad = [0; AAD_LEN];
    aad[..16].copy_from_slice(&source.octets());
    aad[16..32].copy_from_slice(&destination.octets());
    aad[32..].copy_from_slice(&index.to_be_bytes());
    aad
}

#[cfg(test)]
mod tests;

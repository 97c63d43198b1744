//! Handshake messages on the wire, each in two halves because one datagram may not carry the whole (docs/protocol.md §14.3).
//! [`Reassembly`] puts them together again.

mod reassembly;

pub use reassembly::{
    Reassembly, ReassemblyLimits, ReassemblyStats, Route, SecondMessage, Source, Whole,
};

use super::cookie::REPLY_LEN;
use super::handshake::{MESSAGE_1_LEN, MESSAGE_2_LEN};
use super::mac::{MAC_LEN, MACS_LEN, MacKey, ReplyKey, Scope};
use crate::crypto::aead::TAG_LEN;
use crate::time::Duration;

/// Bytes before the half of the message.
pub const HEADER_LEN: usize = 20;
/// Bytes of a fragment of a first message.
pub const UNIT_1_LEN: usize = HEADER_LEN + MESSAGE_1_LEN / 2 + MACS_LEN;
/// Bytes of a fragment of a second message.
pub const UNIT_2_LEN: usize = HEADER_LEN + MESSAGE_2_LEN / 2 + MACS_LEN;
/// How long one half waits for the other.
pub const LIFETIME: Duration = Duration::from_secs(2);

const HASH_LEN: usize = 32;
const DIGEST_LEN: usize = 8;

const _: () = assert!(MESSAGE_1_LEN.is_multiple_of(2) && MESSAGE_2_LEN.is_multiple_of(2));

/// Which message of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// Initiator to responder.
    One,
    /// Responder to initiator.
    Two,
}

impl MessageKind {
    const fn byte(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Bytes of the whole message.
    const fn len(self) -> usize {
        match self {
            Self::One => MESSAGE_1_LEN,
            Self::Two => MESSAGE_2_LEN,
        }
    }
}

const COOKIE_REPLY: u8 = 3;

/// Why bytes are not a handshake unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Too short, or not the length that the rest says.
    #[error("wrong length")]
    Length,
    /// Neither message nor cookie reply.
    #[error("unknown kind")]
    Kind,
    /// Not one of two fragments, or a cookie reply that is not one of one.
    #[error("impossible fragment number")]
    Number,
    /// An index is 0 that must not be, or is not that must.
    #[error("impossible index")]
    Index,
}

/// What follows the zero index in a data packet, or the type byte in a datagram of a native link. Nothing in it is authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit<'a> {
    /// Of a message.
    Fragment(Fragment<'a>),
    /// Instead of message 2.
    CookieReply(CookieReply<'a>),
}

impl<'a> Unit<'a> {
    /// Read a unit. Its length is exactly what its header says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UnitError> {
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(UnitError::Length)?;
        let [
            kind,
            numbers,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            r0,
            r1,
            r2,
            r3,
            digest @ ..,
        ] = *header;
        let sender = u32::from_be_bytes([s0, s1, s2, s3]);
        let receiver = u32::from_be_bytes([r0, r1, r2, r3]);
        let (kind, number) = match (kind, numbers) {
            (1, 0x20 | 0x21) => (MessageKind::One, numbers & 1),
            (2, 0x20 | 0x21) => (MessageKind::Two, numbers & 1),
            (COOKIE_REPLY, 0x10) => {
                return CookieReply::parse(bytes, sender, receiver).map(Self::CookieReply);
            }
            (1 | 2 | COOKIE_REPLY, _) => return Err(UnitError::Number),
            _ => return Err(UnitError::Kind),
        };
        if sender == 0 || (receiver == 0) != (kind == MessageKind::One) {
            return Err(UnitError::Index);
        }
        let (half, macs) = rest
            .split_last_chunk::<MACS_LEN>()
            .ok_or(UnitError::Length)?;
        if half.len() != kind.len() / 2 {
            return Err(UnitError::Length);
        }
        let (mac1, mac2) = halves(macs);
        Ok(Self::Fragment(Fragment {
            kind,
            number,
            sender,
            receiver,
            digest,
            half,
            mac1,
            mac2,
            bytes,
        }))
    }
}

fn halves(macs: &[u8; MACS_LEN]) -> (&[u8; MAC_LEN], &[u8; MAC_LEN]) {
    let (first, rest) = macs.split_first_chunk().expect("MACS_LEN is twice MAC_LEN");
    (
        first,
        rest.first_chunk().expect("MACS_LEN is twice MAC_LEN"),
    )
}

/// One half of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    kind: MessageKind,
    number: u8,
    sender: u32,
    receiver: u32,
    digest: [u8; DIGEST_LEN],
    half: &'a [u8],
    mac1: &'a [u8; MAC_LEN],
    mac2: &'a [u8; MAC_LEN],
    bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Of which message.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The index of whoever sends; not 0.
    pub fn sender(&self) -> u32 {
        self.sender
    }

    /// The index of whom it goes to; 0 in message 1 and only there.
    pub fn receiver(&self) -> u32 {
        self.receiver
    }

    /// 0 for the first half, 1 for the second.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// MAC1, as it is.
    pub fn mac1(&self) -> &'a [u8; MAC_LEN] {
        self.mac1
    }

    /// MAC2, or in a second message the reply MAC, as it is.
    pub fn mac2(&self) -> &'a [u8; MAC_LEN] {
        self.mac2
    }

    /// The whole unit.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// "Come back with this in MAC2": the answer of somebody under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply<'a> {
    receiver: u32,
    nonce: &'a [u8; 24],
    cookie: &'a [u8; MAC_LEN],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> CookieReply<'a> {
    fn parse(bytes: &'a [u8], sender: u32, receiver: u32) -> Result<Self, UnitError> {
        if sender != 0 || receiver == 0 {
            return Err(UnitError::Index);
        }
        let bytes: &[u8; REPLY_LEN] = bytes.try_into().map_err(|_| UnitError::Length)?;
        let (_, rest) = bytes.split_first_chunk::<12>().ok_or(UnitError::Length)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(UnitError::Length)?;
        let (cookie, rest) = rest.split_first_chunk().ok_or(UnitError::Length)?;
        let tag = rest.first_chunk().ok_or(UnitError::Length)?;
        Ok(Self {
            receiver,
            nonce,
            cookie,
            tag,
        })
    }

    /// The first 12 bytes of a reply to whoever knows its handshake as `receiver`.
    pub(super) fn header(receiver: u32) -> [u8; 12] {
        let mut header = [0; 12];
        header[0] = COOKIE_REPLY;
        header[1] = 1 << 4;
        header[8..].copy_from_slice(&receiver.to_be_bytes());
        header
    }

    /// The index that the fragment it answers had as sender.
    pub fn receiver(&self) -> u32 {
        self.receiver
    }

    pub(super) fn nonce(&self) -> &'a [u8; 24] {
        self.nonce
    }

    /// Ciphertext and tag.
    pub(super) fn sealed(&self) -> (&'a [u8; MAC_LEN], &'a [u8; TAG_LEN]) {
        (self.cookie, self.tag)
    }
}

/// The two units of a first message. MAC2 is zero until a [`CookieMemory`](super::cookie::CookieMemory) puts it in.
///
/// `sender` is the index that message 1 carries.
pub fn split_first(message: &[u8], sender: u32, scope: Scope, mac_key: &MacKey) -> [Vec<u8>; 2] {
    let header = Header {
        kind: MessageKind::One,
        sender,
        receiver: 0,
    };
    header.split(message, scope, mac_key)
}

/// The two units of a second message. `sender` is the index it carries, `receiver` that of the first message.
pub fn split_second(
    message: &[u8],
    sender: u32,
    receiver: u32,
    scope: Scope,
    mac_key: &MacKey,
    reply_key: &ReplyKey,
) -> [Vec<u8>; 2] {
    let header = Header {
        kind: MessageKind::Two,
        sender,
        receiver,
    };
    let mut units = header.split(message, scope, mac_key);
    for unit in &mut units {
        if let Some(mac) = reply_key.mac(unit)
            && let Some(field) = unit.last_chunk_mut()
        {
            *field = mac;
        }
    }
    units
}

struct Header {
    kind: MessageKind,
    sender: u32,
    receiver: u32,
}

impl Header {
    fn split(&self, message: &[u8], scope: Scope, mac_key: &MacKey) -> [Vec<u8>; 2] {
        let digest = digest(&hash(&[message]));
        let (first, second) = message.split_at(message.len() / 2);
        [(0x20, first), (0x21, second)].map(|(number, half)| {
            let mut unit = Vec::with_capacity(HEADER_LEN + half.len() + MACS_LEN);
            unit.extend_from_slice(&[self.kind.byte(), number, 0, 0]);
            unit.extend_from_slice(&self.sender.to_be_bytes());
            unit.extend_from_slice(&self.receiver.to_be_bytes());
            unit.extend_from_slice(&digest);
            unit.extend_from_slice(half);
            let end = unit.len();
            unit.extend_from_slice(&[0; MACS_LEN]);
            if let Some(mac1) = mac_key.mac1(scope, &unit) {
                unit[end..end + MAC_LEN].copy_from_slice(&mac1);
            }
            unit
        })
    }
}

fn hash(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn digest(hash: &[u8; HASH_LEN]) -> [u8; DIGEST_LEN] {
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(&hash[..DIGEST_LEN]);
    digest
}

#[cfg(test)]
mod tests;

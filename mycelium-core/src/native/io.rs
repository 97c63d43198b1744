//! What goes into an endpoint and comes out of it, besides datagrams and events.

use std::net::SocketAddr;

use super::datagram;
use super::event::Rtt;
use super::link_id::LinkId;
use crate::crypto::aead::Suite;
use crate::crypto::identity::PublicKey;
use crate::time::Duration;

/// Bytes that must lie before a mycelium data frame which is to be sealed in place.
pub const DATA_HEADROOM: usize = datagram::DATA_OVERHEAD;

const _: () = assert!(DATA_HEADROOM == 18);

/// Whether a datagram that starts with this byte is ours; QUIC's never do (its fixed bit, with greasing off).
pub const fn is_native(first_byte: u8) -> bool {
    matches!(first_byte, 0x04..=0x0f)
}

/// Whether a datagram that starts with this byte goes before other data: it is, or is half of, a packet of a sparse flow.
pub const fn is_sparse(first_byte: u8) -> bool {
    matches!(
        first_byte,
        datagram::SPARSE_SESSION..=datagram::SPARSE_SECOND
    )
}

/// What protects the body of a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// A session v2 transport body: the link authenticates its tag only.
    Session,
    /// Anything else, or not known: the link authenticates all of it.
    Other,
}

/// What a native link must know of a data frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataClass {
    /// What protects the body.
    pub body: BodyKind,
    /// Of a flow that sends little (RFC 8290 §4.1): goes before other data wherever both wait (datagram types 0x0B to 0x0E).
    pub sparse: bool,
}

impl DataClass {
    /// What nothing better is known of.
    pub const OTHER: Self = Self {
        body: BodyKind::Other,
        sparse: false,
    };

    /// The first bytes of the two halves of a frame of this class.
    pub(super) const fn half_types(self) -> [u8; 2] {
        match self.sparse {
            false => [datagram::HALF_FIRST, datagram::HALF_SECOND],
            true => [datagram::SPARSE_FIRST, datagram::SPARSE_SECOND],
        }
    }

    /// The first byte of a datagram of this class.
    pub(super) const fn datagram_type(self) -> u8 {
        match (self.body, self.sparse) {
            (BodyKind::Session, false) => datagram::DATA_SESSION,
            (BodyKind::Other, false) => datagram::DATA_OTHER,
            (BodyKind::Session, true) => datagram::SPARSE_SESSION,
            (BodyKind::Other, true) => datagram::SPARSE_OTHER,
        }
    }

    /// The class of datagrams that start with this byte, if each is one frame of data.
    pub(super) const fn of_datagram(first_byte: u8) -> Option<Self> {
        let (body, sparse) = match first_byte {
            datagram::DATA_SESSION => (BodyKind::Session, false),
            datagram::DATA_OTHER => (BodyKind::Other, false),
            datagram::SPARSE_SESSION => (BodyKind::Session, true),
            datagram::SPARSE_OTHER => (BodyKind::Other, true),
            _ => return None,
        };
        Some(Self { body, sparse })
    }
}

/// What a datagram brought. Everything but data becomes events and datagrams to send.
#[derive(Debug)]
#[must_use]
pub enum Received<'a> {
    /// A complete mycelium data frame, 40-byte header included, in place.
    Data {
        /// Over which link.
        link: LinkId,
        /// Goes to `seal_data` when it is forwarded.
        class: DataClass,
        /// The frame.
        frame: &'a mut [u8],
    },
    /// Nothing for the data plane.
    Nothing,
}

/// A sealed data frame, ready for the socket.
#[derive(Debug)]
#[must_use]
pub enum Sealed<'a> {
    /// The whole buffer is one datagram now.
    Whole {
        /// Where it goes.
        to: SocketAddr,
    },
    /// It was too long for the path: two datagrams. The buffer holds nothing of use.
    Halves {
        /// Where they go.
        to: SocketAddr,
        /// To be sent first.
        first: &'a [u8],
        /// To be sent second.
        second: &'a [u8],
    },
}

/// Why a data frame was not sealed: it must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No such link, or it is not up.
    #[error("no such link")]
    NoLink,
    /// The buffer does not hold headroom and exactly one data frame.
    #[error("not a data frame")]
    NotData,
    /// Too long for two datagrams.
    #[error("frame of {0} bytes is too long")]
    TooLong(usize),
    /// The keys have sealed all they may; the link ends.
    #[error("keys expired")]
    KeysExpired,
}

/// Why a control packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No such link, or it is not up.
    #[error("no such link")]
    NoLink,
    /// Not exactly one control packet.
    #[error("not a control packet")]
    NotControl,
    /// Too many wait: the link is closed.
    #[error("control lane is full")]
    Overflow,
}

/// What a close frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseCode {
    /// The node stops.
    Shutdown = 0,
    /// The operator, or the peer manager, does not want this link.
    Unwanted = 1,
    /// Sealed bytes made no sense.
    Malformed = 2,
    /// A bound was exceeded.
    Overflow = 3,
}

/// A link for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSnapshot {
    /// Which.
    pub link: LinkId,
    /// Who is at the other end.
    pub remote_key: PublicKey,
    /// Where.
    pub address: SocketAddr,
    /// Round trips, once measured.
    pub rtt: Option<Rtt>,
    /// Datagrams lost on the way to the other end, in thousandths, smoothed.
    pub loss_permille: u16,
    /// Longest data frame in one datagram.
    pub max_frame: usize,
    /// The AEAD.
    pub suite: Suite,
    /// How long it has been up.
    pub age: Duration,
    /// How often its keys were replaced by us.
    pub rekeys: u32,
    /// Control packets that wait for being sent or acknowledged.
    pub control_waiting: usize,
    /// Control packets sent more than once.
    pub control_repeated: u64,
    /// Control packets that came more than once.
    pub control_duplicates: u64,
}

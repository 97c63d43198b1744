//! All native links of one UDP socket.

use std::net::SocketAddr;

use super::{Event, LinkId, NativeConfig, Rtt};
use crate::crypto::aead::Suite;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::time::{Duration, Time};

/// Bytes that must lie before a mycelium data frame which is to be sealed in place.
pub const DATA_HEADROOM: usize = 18;

/// Whether a datagram that starts with this byte is ours; QUIC's never do (its fixed bit, with greasing off).
pub const fn is_native(first_byte: u8) -> bool {
    matches!(first_byte, 0x04..=0x0f)
}

/// What protects the body of a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// A session v2 transport body: the link authenticates its tag only (datagram type 0x05).
    Session,
    /// Anything else, or not known: the link authenticates all of it (type 0x0A).
    Other,
}

/// What a datagram brought. Everything but data becomes events and datagrams to send.
#[derive(Debug)]
#[must_use]
pub enum Received<'a> {
    /// A complete mycelium data frame, 40-byte header included, in place.
    Data {
        /// Over which link.
        link: LinkId,
        /// What protects its body; goes to `seal_data` when it is forwarded.
        kind: BodyKind,
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
    /// The other end has just moved, and has not yet shown that it receives at its new address.
    #[error("path not validated yet")]
    Unvalidated,
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
    /// How often its keys were replaced.
    pub rekeys: u32,
}

/// All native links of one UDP socket.
#[derive(Debug)]
pub struct NativeEndpoint {
    config: NativeConfig,
}

impl NativeEndpoint {
    /// An endpoint of the node with this secret. `unix` is the wall clock at `now`, which dates handshakes.
    pub fn new(
        config: NativeConfig,
        secret: &SecretKey,
        seed: [u8; 32],
        unix: Duration,
        now: Time,
    ) -> Self {
        let _ = (secret, seed, unix, now);
        Self { config }
    }

    /// The wall clock was set: it shows `unix` at `now`.
    pub fn set_wall_clock(&mut self, unix: Duration, now: Time) {
        let _ = (unix, now);
    }

    /// Make a link to whoever is at `address`, or only to the holder of `key`. Ends in `Up`, or `Down` with the reason.
    pub fn dial(&mut self, address: SocketAddr, key: Option<PublicKey>, now: Time) -> LinkId {
        let _ = (address, key, now);
        LinkId(0)
    }

    /// End a link or a dial. `Down` follows; the other end is told.
    pub fn close(&mut self, link: LinkId, code: CloseCode, now: Time) {
        let _ = (link, code, now);
    }

    /// Close everything, telling the other ends: drain `poll_transmit` once more, then drop the endpoint.
    pub fn shutdown(&mut self, now: Time) {
        let _ = now;
    }

    /// Send one complete control packet: in order, exactly once, as long as the link lives.
    pub fn send_control(
        &mut self,
        link: LinkId,
        packet: &[u8],
        now: Time,
    ) -> Result<(), ControlError> {
        let _ = (link, packet, now);
        Err(ControlError::NoLink)
    }

    /// Seal in place: `buffer` is [`DATA_HEADROOM`] bytes followed by one complete mycelium data frame, and becomes, at the
    /// same length, one datagram.
    pub fn seal_data(
        &mut self,
        link: LinkId,
        kind: BodyKind,
        buffer: &mut [u8],
        now: Time,
    ) -> Result<Sealed<'_>, SealError> {
        let _ = (link, kind, buffer, now);
        Err(SealError::NoLink)
    }

    /// Take one datagram (one GRO segment, not one GRO buffer).
    pub fn handle_datagram<'a>(
        &'a mut self,
        now: Time,
        from: SocketAddr,
        datagram: &'a mut [u8],
    ) -> Received<'a> {
        let _ = (now, from, datagram);
        Received::Nothing
    }

    /// The host at `address` reported the port closed (ICMP, the socket's error queue).
    pub fn on_unreachable(&mut self, address: SocketAddr, now: Time) {
        let _ = (address, now);
    }

    /// The kernel, or a router by ICMP, refused a datagram to `address` for its size.
    pub fn on_too_large(&mut self, address: SocketAddr, now: Time) {
        let _ = (address, now);
    }

    /// Do what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        let _ = now;
    }

    /// When to call `handle_timeout`; the last `now` seen while anything waits to be sent.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The next datagram of control, written over `out`, and where it goes.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let _ = (now, out);
        None
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The longest mycelium data frame that goes over `link` in one datagram; `None`: no such link.
    #[must_use]
    pub fn max_frame(&self, link: LinkId) -> Option<usize> {
        let _ = link;
        None
    }

    /// One link.
    #[must_use]
    pub fn link(&self, link: LinkId, now: Time) -> Option<LinkSnapshot> {
        let _ = (link, now);
        None
    }

    /// The links that are up, in the order of their ids.
    pub fn links(&self, now: Time) -> impl Iterator<Item = LinkSnapshot> {
        let _ = now;
        std::iter::empty()
    }
}

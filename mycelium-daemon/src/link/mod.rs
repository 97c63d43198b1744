//! Links: established connections to other nodes, whatever their transport.
//!
//! [`tcp`], [`quic`] and `vsock` dial and accept, the worker itself does for [`native`] links; what they return ([`Established`]) goes to
//! [`EngineHandle::attach_link`](crate::engine::EngineHandle::attach_link), after which the data worker owns it. What
//! waits to be sent is in an [`outbox`]. Nothing here decides about routes or peers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use mycelium_core::io::LinkInfo;
use mycelium_core::time::Duration;

mod inbox;
pub mod native;
pub mod outbox;
mod pending;
pub(crate) mod port;
pub mod quic;
pub mod reset;
pub mod tcp;
pub(crate) mod udp_socket;
pub mod unreachable;
pub(crate) mod vsock;

pub use native::NativeLink;

/// A connection, ready to carry packets both ways.
pub enum Transport {
    /// A byte stream that carries everything.
    Tcp(tokio::net::TcpStream),
    /// The same between a guest and its host; a socket of another family.
    Vsock(tokio::net::TcpStream),
    /// Control packets on the stream, data packets in datagrams (wire spec §2.5).
    Quic {
        /// The connection.
        connection: quinn::Connection,
        /// Our half of its one bidirectional stream.
        send: quinn::SendStream,
        /// Their half.
        recv: quinn::RecvStream,
    },
    /// Sealed datagrams over the socket that all links share.
    Native(NativeLink),
}

impl Transport {
    /// As in an endpoint: `tcp`, `vsock`, `quic` or `udp`.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Vsock(_) => "vsock",
            Self::Quic { .. } => "quic",
            Self::Native(_) => "udp",
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme())
    }
}

/// A new link and what is known of it.
#[derive(Debug)]
pub struct Established {
    /// The connection.
    pub transport: Transport,
    /// Our end, where known.
    pub local: Option<SocketAddr>,
    /// Their end. IPv4-mapped addresses are given as IPv4, those of vsock by a stand-in.
    pub remote: SocketAddr,
    /// What the router wants to know.
    pub info: LinkInfo,
}

/// Counters of one link, in bytes and packets of the overlay protocol. Written by the data worker only.
#[derive(Debug, Default)]
pub struct LinkStats {
    /// Bytes handed to the transport.
    pub tx_bytes: Count,
    /// Bytes taken from the transport.
    pub rx_bytes: Count,
    /// Data packets accepted for sending.
    pub tx_packets: Count,
    /// Packets received, data and control.
    pub rx_packets: Count,
    /// Control packets accepted for sending.
    pub tx_control: Count,
    /// Data packets refused because the data lane was full.
    pub dropped_full: Count,
    /// Data packets dropped because they had waited too long.
    pub dropped_old: Count,
    /// Datagrams that were not exactly one packet; dropped.
    pub bad_datagrams: Count,
}

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Only the data worker writes, hence no atomic addition.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }
}

/// Why a link ended, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkClosed {
    /// Lower case, no full stop.
    pub reason: String,
}

impl LinkClosed {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

impl fmt::Display for LinkClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Fixed part of the cost of a link, by transport and address family (wire spec §2.7).
fn link_info(v4_cost: u16, remote: SocketAddr, setup_rtt: Option<Duration>) -> LinkInfo {
    const V6_BONUS: u16 = 5;
    LinkInfo {
        static_cost: match remote.ip() {
            IpAddr::V4(_) => v4_cost,
            IpAddr::V6(_) => v4_cost - V6_BONUS,
        },
        setup_rtt,
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`; anything else unchanged.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

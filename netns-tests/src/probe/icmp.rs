//! Raw ICMPv6 sockets, and the few messages the probes need.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Host;

/// Length of an ICMPv6 header with its four bytes of "rest".
pub const HEADER: usize = 8;
/// Length of an IPv6 header.
const IPV6_HEADER: usize = 40;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// Destination unreachable, no route to destination.
pub const NO_ROUTE: (u8, u8) = (1, 0);
/// Destination unreachable, address unreachable.
pub const ADDRESS_UNREACHABLE: (u8, u8) = (1, 3);
/// Destination unreachable, source address failed ingress/egress policy.
pub const SOURCE_POLICY: (u8, u8) = (1, 5);
/// Time exceeded, hop limit exceeded in transit.
pub const HOP_LIMIT: (u8, u8) = (3, 0);

/// A raw ICMPv6 socket in the namespace of `host`, bound to `source` if given.
///
/// A datagram socket type holds it because its safe interface is exactly what a raw socket needs: the kernel strips
/// the IPv6 header, and fills in and checks the ICMPv6 checksum.
pub fn open(host: &Host, source: Option<Ipv6Addr>) -> anyhow::Result<UdpSocket> {
    host.inside(|| -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_recv_buffer_size(8 << 20)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        Ok(socket.into())
    })?
    .with_context(|| format!("raw ICMPv6 socket on {}", host.name()))
}

/// An echo request; the kernel fills in the checksum.
pub fn echo_request(id: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0];
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// A received message, as far as the probes care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// An answer to an echo request, with its payload.
    EchoReply {
        /// Identifier of the request.
        id: u16,
        /// Sequence number of the request.
        sequence: u16,
        /// Payload of the request.
        payload: Vec<u8>,
    },
    /// An error about an echo request.
    Error(IcmpError),
}

/// An ICMPv6 error that quotes an echo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Type and code.
    pub kind: (u8, u8),
    /// The four bytes after the checksum: the MTU of "packet too big".
    pub rest: u32,
    /// Identifier of the quoted request.
    pub id: u16,
    /// Sequence number of the quoted request.
    pub sequence: u16,
    /// Source of the quoted packet.
    pub source: Ipv6Addr,
    /// Destination of the quoted packet.
    pub destination: Ipv6Addr,
    /// Hop limit of the quoted packet.
    pub hop_limit: u8,
    /// Bytes quoted.
    pub quoted: usize,
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// Understand a message; `None` for anything that is neither an echo reply nor an error about an echo request.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
    if kind == ECHO_REPLY {
        return Some(Message::EchoReply {
            id: half(bytes, 4)?,
            sequence: half(bytes, 6)?,
            payload: bytes.get(HEADER..)?.to_vec(),
        });
    }
    if kind >= 128 {
        return None;
    }
    let quote = bytes.get(HEADER..)?;
    let inner = quote.get(IPV6_HEADER..)?;
    if quote.first()? >> 4 != 6 || *inner.first()? != ECHO_REQUEST {
        return None;
    }
    Some(Message::Error(IcmpError {
        kind: (kind, code),
        rest: u32::from(half(bytes, 4)?) << 16 | u32::from(half(bytes, 6)?),
        id: half(inner, 4)?,
        sequence: half(inner, 6)?,
        source: address(quote, 8)?,
        destination: address(quote, 24)?,
        hop_limit: *quote.get(7)?,
        quoted: quote.len(),
    }))
}

/// One echo request and the first thing that comes back for it.
#[derive(Clone, Debug)]
pub struct Echo {
    /// Where it goes.
    pub target: Ipv6Addr,
    /// Source address; the kernel's choice if `None`.
    pub source: Option<Ipv6Addr>,
    /// Hop limit.
    pub hop_limit: u8,
    /// Bytes of payload.
    pub size: usize,
}

impl Echo {
    /// 56 bytes with hop limit 64, as `ping` sends.
    pub fn to(target: Ipv6Addr) -> Self {
        Self {
            target,
            source: None,
            hop_limit: 64,
            size: 56,
        }
    }

    /// Send it once and wait; the sender of the answer and the answer, or `None` after `limit`.
    pub fn send(
        &self,
        host: &Host,
        limit: Duration,
    ) -> anyhow::Result<Option<(Ipv6Addr, Message)>> {
        let socket = open(host, self.source)?;
        socket2::SockRef::from(&socket).set_unicast_hops_v6(self.hop_limit.into())?;
        let id = identifier();
        let payload = vec![0x5a; self.size];
        let to = SocketAddrV6::new(self.target, 0, 0, 0);
        socket
            .send_to(&echo_request(id, 1, &payload), to)
            .context("send an echo request")?;
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 65_536];
        loop {
            let Some(left) = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return Ok(None);
            };
            socket.set_read_timeout(Some(left))?;
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let SocketAddr::V6(from) = from else { continue };
            match parse(buffer.get(..length).unwrap_or_default()) {
                Some(Message::EchoReply { id: of, .. }) if of != id => {}
                Some(Message::Error(error)) if error.id != id => {}
                Some(message) => return Ok(Some((*from.ip(), message))),
                None => {}
            }
        }
    }
}

/// Whether a blocking socket operation ran into its timeout.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// An echo identifier not used before in this process.
pub fn identifier() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

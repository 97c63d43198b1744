//! The frames inside a sealed control datagram: type (1), length (2), value (docs/protocol.md §15).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const PADDING: u8 = 0;
const BABEL: u8 = 1;
const ACK: u8 = 2;
const ECHO_REQUEST: u8 = 3;
const ECHO_REPLY: u8 = 4;
const PATH_CHALLENGE: u8 = 5;
const PATH_RESPONSE: u8 = 6;
const OBSERVED: u8 = 7;
const CLOSE: u8 = 8;
const REPORT: u8 = 9;
const INSTANCE: u8 = 10;

/// Bytes of a frame's type and length.
pub(super) const HEADER_LEN: usize = 3;
/// Bytes of a Babel frame besides its packet.
pub(super) const BABEL_OVERHEAD: usize = HEADER_LEN + 4;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A control packet with its number.
    Babel { seq: u32, packet: &'a [u8] },
    /// Everything before `next` is here, and what the bits say: bit 0 is `next + 1`.
    Ack { next: u32, held: u64 },
    /// To be answered at once. Padding follows in probes of a size.
    EchoRequest { id: u32 },
    /// The answer.
    EchoReply { id: u32 },
    /// To be answered, to show that the sender receives where it seems to be.
    PathChallenge { token: [u8; 8] },
    /// The answer.
    PathResponse { token: [u8; 8] },
    /// Where the sender sees the receiver.
    Observed { address: SocketAddr },
    /// The link is over.
    Close { code: u8 },
    /// What the sender has received in this session: the highest counter, and how many datagrams.
    Report { highest: u64, received: u64 },
    /// Which incarnation of the link the sender speaks for, and which one of the receiver's it has heard of under the keys of
    /// this datagram (0: none).
    Instance { own: u64, known: u64 },
    /// Of a later version: skipped.
    Unknown,
}

/// Sealed bytes that are not frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame of type {0}")]
pub(super) struct Malformed(pub(super) u8);

/// The frames in `bytes`. Ends at padding, or after the first error.
pub(super) fn frames(bytes: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&kind, behind) = rest.split_first()?;
        if kind == PADDING {
            return None;
        }
        let parsed = behind
            .split_first_chunk::<2>()
            .and_then(|(len, behind)| {
                behind.split_at_checked(usize::from(u16::from_be_bytes(*len)))
            })
            .and_then(|(value, behind)| Some((parse(kind, value)?, behind)));
        match parsed {
            Some((frame, behind)) => {
                rest = behind;
                Some(Ok(frame))
            }
            None => {
                rest = &[];
                Some(Err(Malformed(kind)))
            }
        }
    })
}

/// Longer values are allowed: a later version may say more at the end.
fn parse(kind: u8, value: &[u8]) -> Option<Frame<'_>> {
    let u32_at = |at: usize| {
        let bytes = value.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*bytes))
    };
    let u64_at = |at: usize| {
        let bytes = value.get(at..)?.first_chunk::<8>()?;
        Some(u64::from_be_bytes(*bytes))
    };
    Some(match kind {
        BABEL => Frame::Babel {
            seq: u32_at(0)?,
            packet: &value[4..],
        },
        ACK => Frame::Ack {
            next: u32_at(0)?,
            held: u64_at(4)?,
        },
        ECHO_REQUEST => Frame::EchoRequest { id: u32_at(0)? },
        ECHO_REPLY => Frame::EchoReply { id: u32_at(0)? },
        PATH_CHALLENGE => Frame::PathChallenge {
            token: *value.first_chunk()?,
        },
        PATH_RESPONSE => Frame::PathResponse {
            token: *value.first_chunk()?,
        },
        OBSERVED => {
            let (ip, rest) = value.split_first_chunk::<16>()?;
            let port = u16::from_be_bytes(*rest.first_chunk()?);
            Frame::Observed {
                address: SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), port),
            }
        }
        CLOSE => Frame::Close {
            code: *value.first()?,
        },
        REPORT => Frame::Report {
            highest: u64_at(0)?,
            received: u64_at(8)?,
        },
        INSTANCE => Frame::Instance {
            own: u64_at(0)?,
            known: u64_at(8)?,
        },
        _ => Frame::Unknown,
    })
}

impl Frame<'_> {
    /// Append it. [`Frame::Unknown`] is nothing.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Babel { seq, packet } => put(out, BABEL, &[&seq.to_be_bytes(), packet]),
            Self::Ack { next, held } => {
                put(out, ACK, &[&next.to_be_bytes(), &held.to_be_bytes()]);
            }
            Self::EchoRequest { id } => put(out, ECHO_REQUEST, &[&id.to_be_bytes()]),
            Self::EchoReply { id } => put(out, ECHO_REPLY, &[&id.to_be_bytes()]),
            Self::PathChallenge { token } => put(out, PATH_CHALLENGE, &[&token]),
            Self::PathResponse { token } => put(out, PATH_RESPONSE, &[&token]),
            Self::Observed { address } => {
                let ip = mapped(address.ip());
                put(
                    out,
                    OBSERVED,
                    &[&ip.octets(), &address.port().to_be_bytes()],
                );
            }
            Self::Close { code } => put(out, CLOSE, &[&[code]]),
            Self::Report { highest, received } => {
                put(
                    out,
                    REPORT,
                    &[&highest.to_be_bytes(), &received.to_be_bytes()],
                );
            }
            Self::Instance { own, known } => {
                put(out, INSTANCE, &[&own.to_be_bytes(), &known.to_be_bytes()]);
            }
            Self::Unknown => {}
        }
    }
}

/// An address as IPv6, IPv4 ones mapped.
pub(super) fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn put(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let len = u16::try_from(len).expect("the longest value is a control packet of 1032 bytes");
    out.push(kind);
    out.extend_from_slice(&len.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;

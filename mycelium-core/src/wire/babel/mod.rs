//! Control packets: the Babel dialect of the present network (wire spec §4.1, §4.3 and §5.2).
//!
//! ```text
//!  0         1         2                   4         5         6                   8         9
//! +---------+---------+-------------------+---------+---------+-------------------+---------+---------+--------
//! | 1       | 1       | reserved          | 42      | 3       | body length       | type    | length  | payload
//! +---------+---------+-------------------+---------+---------+-------------------+---------+---------+--------
//!  packet header                           Babel header                            TLVs: the body
//! ```
//!
//! We put exactly one TLV into a packet, because the present network misreads anything else (wire spec §4.4). We
//! read what RFC 8966 §4 allows: any number of TLVs, padding, trailing sub-TLVs.
//!
//! What is malformed is a [`DecodeError`]; what is merely unknown is [`Item::Skipped`].

mod hello;
mod ihu;
mod prefix;
mod route_request;
mod seqno_request;
mod update;

pub use hello::Hello;
pub use ihu::Ihu;
pub use prefix::Prefix;
pub use route_request::{Generation, RouteRequest};
pub use seqno_request::SeqnoRequest;
pub use update::Update;

use crate::router_id::RouterId;

/// Bytes of the packet header plus the Babel header.
pub const HEADER_LEN: usize = 8;

/// Bytes of a router-id, as the lengths of TLVs count them.
const ROUTER_ID_LEN: u8 = 40;
const _: () = assert!(ROUTER_ID_LEN as usize == RouterId::LEN);

const PACKET_VERSION: u8 = 1;
const PACKET_KIND_CONTROL: u8 = 1;
const BABEL_MAGIC: u8 = 42;
const BABEL_VERSION: u8 = 3;
const TLV_PAD1: u8 = 0;
const TLV_PADN: u8 = 1;
/// Sub-TLVs from this type on forbid the use of the TLV by those who do not know them (RFC 8966 §4.4).
const MANDATORY_SUB_TLV: u8 = 128;

/// Address encodings (RFC 8966 §4.1.4).
mod encoding {
    pub(super) const WILDCARD: u8 = 0;
    pub(super) const IPV4: u8 = 1;
    pub(super) const IPV6: u8 = 2;
    pub(super) const LINK_LOCAL: u8 = 3;
}

/// One thing a node says to its neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv {
    /// "Are you there?"
    Hello(Hello),
    /// "I heard you."
    Ihu(Ihu),
    /// A route or its retraction.
    Update(Update),
    /// "Who knows this prefix?"
    RouteRequest(RouteRequest),
    /// "I need a newer announcement of this prefix."
    SeqnoRequest(SeqnoRequest),
}

/// What the walk over a packet finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A TLV that we understand.
    Tlv(Tlv),
    /// Something well formed that we do not use.
    Skipped(Skipped),
}

/// Why something well formed was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// Not Babel, or not its version 3: the whole packet.
    Protocol {
        /// First byte of the Babel header.
        magic: u8,
        /// Second byte of the Babel header.
        version: u8,
    },
    /// A TLV type that we do not know.
    TlvType(u8),
    /// A known TLV about addresses that the overlay does not have.
    AddressEncoding(u8),
    /// A known TLV with a mandatory sub-TLV, none of which we know.
    MandatorySubTlv(u8),
}

/// Why bytes are no control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the headers, or the lengths in them, promise.
    #[error("truncated")]
    Truncated,
    /// The packet header is not that of a control packet.
    #[error("not a control packet: version {version}, type {kind}")]
    NotControl {
        /// First byte.
        version: u8,
        /// Second byte.
        kind: u8,
    },
    /// A body without room for a TLV.
    #[error("body of {0} bytes holds no TLV")]
    EmptyBody(u16),
    /// A TLV payload shorter than its fixed fields and prefix.
    #[error("TLV type {0} is too short")]
    ShortTlv(u8),
    /// More prefix bits than the address has, or a wildcard with any.
    #[error("prefix length {length} in address encoding {encoding}")]
    PrefixLength {
        /// The address encoding.
        encoding: u8,
        /// The length in bits.
        length: u8,
    },
    /// A seqno request that may not travel at all.
    #[error("hop count 0")]
    HopCount,
}

impl Tlv {
    /// The whole packet: headers and this one TLV. Reserved bytes are zero.
    pub fn to_packet(&self) -> Vec<u8> {
        let (kind, payload_len) = match self {
            Self::Hello(_) => (Hello::TYPE, Hello::PAYLOAD_LEN),
            Self::Ihu(_) => (Ihu::TYPE, Ihu::PAYLOAD_LEN),
            Self::Update(update) => (Update::TYPE, update.payload_len()),
            Self::RouteRequest(request) => (RouteRequest::TYPE, request.payload_len()),
            Self::SeqnoRequest(request) => (SeqnoRequest::TYPE, request.payload_len()),
        };
        let mut packet = Vec::with_capacity(HEADER_LEN + 2 + usize::from(payload_len));
        packet.extend_from_slice(&[
            PACKET_VERSION,
            PACKET_KIND_CONTROL,
            0,
            0,
            BABEL_MAGIC,
            BABEL_VERSION,
        ]);
        packet.extend_from_slice(&(u16::from(payload_len) + 2).to_be_bytes());
        packet.extend_from_slice(&[kind, payload_len]);
        match self {
            Self::Hello(hello) => hello.encode(&mut packet),
            Self::Ihu(ihu) => ihu.encode(&mut packet),
            Self::Update(update) => update.encode(&mut packet),
            Self::RouteRequest(request) => request.encode(&mut packet),
            Self::SeqnoRequest(request) => request.encode(&mut packet),
        }
        packet
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Item, DecodeError> {
        let mut reader = Reader {
            kind,
            rest: payload,
        };
        let decoded = match kind {
            Hello::TYPE => Hello::decode(&mut reader)?.map(Self::Hello),
            Ihu::TYPE => Ihu::decode(&mut reader)?.map(Self::Ihu),
            Update::TYPE => Update::decode(&mut reader)?.map(Self::Update),
            RouteRequest::TYPE => RouteRequest::decode(&mut reader)?.map(Self::RouteRequest),
            SeqnoRequest::TYPE => SeqnoRequest::decode(&mut reader)?.map(Self::SeqnoRequest),
            _ => return Ok(Item::Skipped(Skipped::TlvType(kind))),
        };
        match decoded {
            Decoded::Value(tlv) => Ok(match reader.sub_tlvs()? {
                Some(mandatory) => Item::Skipped(Skipped::MandatorySubTlv(mandatory)),
                None => Item::Tlv(tlv),
            }),
            Decoded::Encoding(encoding) => Ok(Item::Skipped(Skipped::AddressEncoding(encoding))),
        }
    }
}

/// Walks over the TLVs of one control packet. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    protocol: Option<Skipped>,
    body: &'a [u8],
}

/// Start the walk over a whole packet, 4-byte packet header included. Bytes after the body are ignored, as RFC 8966
/// §4.2 wants of a packet trailer.
///
/// # Errors
/// If the headers are not those of a control packet or promise more bytes than there are.
pub fn walk(packet: &[u8]) -> Result<Walk<'_>, DecodeError> {
    let (header, rest) = packet
        .split_at_checked(HEADER_LEN)
        .ok_or(DecodeError::Truncated)?;
    let &[version, kind, _, _, magic, babel_version, high, low] = header else {
        return Err(DecodeError::Truncated);
    };
    if (version, kind) != (PACKET_VERSION, PACKET_KIND_CONTROL) {
        return Err(DecodeError::NotControl { version, kind });
    }
    let length = u16::from_be_bytes([high, low]);
    let body = rest
        .get(..usize::from(length))
        .ok_or(DecodeError::Truncated)?;
    if (magic, babel_version) != (BABEL_MAGIC, BABEL_VERSION) {
        return Ok(Walk {
            protocol: Some(Skipped::Protocol {
                magic,
                version: babel_version,
            }),
            body: &[],
        });
    }
    if length < 2 {
        return Err(DecodeError::EmptyBody(length));
    }
    Ok(Walk {
        protocol: None,
        body,
    })
}

impl Iterator for Walk<'_> {
    type Item = Result<Item, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(skipped) = self.protocol.take() {
            return Some(Ok(Item::Skipped(skipped)));
        }
        loop {
            let (&kind, rest) = self.body.split_first()?;
            if kind == TLV_PAD1 {
                self.body = rest;
                continue;
            }
            let split = rest
                .split_first()
                .and_then(|(&length, rest)| rest.split_at_checked(usize::from(length)));
            let Some((payload, rest)) = split else {
                self.body = &[];
                return Some(Err(DecodeError::Truncated));
            };
            self.body = rest;
            if kind == TLV_PADN {
                continue;
            }
            let item = Tlv::decode(kind, payload);
            if item.is_err() {
                self.body = &[];
            }
            return Some(item);
        }
    }
}

/// A TLV's value, or the address encoding that keeps us from using it.
enum Decoded<T> {
    Value(T),
    Encoding(u8),
}

impl<T> Decoded<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Decoded<U> {
        match self {
            Self::Value(value) => Decoded::Value(f(value)),
            Self::Encoding(encoding) => Decoded::Encoding(encoding),
        }
    }
}

/// Takes fields off the front of one TLV's payload.
struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::ShortTlv(self.kind))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::ShortTlv(self.kind))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Check the sub-TLVs that fill the rest of the payload; returns the type of a mandatory one (RFC 8966 §4.4).
    fn sub_tlvs(&mut self) -> Result<Option<u8>, DecodeError> {
        let mut mandatory = None;
        while !self.rest.is_empty() {
            let kind = self.u8()?;
            if kind == TLV_PAD1 {
                continue;
            }
            let length = self.u8()?;
            self.bytes(usize::from(length))?;
            if kind >= MANDATORY_SUB_TLV {
                mandatory = Some(kind);
            }
        }
        Ok(mandatory)
    }
}

#[cfg(test)]
mod tests;

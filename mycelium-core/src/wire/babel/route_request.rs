//! Route request, type 9 (RFC 8966 §4.6.10, wire spec §5.2 and §5.14).

use super::{DecodeError, Decoded, Prefix, Reader, encoding};

/// How often a route request has been forwarded. Not part of RFC 8966.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u8);

impl Generation {
    /// A request that starts here.
    pub const ORIGINAL: Self = Self(0);
    /// The first generation that nobody forwards.
    pub const LIMIT: u8 = 16;
    /// The last one: answered by those who know, forwarded by nobody.
    pub const LAST: Self = Self(Self::LIMIT - 1);

    /// The generation to forward with, unless the request has come far enough.
    pub fn forwarded(self) -> Option<Self> {
        let next = self.0.checked_add(1)?;
        (next < Self::LIMIT).then_some(Self(next))
    }
}

/// "Who knows this prefix?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRequest {
    /// How often it has been forwarded.
    pub generation: Generation,
    /// The prefix, or `None` for everything (a wildcard request).
    pub prefix: Option<Prefix>,
}

impl RouteRequest {
    pub(super) const TYPE: u8 = 9;
    const FIXED_LEN: u8 = 3;

    pub(super) fn payload_len(&self) -> u8 {
        Self::FIXED_LEN + self.prefix.map_or(0, |prefix| prefix.encoded_len())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.generation.0);
        match self.prefix {
            None => out.extend_from_slice(&[encoding::WILDCARD, 0]),
            Some(prefix) => {
                out.extend_from_slice(&[encoding::IPV6, prefix.length()]);
                prefix.encode(out);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Decoded<Self>, DecodeError> {
        let [generation, address_encoding, length] = reader.array()?;
        let prefix = match address_encoding {
            encoding::WILDCARD if length == 0 => None,
            encoding::WILDCARD => {
                return Err(DecodeError::PrefixLength {
                    encoding: address_encoding,
                    length,
                });
            }
            encoding::IPV6 => Some(Prefix::decode(reader, length)?),
            other => return Ok(Decoded::Encoding(other)),
        };
        Ok(Decoded::Value(Self {
            generation: Generation(generation),
            prefix,
        }))
    }
}

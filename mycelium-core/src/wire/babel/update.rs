//! Update, type 8 (RFC 8966 §4.6.9, wire spec §5.2).

use super::{DecodeError, Decoded, Prefix, ROUTER_ID_LEN, Reader, encoding};
use crate::router_id::RouterId;

/// A route or, with metric 0xFFFF, its retraction. Unlike in RFC 8966 the router-id is inside, and 40 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// When the next announcement is due at the latest, in centiseconds. Routes are held 3.5 times as long.
    pub interval: u16,
    /// The originator's sequence number.
    pub seqno: u16,
    /// Distance from the sender; 0xFFFF is infinite.
    pub metric: u16,
    /// The destination.
    pub prefix: Prefix,
    /// Who originated the announcement.
    pub router_id: RouterId,
}

impl Update {
    pub(super) const TYPE: u8 = 8;
    const FIXED_LEN: u8 = 10 + ROUTER_ID_LEN;

    pub(super) fn payload_len(&self) -> u8 {
        Self::FIXED_LEN + self.prefix.encoded_len()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[encoding::IPV6, 0, self.prefix.length(), 0]);
        for field in [self.interval, self.seqno, self.metric] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        self.prefix.encode(out);
        out.extend_from_slice(self.router_id.as_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Decoded<Self>, DecodeError> {
        // The present network neither sets the flags nor omits prefix octets; RFC 8966 compression is not in use.
        let [address_encoding, _flags, length, _omitted] = reader.array()?;
        let (interval, seqno, metric) = (reader.u16()?, reader.u16()?, reader.u16()?);
        if address_encoding != encoding::IPV6 {
            return Ok(Decoded::Encoding(address_encoding));
        }
        Ok(Decoded::Value(Self {
            interval,
            seqno,
            metric,
            prefix: Prefix::decode(reader, length)?,
            router_id: RouterId::from_bytes(reader.array()?),
        }))
    }
}

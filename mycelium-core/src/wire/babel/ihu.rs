//! IHU, "I heard you", type 5 (RFC 8966 §4.6.6, wire spec §5.2).

use super::{DecodeError, Decoded, Reader, encoding};

/// The answer to a Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ihu {
    /// The sender's cost of this link; informational.
    pub rx_cost: u16,
    /// When the next one is due at the latest, in centiseconds.
    pub interval: u16,
}

impl Ihu {
    pub(super) const TYPE: u8 = 5;
    pub(super) const PAYLOAD_LEN: u8 = 6;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[encoding::WILDCARD, 0]);
        out.extend_from_slice(&self.rx_cost.to_be_bytes());
        out.extend_from_slice(&self.interval.to_be_bytes());
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Decoded<Self>, DecodeError> {
        let [address_encoding, _reserved] = reader.array()?;
        let ihu = Self {
            rx_cost: reader.u16()?,
            interval: reader.u16()?,
        };
        // A link has one other end: whose address this is makes no difference.
        let address_len = match address_encoding {
            encoding::WILDCARD => 0,
            encoding::IPV4 => 4,
            encoding::IPV6 => 16,
            encoding::LINK_LOCAL => 8,
            unknown => return Ok(Decoded::Encoding(unknown)),
        };
        reader.bytes(address_len)?;
        Ok(Decoded::Value(ihu))
    }
}

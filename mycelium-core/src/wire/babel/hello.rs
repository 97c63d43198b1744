//! Hello, type 4 (RFC 8966 §4.6.5, wire spec §5.2).

use super::{DecodeError, Decoded, Reader};

/// "Are you there?" The present network answers each with an IHU at once and uses none of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Counts the Hellos on this link.
    pub seqno: u16,
    /// When the next one is due at the latest, in centiseconds.
    pub interval: u16,
}

impl Hello {
    pub(super) const TYPE: u8 = 4;
    pub(super) const PAYLOAD_LEN: u8 = 6;
    const UNICAST: u16 = 0x8000;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for field in [Self::UNICAST, self.seqno, self.interval] {
            out.extend_from_slice(&field.to_be_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Decoded<Self>, DecodeError> {
        // Links are point to point, so unicast and multicast Hellos mean the same.
        let _flags = reader.u16()?;
        Ok(Decoded::Value(Self {
            seqno: reader.u16()?,
            interval: reader.u16()?,
        }))
    }
}

//! Clamping the maximum segment size that TCP connections agree on (RFC 9293 §3.7.1).
//!
//! Upstream's QUIC links die of packets larger than a datagram holds: 1342 bytes, or 1090 on a bad day (wire spec §2.5). TCP can be
//! told at its handshake; the option is lowered, never raised, and the checksum follows (RFC 1624).

use crate::wire::ipv6;

const HEADER_LEN: usize = 20;
const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const CHECKSUM: usize = 16;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_MSS_LEN: u8 = 4;

/// Whether an IPv6 packet is a SYN or SYN-ACK.
#[inline]
pub fn is_opening(packet: &[u8]) -> bool {
    packet.get(6) == Some(&ipv6::TCP)
        && packet
            .get(ipv6::HEADER_LEN + FLAGS)
            .is_some_and(|flags| flags & SYN != 0)
}

/// Lower the MSS option of a SYN or SYN-ACK in an IPv6 packet to `limit`; `true` if it was higher.
///
/// Packets with extension headers are left alone: they are rare, and a TCP header behind them may be a fragment's.
/// A missing option means 1220 bytes (RFC 9293), which fits. Anything malformed is left for its receiver to refuse.
#[inline]
pub fn clamp(packet: &mut [u8], limit: u16) -> bool {
    if !is_opening(packet) {
        return false;
    }
    let segment = packet.get_mut(ipv6::HEADER_LEN..);
    segment.is_some_and(|segment| clamp_options(segment, limit).is_some())
}

fn clamp_options(segment: &mut [u8], limit: u16) -> Option<()> {
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    let header = segment.get_mut(..header_len)?;
    let mut at = HEADER_LEN;
    loop {
        match *header.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            OPTION_MSS => {
                let &[len, high, low] = header.get(at + 1..at + 4)?.first_chunk()?;
                let old = u16::from_be_bytes([high, low]);
                if len != OPTION_MSS_LEN || old <= limit {
                    return None;
                }
                let new = limit.to_be_bytes();
                header[at + 2..at + 4].copy_from_slice(&new);
                // The checksum sums 16-bit words from the start of the header: at an odd offset the bytes change places.
                let odd = at % 2 == 1;
                let swap = |value: u16| if odd { value.swap_bytes() } else { value };
                let field: &mut [u8; 2] = header.get_mut(CHECKSUM..)?.first_chunk_mut()?;
                *field = update_checksum(u16::from_be_bytes(*field), swap(old), swap(limit))
                    .to_be_bytes();
                return Some(());
            }
            _ => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
    }
}

/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
fn update_checksum(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "two folds leave sixteen bits"
    )]
    let folded = sum as u16;
    !folded
}

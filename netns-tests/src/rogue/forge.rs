//! Control packets and handshake units that a relay can make without any secret (docs/protocol.md §5.2, §14.3).

use std::net::Ipv6Addr;

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::wire::data::BODY_OFFSET;

/// Where the two zone bytes of an Update for a /64 lie in its packet, and how long that packet is.
const ZONE: std::ops::Range<usize> = 60..62;
const UPDATE_LEN: usize = 68;
const UPDATE: u8 = 8;
/// Body: four zero bytes, then the unit: 20 bytes of header, half of the message, two MACs.
const UNIT: usize = BODY_OFFSET + 4;
const CHUNK: usize = UNIT + 20;
const MAC_LEN: usize = 16;

/// Clear the hint in an Update; anything else stays as it is.
pub(super) fn strip_hint(packet: &mut [u8]) {
    if packet.len() == UPDATE_LEN
        && packet.get(1) == Some(&1)
        && packet.get(8) == Some(&UPDATE)
        && let Some(zone) = packet.get_mut(ZONE)
    {
        zone.fill(0);
    }
}

/// An Update that claims the subnet of `victim` under a router-id of our making.
pub(super) fn update(victim: &PublicKey, number: u8) -> Vec<u8> {
    let mut packet = vec![
        1, 1, 0, 0, 42, 3, 0, 60, UPDATE, 58, 2, 0, 64, 0, 0x75, 0x30,
    ];
    // Sequence number and metric.
    packet.extend_from_slice(&[0x40, number, 0, 0]);
    packet.extend_from_slice(&victim.address().octets()[..8]);
    packet.extend_from_slice(&victim.0);
    packet.extend_from_slice(&[0, 0, 6, 6, 6, 6, 6, number]);
    packet
}

/// Whether a data packet carries a handshake unit with room for its parts.
pub(super) fn is_unit(packet: &[u8]) -> bool {
    packet.len() > CHUNK + 2 * MAC_LEN && packet.get(BODY_OFFSET..UNIT) == Some(&[0; 4])
}

/// What a relay can make of a handshake unit without knowing a secret, each with a MAC1 that is right. `recipient` is the
/// key of the destination; `noise` makes the variants differ.
pub(super) fn variants(packet: &[u8], recipient: &PublicKey, noise: u64) -> Vec<Vec<u8>> {
    let filling = |label: &str, out: &mut [u8]| {
        blake3::Hasher::new()
            .update(label.as_bytes())
            .update(&noise.to_be_bytes())
            .finalize_xof()
            .fill(out);
    };
    let end = packet.len().saturating_sub(2 * MAC_LEN);
    let mut variants = Vec::new();
    // Another half under the same hash.
    let mut changed = packet.to_vec();
    if let Some(chunk) = changed.get_mut(CHUNK..end) {
        filling("chunk", chunk);
    }
    variants.push(changed);
    // The same half with a bit changed.
    let mut changed = packet.to_vec();
    if let Some(byte) = changed.get_mut(CHUNK) {
        *byte ^= 1;
    }
    variants.push(changed);
    // Another index of the sender.
    let mut changed = packet.to_vec();
    if let Some(index) = changed.get_mut(UNIT + 4..UNIT + 8) {
        filling("index", index);
    }
    variants.push(changed);
    // The other half's number.
    let mut changed = packet.to_vec();
    if let Some(number) = changed.get_mut(UNIT + 1) {
        *number ^= 1;
    }
    variants.push(changed);
    // One fragment instead of two, many fragments, an unknown kind, another kind.
    for (at, value) in [(1, 0x10), (1, 0xff), (0, 9), (0, 0), (0, 1), (0, 2), (0, 3)] {
        let mut changed = packet.to_vec();
        if let Some(byte) = changed.get_mut(UNIT + at) {
            *byte = value;
        }
        variants.push(changed);
    }
    for variant in &mut variants {
        sign(variant, recipient);
    }
    // Both halves of a whole message of noise, its hash right.
    let mut message = vec![0; 2 * (end - CHUNK)];
    filling("message", &mut message);
    let hash = blake3::hash(&message);
    for (number, half) in message.chunks(end - CHUNK).enumerate() {
        let mut forged = packet.to_vec();
        if let Some(byte) = forged.get_mut(UNIT + 1) {
            *byte = 0x20 | u8::try_from(number).unwrap_or(0);
        }
        for (at, bytes) in [(UNIT + 12, &hash.as_bytes()[..8]), (CHUNK, half)] {
            if let Some(place) = forged.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        sign(&mut forged, recipient);
        variants.push(forged);
    }
    // Not even a MAC.
    let mut unsigned = packet.to_vec();
    if let Some(mac) = unsigned.get_mut(end..) {
        mac.fill(0);
    }
    variants.push(unsigned);
    variants
}

/// Put the right MAC1 into a unit.
fn sign(packet: &mut [u8], recipient: &PublicKey) {
    let mut material = [0; 64];
    material[..32].copy_from_slice(&recipient.0);
    let key = blake3::derive_key("mycelium session v2 mac1", &material);
    let Some(end) = packet.len().checked_sub(2 * MAC_LEN) else {
        return;
    };
    let mac = {
        let (Some(addresses), Some(covered)) = (packet.get(8..BODY_OFFSET), packet.get(UNIT..end))
        else {
            return;
        };
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(addresses).update(covered);
        hasher.finalize()
    };
    if let Some(place) = packet.get_mut(end..end + MAC_LEN) {
        place.copy_from_slice(&mac.as_bytes()[..MAC_LEN]);
    }
}

/// The address in a data header at `at`: 8 the source, 24 the destination.
pub(super) fn address(packet: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    if let Some(bytes) = packet.get(at..at + 16) {
        octets.copy_from_slice(bytes);
    }
    octets.into()
}

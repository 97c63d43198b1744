//! What a hostile relay does with the packets of others.

use std::collections::VecDeque;
use std::net::Ipv6Addr;

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::wire::data::BODY_OFFSET;

use super::forge::{self, address};
use crate::probe::numbered::neighbour_of;

const SOURCE: usize = 8;
const DESTINATION: usize = 24;
/// Packets that are remembered to be sent again.
const MEMORY: usize = 2048;
/// The least that every link of the network carries.
const NARROW: usize = 1162;
/// Packets that are held back and shuffled.
const SHUFFLED: usize = 32;
/// End of the part of a data packet that a flip may hit: headers, index and counter.
const HEADERS: usize = BODY_OFFSET + 10;

/// One way of misbehaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// None: the relay forwards.
    Honest,
    /// Every packet at once again, and an old one with it.
    Replay,
    /// Every packet also back to its source: as it is, with the addresses exchanged, and with either of them twice.
    Reflect,
    /// Packets held back and let go in another order, none lost.
    Reorder,
    /// Every other packet, on average, cut short, each time elsewhere.
    Truncate,
    /// Every other packet, on average, with a bit of its headers, index or counter flipped, each time another one. The bytes that
    /// say where a packet ends are left alone: changing them garbles the relay's own link.
    Flip,
    /// Every other packet, on average, to another address of the same subnet.
    Redirect,
    /// Bodies exchanged between the two directions.
    SwapBodies,
    /// Handshake units lost, everything else forwarded.
    DropHandshakes,
    /// Everything but handshake units lost.
    OnlyHandshakes,
    /// Forged handshake units before and after every true one, and old ones again.
    ForgeHandshakes,
    /// Packets of more than 1162 bytes lost without a word.
    Narrow,
    /// Everything lost.
    Silence,
}

impl Mischief {
    /// All that touch packets of a session, rather than just losing them.
    pub const MEDDLING: [Self; 8] = [
        Self::Replay,
        Self::Reflect,
        Self::Reorder,
        Self::Truncate,
        Self::Flip,
        Self::Redirect,
        Self::SwapBodies,
        Self::ForgeHandshakes,
    ];
}

/// A packet, and the address whose route it takes; the header may say otherwise.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) towards: Ipv6Addr,
    pub(super) packet: Vec<u8>,
}

/// Carries a mischief out.
#[derive(Debug)]
pub(super) struct Meddler {
    mischief: Mischief,
    count: u64,
    misdeeds: u64,
    kept: VecDeque<Vec<u8>>,
    units: VecDeque<Vec<u8>>,
}

impl Default for Meddler {
    fn default() -> Self {
        Self {
            mischief: Mischief::Honest,
            count: 0,
            misdeeds: 0,
            kept: VecDeque::new(),
            units: VecDeque::new(),
        }
    }
}

impl Meddler {
    /// From now on this. What was held back is lost; what was remembered stays, to be sent again later.
    pub(super) fn begin(&mut self, mischief: Mischief) {
        self.mischief = mischief;
        self.misdeeds = 0;
        if mischief != Mischief::Replay {
            self.kept.clear();
        }
    }

    pub(super) fn misdeeds(&self) -> u64 {
        self.misdeeds
    }

    /// What to send instead of `packet`. `keys` are those of its source and destination, where known.
    pub(super) fn handle(&mut self, packet: Vec<u8>, keys: Option<[PublicKey; 2]>) -> Vec<Sending> {
        self.count += 1;
        let unit = forge::is_unit(&packet);
        if unit {
            remember(&mut self.units, &packet);
        }
        let mut out = Vec::new();
        match self.mischief {
            Mischief::Honest => {
                remember(&mut self.kept, &packet);
                forward(&mut out, packet);
            }
            Mischief::Replay => {
                forward(&mut out, packet.clone());
                forward(&mut out, packet.clone());
                self.misdeeds += 1;
                if let Some(old) = self.pick(&self.kept) {
                    forward(&mut out, old);
                }
                remember(&mut self.kept, &packet);
            }
            Mischief::Reflect => self.reflect(&mut out, packet),
            Mischief::Reorder => {
                self.kept.push_back(packet);
                if self.kept.len() >= SHUFFLED {
                    self.misdeeds += 1;
                    self.release(&mut out);
                }
            }
            Mischief::Truncate => self.truncate(&mut out, packet),
            Mischief::Flip => self.flip(&mut out, packet),
            Mischief::Redirect => self.redirect(&mut out, packet),
            Mischief::SwapBodies => self.swap(&mut out, packet),
            Mischief::DropHandshakes => {
                if unit {
                    self.misdeeds += 1;
                } else {
                    forward(&mut out, packet);
                }
            }
            Mischief::OnlyHandshakes => {
                if unit {
                    forward(&mut out, packet);
                } else {
                    self.misdeeds += 1;
                }
            }
            Mischief::Narrow => {
                if packet.len() > NARROW {
                    self.misdeeds += 1;
                } else {
                    forward(&mut out, packet);
                }
            }
            Mischief::ForgeHandshakes => self.forge(&mut out, packet, keys),
            Mischief::Silence => self.misdeeds += 1,
        }
        out
    }

    /// What to send when nothing has come for a while.
    pub(super) fn idle(&mut self) -> Vec<Sending> {
        let mut out = Vec::new();
        if self.mischief == Mischief::Reorder && !self.kept.is_empty() {
            self.release(&mut out);
        }
        out
    }

    fn reflect(&mut self, out: &mut Vec<Sending>, packet: Vec<u8>) {
        let (source, destination) = (address(&packet, SOURCE), address(&packet, DESTINATION));
        for (new_source, new_destination) in [
            (source, destination),
            (destination, source),
            (source, source),
            (destination, destination),
        ] {
            let mut back = packet.clone();
            put(&mut back, SOURCE, new_source);
            put(&mut back, DESTINATION, new_destination);
            out.push(Sending {
                towards: source,
                packet: back,
            });
        }
        self.misdeeds += 1;
        forward(out, packet);
    }

    fn truncate(&mut self, out: &mut Vec<Sending>, mut packet: Vec<u8>) {
        let body = packet.len().saturating_sub(BODY_OFFSET);
        if self.strikes() && body > 0 {
            let length = usize::try_from(self.misdeeds).unwrap_or(0) % body;
            let field = u16::try_from(length).unwrap_or(0).to_be_bytes();
            packet.truncate(BODY_OFFSET + length);
            if let Some(place) = packet.get_mut(5..7) {
                place.copy_from_slice(&field);
            }
            self.misdeeds += 1;
        }
        forward(out, packet);
    }

    fn flip(&mut self, out: &mut Vec<Sending>, mut packet: Vec<u8>) {
        let towards = address(&packet, DESTINATION);
        if self.strikes() {
            // Bytes 0, 1, 5 and 6 frame the stream; 2, 3 and 4 are ignored by everybody; 7 is the relay's to change.
            let span = HEADERS - SOURCE;
            let turn = usize::try_from(self.misdeeds).unwrap_or(0);
            let at = SOURCE + turn % span;
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= 1 << (turn / span % 8);
                self.misdeeds += 1;
            }
        }
        out.push(Sending { towards, packet });
    }

    fn redirect(&mut self, out: &mut Vec<Sending>, mut packet: Vec<u8>) {
        if self.strikes() {
            let beside = neighbour_of(address(&packet, DESTINATION));
            put(&mut packet, DESTINATION, beside);
            self.misdeeds += 1;
        }
        forward(out, packet);
    }

    fn swap(&mut self, out: &mut Vec<Sending>, packet: Vec<u8>) {
        let opposite = self.kept.iter().position(|kept| {
            address(kept, SOURCE) == address(&packet, DESTINATION)
                && address(kept, DESTINATION) == address(&packet, SOURCE)
        });
        let Some(other) = opposite.and_then(|index| self.kept.remove(index)) else {
            // Held back until something comes the other way; most are let go unchanged.
            if self.kept.len() < SHUFFLED && self.strikes() {
                self.kept.push_back(packet);
            } else {
                forward(out, packet);
            }
            return;
        };
        self.misdeeds += 1;
        for (header, body) in [(&packet, &other), (&other, &packet)] {
            let mut mixed = body.clone();
            if let (Some(to), Some(from)) =
                (mixed.get_mut(7..BODY_OFFSET), header.get(7..BODY_OFFSET))
            {
                to.copy_from_slice(from);
            }
            forward(out, mixed);
        }
    }

    fn forge(&mut self, out: &mut Vec<Sending>, packet: Vec<u8>, keys: Option<[PublicKey; 2]>) {
        // Without a handshake to copy from, an old one is used, whose addresses are right.
        let model = if forge::is_unit(&packet) {
            Some(packet.clone())
        } else if self.count.is_multiple_of(8) {
            self.pick(&self.units)
        } else {
            None
        };
        let Some((model, keys)) = model.zip(keys) else {
            forward(out, packet);
            return;
        };
        let ends = [address(&packet, SOURCE), address(&packet, DESTINATION)];
        let recipient = if address(&model, DESTINATION) == ends[1] {
            &keys[1]
        } else {
            &keys[0]
        };
        self.misdeeds += 1;
        for forged in forge::variants(&model, recipient, self.count) {
            forward(out, forged);
        }
        forward(out, packet);
        for forged in forge::variants(&model, recipient, self.count + (1 << 32)) {
            forward(out, forged);
        }
        if let Some(old) = self.pick(&self.units) {
            forward(out, old);
        }
    }

    fn release(&mut self, out: &mut Vec<Sending>) {
        // Every third, from the end: far from the order they came in.
        let mut held: Vec<Vec<u8>> = self.kept.drain(..).collect();
        while !held.is_empty() {
            let at = (held.len() * 2 / 3).min(held.len() - 1);
            forward(out, held.remove(at));
        }
    }

    fn pick(&self, from: &VecDeque<Vec<u8>>) -> Option<Vec<u8>> {
        let index = usize::try_from(self.scatter() >> 1).unwrap_or(0) % from.len().max(1);
        from.get(index).cloned()
    }

    /// Whether this packet is one of those that are touched: every other one on average, whatever the pattern of the
    /// traffic.
    fn strikes(&self) -> bool {
        self.scatter() & 1 == 1
    }

    /// A number that follows from the count without a pattern.
    fn scatter(&self) -> u64 {
        self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33
    }
}

fn put(packet: &mut [u8], at: usize, address: Ipv6Addr) {
    if let Some(place) = packet.get_mut(at..at + 16) {
        place.copy_from_slice(&address.octets());
    }
}

fn forward(out: &mut Vec<Sending>, packet: Vec<u8>) {
    out.push(Sending {
        towards: address(&packet, DESTINATION),
        packet,
    });
}

fn remember(memory: &mut VecDeque<Vec<u8>>, packet: &[u8]) {
    if memory.len() == MEMORY {
        memory.pop_front();
    }
    memory.push_back(packet.to_vec());
}

//! Nodes that lack one defence, to see that the oracle objects: what a node would hand to its host, or send, without it.

use std::collections::BTreeMap;

use mycelium_core::addr::Subnet;
use mycelium_core::io::IdentityId;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};

use crate::dialect::Dialect;
use crate::packet::Delivery;
use crate::station::Station;
use crate::world::{Violation, World};

/// What all nodes of a run lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Whatever opened once opens again.
    NoWindow,
    /// The tag is not looked at, nor whose session it is: the cipher's stream is taken off, and the header is believed.
    NoAuthentication,
    /// Nobody remembers who confirmed v2.
    NoPins,
    /// They say that they speak v2, and speak v1.
    OnlyV1,
    /// The network key is taken for none.
    NoNetworkKey,
}

impl Mutant {
    /// What a node that ought to speak `dialect` speaks.
    pub(crate) fn dialect(self, dialect: Dialect) -> Dialect {
        match (self, dialect) {
            (Self::OnlyV1, _) => Dialect::V1,
            (Self::NoNetworkKey, Dialect::Closed(_)) => Dialect::Prefer,
            _ => dialect,
        }
    }
}

/// Bodies of sessions whose content is known, by index and counter.
#[derive(Debug, Default)]
pub(crate) struct Contents(BTreeMap<[u8; 10], Content>);

#[derive(Debug)]
struct Content {
    frame: Vec<u8>,
    packet: Vec<u8>,
    arrived: bool,
}

impl Contents {
    /// A host's `packet` goes out as `frame`.
    pub(crate) fn learn(&mut self, frame: &[u8], packet: &[u8]) {
        // Halves are left alone.
        if frame.len() == packet.len() + BODY_OFFSET + 10 + 16 - 32
            && let Some(head) = frame[BODY_OFFSET..].first_chunk()
        {
            let content = Content {
                frame: frame.to_vec(),
                packet: packet.to_vec(),
                arrived: false,
            };
            self.0.insert(*head, content);
        }
    }

    /// What a node without the defence hands to its host when `frame` arrives, besides what it should.
    fn taken(&mut self, mutant: Mutant, frame: &[u8]) -> Option<Vec<u8>> {
        let content = self.0.get_mut(frame.get(BODY_OFFSET..)?.first_chunk()?)?;
        let is_whole = frame[8..] == content.frame[8..];
        match mutant {
            Mutant::NoWindow => (is_whole && std::mem::replace(&mut content.arrived, true))
                .then(|| content.packet.clone()),
            Mutant::NoAuthentication if !is_whole => {
                let mut packet = content.packet.clone();
                // Eight bytes of stub for the forty of the header, the last of them the kind.
                let lost = content.frame.len().saturating_sub(frame.len());
                packet.truncate(packet.len().checked_sub(lost)?.max(40));
                let sealed = BODY_OFFSET + 10;
                for (at, byte) in packet.iter_mut().enumerate() {
                    let from = match at {
                        0..7 => sealed + at,
                        7..40 => continue,
                        _ => sealed + 8 + at - 40,
                    };
                    *byte ^= frame.get(from)? ^ content.frame.get(from)?;
                }
                packet[8..40].copy_from_slice(&frame[8..40]);
                Some(packet)
            }
            _ => None,
        }
    }
}

impl World {
    /// A frame arrived at an honest node and the core has seen it: now what it would do without the defence.
    pub(crate) fn misbehave(&mut self, node: usize, frame: &[u8]) -> Result<(), Violation> {
        let Some(mutant) = self.config.mutant else {
            return Ok(());
        };
        let Ok(header) = DataHeader::parse(frame) else {
            return Ok(());
        };
        let target = Subnet::containing(header.destination);
        let Some(&to) = self.by_subnet.get(&target) else {
            return Ok(());
        };
        let meant = self.destinations[to];
        if meant.owner != node {
            return Ok(());
        }
        if let Some(packet) = self.contents.taken(mutant, frame) {
            let identity: IdentityId = Station::identity_id(meant.identity);
            let delivery = Delivery {
                at: self.now,
                node,
                identity,
                packet,
            };
            self.note_delivered(&delivery)?;
        }
        Ok(())
    }

    /// Nodes without pins forget them as soon as they have them.
    pub(crate) fn forget_pins(&mut self, node: usize) {
        if self.config.mutant != Some(Mutant::NoPins) {
            return;
        }
        if let Some(core) = self.stations[node].core_mut()
            && let Some((data, _)) = &mut core.data
        {
            for pin in data.pins() {
                data.forget_session(pin.subnet);
            }
        }
    }
}

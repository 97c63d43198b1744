//! A node that means harm: random bytes, forged routes, repeated and bent packets of others.
//!
//! Encodes by itself (wire spec §4.3, §5.2), so that it can also say what the core's encoder refuses to.

use mycelium_core::addr::{Subnet, address_of_key};
use mycelium_core::io::PeerId;

use crate::choices::Choices;

/// What it remembers of others' packets, to repeat them.
const OVERHEARD: usize = 64;

/// The state of a hostile node.
#[derive(Debug, Default)]
pub struct Attacker {
    /// Its connections.
    pub peers: Vec<PeerId>,
    overheard: Vec<Vec<u8>>,
    next: usize,
}

impl Attacker {
    /// Somebody sent it a packet.
    pub fn hear(&mut self, packet: &[u8]) {
        if self.overheard.len() < OVERHEARD {
            self.overheard.push(packet.to_vec());
        } else {
            self.overheard[self.next] = packet.to_vec();
            self.next = (self.next + 1) % OVERHEARD;
        }
    }

    /// The next packet to send, and to whom. `subnets` are the ones worth attacking.
    pub fn attack(
        &mut self,
        subnets: &[Subnet],
        choices: &mut Choices,
    ) -> Option<(PeerId, Vec<u8>)> {
        if self.peers.is_empty() {
            return None;
        }
        let peer = *choices.pick(&self.peers);
        // Malformed packets are rare: each costs the attacker its connection.
        let packet = match choices.below(64) {
            0 => {
                let len = choices.below(80);
                choices.bytes(len)
            }
            1 => {
                let kind = choices.byte();
                let len = choices.below(70);
                let payload = choices.bytes(len);
                control(kind, &payload)
            }
            2..=5 => hello(choices),
            6..=9 => control(
                5,
                &[
                    0,
                    0,
                    choices.byte(),
                    choices.byte(),
                    choices.byte(),
                    choices.byte(),
                ],
            ),
            10..=19 => self.repeat(choices),
            20..=27 => route_request(subnets, choices),
            28..=35 => seqno_request(subnets, choices),
            36..=47 => invent(choices),
            _ => self.forge(subnets, choices),
        };
        Some((peer, packet))
    }

    /// A packet of somebody else, at times with one byte changed.
    fn repeat(&self, choices: &mut Choices) -> Vec<u8> {
        let Some(mut packet) =
            (!self.overheard.is_empty()).then(|| choices.pick(&self.overheard).clone())
        else {
            return hello(choices);
        };
        if choices.below(2) == 0 && packet.len() > 10 {
            let at = 8 + choices.below(packet.len() - 8);
            packet[at] ^= 1 << choices.below(8);
        }
        packet
    }

    /// An Update for somebody else's subnet, with the router-id of an overheard Update where there is one.
    fn forge(&self, subnets: &[Subnet], choices: &mut Choices) -> Vec<u8> {
        let updates: Vec<&Vec<u8>> = self
            .overheard
            .iter()
            .filter(|packet| packet.len() == 68 && packet[8] == 8)
            .collect();
        let mut payload = vec![2, 0, 64, 0];
        payload.extend(
            u16::try_from(choices.below(60_000))
                .unwrap_or(0)
                .to_be_bytes(),
        );
        payload.extend(choices.bytes(2));
        payload.extend(match choices.below(4) {
            0 => [0xff, 0xff],
            1 => [0, choices.byte()],
            _ => [choices.byte(), choices.byte()],
        });
        if updates.is_empty() || choices.below(4) == 0 {
            payload.extend(subnet(subnets, choices).octets());
            payload.extend(choices.bytes(40));
        } else {
            payload.extend(&choices.pick(&updates)[20..68]);
            if choices.below(2) == 0 {
                // The same key with another random part: another source.
                let len = payload.len();
                payload[len - 1] = choices.byte();
            }
        }
        control(8, &payload)
    }
}

/// A key that nobody has, and the subnet that belongs to it: the core cannot know.
fn invent(choices: &mut Choices) -> Vec<u8> {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&[choices.byte(), choices.byte()]);
    let subnet = Subnet::containing(address_of_key(&key));
    let mut payload = vec![
        2,
        0,
        64,
        0,
        0x75,
        0x30,
        0,
        choices.byte(),
        0,
        choices.byte(),
    ];
    payload.extend(subnet.octets());
    payload.extend(key);
    payload.extend([0, 0, 0, 0, 0, 0, 0, choices.byte() % 4]);
    control(8, &payload)
}

fn route_request(subnets: &[Subnet], choices: &mut Choices) -> Vec<u8> {
    let generation = choices.byte();
    if choices.below(4) == 0 {
        return control(9, &[generation, 0, 0]);
    }
    let mut payload = vec![generation, 2, 64];
    payload.extend(subnet(subnets, choices).octets());
    control(9, &payload)
}

fn seqno_request(subnets: &[Subnet], choices: &mut Choices) -> Vec<u8> {
    let mut payload = vec![2, 64, choices.byte(), choices.byte(), choices.byte(), 0];
    payload.extend(choices.bytes(40));
    payload.extend(subnet(subnets, choices).octets());
    control(10, &payload)
}

fn subnet(subnets: &[Subnet], choices: &mut Choices) -> Subnet {
    if subnets.is_empty() || choices.below(3) == 0 {
        let mut octets = [4, 0, 0, 0, 0, 0, 0, 0];
        octets[6] = choices.byte();
        octets[7] = choices.byte();
        Subnet::from_octets(octets)
    } else {
        *choices.pick(subnets)
    }
}

fn hello(choices: &mut Choices) -> Vec<u8> {
    control(
        4,
        &[
            0x80,
            0,
            choices.byte(),
            choices.byte(),
            choices.byte(),
            choices.byte(),
        ],
    )
}

/// A control packet around one TLV.
fn control(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let mut packet = vec![1, 1, 0, 0, 42, 3, 0, len.saturating_add(2), kind, len];
    packet.extend(&payload[..usize::from(len)]);
    packet
}

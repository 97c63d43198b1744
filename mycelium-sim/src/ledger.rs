//! Who sent what to whom, and what became of it: the oracle of sessions. It holds every key of the network and believes no node.
//!
//! Looked at: every body that an honest node seals, when it leaves, and every packet that comes out of an honest node's host
//! interface. What must hold (docs/threat-model.md, claims 1 to 4 and 8):
//! - what a host gets was sent by the host that it names, to this very host, and is unchanged but for the hop limit;
//! - what went on a session comes out at most once, no pair of session and counter is used twice, and neither clear text nor
//!   the identities' keys are enough to read it;
//! - a node that has once accepted a packet of a session from a /64 neither seals nor accepts v1 with it, until it restarts
//!   without its pins;
//! - while v1 is used between two that have sessions, the sender says so.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::aead::AeadKey;
use mycelium_core::session::fragment::Unit;
use mycelium_core::session::pins::Pin;
use mycelium_core::session::view::Protocol;
use mycelium_core::time::Time;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader, split_v1_body};
use mycelium_core::wire::user_data::{self, UserDataType};

use crate::packet::Delivery;
use crate::world::{Violation, World};

/// What every payload starts with: what an eavesdropper looks for.
const MARKER: &[u8; 16] = b"for a host only.";
/// Marker and number.
pub const LEAST_LEN: usize = MARKER.len() + 8;

/// Where the header of the inner packet says how far it may go: the one byte that routers change.
const HOP_LIMIT: usize = 7;

/// A packet that a host sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Destination that sent it.
    pub from: usize,
    /// Destination it is for.
    pub to: usize,
    /// When.
    pub at: Time,
    /// It was sealed as v1 does.
    pub under_v1: bool,
    /// How often it came out.
    pub delivered: u32,
    packet: Vec<u8>,
}

/// What was seen, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bodies of sessions.
    pub sessions: u64,
    /// Handshake units.
    pub units: u64,
    /// Bodies of v1.
    pub v1: u64,
    /// Of those, between two nodes that both have sessions.
    pub v1_between_speakers: u64,
    /// Packets that came out again under v1, which does not promise otherwise.
    pub v1_repeated: u64,
    /// Errors that hosts got.
    pub errors: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: Vec<Sent>,
    keys: BTreeMap<(usize, usize), Option<AeadKey>>,
    counters: HashSet<(Subnet, [u8; 10])>,
    /// Bodies that nodes got from others with their own address as the source.
    not_its_word: HashSet<(usize, Vec<u8>)>,
    /// Nodes, and the subnets from which they accepted a packet of a session.
    confirmed: BTreeSet<(usize, Subnet)>,
    /// What was seen so far.
    pub seen: Seen,
    /// Everything that honest nodes sealed, for whoever taps the network; where the run wants it.
    pub tape: Option<Vec<Vec<u8>>>,
}

impl Ledger {
    /// A packet by its number.
    pub fn sent(&self, number: u64) -> &Sent {
        &self.sent[usize::try_from(number).unwrap_or(usize::MAX)]
    }

    /// Every packet so far.
    pub fn all(&self) -> &[Sent] {
        &self.sent
    }

    /// An honest node ended; it may find pins again when it starts.
    pub(crate) fn on_stopped(&mut self, node: usize, kept: &[Pin]) {
        self.confirmed.retain(|&(of, subnet)| {
            of != node || kept.iter().any(|pin| pin.ours && pin.subnet == subnet)
        });
    }

    /// A data packet arrives at an honest node. One that names it as the source is passed on like any other, and is not its word.
    fn on_arrived(&mut self, world: &World, node: usize, frame: &[u8]) {
        if let Ok(header) = DataHeader::parse(frame)
            && let Some(&from) = world.by_subnet.get(&Subnet::containing(header.source))
            && world.destinations[from].owner == node
        {
            let body = frame[BODY_OFFSET..header.packet_len()].to_vec();
            self.not_its_word.insert((node, body));
        }
    }

    /// `node` is honest and sends this data packet over one of its links.
    fn on_emitted(&mut self, world: &World, node: usize, frame: &[u8]) -> Result<(), Violation> {
        let Ok(header) = DataHeader::parse(frame) else {
            return Err(world.violation(format!("node {node} sends what is no data packet")));
        };
        let (source, target) = (
            Subnet::containing(header.source),
            Subnet::containing(header.destination),
        );
        let Some(&from) = world.by_subnet.get(&source) else {
            return Ok(());
        };
        if world.destinations[from].owner != node {
            return Ok(());
        }
        let Some(&to) = world.by_subnet.get(&target) else {
            return Ok(());
        };
        let body = &frame[BODY_OFFSET..header.packet_len()];
        if !self.not_its_word.is_empty() && self.not_its_word.contains(&(node, body.to_vec())) {
            return Ok(());
        }
        if let Some(tape) = &mut self.tape {
            tape.push(frame.to_vec());
        }
        if body.starts_with(&[0; 4]) && Unit::parse(&body[4..]).is_ok() {
            self.seen.units += 1;
            return Ok(());
        }
        let key = self.keys.entry((from, to)).or_insert_with(|| {
            let secret = &world.identity(from).secret;
            let shared = secret.agree(&world.identity(to).key)?;
            Some(AeadKey::v1(&shared))
        });
        let mut copy = body.to_vec();
        if let (Some(key), Some((sealed, nonce))) = (key, split_v1_body(&mut copy))
            && let Ok(plaintext) = key.open(nonce, &[], sealed)
        {
            let number = match user_data::parse(plaintext) {
                Ok((UserDataType::Packet, packet)) => number_of(packet),
                _ => None,
            };
            return self.on_v1_emitted(world, node, (from, to), number);
        }
        self.seen.sessions += 1;
        if body.windows(MARKER.len()).any(|window| window == MARKER) {
            return Err(world.violation(format!("node {node} sends clear text")));
        }
        let Some(head) = body.first_chunk::<10>() else {
            return Err(world.violation(format!("node {node} sends a body of no kind")));
        };
        if !self.counters.insert((target, *head)) {
            return Err(world.violation(format!(
                "node {node} uses a counter of a session a second time: {head:02x?}"
            )));
        }
        Ok(())
    }

    fn on_v1_emitted(
        &mut self,
        world: &World,
        node: usize,
        (from, to): (usize, usize),
        number: Option<usize>,
    ) -> Result<(), Violation> {
        self.seen.v1 += 1;
        if let Some(sent) = number.and_then(|number| self.sent.get_mut(number)) {
            sent.under_v1 = true;
        }
        let remote = world.destinations[to].subnet;
        let name = world.trace.of(remote);
        if !world.dialect(node).allows_v1() {
            return Err(world.violation(format!("node {node} must not use v1, and does to {name}")));
        }
        if self.confirmed.contains(&(node, remote)) {
            return Err(world.violation(format!(
                "node {node} goes back to v1 with {name}, which has confirmed v2"
            )));
        }
        let Some((data, _)) = world.stations[node]
            .core()
            .and_then(|core| core.data.as_ref())
        else {
            return Ok(());
        };
        if data.pins().iter().any(|pin| pin.subnet == remote) {
            return Err(world.violation(format!(
                "node {node} goes back to v1 with {name}, which it has pinned"
            )));
        }
        let both = [node, world.destinations[to].owner].map(|node| world.dialect(node));
        if !both.iter().all(|dialect| dialect.speaks_v2()) || number.is_none() {
            return Ok(());
        }
        self.seen.v1_between_speakers += 1;
        let identity = world.destinations[from].identity;
        let reported = data.sessions().iter().any(|view| {
            view.identity.0 as usize == identity
                && view.subnet == remote
                && view.protocol == Protocol::V1
        });
        if !reported {
            return Err(world.violation(format!(
                "node {node} uses v1 with {name} and does not say so"
            )));
        }
        Ok(())
    }

    /// A packet came out of the host interface of an honest node.
    fn on_delivered(&mut self, world: &World, delivery: &Delivery) -> Result<(), Violation> {
        let node = delivery.node;
        if let Some((kind, _, _)) = delivery.icmp() {
            self.seen.errors += 1;
            let told = delivery
                .packet
                .get(44..48)
                .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            return match (kind, told) {
                (2, Some(..1280)) => Err(world.violation(format!(
                    "the host of {node} is told to send less than every IPv6 link carries: {told:?}"
                ))),
                _ => Ok(()),
            };
        }
        let Some((number, sent)) = number_of(&delivery.packet)
            .and_then(|number| Some((number, self.sent.get_mut(number)?)))
        else {
            return Err(world.violation(format!("node {node} delivers what nobody sent")));
        };
        let meant = world.destinations[sent.to];
        if (node, delivery.identity.0 as usize) != (meant.owner, meant.identity) {
            return Err(world.violation(format!(
                "packet {number} is for {}, and comes out at {node}",
                meant.owner
            )));
        }
        let unchanged = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            packet[HOP_LIMIT] = 0;
            packet
        };
        if unchanged(&delivery.packet) != unchanged(&sent.packet) {
            return Err(
                world.violation(format!("packet {number} was changed on its way to {node}"))
            );
        }
        if delivery.hop_limit() == u8::MAX {
            return Err(world.violation(format!("packet {number} claims to come from a neighbour")));
        }
        sent.delivered += 1;
        let (repeated, under_v1) = (sent.delivered > 1, sent.under_v1);
        let source = world.destinations[sent.from];
        let (ours, theirs) = (world.dialect(node), world.dialect(source.owner));
        if !ours.understands(theirs) {
            return Err(world.violation(format!(
                "node {node}, {ours:?}, accepts packet {number} from {}, {theirs:?}",
                source.owner
            )));
        }
        if under_v1 {
            if !ours.allows_v1() || self.confirmed.contains(&(node, source.subnet)) {
                return Err(world.violation(format!(
                    "node {node} accepts packet {number} under v1 from {}, which has confirmed v2",
                    source.owner
                )));
            }
            self.seen.v1_repeated += u64::from(repeated);
            return Ok(());
        } else {
            self.confirmed.insert((node, source.subnet));
        }
        match repeated {
            true => {
                Err(world.violation(format!("packet {number} comes out a second time at {node}")))
            }
            false => Ok(()),
        }
    }
}

/// The number in an IPv6 packet of ours.
fn number_of(packet: &[u8]) -> Option<usize> {
    let payload = packet.get(40..)?;
    let number = payload.strip_prefix(MARKER)?.first_chunk()?;
    usize::try_from(u64::from_be_bytes(*number)).ok()
}

impl World {
    /// Watch every body and every packet from now on.
    pub fn keep_ledger(&mut self) -> &mut Ledger {
        self.ledger.insert(Box::default())
    }

    /// The ledger of a run that keeps one.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    /// The host of destination `from` sends one of `to` a packet with `len` bytes of payload, at least [`LEAST_LEN`]. Returns
    /// its number; `None` if nobody keeps a ledger, or the sender is down.
    pub fn post(&mut self, from: usize, to: usize, len: usize) -> Result<Option<u64>, Violation> {
        if self.stations[self.destinations[from].owner]
            .core()
            .is_none()
        {
            return Ok(None);
        }
        let at = self.now;
        let Some(ledger) = &self.ledger else {
            return Ok(None);
        };
        let number = ledger.sent.len() as u64;
        let mut payload = MARKER.to_vec();
        payload.extend(number.to_be_bytes());
        payload.resize(len.max(LEAST_LEN), number.to_le_bytes()[0]);
        let packet = self.host_packet(from, to, 64, &payload);
        if let Some(ledger) = &mut self.ledger {
            ledger.sent.push(Sent {
                from,
                to,
                at,
                under_v1: false,
                delivered: 0,
                packet,
            });
        }
        if self.trace.wanted() {
            let [source, target] = [from, to].map(|of| self.trace.of(self.destinations[of].subnet));
            self.trace.line(
                at,
                format_args!("packet {number} from {source} to {target}, {len} bytes"),
            );
        }
        self.send_packet(from, to, 64, &payload)?;
        Ok(Some(number))
    }

    /// How often the packet with this number came out.
    pub fn came_out(&self, number: u64) -> u32 {
        self.ledger()
            .map_or(0, |ledger| ledger.sent(number).delivered)
    }

    pub(crate) fn note_arrived(&mut self, node: usize, frame: &[u8]) {
        if let Some(mut ledger) = self.ledger.take() {
            ledger.on_arrived(self, node, frame);
            self.ledger = Some(ledger);
        }
    }

    pub(crate) fn note_emitted(&mut self, node: usize, frame: &[u8]) -> Result<(), Violation> {
        let Some(mut ledger) = self.ledger.take() else {
            return Ok(());
        };
        let before = ledger.seen;
        let checked = ledger.on_emitted(self, node, frame);
        if self.trace.wanted() {
            let what = match (ledger.seen.units > before.units, ledger.seen.v1 > before.v1) {
                (true, _) => "handshake unit",
                (_, true) => "v1 body",
                _ if ledger.seen.sessions > before.sessions => "session body",
                _ => "transit",
            };
            if let Ok(header) = DataHeader::parse(frame) {
                let [from, to] = [header.source, header.destination]
                    .map(|address| self.trace.of(Subnet::containing(address)));
                self.trace.line(
                    self.now,
                    format_args!("{node}: {what} from {from} to {to}, {} bytes", frame.len()),
                );
            }
        }
        self.ledger = Some(ledger);
        checked
    }

    /// Whether the ledger took it.
    pub(crate) fn note_delivered(&mut self, delivery: &Delivery) -> Result<bool, Violation> {
        let Some(mut ledger) = self.ledger.take() else {
            return Ok(false);
        };
        let checked = ledger.on_delivered(self, delivery);
        self.ledger = Some(ledger);
        if self.trace.wanted() {
            self.trace.line(
                self.now,
                format_args!(
                    "{}: packet {:?} comes out",
                    delivery.node,
                    number_of(&delivery.packet)
                ),
            );
        }
        checked.map(|()| true)
    }
}

//! A node on the way that relays, and meddles with what it relays. It runs the honest core, so it has routes like everybody;
//! what that core sends passes through here first. It knows everybody's address and public key, and no secret but its own.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv6Addr;
use std::time::Duration;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::rng::Rng;
use mycelium_core::session::fragment::{self, MessageKind, Unit};
use mycelium_core::session::handshake::{Context, Hello, Initiator, Local, Timestamp};
use mycelium_core::session::mac::{MAC_LEN, MACS_LEN, MacKey, Scope};
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};

use crate::choices::Choices;

/// One thing that a relay does to packets of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trick {
    /// Sends again what it sent before, soon or minutes later.
    Replay,
    /// Sends back to the sender, as if from the recipient.
    Reflect,
    /// Keeps some back, so that later ones overtake them.
    Reorder,
    /// Cuts bytes off the end.
    Truncate,
    /// Changes one bit, of each byte of the headers in turn, and of any other.
    Flip,
    /// Changes who it is for, or from.
    Redirect,
    /// Puts the body of one packet behind the header of another.
    SwapBodies,
    /// Removes from routes what says that their owner speaks v2.
    StripHints,
    /// Adds it to routes of those that do not.
    ForgeHints,
    /// Invents handshake units, with correct MAC1.
    ForgeHandshakes,
    /// Lets no handshake unit through.
    DropHandshakes,
    /// Lets no second message through.
    DropAnswers,
    /// Lets no packet of an established session through, nor one of v1 to those that could have one.
    DropTransport,
    /// Loses one of three packets.
    DropSome,
    /// Announces its victims' routes as its own, at no cost.
    Hijack,
    /// Loses everything for its victims.
    Blackhole,
}

/// All of them.
pub const TRICKS: [Trick; 16] = [
    Trick::Replay,
    Trick::Reflect,
    Trick::Reorder,
    Trick::Truncate,
    Trick::Flip,
    Trick::Redirect,
    Trick::SwapBodies,
    Trick::StripHints,
    Trick::ForgeHints,
    Trick::ForgeHandshakes,
    Trick::DropHandshakes,
    Trick::DropAnswers,
    Trick::DropTransport,
    Trick::DropSome,
    Trick::Hijack,
    Trick::Blackhole,
];

/// Packets remembered to be sent again.
const RECORDED: usize = 256;
/// Bytes of a data packet's headers, and of index and counter or the header of a handshake unit: all are flipped in turn.
pub const HEADERS: usize = BODY_OFFSET + 10;
/// Length of a control packet that holds one Update, and where the hint is in it (wire spec §5.2, §1.4).
const UPDATE_LEN: usize = 68;
const UPDATE: u8 = 8;
const ZONE: std::ops::Range<usize> = 60..62;
const SUBNET: std::ops::Range<usize> = 20..28;
const KEY: std::ops::Range<usize> = 28..60;

/// What comes behind the hop limit.
const ADDRESSES: usize = 8;

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Deed {
    /// It goes where the core sent it, as it is now.
    Pass(Vec<u8>),
    /// It goes towards its destination, after a while.
    Inject(Duration, Vec<u8>),
}

/// A meddling relay.
#[derive(Debug)]
pub struct Relay {
    /// What it does now. Nothing: it is honest.
    pub tricks: Vec<Trick>,
    /// Whose packets it loses, whose routes it takes.
    pub victims: Vec<Subnet>,
    /// Packets that it meddled with.
    pub bent: u64,
    /// Offsets at which it has changed a byte of transport packets.
    pub flipped: BTreeSet<usize>,
    secret: SecretKey,
    recorded: Vec<Vec<u8>>,
    next: usize,
    /// Everything behind the hop limit of what it has meddled with, or made.
    handled: HashSet<Vec<u8>>,
    flips: [usize; 2],
    last: Option<Vec<u8>>,
    /// The newest Update about each subnet.
    updates: BTreeMap<Subnet, Vec<u8>>,
}

impl Relay {
    /// An honest one with this identity.
    pub fn new(secret: SecretKey) -> Self {
        Self {
            tricks: Vec::new(),
            victims: Vec::new(),
            bent: 0,
            flipped: BTreeSet::new(),
            secret,
            recorded: Vec::new(),
            next: 0,
            handled: HashSet::new(),
            flips: [0; 2],
            last: None,
            updates: BTreeMap::new(),
        }
    }

    fn does(&self, trick: Trick) -> bool {
        self.tricks.contains(&trick)
    }

    /// Somebody sent it a control packet.
    pub(crate) fn hear(&mut self, packet: &[u8]) {
        if let Some(subnet) = subnet_of_update(packet) {
            self.updates.insert(subnet, packet.to_vec());
        }
    }

    /// Its core sends a control packet.
    pub(crate) fn bend_control(&self, packet: &mut [u8]) {
        if subnet_of_update(packet).is_some() {
            if self.does(Trick::StripHints) {
                packet[ZONE].fill(0);
            } else if self.does(Trick::ForgeHints) {
                packet[ZONE].copy_from_slice(&[2, 1]);
            }
        }
    }

    /// Updates that take the victims' routes, for all its neighbours.
    pub(crate) fn announcements(&self, choices: &mut Choices) -> Vec<Vec<u8>> {
        if !self.does(Trick::Hijack) {
            return Vec::new();
        }
        let theirs = self.victims.iter().filter_map(|v| self.updates.get(v));
        theirs
            .map(|update| {
                let mut update = update.clone();
                // Seqno as it is, or ahead of it; metric 0.
                let seqno = u16::from_be_bytes([update[16], update[17]]);
                let ahead = u16::try_from(choices.below(4)).unwrap_or(0);
                update[16..18].copy_from_slice(&seqno.wrapping_add(ahead).to_be_bytes());
                update[18..20].fill(0);
                update
            })
            .collect()
    }

    /// Its core sends a data packet of others. `targets`: addresses of others that it may redirect to.
    pub(crate) fn bend(
        &mut self,
        packet: Vec<u8>,
        targets: &[Ipv6Addr],
        choices: &mut Choices,
    ) -> Vec<Deed> {
        let Ok(header) = DataHeader::parse(&packet) else {
            return vec![Deed::Pass(packet)];
        };
        // Once is enough: where forged routes go in circles, packets would multiply at each turn.
        if self.tricks.is_empty() || self.handled.contains(&packet[ADDRESSES..]) {
            return vec![Deed::Pass(packet)];
        }
        let trick = *choices.pick(&self.tricks);
        let is_unit = packet[BODY_OFFSET..].starts_with(&[0; 4]);
        let mut deeds = Vec::new();
        let original = packet.clone();
        match trick {
            Trick::Replay => {
                deeds.push(Deed::Pass(packet));
                for _ in 0..choices.below(3) {
                    if !self.recorded.is_empty() {
                        let again = choices.pick(&self.recorded).clone();
                        deeds.push(Deed::Inject(sooner_or_later(choices), again));
                    }
                }
            }
            Trick::Reflect => {
                let mut back = packet.clone();
                back[8..24].copy_from_slice(&packet[24..40]);
                // The other source: itself, as the sender sees it.
                let shown = if choices.below(4) == 0 { 24 } else { 8 };
                back[24..40].copy_from_slice(&packet[8..24]);
                if shown == 24 {
                    back[8..24].copy_from_slice(&packet[8..24]);
                }
                deeds.push(Deed::Inject(Duration::ZERO, back));
                if choices.below(4) > 0 {
                    deeds.push(Deed::Pass(packet));
                }
            }
            Trick::Reorder => {
                let after = match choices.below(20) {
                    0 => Duration::from_secs(3),
                    1..=9 => Duration::from_millis(choices.within(1..300)),
                    _ => Duration::ZERO,
                };
                deeds.push(match after {
                    Duration::ZERO => Deed::Pass(packet),
                    after => Deed::Inject(after, packet),
                });
            }
            Trick::Truncate => {
                let mut cut = packet.clone();
                cut.truncate(choices.below(packet.len()));
                if choices.below(4) > 0 {
                    set_len(&mut cut);
                }
                deeds.push(Deed::Pass(cut));
                if choices.below(2) == 0 {
                    deeds.push(Deed::Pass(packet));
                }
            }
            Trick::Flip => {
                let counter = &mut self.flips[usize::from(is_unit)];
                let at = match *counter % (HEADERS + 14) {
                    at if at < HEADERS => at,
                    _ => choices.below(packet.len()),
                };
                *counter += 1;
                if !is_unit && at < HEADERS {
                    self.flipped.insert(at);
                }
                let mut changed = packet.clone();
                changed[at] ^= 1 << choices.below(8);
                deeds.push(Deed::Pass(changed));
                if choices.below(2) == 0 {
                    deeds.push(Deed::Pass(packet));
                }
            }
            Trick::Redirect => {
                let mut moved = packet.clone();
                let other = choices.pick(targets).octets();
                match choices.below(4) {
                    0 => moved[8..24].copy_from_slice(&other),
                    // Another host behind the same node, or who says to be one.
                    1 => moved[39] ^= 1 + choices.byte() % 8,
                    2 => moved[23] ^= 1 + choices.byte() % 8,
                    _ => moved[24..40].copy_from_slice(&other),
                }
                deeds.push(Deed::Inject(Duration::ZERO, moved));
                if choices.below(4) > 0 {
                    deeds.push(Deed::Pass(packet));
                }
            }
            Trick::SwapBodies => {
                if let Some(last) = self.last.take() {
                    for (head, body) in [(&last, &packet), (&packet, &last)] {
                        let mut mixed = head[..BODY_OFFSET].to_vec();
                        mixed.extend_from_slice(&body[BODY_OFFSET..]);
                        set_len(&mut mixed);
                        deeds.push(Deed::Inject(Duration::ZERO, mixed));
                    }
                    if choices.below(2) == 0 {
                        deeds.push(Deed::Inject(Duration::ZERO, last));
                        deeds.push(Deed::Pass(packet));
                    }
                } else {
                    self.last = Some(packet.clone());
                    if choices.below(2) == 0 {
                        deeds.push(Deed::Pass(packet));
                    }
                }
            }
            Trick::ForgeHandshakes if is_unit => {
                for _ in 0..1 + choices.below(4) {
                    if let Some(forged) = self.forge(&header, &packet, choices) {
                        deeds.push(Deed::Pass(forged));
                    }
                }
                if choices.below(8) > 0 {
                    deeds.push(Deed::Pass(packet));
                }
            }
            Trick::DropHandshakes if is_unit => {}
            Trick::DropAnswers if is_unit && packet[BODY_OFFSET + 4] == 2 => {}
            Trick::DropTransport if !is_unit => {}
            Trick::DropSome if choices.below(3) == 0 => {}
            Trick::Blackhole
                if self
                    .victims
                    .contains(&Subnet::containing(header.destination)) => {}
            Trick::StripHints
            | Trick::ForgeHints
            | Trick::ForgeHandshakes
            | Trick::DropHandshakes
            | Trick::DropAnswers
            | Trick::DropTransport
            | Trick::DropSome
            | Trick::Hijack
            | Trick::Blackhole => deeds.push(Deed::Pass(packet)),
        }
        let is_as_it_was = matches!(&deeds[..], [Deed::Pass(packet)] if *packet == original);
        self.bent += u64::from(!is_as_it_was);
        for deed in &deeds {
            let (Deed::Pass(packet) | Deed::Inject(_, packet)) = deed;
            if let Some(what) = packet.get(ADDRESSES..) {
                self.handled.insert(what.to_vec());
            }
        }
        self.handled.insert(original[ADDRESSES..].to_vec());
        self.record(original);
        deeds
    }

    fn record(&mut self, packet: Vec<u8>) {
        if self.recorded.len() < RECORDED {
            self.recorded.push(packet);
        } else {
            self.recorded[self.next] = packet;
            self.next = (self.next + 1) % RECORDED;
        }
    }

    /// A unit of its own making, in place of the one in `packet`: what somebody can make who knows all public keys.
    fn forge(&self, header: &DataHeader, packet: &[u8], choices: &mut Choices) -> Option<Vec<u8>> {
        let update = self.updates.get(&Subnet::containing(header.destination))?;
        let recipient = PublicKey(update[KEY].try_into().ok()?);
        let mac_key = MacKey::new(&recipient, None);
        let scope = Scope::EndToEnd {
            source: header.source,
            destination: header.destination,
        };
        let mut unit = packet[BODY_OFFSET + 4..].to_vec();
        let half = 20..unit.len().checked_sub(MACS_LEN)?;
        match choices.below(7) {
            // Changed anywhere before the MACs.
            0 => {
                let at = choices.below(half.end);
                unit[at] ^= 1 << choices.below(8);
            }
            // Another half, of the same message.
            1 => {
                for byte in &mut unit[half] {
                    *byte = choices.byte();
                }
            }
            // One half twice.
            2 => unit[1] ^= 1,
            // From another handshake.
            3 => {
                let other = self.recorded.iter().find(|other| {
                    other[BODY_OFFSET..].starts_with(&[0; 4]) && other.len() == packet.len()
                })?;
                unit[half.clone()].copy_from_slice(other.get(BODY_OFFSET + 4..)?.get(half)?);
            }
            // The first message as the second, and the other way round.
            4 => unit[0] = 3 - unit[0].min(2),
            // A cookie that nobody asked for.
            5 => {
                let index = unit[4..8].to_vec();
                unit = vec![3, 0x10, 0, 0, 0, 0, 0, 0];
                unit.extend(index);
                unit.extend(choices.bytes(56));
                return Some(framed(packet, &unit));
            }
            // A handshake under its own key, in the name of the sender.
            _ => {
                let mut rng = Rng::from_seed(choices.seed());
                let own = Local::new(self.secret.clone());
                let hello = Hello {
                    index: u32::from_be_bytes(rng.array()).max(1),
                    timestamp: Timestamp::from_unix(Duration::ZERO),
                    has_aes: true,
                };
                let (_, message) =
                    Initiator::start(Context::EndToEnd, &own, &recipient, &hello, &mut rng).ok()?;
                let [one, two] = fragment::split_first(&message, hello.index, scope, &mac_key);
                let Ok(Unit::Fragment(fragment)) = Unit::parse(&unit) else {
                    return None;
                };
                let first = fragment.kind() == MessageKind::One && fragment.number() == 0;
                return Some(framed(packet, if first { &one } else { &two }));
            }
        }
        let mac1 = mac_key.mac1(scope, &unit)?;
        let end = unit.len() - MACS_LEN;
        unit[end..end + MAC_LEN].copy_from_slice(&mac1);
        Some(framed(packet, &unit))
    }
}

/// `unit` behind the headers of `packet`.
fn framed(packet: &[u8], unit: &[u8]) -> Vec<u8> {
    let mut framed = packet[..BODY_OFFSET + 4].to_vec();
    framed.extend_from_slice(unit);
    set_len(&mut framed);
    framed
}

/// Let the header say how long the packet is.
fn set_len(packet: &mut [u8]) {
    if let Some(len) = packet.len().checked_sub(BODY_OFFSET) {
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        packet[5..7].copy_from_slice(&len.to_be_bytes());
    }
}

fn sooner_or_later(choices: &mut Choices) -> Duration {
    match choices.below(16) {
        0 => Duration::from_secs(choices.within(10..250)),
        1..=7 => Duration::from_millis(choices.within(1..3000)),
        _ => Duration::ZERO,
    }
}

fn subnet_of_update(packet: &[u8]) -> Option<Subnet> {
    let is_update = packet.len() == UPDATE_LEN && packet[8] == UPDATE;
    is_update.then(|| Some(Subnet::from_octets(packet.get(SUBNET)?.try_into().ok()?)))?
}

//! Sessions through a relay that means harm: whatever it does costs packets, and nothing else, and once it stops everybody
//! talks again. The [ledger](crate::ledger) looks at every body and every packet meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mycelium_core::addr::Subnet;
use mycelium_core::rng::Rng;
use mycelium_core::session::fragment::{HEADER_LEN, MessageKind, Unit};
use mycelium_core::session::handshake::{Arrival, Local, Responder};
use mycelium_core::session::mac::MACS_LEN;
use mycelium_core::session::view::Protocol;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};

use super::{Scenario, Stage, seconds, watched};
use crate::dialect::Dialect;
use crate::fault::Fault;
use crate::ledger::LEAST_LEN;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::relay::{Relay, TRICKS, Trick};
use crate::topology::Topology;
use crate::world::{Violation, World, WorldConfig};

macro_rules! against {
    ($name:ident, $called:literal, [$($trick:ident),*], $about:literal) => {
        pub(super) const $name: Scenario = Scenario {
            name: $called,
            about: $about,
            play: |stage| meddled(stage, &[$(Trick::$trick),*]),
        };
    };
}

pub(super) const ANYTHING: Scenario = Scenario {
    name: "relay",
    about: "a relay does several of everything to v1 and v2 packets alike: hosts get what was sent to them, once, and talk again after it",
    play: anything,
};
against!(
    REPLAY,
    "relay-replay",
    [Replay],
    "a relay sends packets and handshakes again, at once or minutes later: nothing comes out twice"
);
against!(
    REFLECT,
    "relay-reflect",
    [Reflect],
    "a relay sends packets back to their sender"
);
against!(
    REORDER,
    "relay-reorder",
    [Reorder],
    "a relay keeps packets back for up to three seconds: nothing is lost for it"
);
against!(
    TRUNCATE,
    "relay-truncate",
    [Truncate],
    "a relay cuts packets short, with and without saying so in the header"
);
against!(
    FLIP,
    "relay-flip",
    [Flip],
    "a relay flips a bit of each byte of all headers in turn, and of bodies"
);
against!(
    REDIRECT,
    "relay-redirect",
    [Redirect],
    "a relay changes who a packet is for, or from"
);
against!(
    SWAP_BODIES,
    "relay-swap",
    [SwapBodies],
    "a relay exchanges the bodies of packets"
);
against!(
    STRIP_HINTS,
    "relay-strip",
    [StripHints],
    "a relay hides from routes that their owner speaks v2: no way back to v1 once that is known"
);
against!(
    FORGE_HINTS,
    "relay-hint",
    [ForgeHints],
    "a relay says of nodes that speak v1 that they speak v2"
);
against!(
    FORGE_HANDSHAKES,
    "relay-forge",
    [ForgeHandshakes],
    "a relay invents handshake units with correct MAC1, before the real ones and in their place"
);
against!(
    DROP_HANDSHAKES,
    "relay-no-handshake",
    [DropHandshakes, StripHints],
    "a relay lets no handshake through and hides who speaks v2: v1 before the first confirmation at most, and said so"
);
against!(
    DROP_SELECTIVELY,
    "relay-drop",
    [DropSome, DropAnswers, DropTransport],
    "a relay loses second messages, all transport packets, or some of everything"
);
against!(
    HIJACK,
    "relay-hijack",
    [Hijack, Flip, Replay],
    "a relay announces its victims' routes at no cost, and meddles with what that attracts"
);
against!(
    BLACKHOLE,
    "relay-blackhole",
    [Hijack, Blackhole],
    "a relay announces its victims' routes at no cost, and loses what that attracts"
);
pub(super) const OUTSIDER: Scenario = Scenario {
    name: "outsider",
    about: "nodes without the network key, or with another, between and beside those of a closed network: no packet crosses",
    play: outsider,
};
pub(super) const EAVESDROPPER: Scenario = Scenario {
    name: "eavesdropper",
    about: "everything on the wire, with all identity keys afterwards: not one packet of a session opens",
    play: eavesdropper,
};

/// All pairs exchange a packet this soon after the relay stopped: the longest pause between handshakes is 15 s, an initiator
/// that heard nothing begins after 2 s, and a stream that a silent link held up retransmits for some seconds.
const RESUMED: Duration = Duration::from_secs(40);
/// And all that have sessions use them, on both sides, this soon after that.
const SETTLED: Duration = Duration::from_secs(60);
/// Between two packets of a pair.
const PACE: Duration = Duration::from_millis(120);
/// Rounds of packets after which nothing may be lost any more.
const QUIET_ROUNDS: usize = 8;

/// A network with a relay in its middle, which is honest so far; where the relay is.
fn network(stage: &mut Stage) -> usize {
    let choices = stage.choices();
    let spec = match choices.below(2) {
        0 => LinkSpec::tcp(1 + choices.below(20) as u64),
        _ => LinkSpec::quic(1 + choices.below(20) as u64),
    };
    let (topology, relay) = match choices.below(5) {
        0 => (Topology::line(3, spec), 1),
        1 => (Topology::line(5, spec), 1 + choices.below(3)),
        2 => (Topology::star(5, spec), 0),
        3 => (Topology::ring(5, spec), choices.below(5)),
        _ => {
            let topology = Topology::random(7, 3, spec, (1, 20), choices);
            let mut links = [0; 7];
            for &(a, b, _) in &topology.links {
                links[a] += 1;
                links[b] += 1;
            }
            let most = (0..7).max_by_key(|&node| links[node]).unwrap_or(0);
            (topology, most)
        }
    };
    let mut dialects: Vec<Dialect> = (0..topology.nodes)
        .map(|_| match choices.below(8) {
            0 => Dialect::V1,
            1 => Dialect::Require,
            _ => Dialect::Prefer,
        })
        .collect();
    dialects[relay] = Dialect::Prefer;
    // Two that have sessions and the relay between them, or on one of their ways.
    let others: Vec<usize> = (0..topology.nodes).filter(|&node| node != relay).collect();
    dialects[others[0]] = Dialect::Prefer;
    if !dialects[others[others.len() - 1]].speaks_v2() {
        dialects[others[others.len() - 1]] = Dialect::Prefer;
    }
    let config = WorldConfig {
        packets: true,
        dialects,
        rekey_after: (choices.below(3) == 0).then_some(Duration::from_secs(4)),
        keeps_pins: choices.below(2) == 0,
        // Forged routes make circles that last as long as they are forged.
        watch_loops: false,
        ..watched()
    };
    let world = stage.build(&topology, config);
    let secret = world.station(relay).identities[0].secret.clone();
    world.stations[relay].relay = Some(Relay::new(secret));
    world.keep_ledger();
    relay
}

/// Ordered pairs of destinations on different honest nodes that can talk at all.
fn pairs(world: &World, relay: usize) -> Vec<(usize, usize)> {
    let destinations = world.destinations();
    let mut pairs = Vec::new();
    for (from, a) in destinations.iter().enumerate() {
        for (to, b) in destinations.iter().enumerate() {
            let understand = world.dialect(a.owner).understands(world.dialect(b.owner));
            if a.owner != b.owner && a.owner != relay && b.owner != relay && understand {
                pairs.push((from, to));
            }
        }
    }
    pairs
}

/// Some of the pairs, each with its way back.
fn some(world: &mut World, relay: usize) -> Vec<(usize, usize)> {
    let all = pairs(world, relay);
    let mut chosen = vec![all[0]];
    for _ in 0..2 {
        chosen.push(*world.choices().pick(&all));
    }
    chosen.extend(chosen.clone().into_iter().map(|(from, to)| (to, from)));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Packets of every pair for a while, of any length that a host may send.
fn talk(world: &mut World, pairs: &[(usize, usize)], duration: Duration) -> Result<(), Violation> {
    let end = world.now() + duration;
    while world.now() < end {
        for &(from, to) in pairs {
            // One direction rests now and then: who hears nothing must find out by itself.
            if world.choices().below(4) > 0 {
                let len = LEAST_LEN + world.choices().below(1360 - LEAST_LEN);
                world.post(from, to, len)?;
            }
        }
        world.run_for(PACE)?;
    }
    Ok(())
}

/// One packet of every pair; those that did not come out within two seconds.
fn round(world: &mut World, pairs: &[(usize, usize)]) -> Result<Vec<(usize, usize)>, Violation> {
    let mut sent = Vec::new();
    for &pair in pairs {
        // No longer than every path carries: what a lost probe taught about sizes is another matter.
        let len = LEAST_LEN + world.choices().below(1240 - LEAST_LEN);
        sent.push((pair, world.post(pair.0, pair.1, len)?));
    }
    world.run_for(Duration::from_secs(2))?;
    let lost = sent
        .into_iter()
        .filter(|&(_, number)| number.is_none_or(|number| world.came_out(number) == 0));
    Ok(lost.map(|(pair, _)| pair).collect())
}

/// The relay is honest from now on: everybody talks again in time, then on sessions wherever there can be one, and then loses
/// nothing. Returns how long the first two took.
fn recover(world: &mut World, pairs: &[(usize, usize)]) -> Result<(Duration, Duration), Violation> {
    let calm = world.now();
    loop {
        let lost = round(world, pairs)?;
        if lost.is_empty() {
            break;
        }
        if world.now().since(calm) >= RESUMED {
            return Err(world.violation(format!(
                "{RESUMED:?} after the relay stopped these still do not talk: {lost:?}"
            )));
        }
    }
    let resumed = world.now().since(calm);
    let start = world.now();
    while let Some((from, to, how)) = on_v1(world, pairs) {
        if world.now().since(start) >= SETTLED {
            return Err(world.violation(format!("{from} still reaches {to} on {how:?}")));
        }
        // One identity of a node may refuse v1 already, because another one met the sender, before it has a session itself.
        round(world, pairs)?;
    }
    let settled = world.now().since(calm);
    for _ in 0..QUIET_ROUNDS {
        let lost = round(world, pairs)?;
        if !lost.is_empty() {
            return Err(world.violation(format!("a packet is lost without reason: {lost:?}")));
        }
    }
    Ok((resumed, settled))
}

/// A pair that could have a session and does not use one.
fn on_v1(world: &World, pairs: &[(usize, usize)]) -> Option<(usize, usize, Option<Protocol>)> {
    pairs.iter().find_map(|&(from, to)| {
        let [a, b] = [from, to].map(|destination| world.destinations()[destination]);
        if ![a.owner, b.owner]
            .iter()
            .all(|&node| world.dialect(node).speaks_v2())
        {
            return None;
        }
        let (data, _) = world.station(a.owner).core()?.data.as_ref()?;
        let view = data
            .sessions()
            .into_iter()
            .find(|view| view.identity.0 as usize == a.identity && view.subnet == b.subnet);
        let fine = view
            .as_ref()
            .is_some_and(|view| view.protocol == Protocol::V2 && view.pinned);
        (!fine).then(|| (from, to, view.map(|view| view.protocol)))
    })
}

fn relay_of(world: &mut World, relay: usize) -> Result<&mut Relay, Violation> {
    let gone = world.violation("there is no relay");
    world.stations[relay].relay.as_mut().ok_or(gone)
}

/// What several scenarios share: quiet first contact or not, a spell of `tricks`, recovery.
fn meddled(stage: &mut Stage, tricks: &[Trick]) -> Result<(), Violation> {
    let relay = network(stage);
    let world = stage.world();
    let known = world.choices().below(2) == 0;
    let recovered = spell(world, relay, tricks, known)?;
    report(stage, relay, recovered)
}

/// Let the relay do `tricks` for a while. `known`: everybody has met before.
fn spell(
    world: &mut World,
    relay: usize,
    tricks: &[Trick],
    known: bool,
) -> Result<[Duration; 2], Violation> {
    if !known {
        relay_of(world, relay)?.tricks = tricks.to_vec();
    }
    world.start_all()?;
    let second = world.choices().below(2) == 0;
    if second {
        let node = usize::from(relay == 0);
        world.apply(Fault::AddIdentity(node))?;
    }
    let talking = some(world, relay);
    if known {
        talk(world, &talking, Duration::from_secs(4))?;
    }
    let victims: Vec<_> = talking
        .iter()
        .map(|&(_, to)| world.destinations()[to].subnet)
        .collect();
    let meddler = relay_of(world, relay)?;
    meddler.tricks = tricks.to_vec();
    meddler.victims = victims;
    if tricks.contains(&Trick::Hijack) {
        world.attack(relay, Duration::from_millis(300));
    }
    let spells = 2 + world.choices().below(3);
    for _ in 0..spells {
        let part = world
            .choices()
            .duration(Duration::from_secs(3)..Duration::from_secs(8));
        talk(world, &talking, part)?;
        if world.choices().below(3) == 0 {
            // Somebody loses all sessions.
            let (from, _) = *world.choices().pick(&talking);
            let node = world.destinations()[from].owner;
            world.apply(Fault::Restart(node))?;
        }
    }
    let meddler = relay_of(world, relay)?;
    meddler.tricks.clear();
    let forged_routes = [Trick::Hijack, Trick::StripHints, Trick::ForgeHints]
        .iter()
        .any(|trick| tricks.contains(trick));
    if forged_routes {
        // What it has told its neighbours is valid for minutes: it ends with its connections.
        world.apply(Fault::Restart(relay))?;
        super::turmoil::heal(world, Demand::Reached)?;
    }
    let (resumed, settled) = recover(world, &talking)?;
    world.check_limits()?;
    Ok([resumed, settled])
}

fn report(stage: &mut Stage, relay: usize, recovered: [Duration; 2]) -> Result<(), Violation> {
    let world = stage.world();
    let meddler = relay_of(world, relay)?;
    let (bent, flipped) = (meddler.bent, meddler.flipped.len());
    let seen = world.ledger().map(|ledger| ledger.seen).unwrap_or_default();
    let [resumed, settled] = recovered.map(seconds);
    stage.figure("traffic resumed after s", resumed);
    stage.figure("all on sessions after s", settled);
    stage.figure("packets meddled with", bent as f64);
    stage.figure("header bytes flipped", flipped as f64);
    stage.figure("bodies on sessions", seen.sessions as f64);
    stage.figure("bodies on v1", seen.v1 as f64);
    stage.figure(
        "bodies on v1 between speakers",
        seen.v1_between_speakers as f64,
    );
    stage.figure("handshake units", seen.units as f64);
    stage.figure("errors to hosts", seen.errors as f64);
    Ok(())
}

fn anything(stage: &mut Stage) -> Result<(), Violation> {
    let relay = network(stage);
    let world = stage.world();
    let count = 1 + world.choices().below(5);
    let tricks: Vec<Trick> = (0..count).map(|_| *world.choices().pick(&TRICKS)).collect();
    let known = world.choices().below(2) == 0;
    let recovered = spell(world, relay, &tricks, known)?;
    report(stage, relay, recovered)
}

fn outsider(stage: &mut Stage) -> Result<(), Violation> {
    let choices = stage.choices();
    let mut dialects = vec![Dialect::Closed(1); 3];
    dialects.extend([Dialect::Closed(2), Dialect::Closed(2), Dialect::Prefer]);
    dialects.push([Dialect::V1, Dialect::Require, Dialect::Prefer][choices.below(3)]);
    choices.shuffle(&mut dialects);
    let nodes = dialects.len();
    let topology = Topology::random(nodes, 3, LinkSpec::tcp(1), (1, 20), choices);
    let config = WorldConfig {
        packets: true,
        dialects,
        ..watched()
    };
    let world = stage.build(&topology, config);
    // Forges handshakes like everybody who knows public keys, and repeats those of members.
    let relay = world.choices().below(nodes);
    let secret = world.station(relay).identities[0].secret.clone();
    let mut meddler = Relay::new(secret);
    meddler.tricks = vec![Trick::ForgeHandshakes, Trick::Replay];
    world.stations[relay].relay = Some(meddler);
    world.keep_ledger();
    world.start_all()?;
    let honest = |node: usize| node != relay;
    let all: Vec<(usize, usize)> = (0..nodes)
        .flat_map(|from| (0..nodes).map(move |to| (from, to)))
        .filter(|&(from, to)| from != to && honest(from) && honest(to))
        .collect();
    talk(world, &all, Duration::from_secs(4))?;
    relay_of(world, relay)?.tricks.clear();
    talk(world, &all, Duration::from_secs(4))?;
    let among = pairs(world, relay);
    let recovered = recover(world, &among)?;
    let [tried, crossed] = world.ledger().map_or([0, 0], |ledger| {
        let foreign = ledger.all().iter().filter(|sent| {
            let [a, b] =
                [sent.from, sent.to].map(|of| world.dialect(world.destinations()[of].owner));
            !a.understands(b)
        });
        [
            foreign.clone().count(),
            foreign.filter(|sent| sent.delivered > 0).count(),
        ]
    });
    if crossed > 0 || tried == 0 {
        return Err(world.violation(format!("{crossed} of {tried} packets crossed")));
    }
    stage.figure("packets that did not cross", tried as f64);
    report(stage, relay, [recovered.0, recovered.1])
}

/// Handshakes as they were recorded: who asked whom, the asker's index, and its first message.
type FirstMessages = BTreeMap<(Subnet, Subnet, u32), [Vec<u8>; 2]>;

/// A frame of each session, by its index, and by source and destination.
type Bodies<'a> = BTreeMap<(Subnet, Subnet), BTreeMap<[u8; 4], &'a [u8]>>;

fn eavesdropper(stage: &mut Stage) -> Result<(), Violation> {
    let relay = network(stage);
    let world = stage.world();
    if let Some(ledger) = &mut world.ledger {
        ledger.tape = Some(Vec::new());
    }
    world.start_all()?;
    let talking = some(world, relay);
    talk(world, &talking, Duration::from_secs(12))?;
    let tape = world.ledger.as_mut().and_then(|ledger| ledger.tape.take());
    let tape = tape.unwrap_or_default();
    let mut first: FirstMessages = BTreeMap::new();
    let mut bodies: Bodies<'_> = BTreeMap::new();
    for frame in &tape {
        let Ok(header) = DataHeader::parse(frame) else {
            continue;
        };
        let ends = [header.source, header.destination].map(Subnet::containing);
        let body = &frame[BODY_OFFSET..];
        let unit = body.get(4..).filter(|_| body.starts_with(&[0; 4]));
        match unit.map(Unit::parse) {
            Some(Ok(Unit::Fragment(fragment))) if fragment.kind() == MessageKind::One => {
                let whole = fragment.bytes();
                let half = &whole[HEADER_LEN..whole.len() - MACS_LEN];
                let halves = first
                    .entry((ends[0], ends[1], fragment.sender()))
                    .or_default();
                halves[usize::from(fragment.number())] = half.to_vec();
            }
            Some(_) => {}
            None => {
                if let Some(index) = body.first_chunk::<4>() {
                    bodies
                        .entry((ends[0], ends[1]))
                        .or_default()
                        .insert(*index, frame);
                }
            }
        }
    }
    let mut tried = 0_u32;
    let handshakes = first.len();
    for ((from, to, sender), halves) in first {
        let (Some(&asker), Some(&asked)) = (world.by_subnet.get(&from), world.by_subnet.get(&to))
        else {
            continue;
        };
        // The thief of the responder's key reads the first message, and answers it once more, with keys of its own.
        let local = Local::new(world.identity(asked).secret.clone());
        let message = halves.concat();
        let source = world.identity(asker).key.address();
        let indices: BTreeSet<[u8; 4]> = bodies
            .get(&(from, to))
            .map(|bodies| bodies.keys().copied().collect())
            .unwrap_or_default();
        for index in indices {
            let stolen = Responder::identify(Arrival::EndToEnd { source }, &local, &message)
                .and_then(|identified| identified.authenticate(sender))
                .and_then(|authenticated| {
                    let mut rng = Rng::from_seed(world.choices.seed());
                    let index = u32::from_be_bytes(index);
                    authenticated.respond(index, false, None, &mut rng)
                });
            let Ok(mut response) = stolen else {
                return Err(world.violation("a handshake does not even open for who has the key"));
            };
            let mut body = bodies[&(from, to)][&index][BODY_OFFSET..].to_vec();
            let target = world.identity(asked).key.address();
            tried += 1;
            if response
                .established
                .receiver
                .open_body(source, target, &mut body)
                .is_ok()
            {
                return Err(world.violation("a recorded packet opens with the keys of identities"));
            }
        }
    }
    if tried == 0 {
        return Err(world.violation("nothing was recorded that anybody could try to open"));
    }
    stage.figure("handshakes recorded", handshakes as f64);
    stage.figure("attempts to open", f64::from(tried));
    report(stage, relay, [Duration::ZERO; 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Choices;

    fn line() -> World {
        let config = WorldConfig {
            packets: true,
            dialects: vec![Dialect::Prefer; 3],
            ..watched()
        };
        let topology = Topology::line(3, LinkSpec::tcp(5));
        let mut world = World::new(&topology, config, Choices::from_seed(1));
        let secret = world.station(1).identities[0].secret.clone();
        world.stations[1].relay = Some(Relay::new(secret));
        world.keep_ledger();
        world
    }

    #[test]
    fn who_never_talks_again_is_noticed() {
        let pairs = [(0, 2), (2, 0)];
        for (trick, expected) in [
            (Trick::DropTransport, "still do not talk"),
            (Trick::DropHandshakes, "still reaches"),
        ] {
            let mut world = line();
            relay_of(&mut world, 1).unwrap().tricks = vec![trick];
            world.start_all().unwrap();
            talk(&mut world, &pairs, Duration::from_secs(3)).unwrap();
            let objection = recover(&mut world, &pairs).unwrap_err();
            assert!(objection.what.contains(expected), "{objection}");
        }
    }

    #[test]
    fn without_anybody_meddling_nothing_is_lost() {
        let pairs = [(0, 2), (2, 0)];
        let mut world = line();
        world.start_all().unwrap();
        talk(&mut world, &pairs, Duration::from_secs(3)).unwrap();
        let (resumed, settled) = recover(&mut world, &pairs).unwrap();
        assert_eq!(
            (resumed, settled),
            (Duration::from_secs(2), Duration::from_secs(2))
        );
        assert_eq!(world.ledger().unwrap().seen.v1, 0);
    }
}

//! Real packets through real data planes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Scenario, Stage, run_until, watched};
use crate::dialect::Dialect;
use crate::fault::Fault;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::{Violation, World, WorldConfig};

pub(super) const PACKETS: Scenario = Scenario {
    name: "packets",
    about: "packets sealed with v1 or on sessions between all identities: the first burst arrives whole while routes resolve, errors come back",
    play: packets,
};

/// Packets of each pair in the first burst.
const BURST: u8 = 5;

fn packets(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(3 + stage.choices().below(8));
    let spec = if stage.choices().below(2) == 0 {
        LinkSpec::tcp(1)
    } else {
        LinkSpec::quic(1)
    };
    let topology = Topology::random(nodes, 3, spec, (1, 30), stage.choices());
    let config = WorldConfig {
        packets: true,
        dialects: match stage.choices().below(3) {
            0 => Vec::new(),
            _ => vec![Dialect::Prefer; nodes],
        },
        ..watched()
    };
    let world = stage.build(&topology, config);
    world.start_all()?;
    world.apply(Fault::AddIdentity(0))?;
    first_burst(world)?;
    traceroute(world)?;
    nobody_there(world)?;
    cut(world)?;
    stage.figure_traffic();
    Ok(())
}

/// Everybody sends to everybody before any route is known: each packet arrives once, unchanged, within a second.
fn first_burst(world: &mut World) -> Result<(), Violation> {
    // Links take three one-way latencies to come up, and a packet that finds no route waits for seconds.
    let mut sent = BTreeMap::new();
    let pairs = all_pairs(world);
    for &(from, to) in &pairs {
        for number in 0..BURST {
            let payload = label(from, to, number);
            world.send_packet(from, to, 64, &payload)?;
            sent.insert(payload, to);
        }
    }
    world.run_for(Duration::from_secs(2))?;
    for delivery in std::mem::take(&mut world.deliveries) {
        let Some(payload) = delivery.payload() else {
            return Err(world.violation(format!("an error came back: {:?}", delivery.icmp())));
        };
        let Some(to) = sent.remove(payload) else {
            return Err(world.violation(format!("{payload:?} arrived twice, or changed")));
        };
        let meant = world.destinations()[to];
        if (delivery.node, delivery.identity.0 as usize) != (meant.owner, meant.identity) {
            return Err(world.violation(format!("{payload:?} arrived at {}", delivery.node)));
        }
    }
    match sent.len() {
        0 => Ok(()),
        lost => Err(world.violation(format!("{lost} packets of the first burst were lost"))),
    }
}

/// Hop limits that end on the way bring an error from the very node where they end.
fn traceroute(world: &mut World) -> Result<(), Violation> {
    let farthest = (1..world.nodes())
        .max_by_key(|&to| world.path(0, to).len())
        .unwrap_or(0);
    let path = world.path(0, farthest);
    let relays = path.len().saturating_sub(1);
    for (hop, &node) in path.iter().take(relays).enumerate() {
        // The sender counts as a hop, and refuses 1 already: see wire spec §6.3.
        let limit = u8::try_from(hop + 1).unwrap_or(u8::MAX);
        world.send_packet(0, farthest, limit, b"how far?")?;
        world.run_for(Duration::from_secs(2))?;
        let answers = std::mem::take(&mut world.deliveries);
        let answer = answers.iter().find_map(|delivery| delivery.icmp());
        let wanted = world.address(node);
        let from_node =
            |address: std::net::Ipv6Addr| address.segments()[..4] == wanted.segments()[..4];
        match answer {
            Some((3, 0, source)) if from_node(source) => {}
            other => {
                return Err(world.violation(format!(
                    "hop limit {limit} towards {farthest} over {path:?} should end at {node}: {other:?}"
                )));
            }
        }
    }
    Ok(())
}

/// A node that left: senders are told that there is no route.
fn nobody_there(world: &mut World) -> Result<(), Violation> {
    let gone = world.nodes() - 1;
    world.apply(Fault::Leave(gone))?;
    world.run_for(Duration::from_secs(10))?;
    world.deliveries.clear();
    world.send_packet(0, gone, 64, b"hello?")?;
    world.run_for(Duration::from_secs(8))?;
    let answers: Vec<_> = world
        .deliveries
        .iter()
        .filter_map(|delivery| delivery.icmp())
        .collect();
    if !matches!(answers[..], [(1, 0, _)]) {
        return Err(world.violation(format!("a packet to a node that left brought {answers:?}")));
    }
    world.apply(Fault::Start(gone))?;
    run_until(
        world,
        "back",
        Duration::from_secs(5),
        Duration::from_millis(50),
        |world| world.check_all_settled(Demand::Reached),
    )?;
    // It has lost its sessions. Whoever still has one finds out by the packet that is lost for it.
    for from in 0..world.destinations().len() {
        if from != gone {
            world.send_packet(from, gone, 64, b"are you back?")?;
        }
    }
    world.run_for(Duration::from_secs(1))?;
    world.deliveries.clear();
    Ok(())
}

/// Streams of packets while links lose carrier: those sent a second after a cut, or later, arrive if a way exists.
fn cut(world: &mut World) -> Result<(), Violation> {
    let pairs = all_pairs(world);
    for round in 0..10 {
        let links = world.links().len();
        let link = world.choices().below(links);
        world.apply(Fault::CarrierLoss(link))?;
        // All packets keep routes in use, some of them on broken paths.
        for (number, &(from, to)) in pairs.iter().enumerate() {
            world.send_packet(
                from,
                to,
                64,
                &label(from, to, u8::try_from(number % 256).unwrap_or(0)),
            )?;
        }
        world.run_for(Duration::from_secs(4))?;
        world.deliveries.clear();
        let mut expected = 0;
        for &(from, to) in &pairs {
            let owner = world.destinations()[to].owner;
            let sender = world.destinations()[from].owner;
            let connected = crate::oracle::best_paths(world, owner)[sender].is_some();
            expected += usize::from(connected);
            world.send_packet(from, to, 64, &label(from, to, round))?;
        }
        world.run_for(Duration::from_secs(6))?;
        let arrived = world
            .deliveries
            .iter()
            .filter(|delivery| delivery.payload().is_some())
            .count();
        if arrived != expected {
            return Err(world.violation(format!(
                "{arrived} of {expected} packets arrived after a cut"
            )));
        }
        world.apply(Fault::CarrierBack(link))?;
        world.run_for(Duration::from_secs(2))?;
    }
    Ok(())
}

/// Every identity to every identity of another node, or another of the same.
fn all_pairs(world: &World) -> Vec<(usize, usize)> {
    let count = world.destinations().len();
    (0..count)
        .flat_map(|from| (0..count).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .collect()
}

fn label(from: usize, to: usize, number: u8) -> Vec<u8> {
    let mut label = format!("{from} to {to}, number {number}").into_bytes();
    label.resize(64 + usize::from(number) * 100, number);
    label
}

//! A node sends what it likes. The others stay within their limits, keep the contract, and reach each other again once
//! it is gone.

use std::time::Duration;

use super::{Scenario, Stage, watched};
use crate::fault::Fault;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::{Violation, WorldConfig};

pub(super) const HOSTILE: Scenario = Scenario {
    name: "hostile",
    about: "a node sends random, forged, repeated and bent packets: bounds hold, and nothing of it stays",
    play: hostile,
};

fn hostile(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(4 + stage.choices().below(5));
    let topology = Topology::random(nodes, 3, LinkSpec::tcp(1), (1, 10), stage.choices());
    let attacker = nodes - 1;
    let mut config = WorldConfig {
        hostile: vec![attacker],
        // Forged updates make the attacker a second origin of others' subnets, for which RFC 8966 §2.7 promises only
        // that loops are short-lived.
        watch_loops: false,
        ..watched()
    };
    if stage.choices().below(2) == 0 {
        // Tables so small that the attacker fills them all.
        let node = &mut config.node;
        (
            node.max_destinations,
            node.max_routes_per_neighbour,
            node.max_routes,
        ) = (48, 32, 80);
        (node.max_queries, node.max_seqno_requests) = (16, 16);
    }
    let world = stage.build(&topology, config);
    world.start_all()?;
    for from in 0..attacker {
        for to in 0..attacker {
            if from != to {
                world.add_flow(from, to, Duration::from_millis(500));
            }
        }
    }
    world.attack(attacker, Duration::from_micros(500));
    for _ in 0..40 {
        world.run_for(Duration::from_millis(500))?;
        world.check_limits()?;
    }
    world.apply(Fault::PowerLoss(attacker))?;
    let links: Vec<usize> = world
        .station(attacker)
        .links
        .iter()
        .map(|&(link, _)| link)
        .collect();
    for link in links {
        world.apply(Fault::CarrierLoss(link))?;
    }
    super::turmoil::heal(world, Demand::Reached)?;
    let closed = world.tally.closed;
    let full = world.counted(|counters| counters.refused_full);
    let spent = world.counted(|counters| counters.refused_budget);
    let owner = world.counted(|counters| counters.refused_owner + counters.refused_prefix);
    stage.figure("routes refused, tables full", full as f64);
    stage.figure("requests refused, budget spent", spent as f64);
    stage.figure("updates refused, not the owner", owner as f64);
    stage.figure("closed as malformed", closed[1] as f64);
    stage.figure("closed for flooding", closed[2] as f64);
    stage.figure_traffic();
    Ok(())
}

//! One thing goes wrong, and another way exists: how long until it is taken?

use std::time::Duration;

use super::{Scenario, Stage, run_until, seconds, watched};
use crate::fault::Fault;
use crate::flow::Outcome;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::{Violation, World};

pub(super) const SILENT_DEATH: Scenario = Scenario {
    name: "silent-death",
    about: "on a diamond the relay in use falls silent with its links up: the other one is used within 2 s",
    play: silent_death,
};

pub(super) const CARRIER_LOSS: Scenario = Scenario {
    name: "carrier-loss",
    about: "on a diamond the link in use loses carrier, or its relay is killed: the other one is used at once",
    play: carrier_loss,
};

pub(super) const STARVATION: Scenario = Scenario {
    name: "starvation",
    about: "on a ring a node's only ways are infeasible (RFC 8966 §2.6): a seqno request frees them",
    play: starvation,
};

/// Time between two probes of the failover scenarios.
const PROBE: Duration = Duration::from_millis(2);

fn diamond(stage: &mut Stage) -> Result<usize, Violation> {
    let latency = 1 + stage.choices().below(10) as u64;
    let topology = Topology::diamond(LinkSpec::tcp(latency), LinkSpec::tcp(latency + 3));
    let world = stage.build(&topology, watched());
    world.start_all()?;
    world.add_flow(0, 3, PROBE);
    world.add_flow(3, 0, PROBE);
    // Faults hit at any phase of the hellos.
    let settle = world
        .choices()
        .duration(Duration::from_secs(5)..Duration::from_secs(30));
    world.run_for(settle)?;
    world.check_flows(Demand::Cheaply)?;
    world.reset_flows();
    let path = world.path(0, 3);
    path.get(1)
        .copied()
        .ok_or_else(|| world.violation("no path"))
}

fn silent_death(stage: &mut Stage) -> Result<(), Violation> {
    let relay = diamond(stage)?;
    let world = stage.world();
    for link in links_of(world, relay) {
        world.apply(Fault::Silence(link))?;
    }
    world.run_for(Duration::from_secs(10))?;
    let outage = longest_gap(world);
    if outage > Duration::from_secs(2) {
        return Err(world.violation(format!("it took {outage:?} to take the other way")));
    }
    for link in links_of(world, relay) {
        world.apply(Fault::Heal(link))?;
    }
    run_until(
        world,
        "healed",
        Duration::from_secs(10),
        Duration::from_millis(100),
        |world| world.check_flows(Demand::Cheaply),
    )?;
    stage.figure("outage s", seconds(outage));
    Ok(())
}

fn carrier_loss(stage: &mut Stage) -> Result<(), Violation> {
    let relay = diamond(stage)?;
    let world = stage.world();
    let first = links_of(world, relay)[world.choices().below(2)];
    if world.choices().below(2) == 0 {
        world.apply(Fault::CarrierLoss(first))?;
    } else {
        world.apply(Fault::Kill(relay))?;
    }
    world.run_for(Duration::from_secs(5))?;
    let outage = longest_gap(world);
    // The news travels over one link at most.
    let news = world
        .links()
        .iter()
        .map(|link| link.spec.latency)
        .max()
        .unwrap_or_default();
    if outage > news + PROBE * 3 {
        return Err(world.violation(format!("it took {outage:?} to take the other way")));
    }
    stage.figure("outage ms", seconds(outage) * 1000.0);
    Ok(())
}

/// Node 0 is the destination. Its links are cut in turn: half of the ring then knows only ways with a larger metric
/// than it ever announced.
fn starvation(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage
        .settings
        .nodes
        .unwrap_or(3 + stage.choices().below(10));
    let mut topology = Topology::ring(nodes, LinkSpec::tcp(1));
    for (_, _, spec) in &mut topology.links {
        spec.latency = Duration::from_millis(1 + stage.choices().below(8) as u64);
    }
    let first = 0;
    let last = topology.links.len() - 1;
    let world = stage.build(&topology, watched());
    world.start_all()?;
    for from in 1..nodes {
        world.add_flow(from, 0, Duration::from_millis(20));
        world.add_flow(0, from, Duration::from_millis(20));
    }
    world.run_for(Duration::from_secs(10))?;
    world.check_flows(Demand::Cheaply)?;
    let mut slowest = Duration::ZERO;
    for round in 0..6 {
        let link = if round % 2 == 0 { first } else { last };
        world.apply(Fault::CarrierLoss(link))?;
        let freed = run_until(
            world,
            "freed",
            Duration::from_secs(2),
            Duration::from_millis(10),
            |world| {
                for from in 1..nodes {
                    let outcome = world.probe(from, 0)?;
                    if !matches!(outcome, Outcome::Delivered { .. }) {
                        return Err(
                            world.violation(format!("{from} does not reach 0: {outcome:?}"))
                        );
                    }
                }
                Ok(())
            },
        )?;
        slowest = slowest.max(freed);
        let pause = world
            .choices()
            .duration(Duration::from_millis(100)..Duration::from_secs(8));
        world.run_for(pause)?;
        world.apply(Fault::CarrierBack(link))?;
        let pause = world
            .choices()
            .duration(Duration::from_millis(300)..Duration::from_secs(8));
        world.run_for(pause)?;
    }
    if world.tally.tlvs[4] == 0 {
        return Err(world.violation("nobody was starved: the scenario shows nothing"));
    }
    stage.figure("freed after s", seconds(slowest));
    stage.figure_traffic();
    Ok(())
}

fn links_of(world: &World, node: usize) -> Vec<usize> {
    world
        .station(node)
        .links
        .iter()
        .map(|&(link, _)| link)
        .collect()
}

fn longest_gap(world: &World) -> Duration {
    let gaps = world.flows().iter().map(|flow| {
        let current = flow
            .last_delivered
            .map_or(Duration::MAX, |last| world.now().since(last));
        flow.longest_gap.max(current)
    });
    gaps.max().unwrap_or_default()
}

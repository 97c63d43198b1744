//! Hours pass. Routes in use stay, routes not in use go, tables do not grow.

use std::time::Duration;

use super::{Scenario, Stage, run_until, watched};
use crate::fault::Fault;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::Violation;

pub(super) const IN_USE: Scenario = Scenario {
    name: "in-use",
    about: "a route in use over many hops loses no probe in four hours, at any distance from its origin",
    play: in_use,
};

pub(super) const IDLE: Scenario = Scenario {
    name: "idle",
    about: "routes that nobody uses go away, and are found again when somebody asks; departed nodes leave nothing",
    play: idle,
};

fn in_use(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(3 + stage.choices().below(8));
    let every = [
        Duration::from_millis(500),
        Duration::from_secs(5),
        Duration::from_secs(30),
    ][stage.choices().below(3)];
    let world = stage.build(&Topology::line(nodes, LinkSpec::tcp(5)), watched());
    world.start_all()?;
    let last = nodes - 1;
    run_until(
        world,
        "reached",
        Duration::from_secs(3),
        Duration::from_millis(50),
        |world| {
            world.check_settled(0, last, Demand::Cheaply)?;
            world.check_settled(last, 0, Demand::Cheaply)
        },
    )?;
    world.add_flow(0, last, every);
    world.add_flow(last, 0, every);
    world.run_for(Duration::from_secs(4 * 3600))?;
    let lost: u64 = world.flows().iter().map(|flow| flow.undelivered).sum();
    let delivered: u64 = world.flows().iter().map(|flow| flow.delivered).sum();
    if lost > 0 {
        return Err(world.violation(format!(
            "{lost} of {delivered} probes were lost on routes in use"
        )));
    }
    world.check_limits()?;
    stage.figure("probes", delivered as f64);
    stage.figure_traffic();
    Ok(())
}

fn idle(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage
        .settings
        .nodes
        .unwrap_or(6 + stage.choices().below(10));
    let topology = Topology::random(nodes, 3, LinkSpec::tcp(1), (1, 20), stage.choices());
    let world = stage.build(&topology, watched());
    world.start_all()?;
    super::turmoil::all_talk(world, Duration::from_secs(1));
    world.run_for(Duration::from_secs(30))?;
    world.check_all_settled(Demand::Cheaply)?;
    let busy = world.tables();
    world.stop_flows();
    // Twice the longest lifetime of anything: sources are forgotten after 30 min.
    world.run_for(Duration::from_secs(2 * 3600))?;
    let at_rest = world.tables();
    if at_rest.total() > busy.total() {
        return Err(world.violation(format!("tables grew at rest: {busy:?} became {at_rest:?}")));
    }
    // Everybody is still found.
    let (from, to) = (0, nodes - 1);
    run_until(
        world,
        "found again",
        Duration::from_secs(3),
        Duration::from_millis(50),
        |world| world.check_settled(from, to, Demand::Cheaply),
    )?;
    // Half of the nodes leave, many times, each time with a new router-id: nothing of them stays.
    for round in 0..30 {
        let node = 1 + round % (nodes - 2);
        for fault in [Fault::Restart(node), Fault::AddIdentity(node)] {
            world.apply(fault)?;
            world.run_for(Duration::from_millis(700))?;
        }
        world.apply(Fault::RemoveIdentity(node))?;
        world.run_for(Duration::from_secs(2))?;
    }
    world.run_for(Duration::from_secs(2 * 3600))?;
    let after = world.tables();
    if after.total() > busy.total() {
        return Err(world.violation(format!(
            "tables grew over restarts: {busy:?} became {after:?}"
        )));
    }
    stage.figure("table entries, busy", busy.total() as f64);
    stage.figure("table entries, at rest", at_rest.total() as f64);
    stage.figure("table entries, after 30 restarts", after.total() as f64);
    Ok(())
}

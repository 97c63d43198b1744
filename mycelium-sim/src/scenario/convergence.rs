//! A quiet network finds its paths.

use std::time::Duration;

use super::{Scenario, Stage, run_until, seconds, watched};
use crate::flow::Outcome;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::Violation;

pub(super) const RANDOM: Scenario = Scenario {
    name: "random",
    about: "a random graph in which everybody talks to everybody reaches everybody, over nearly the best paths",
    play: random,
};

pub(super) const LINE: Scenario = Scenario {
    name: "line",
    about: "in a line of 60 every node reaches node 0 within 2 s of the start",
    play: line,
};

/// Everybody is reached this soon after the last node has started.
const REACHED: Duration = Duration::from_secs(3);
/// And over paths of tolerable cost after this.
const BEST: Duration = Duration::from_secs(30);

fn random(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = match stage.settings.nodes {
        Some(nodes) => nodes,
        None => 3 + stage.choices().below(22),
    };
    let topology = Topology::random(nodes, 3, LinkSpec::tcp(1), (1, 40), stage.choices());
    let world = stage.build(&topology, watched());
    world.start_all()?;
    for from in 0..nodes {
        for to in 0..nodes {
            if from != to {
                world.add_flow(from, to, Duration::from_millis(500));
            }
        }
    }
    let reached = run_until(
        world,
        "all reached",
        REACHED,
        Duration::from_millis(50),
        |world| world.check_all_settled(Demand::Reached),
    )?;
    let best = run_until(
        world,
        "best paths",
        BEST,
        Duration::from_millis(500),
        |world| world.check_all_settled(Demand::Cheaply),
    )?;
    // And it stays that way.
    world.run_for(Duration::from_secs(60))?;
    world.check_all_settled(Demand::Cheaply)?;
    world.check_limits()?;
    stage.figure("all reached after s", seconds(reached));
    stage.figure("best paths after s", seconds(reached + best));
    stage.figure_traffic();
    Ok(())
}

fn line(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(60);
    let world = stage.build(&Topology::line(nodes, LinkSpec::tcp(1)), watched());
    world.start_all()?;
    let reached = run_until(
        world,
        "node 0 reached by all",
        Duration::from_secs(2),
        Duration::from_millis(20),
        |world| {
            for from in 1..nodes {
                for (from, to) in [(from, 0), (0, from)] {
                    let outcome = world.probe(from, to)?;
                    if !matches!(outcome, Outcome::Delivered { .. }) {
                        return Err(
                            world.violation(format!("{from} does not reach {to}: {outcome:?}"))
                        );
                    }
                }
            }
            Ok(())
        },
    )?;
    stage.figure("all reach node 0 after s", seconds(reached));
    stage.figure_traffic();
    Ok(())
}

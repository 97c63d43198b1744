//! Many identities in few nodes.

use std::time::Duration;

use super::{Scenario, Stage, run_until, seconds, watched};
use crate::fault::Fault;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::{Violation, World};

pub(super) const MANY: Scenario = Scenario {
    name: "identities",
    about: "fifty identities in one node are reached by all, over restarts, additions and removals",
    play: many,
};

fn many(stage: &mut Stage) -> Result<(), Violation> {
    let identities = stage.settings.nodes.unwrap_or(50);
    let topology = Topology::random(6, 3, LinkSpec::tcp(1), (1, 20), stage.choices());
    let world = stage.build(&topology, watched());
    world.start_all()?;
    for _ in 1..identities {
        world.apply(Fault::AddIdentity(0))?;
    }
    let all = |world: &mut World| world.check_destinations(Demand::Reached);
    let limit = Duration::from_secs(3);
    let step = Duration::from_millis(50);
    let started = run_until(world, "all identities reached", limit, step, all)?;
    world.apply(Fault::AddIdentity(0))?;
    let added = run_until(world, "one more reached", limit, step, all)?;
    world.apply(Fault::RemoveIdentity(0))?;
    let removed = run_until(
        world,
        "the removed one gone",
        Duration::from_secs(15),
        step,
        all,
    )?;
    world.apply(Fault::Restart(0))?;
    let restarted = run_until(
        world,
        "all reached after a restart",
        Duration::from_secs(15),
        step,
        all,
    )?;
    world.check_limits()?;
    stage.figure("reached after s", seconds(started));
    stage.figure("added after s", seconds(added));
    stage.figure("removed after s", seconds(removed));
    stage.figure("restarted after s", seconds(restarted));
    Ok(())
}

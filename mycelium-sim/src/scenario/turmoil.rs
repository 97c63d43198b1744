//! Networks in which much goes wrong at once. Loops are looked for after every change; when it is over, all must heal.

use std::time::Duration;

use super::{Scenario, Stage, run_until, seconds, watched};
use crate::fault::{Churn, Fault};
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::{Violation, World};

pub(super) const CHURN: Scenario = Scenario {
    name: "churn",
    about: "links and nodes come and go over reliable links; never a loop, and all heals",
    play: churn,
};

pub(super) const LOSSY: Scenario = Scenario {
    name: "lossy",
    about: "as churn, over links that delay, reset and lose packets, control packets too; heals once the loss ends",
    play: lossy,
};

pub(super) const PARTITION: Scenario = Scenario {
    name: "partition",
    about: "two halves are cut apart, noisily or silently: each works, neither believes in the other; they heal",
    play: partition,
};

pub(super) const ORIGINS: Scenario = Scenario {
    name: "origins",
    about: "destinations restart again and again while they are in use: new router-ids replace old ones everywhere",
    play: origins,
};

/// All connected pairs reach each other this soon after the last repair.
const HEALED: Duration = Duration::from_secs(30);
/// And over paths of tolerable cost after this.
const BEST: Duration = Duration::from_secs(120);

fn churn(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(4 + stage.choices().below(9));
    let topology = Topology::random(nodes, 3, LinkSpec::tcp(1), (1, 30), stage.choices());
    let world = stage.build(&topology, watched());
    world.start_all()?;
    all_talk(world, Duration::from_millis(700));
    let churn = Churn {
        every: Duration::from_millis(600),
        repair: Duration::from_secs(8),
        restarts: true,
        silence: true,
        latency: true,
        spare: Vec::new(),
    };
    churn.schedule(world, Duration::from_secs(40));
    world.run_for(Duration::from_secs(48))?;
    let healed = heal(world, Demand::Roughly)?;
    stage.figure("healed after s", seconds(healed));
    stage.figure_traffic();
    Ok(())
}

fn lossy(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(4 + stage.choices().below(7));
    let loss = [2_000, 20_000, 100_000][stage.choices().below(3)];
    // Loss makes links look longer for a while. A lost announcement on a datagram link is repeated only with the next.
    let (spec, demand) = match stage.choices().below(3) {
        0 => (LinkSpec::tcp(1), Demand::Roughly),
        1 => (LinkSpec::quic(1), Demand::Roughly),
        _ => (LinkSpec::datagram(1), Demand::Reached),
    };
    let topology = Topology::random(nodes, 3, spec.with_loss(loss), (1, 30), stage.choices());
    let links = topology.links.len();
    let world = stage.build(&topology, watched());
    world.start_all()?;
    all_talk(world, Duration::from_millis(700));
    let churn = Churn {
        every: Duration::from_secs(2),
        repair: Duration::from_secs(5),
        restarts: true,
        silence: true,
        latency: false,
        spare: Vec::new(),
    };
    churn.schedule(world, Duration::from_secs(40));
    world.run_for(Duration::from_secs(45))?;
    for link in 0..links {
        world.apply(Fault::Loss(link, 0))?;
    }
    let healed = heal(world, demand)?;
    stage.figure("healed after s", seconds(healed));
    stage.figure_traffic();
    Ok(())
}

fn partition(stage: &mut Stage) -> Result<(), Violation> {
    let half = stage
        .settings
        .nodes
        .map_or(3 + stage.choices().below(4), |nodes| (nodes / 2).max(2));
    let mut topology = Topology::random(half, 3, LinkSpec::tcp(1), (1, 20), stage.choices());
    let other = Topology::random(half, 3, LinkSpec::tcp(1), (1, 20), stage.choices());
    topology.nodes += half;
    topology.links.extend(
        other
            .links
            .into_iter()
            .map(|(a, b, spec)| (a + half, b + half, spec)),
    );
    let first_bridge = topology.links.len();
    for _ in 0..1 + stage.choices().below(3) {
        let (a, b) = (
            stage.choices().below(half),
            half + stage.choices().below(half),
        );
        topology.links.push((a, b, LinkSpec::tcp(5)));
    }
    let bridges = first_bridge..topology.links.len();
    let silently = stage.choices().below(2) == 0;
    let world = stage.build(&topology, watched());
    world.start_all()?;
    all_talk(world, Duration::from_millis(500));
    world.run_for(Duration::from_secs(20))?;
    world.check_all_settled(Demand::Cheaply)?;
    let mut apart = Duration::ZERO;
    let mut healed = Duration::ZERO;
    for _ in 0..3 {
        for link in bridges.clone() {
            world.apply(if silently {
                Fault::Silence(link)
            } else {
                Fault::CarrierLoss(link)
            })?;
        }
        let cut = world.now();
        apart = apart.max(run_until(
            world,
            "apart",
            HEALED,
            Duration::from_millis(200),
            |world| world.check_all_settled(Demand::Reached),
        )?);
        world.run_for(Duration::from_secs(30))?;
        world.check_all_settled(Demand::Cheaply)?;
        world.check_reported(cut)?;
        for link in bridges.clone() {
            world.apply(if silently {
                Fault::Heal(link)
            } else {
                Fault::CarrierBack(link)
            })?;
        }
        healed = healed.max(heal(world, Demand::Cheaply)?);
    }
    stage.figure("apart after s", seconds(apart));
    stage.figure("healed after s", seconds(healed));
    stage.figure_traffic();
    Ok(())
}

fn origins(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(4 + stage.choices().below(9));
    let topology = Topology::random(nodes, 3, LinkSpec::tcp(1), (1, 30), stage.choices());
    let world = stage.build(&topology, watched());
    world.start_all()?;
    all_talk(world, Duration::from_millis(300));
    world.run_for(Duration::from_secs(5))?;
    for _ in 0..20 {
        let node = world.choices().below(nodes);
        let fault = [
            Fault::Restart(node),
            Fault::Kill(node),
            Fault::PowerLoss(node),
            Fault::Leave(node),
        ][world.choices().below(4)];
        world.apply(fault)?;
        let pause = world
            .choices()
            .duration(Duration::from_millis(1)..Duration::from_millis(1500));
        world.run_for(pause)?;
        world.apply(Fault::Start(node))?;
        let pause = world
            .choices()
            .duration(Duration::from_millis(1)..Duration::from_millis(1500));
        world.run_for(pause)?;
    }
    let healed = heal(world, Demand::Cheaply)?;
    stage.figure("healed after s", seconds(healed));
    stage.figure_traffic();
    Ok(())
}

/// Everybody probes everybody.
pub(super) fn all_talk(world: &mut World, every: Duration) {
    for from in 0..world.nodes() {
        for to in 0..world.nodes() {
            if from != to {
                world.add_flow(from, to, every);
            }
        }
    }
}

/// Nothing happens any more: all must be reached, then at tolerable cost, and stay so. Returns how long reaching took.
pub(super) fn heal(world: &mut World, demand: Demand) -> Result<Duration, Violation> {
    let healed = run_until(
        world,
        "healed",
        HEALED,
        Duration::from_millis(100),
        |world| world.check_all_settled(Demand::Reached),
    )?;
    run_until(world, "best paths", BEST, Duration::from_secs(1), |world| {
        world.check_all_settled(demand)
    })?;
    world.run_for(Duration::from_secs(20))?;
    // A route that nobody used may just have gone, and is looked up again.
    run_until(
        world,
        "settled",
        Duration::from_secs(3),
        Duration::from_millis(100),
        |world| world.check_all_settled(demand),
    )?;
    world.check_limits()?;
    Ok(healed)
}

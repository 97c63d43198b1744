//! Anything: a small network in which the choices decide what happens next. What the fuzzer plays.

use std::time::Duration;

use super::{Scenario, Stage, watched};
use crate::fault::Fault;
use crate::link::LinkSpec;
use crate::oracle::Demand;
use crate::topology::Topology;
use crate::world::{Violation, WorldConfig};

pub(super) const ANY: Scenario = Scenario {
    name: "any",
    about: "a small network; seed or bytes decide what happens, when, and where: what the fuzzer plays",
    play: any,
};

/// How much happens in one run of a seed, which would otherwise never end; bytes end by themselves.
const STEPS: usize = 120;

fn any(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(2 + stage.choices().below(6));
    let spec = match stage.choices().below(4) {
        0 | 1 => LinkSpec::tcp(1),
        2 => LinkSpec::quic(1).with_loss(10_000),
        _ => LinkSpec::datagram(1).with_loss(50_000),
    };
    let degree = 2 + stage.choices().below(3);
    let topology = Topology::random(nodes, degree, spec, (1, 30), stage.choices());
    let links = topology.links.len();
    let hostile = stage.choices().below(4) == 0;
    let config = WorldConfig {
        hostile: if hostile { vec![nodes - 1] } else { Vec::new() },
        watch_loops: !hostile,
        ..watched()
    };
    let world = stage.build(&topology, config);
    world.start_all()?;
    if hostile {
        world.attack(nodes - 1, Duration::from_millis(40));
    }
    for _ in 0..STEPS {
        if world.choices().exhausted() {
            break;
        }
        let node = world.choices().below(nodes);
        let link = world.choices().below(links);
        match world.choices().below(24) {
            0 => world.apply(Fault::Kill(node))?,
            1 => world.apply(Fault::PowerLoss(node))?,
            2 | 3 => world.apply(Fault::Start(node))?,
            4 => world.apply(Fault::Restart(node))?,
            5 => world.apply(Fault::CarrierLoss(link))?,
            6 | 7 => world.apply(Fault::CarrierBack(link))?,
            8 => world.apply(Fault::Silence(link))?,
            9 => world.apply(Fault::Heal(link))?,
            10 => world.apply(Fault::Reset(link))?,
            11 => {
                let millis = world.choices().within(1..100);
                world.apply(Fault::Latency(link, millis))?;
            }
            12 => world.apply(Fault::AddIdentity(node))?,
            13 => world.apply(Fault::RemoveIdentity(node))?,
            14 => world.apply(Fault::Leave(node))?,
            15..=17 => {
                let destinations = world.destinations().len();
                let to = world.choices().below(destinations);
                world.probe(node, to)?;
            }
            kind => {
                // From a millisecond to a minute, seldom half an hour; each order of magnitude alike.
                let orders = if kind == 18 { 22 } else { 17 };
                let millis = 1 << world.choices().below(orders);
                world.run_for(Duration::from_millis(millis))?;
            }
        }
        let millis = world.choices().within(0..200);
        world.run_for(Duration::from_millis(millis))?;
        world.check_limits()?;
    }
    for link in 0..links {
        world.apply(Fault::Loss(link, 0))?;
        world.apply(Fault::CarrierBack(link))?;
        world.apply(Fault::Heal(link))?;
    }
    for node in 0..nodes {
        world.apply(Fault::Start(node))?;
    }
    if hostile {
        world.apply(Fault::PowerLoss(nodes - 1))?;
        let links: Vec<usize> = world
            .station(nodes - 1)
            .links
            .iter()
            .map(|&(link, _)| link)
            .collect();
        for link in links {
            world.apply(Fault::CarrierLoss(link))?;
        }
    }
    super::turmoil::heal(world, Demand::Reached)?;
    stage.figure_traffic();
    Ok(())
}

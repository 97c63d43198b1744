//! A large network.

use std::time::Duration;

use mycelium_core::time::Time;

use super::{Scenario, Stage};
use crate::flow::Outcome;
use crate::link::LinkSpec;
use crate::topology::Topology;
use crate::world::{Violation, World, WorldConfig};

pub(super) const THOUSAND: Scenario = Scenario {
    name: "thousand",
    about: "1 000 nodes start at once, a random graph of degree 3; meanwhile random pairs look each other up",
    play: thousand,
};

pub(super) const COLD: Scenario = Scenario {
    name: "cold",
    about: "200 nodes long after their start, when unused routes are gone: random pairs look each other up",
    play: cold,
};

/// How many pairs look each other up.
const PAIRS: usize = 500;
/// Long enough for the news of a start to cross the network.
const FLOOD: Duration = Duration::from_secs(5);

fn thousand(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(1000);
    let before = resident();
    let world = build(stage, nodes, WorldConfig::default());
    world.start_all()?;
    let start = world.now();
    let mut lookups: Vec<Lookup> = (0..PAIRS).map(|_| Lookup::random(world)).collect();
    while world.now().since(start) < FLOOD {
        for lookup in &mut lookups {
            lookup.attempt(world)?;
        }
        world.run_for(Duration::from_millis(20))?;
    }
    finish(stage, &lookups)?;
    report_memory(stage, before);
    stage.figure_traffic();
    Ok(())
}

fn cold(stage: &mut Stage) -> Result<(), Violation> {
    let nodes = stage.settings.nodes.unwrap_or(200);
    // Routes are announced, and forgotten, ten times as fast as usual, so that minutes show what else takes an hour.
    let mut config = WorldConfig::default();
    config.node.update_interval = Duration::from_secs(30);
    let before = resident();
    let world = build(stage, nodes, config);
    world.start_all()?;
    world.run_for(FLOOD)?;
    let warm = world.tables().total();
    report_memory(stage, before);
    let world = stage.world();
    // Nobody has used a route yet: all but the neighbours' go.
    world.run_for(Duration::from_secs(140))?;
    let cold = world.tables().total();
    let traffic = world.traffic();
    let mut lookups = Vec::new();
    for _ in 0..PAIRS {
        let mut lookup = Lookup::random(world);
        for _ in 0..100 {
            lookup.attempt(world)?;
            if lookup.found.is_some() {
                break;
            }
            world.run_for(Duration::from_millis(20))?;
        }
        lookups.push(lookup);
    }
    let spent = world.traffic();
    let per_node = |count: usize| count as f64 / nodes as f64;
    stage.figure("routes per node, after start", per_node(warm));
    stage.figure("routes per node, unused ones gone", per_node(cold));
    stage.figure(
        "packets per look-up",
        (spent.control - traffic.control) as f64 / PAIRS as f64,
    );
    stage.figure(
        "bytes per look-up",
        (spent.control_bytes - traffic.control_bytes) as f64 / PAIRS as f64,
    );
    finish(stage, &lookups)?;
    stage.figure_traffic();
    Ok(())
}

fn build(stage: &mut Stage, nodes: usize, config: WorldConfig) -> &mut World {
    let topology = Topology::random_regular(nodes, 3, LinkSpec::tcp(1), (2, 40), stage.choices());
    stage.build(&topology, config)
}

/// A node that wants to reach another.
#[derive(Clone, Copy, Debug)]
struct Lookup {
    from: usize,
    to: usize,
    asked: Time,
    found: Option<Duration>,
}

impl Lookup {
    fn random(world: &mut World) -> Self {
        let nodes = world.nodes();
        let from = world.choices().below(nodes);
        let to = (from + 1 + world.choices().below(nodes - 1)) % nodes;
        Self {
            from,
            to,
            asked: world.now(),
            found: None,
        }
    }

    fn attempt(&mut self, world: &mut World) -> Result<(), Violation> {
        if self.found.is_none()
            && matches!(world.probe(self.from, self.to)?, Outcome::Delivered { .. })
        {
            self.found = Some(world.now().since(self.asked));
        }
        Ok(())
    }
}

fn finish(stage: &mut Stage, lookups: &[Lookup]) -> Result<(), Violation> {
    let world = stage.world();
    world.check_loops()?;
    world.check_limits()?;
    if let Some(lost) = lookups.iter().find(|lookup| lookup.found.is_none()) {
        return Err(world.violation(format!("{} did not find <{}>", lost.from, lost.to)));
    }
    let times = lookups.iter().filter_map(|lookup| lookup.found);
    let slowest = times.clone().max().unwrap_or_default();
    let mean = times.sum::<Duration>() / u32::try_from(lookups.len().max(1)).unwrap_or(1);
    let links = world.links().len();
    stage.figure("links", links as f64);
    stage.figure("pairs", lookups.len() as f64);
    stage.figure("look-up s, mean", mean.as_secs_f64());
    stage.figure("look-up s, slowest", slowest.as_secs_f64());
    Ok(())
}

/// What the process occupies more than `before`, simulator included.
fn report_memory(stage: &mut Stage, before: Option<u64>) {
    let world = stage.world();
    let (nodes, routes) = (world.nodes() as f64, world.tables().total() as f64);
    if let (Some(before), Some(after)) = (before, resident()) {
        let bytes = after.saturating_sub(before) as f64;
        stage.figure("routes per node", routes / nodes);
        stage.figure("memory per node, bytes", bytes / nodes);
        stage.figure("memory per route, bytes", bytes / routes.max(1.0));
    }
}

/// Bytes of memory that this process occupies, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

//! Whole runs by name. Tests, fuzzer and the `scenario` program run the same ones; a seed or a byte string decides
//! everything in them, so a failure is a name and a seed.

mod convergence;
mod failover;
mod fuzz;
mod hostility;
mod identities;
mod packets;
mod relays;
mod scale;
mod turmoil;
mod upkeep;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mycelium_core::time::Time;

use crate::choices::Choices;
use crate::mutant::Mutant;
use crate::topology::Topology;
use crate::trace::TraceMode;
use crate::world::{Violation, World, WorldConfig};

/// How many lines before a failure are shown.
const SHOWN: usize = 60;

/// A run that has a name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    play: fn(&mut Stage) -> Result<(), Violation>,
}

/// All there are.
pub const SCENARIOS: &[Scenario] = &[
    convergence::RANDOM,
    convergence::LINE,
    turmoil::CHURN,
    turmoil::LOSSY,
    turmoil::PARTITION,
    turmoil::ORIGINS,
    failover::SILENT_DEATH,
    failover::CARRIER_LOSS,
    failover::STARVATION,
    upkeep::IN_USE,
    upkeep::IDLE,
    identities::MANY,
    packets::PACKETS,
    hostility::HOSTILE,
    scale::THOUSAND,
    scale::COLD,
    relays::ANYTHING,
    relays::REPLAY,
    relays::REFLECT,
    relays::REORDER,
    relays::TRUNCATE,
    relays::FLIP,
    relays::REDIRECT,
    relays::SWAP_BODIES,
    relays::STRIP_HINTS,
    relays::FORGE_HINTS,
    relays::FORGE_HANDSHAKES,
    relays::DROP_HANDSHAKES,
    relays::DROP_SELECTIVELY,
    relays::HIJACK,
    relays::BLACKHOLE,
    relays::OUTSIDER,
    relays::EAVESDROPPER,
    fuzz::ANY,
];

/// What a person may change of a scenario.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Number of nodes, where the scenario has a choice.
    pub nodes: Option<usize>,
    /// What to write down.
    pub trace: TraceMode,
    /// What all nodes lack, where the scenario is about sessions.
    pub mutant: Option<Mutant>,
}

/// Where the decisions of one run come from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A number.
    Seed(u64),
    /// A byte string, of the fuzzer.
    Bytes(&'a [u8]),
}

/// The place where a scenario is played.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) settings: Settings,
    choices: Option<Choices>,
    world: Option<World>,
    figures: Vec<(&'static str, f64)>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Played {
    /// What went wrong, if anything did.
    pub violation: Option<Violation>,
    /// Figures that the scenario reports.
    pub figures: Vec<(&'static str, f64)>,
    /// The world at its end.
    pub world: Option<World>,
}

impl Scenario {
    /// The scenario with this name.
    pub fn named(name: &str) -> Option<Self> {
        SCENARIOS
            .iter()
            .copied()
            .find(|scenario| scenario.name == name)
    }

    /// Play it once.
    pub fn play(self, origin: Origin<'_>, settings: Settings) -> Played {
        let mut stage = Stage {
            settings,
            choices: Some(match origin {
                Origin::Seed(seed) => Choices::from_seed(seed),
                Origin::Bytes(bytes) => Choices::from_bytes(bytes),
            }),
            world: None,
            figures: Vec::new(),
        };
        let violation = (self.play)(&mut stage).err();
        Played {
            violation,
            figures: stage.figures,
            world: stage.world,
        }
    }

    /// Play it with every seed of the range; panic with all that a person needs if one fails. Returns the figures:
    /// the mean and the worst (largest) over all seeds.
    pub fn check(
        self,
        seeds: std::ops::Range<u64>,
        settings: Settings,
    ) -> Vec<(&'static str, f64, f64)> {
        let mut summary: Vec<(&'static str, f64, f64)> = Vec::new();
        let count = seeds.end.saturating_sub(seeds.start) as f64;
        for seed in seeds {
            let played = catch_unwind(AssertUnwindSafe(|| self.play(Origin::Seed(seed), settings)));
            match played {
                Ok(Played {
                    violation: None,
                    figures,
                    ..
                }) => {
                    for (name, value) in figures {
                        match summary.iter_mut().find(|known| known.0 == name) {
                            Some(known) => {
                                *known = (name, known.1 + value / count, known.2.max(value))
                            }
                            None => summary.push((name, value / count, value)),
                        }
                    }
                }
                _ => panic!("{}", self.explain(seed, settings)),
            }
        }
        summary
    }

    /// Play a failing seed again, this time taking notes.
    fn explain(self, seed: u64, settings: Settings) -> String {
        let mut text = format!("scenario {} failed with seed {seed}\n", self.name);
        let noted = Settings {
            trace: TraceMode::Keep(SHOWN),
            ..settings
        };
        match catch_unwind(AssertUnwindSafe(|| self.play(Origin::Seed(seed), noted))) {
            Ok(played) => {
                if let Some(world) = &played.world {
                    for line in world.trace.lines() {
                        let _ = writeln!(text, "{line}");
                    }
                }
                match played.violation {
                    Some(violation) => {
                        let _ = writeln!(text, "{violation}");
                    }
                    None => text.push_str(
                        "it did not fail when played again: the run is not deterministic\n",
                    ),
                }
            }
            Err(_) => text.push_str("the core panicked\n"),
        }
        let _ = write!(text, "replay: {}", self.replay(seed, settings));
        text
    }

    /// The command that plays this again.
    pub fn replay(self, seed: u64, settings: Settings) -> String {
        let mut command =
            format!("cargo run -p mycelium-sim --bin scenario -- --seed {seed} --trace");
        if let Some(nodes) = settings.nodes {
            let _ = write!(command, " --nodes {nodes}");
        }
        let _ = write!(command, " {}", self.name);
        command
    }
}

impl Stage {
    /// Decisions before there is a world.
    pub(crate) fn choices(&mut self) -> &mut Choices {
        match &mut self.world {
            Some(world) => world.choices(),
            None => self.choices.get_or_insert_with(|| Choices::from_seed(0)),
        }
    }

    /// Build the network.
    pub(crate) fn build(&mut self, topology: &Topology, config: WorldConfig) -> &mut World {
        let choices = self.choices.take().unwrap_or_else(|| Choices::from_seed(0));
        let Settings { trace, mutant, .. } = self.settings;
        self.world.insert(World::new(
            topology,
            WorldConfig {
                trace,
                mutant,
                ..config
            },
            choices,
        ))
    }

    /// The network.
    pub(crate) fn world(&mut self) -> &mut World {
        self.world
            .as_mut()
            .expect("a scenario builds its world before it looks at it")
    }

    /// Report a figure.
    pub(crate) fn figure(&mut self, name: &'static str, value: f64) {
        self.figures.push((name, value));
    }

    /// Report what was sent so far.
    pub(crate) fn figure_traffic(&mut self) {
        let world = self.world();
        let nodes = world.nodes() as f64;
        let (traffic, events) = (world.traffic(), world.tally.events);
        let tlvs = world.tally.tlvs;
        let circles = world.tally.brief_circles;
        let stretch = world.stretch;
        self.figure("events", events as f64);
        self.figure("brief circles", circles as f64);
        self.figure("path stretch, mean", stretch.mean());
        self.figure("path stretch, worst", stretch.worst);
        self.figure("control packets per node", traffic.control as f64 / nodes);
        self.figure(
            "control bytes per node",
            traffic.control_bytes as f64 / nodes,
        );
        for (name, count) in [
            "hellos",
            "ihus",
            "updates",
            "route requests",
            "seqno requests",
            "others",
        ]
        .into_iter()
        .zip(tlvs)
        {
            self.figure(name, count as f64);
        }
    }
}

/// A world in which every change of a FIB is checked.
pub(crate) fn watched() -> WorldConfig {
    WorldConfig {
        watch_loops: true,
        ..WorldConfig::default()
    }
}

/// Seconds as a figure.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Run until `done` says so, looking every `every`; a violation named `what` after `limit`. Returns how long it took.
pub(crate) fn run_until(
    world: &mut World,
    what: &str,
    limit: Duration,
    every: Duration,
    mut done: impl FnMut(&mut World) -> Result<(), Violation>,
) -> Result<Duration, Violation> {
    let start: Time = world.now();
    loop {
        match done(world) {
            Ok(()) => return Ok(world.now().since(start)),
            Err(violation) if world.now().since(start) >= limit => {
                return Err(Violation {
                    what: format!("{what} not within {limit:?}: {}", violation.what),
                    ..violation
                });
            }
            Err(_) => world.run_for(every)?,
        }
    }
}

//! Plays scenarios of the simulated network by name: `scenario --list`, `scenario --seed 7 --trace churn`.
#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use mycelium_sim::scenario::{Origin, SCENARIOS, Scenario, Settings};
use mycelium_sim::trace::TraceMode;

/// Play a scenario of the simulated network. The same seed plays the same run, to the byte.
#[derive(Debug, Parser)]
#[command(name = "scenario")]
struct Arguments {
    /// Which scenario; see --list.
    name: Option<String>,
    /// Say which scenarios there are.
    #[arg(long)]
    list: bool,
    /// Decides everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Play this many seeds, from --seed on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Let the bytes of this file decide instead of a seed (what a fuzzer left behind).
    #[arg(long, value_name = "FILE")]
    bytes: Option<PathBuf>,
    /// Number of nodes, where the scenario leaves it open.
    #[arg(long)]
    nodes: Option<usize>,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in SCENARIOS {
            println!("{:14} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    let Some(scenario) = arguments.name.as_deref().and_then(Scenario::named) else {
        println!("which scenario? --list says which there are");
        return ExitCode::from(2);
    };
    let bytes = match arguments.bytes.as_ref().map(std::fs::read).transpose() {
        Ok(bytes) => bytes,
        Err(error) => {
            println!("{error}");
            return ExitCode::from(2);
        }
    };
    let settings = Settings {
        nodes: arguments.nodes,
        trace: if arguments.trace {
            TraceMode::Print
        } else {
            TraceMode::Off
        },
        mutant: None,
    };
    match bytes {
        Some(bytes) => play(scenario, Origin::Bytes(&bytes), settings),
        None => {
            let seeds = arguments.seed..arguments.seed.saturating_add(arguments.seeds);
            let failed = seeds
                .map(|seed| play(scenario, Origin::Seed(seed), settings))
                .filter(|code| *code == ExitCode::FAILURE)
                .count();
            if arguments.seeds > 1 {
                println!("{failed} of {} failed", arguments.seeds);
            }
            if failed == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn play(scenario: Scenario, origin: Origin<'_>, settings: Settings) -> ExitCode {
    let start = Instant::now();
    let played = scenario.play(origin, settings);
    let wall = start.elapsed().as_secs_f64();
    let who = match origin {
        Origin::Seed(seed) => format!("{} seed {seed}", scenario.name),
        Origin::Bytes(bytes) => format!("{} with {} bytes", scenario.name, bytes.len()),
    };
    for (name, value) in &played.figures {
        println!("    {name:32} {value:>14.3}");
    }
    match played.violation {
        Some(violation) => {
            println!("{who}: FAILED {violation}");
            ExitCode::FAILURE
        }
        None => {
            println!("{who}: ok, {wall:.3} s of wall time");
            ExitCode::SUCCESS
        }
    }
}

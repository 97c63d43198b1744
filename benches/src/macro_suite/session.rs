//! A run: rounds of systems under workloads.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::options::{Options, Topology};
use super::process::Daemon;
use super::results::{Results, Samples};
use super::system::{self, System};
use super::testbed::Testbed;
use super::workload::{self, Bench, Workload};
use super::{chart, confinement, table};

/// Run everything and write what came out.
///
/// # Errors
/// When namespaces cannot be made or nothing could be measured. The failure of one system in one round is reported and
/// leaves a gap.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let systems = system::selected(options)?;
    let workloads = selected(options)?;
    // What is written later must not be lost for a wrong path.
    for path in [&options.json, &options.markdown, &options.svg]
        .into_iter()
        .flatten()
    {
        std::fs::write(path, "").with_context(|| path.display().to_string())?;
    }
    confinement::enter()?;
    let names = systems
        .iter()
        .map(|system| system.name().to_owned())
        .collect();
    let mut results = Results::new(names);
    let started = Instant::now();
    let mut failures = 0;
    for round in 1..=options.rounds {
        for topology in &options.topologies {
            for system in &systems {
                if let Some(reason) = system.unfit(*topology) {
                    eprintln!("{} without {}: {reason}", topology.name(), system.name());
                    continue;
                }
                let name = system.name().to_owned();
                let label = format!("round {round}, {}, {name}", topology.name());
                let earlier = results.of(*topology, &name).clone();
                let mut samples = Samples::default();
                if let Err(error) = visit(
                    &**system,
                    *topology,
                    &workloads,
                    options,
                    &earlier,
                    &mut samples,
                ) {
                    failures += 1;
                    eprintln!("{label}: {error:#}");
                }
                eprintln!(
                    "[{:>4.0} s] {label}: {}",
                    started.elapsed().as_secs_f64(),
                    summary(&samples)
                );
                let all = results.of(*topology, &name);
                for series in samples.series() {
                    for value in &series.samples {
                        all.add(&series.workload, &series.unit, *value);
                    }
                }
            }
        }
        // After each round, so that an interrupted run has something to show.
        write(options, &results)?;
    }
    let text = table::markdown(&results, &options.topologies);
    println!("{text}");
    ensure!(
        options
            .topologies
            .iter()
            .any(|topology| !results.figures(*topology).is_empty()),
        "nothing could be measured"
    );
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn selected(options: &Options) -> anyhow::Result<Vec<Workload>> {
    for name in &options.only {
        ensure!(
            workload::ALL.iter().any(|workload| workload.name == name),
            "no workload {name:?}; --list names them"
        );
    }
    Ok(workload::ALL
        .iter()
        .filter(|workload| {
            options.only.is_empty() || options.only.iter().any(|name| name == workload.name)
        })
        .copied()
        .collect())
}

/// One system on one topology, once.
fn visit(
    system: &dyn System,
    topology: Topology,
    workloads: &[Workload],
    options: &Options,
    earlier: &Samples,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let scratch = tempfile::Builder::new().prefix("macro-").tempdir()?;
    let testbed = Testbed::lay_out(topology)?;
    let mut overlay = system.start(&testbed, scratch.path())?;
    overlay.connected(&testbed)?;
    let bench = Bench {
        testbed: &testbed,
        overlay: &overlay,
        duration: Duration::from_secs_f64(options.seconds),
    };
    let mut outcome = Ok(());
    for workload in workloads.iter().filter(|workload| workload.fits(topology)) {
        // One that fails says so and leaves the others alone.
        if let Err(error) = workload.run(&bench, earlier, samples) {
            let words: Vec<String> = overlay.daemons.iter().map(Daemon::last_words).collect();
            outcome = Err(error.context(format!("{}\n{}", workload.name, words.join("\n"))));
        }
    }
    // In a star the workloads say what memory they mean.
    if topology != Topology::Star {
        for daemon in &overlay.daemons {
            let unit = format!("MiB of {}", daemon.role());
            samples.add("memory", &unit, daemon.peak_memory()?);
        }
    }
    outcome
}

fn summary(samples: &Samples) -> String {
    let figures: Vec<String> = samples
        .series()
        .iter()
        .filter(|series| !series.unit.contains(" of "))
        .map(|series| {
            format!(
                "{} {} {}",
                series.workload,
                table::figure(series.median),
                series.unit
            )
        })
        .collect();
    figures.join(", ")
}

fn write(options: &Options, results: &Results) -> anyhow::Result<()> {
    if let Some(path) = &options.json {
        results.write_json(path)?;
    }
    if let Some(path) = &options.markdown {
        std::fs::write(path, table::markdown(results, &options.topologies))?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, chart::svg(results, &options.topologies))?;
    }
    Ok(())
}

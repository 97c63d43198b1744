//! The results as Markdown.

use std::fmt::Write as _;

use super::options::Topology;
use super::results::Results;

/// What the others are compared with.
const LIMIT: &str = "plain";

/// One table for each topology: figures down, systems across; beside rates and processor time in parentheses the
/// ratio to the plaintext forwarder.
pub fn markdown(results: &Results, topologies: &[Topology]) -> String {
    let mut text = String::new();
    let machine = results.machine();
    let _ = writeln!(
        text,
        "{}; {} × {}; Linux {}; medians; in parentheses: relative to `{LIMIT}`",
        machine.date, machine.processors, machine.processor, machine.kernel
    );
    for topology in topologies {
        let figures = results.figures(*topology);
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "\n| {} | | {} |",
            topology.name(),
            results.systems().join(" | ")
        );
        let _ = writeln!(text, "|---|---|{}", "---:|".repeat(results.systems().len()));
        let mut previous = "";
        for (workload, unit) in &figures {
            let shown = if workload == previous { "" } else { workload };
            let cells: Vec<String> = results
                .systems()
                .iter()
                .map(|system| cell(results, *topology, system, workload, unit))
                .collect();
            let _ = writeln!(text, "| {shown} | {unit} | {} |", cells.join(" | "));
            previous = workload;
        }
    }
    text
}

fn cell(results: &Results, topology: Topology, system: &str, workload: &str, unit: &str) -> String {
    let Some(value) = results.median(topology, system, workload, unit) else {
        return "–".to_owned();
    };
    let is_compared = system != LIMIT && ["Gb/s", "kpps", "CPU-s/GB"].contains(&unit);
    let limit = results
        .median(topology, LIMIT, workload, unit)
        .filter(|limit| is_compared && *limit > 0.0);
    match limit {
        Some(limit) => format!("{} ({:.2})", figure(value), value / limit),
        None => figure(value),
    }
}

/// Three significant digits.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_ratios_and_gaps() {
        let mut results = Results::new(vec!["plain".into(), "ours".into(), "none".into()]);
        results
            .of(Topology::Relay, "plain")
            .add("tcp1", "Gb/s", 10.0);
        results.of(Topology::Relay, "ours").add("tcp1", "Gb/s", 6.0);
        results.of(Topology::Relay, "ours").add("tcp1", "lost", 0.0);
        let text = markdown(&results, &[Topology::Direct, Topology::Relay]);
        assert!(!text.contains("direct"));
        assert!(
            text.contains("| tcp1 | Gb/s | 10.0 | 6.00 (0.60) | – |"),
            "{text}"
        );
        assert!(text.contains("|  | lost | – | 0 | – |"), "{text}");
    }
}

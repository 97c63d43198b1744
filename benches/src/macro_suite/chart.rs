//! The results as an SVG chart: a panel of bars for each headline figure.

use std::fmt::Write as _;

use super::options::Topology;
use super::results::Results;
use super::table::figure;

/// Workload, unit and heading of each panel.
const PANELS: [(&str, &str, &str); 6] = [
    ("tcp1", "Gb/s", "One TCP stream, Gb/s (more is better)"),
    (
        "tcp1",
        "CPU-s/GB",
        "Processor seconds per GB (less is better)",
    ),
    (
        "udp64",
        "kpps",
        "64-byte packets, thousands a second (more is better)",
    ),
    (
        "udp1400",
        "kpps",
        "1400-byte packets, thousands a second (more is better)",
    ),
    ("rtt", "median µs", "Idle round trip, µs (less is better)"),
    (
        "load",
        "p99 ms",
        "Ping beside a TCP stream, 99th percentile, ms (less is better)",
    ),
];
const COLUMN: usize = 460;
const NAME: usize = 110;
const BAR: usize = 250;
const ROW: usize = 18;
const HEAD: usize = 34;

/// The chart. Panels without figures are left out.
pub fn svg(results: &Results, topologies: &[Topology]) -> String {
    let mut body = String::new();
    let mut top = 30;
    for (workload, unit, heading) in PANELS {
        let mut height = 0;
        for (column, topology) in topologies.iter().enumerate() {
            let bars: Vec<(&String, f64)> = results
                .systems()
                .iter()
                .filter_map(|system| {
                    Some((system, results.median(*topology, system, workload, unit)?))
                })
                .collect();
            if bars.is_empty() {
                continue;
            }
            height = height.max(HEAD + bars.len() * ROW);
            panel(
                &mut body,
                (column * COLUMN + 10, top),
                &format!("{heading}, {}", topology.name()),
                &bars,
            );
        }
        top += height;
    }
    let width = COLUMN * topologies.len().max(1);
    let machine = results.machine();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"18\" \
         fill=\"#555\">{}, {} × {}, Linux {}; medians</text>\n{body}</svg>\n",
        top + 10,
        machine.date,
        machine.processors,
        escape(&machine.processor),
        escape(&machine.kernel),
    )
}

fn panel(body: &mut String, (left, top): (usize, usize), heading: &str, bars: &[(&String, f64)]) {
    let most = bars
        .iter()
        .map(|(_, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let _ = writeln!(
        body,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\" font-size=\"11\">{}</text>",
        top + 18,
        escape(heading)
    );
    for (index, (system, value)) in bars.iter().enumerate() {
        let y = top + 26 + index * ROW;
        let length = BAR as f64 * value / most;
        let colour = match system.as_str() {
            name if name.starts_with("ours") => "#1a73e8",
            name if name.starts_with("plain") => "#9aa0a6",
            _ => "#c58af9",
        };
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            left + NAME - 6,
            y + 12,
            escape(system),
            left + NAME,
            ROW - 4,
            (left + NAME + 5) as f64 + length,
            y + 12,
            figure(*value),
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_text_is_escaped() {
        let mut results = Results::new(vec!["plain".into(), "a<b".into()]);
        results
            .of(Topology::Direct, "plain")
            .add("tcp1", "Gb/s", 10.0);
        results.of(Topology::Direct, "a<b").add("tcp1", "Gb/s", 5.0);
        let text = svg(&results, &[Topology::Direct]);
        assert!(
            text.contains("width=\"250.0\"") && text.contains("width=\"125.0\""),
            "{text}"
        );
        assert!(text.contains("a&lt;b") && !text.contains("a<b"));
        assert_eq!(text.matches("<rect").count(), 3);
    }
}

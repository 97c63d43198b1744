//! Samples, their medians, and their form on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::options::Topology;

/// The figures of one system on one topology: samples by workload and unit, in order of first appearance.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    series: Vec<Series>,
}

/// All samples of one figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Which workload.
    pub workload: String,
    /// Which of its figures, by its unit.
    pub unit: String,
    /// Of all samples, for readers of the file.
    pub median: f64,
    /// One for each round that succeeded.
    pub samples: Vec<f64>,
}

/// The figures of a whole run.
#[derive(Debug)]
pub struct Results {
    systems: Vec<String>,
    measured: BTreeMap<(Topology, String), Samples>,
    machine: Machine,
}

/// Where and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Day of the run, UTC, as in ISO 8601.
    pub date: String,
    /// As `/proc/cpuinfo` names it.
    pub processor: String,
    /// Processors that programs may use.
    pub processors: usize,
    /// Release of the kernel.
    pub kernel: String,
}

#[derive(Serialize)]
struct File<'a> {
    machine: &'a Machine,
    results: Vec<Record<'a>>,
}

#[derive(Serialize)]
struct Record<'a> {
    system: &'a str,
    topology: &'a str,
    figures: &'a [Series],
}

impl Samples {
    /// Add one sample.
    pub fn add(&mut self, workload: &str, unit: &str, value: f64) {
        let known = self
            .series
            .iter_mut()
            .find(|series| series.workload == workload && series.unit == unit);
        if let Some(series) = known {
            series.samples.push(value);
            series.median = median(&series.samples);
        } else {
            self.series.push(Series {
                workload: workload.to_owned(),
                unit: unit.to_owned(),
                median: value,
                samples: vec![value],
            });
        }
    }

    /// The median of a figure, if it was measured.
    pub fn median(&self, workload: &str, unit: &str) -> Option<f64> {
        self.series
            .iter()
            .find(|series| series.workload == workload && series.unit == unit)
            .map(|series| series.median)
    }

    /// All figures.
    pub fn series(&self) -> &[Series] {
        &self.series
    }
}

impl Results {
    /// Nothing yet, of these systems.
    pub fn new(systems: Vec<String>) -> Self {
        Self {
            systems,
            measured: BTreeMap::new(),
            machine: Machine::this(),
        }
    }

    /// The systems, in the order of the run.
    pub fn systems(&self) -> &[String] {
        &self.systems
    }

    /// Where and when.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The figures of one system on one topology.
    pub fn of(&mut self, topology: Topology, system: &str) -> &mut Samples {
        self.measured
            .entry((topology, system.to_owned()))
            .or_default()
    }

    /// The median of one figure.
    pub fn median(
        &self,
        topology: Topology,
        system: &str,
        workload: &str,
        unit: &str,
    ) -> Option<f64> {
        self.measured
            .get(&(topology, system.to_owned()))?
            .median(workload, unit)
    }

    /// Every workload and unit that some system has on this topology, in order.
    pub fn figures(&self, topology: Topology) -> Vec<(String, String)> {
        let mut figures = Vec::new();
        for system in &self.systems {
            let Some(samples) = self.measured.get(&(topology, system.clone())) else {
                continue;
            };
            for series in samples.series() {
                let figure = (series.workload.clone(), series.unit.clone());
                if !figures.contains(&figure) {
                    figures.push(figure);
                }
            }
        }
        figures
    }

    /// Write all samples as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let file = File {
            machine: &self.machine,
            results: self
                .measured
                .iter()
                .map(|((topology, system), samples)| Record {
                    system,
                    topology: topology.name(),
                    figures: samples.series(),
                })
                .collect(),
        };
        let text = serde_json::to_string_pretty(&file)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl Machine {
    /// This one, now.
    pub fn this() -> Self {
        let processor = std::fs::read_to_string("/proc/cpuinfo")
            .unwrap_or_default()
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?
                    .split(": ")
                    .nth(1)
                    .map(str::to_owned)
            })
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        Self {
            date: today(),
            processor,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }
}

/// The middle sample; of an even number the mean of the middle two. Zero without samples.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => 0.0,
        (1, Some(value)) => *value,
        (_, Some(value)) => f64::midpoint(sorted[middle - 1], *value),
    }
}

fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days after 1970-01-01, in the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
    }

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_818), (2026, 12, 31));
        assert_eq!(civil(20_819), (2027, 1, 1));
    }

    #[test]
    fn figures_keep_their_order_and_samples() {
        let mut results = Results::new(vec!["one".into(), "two".into()]);
        results.of(Topology::Direct, "two").add("z", "kpps", 1.0);
        results.of(Topology::Direct, "one").add("y", "kpps", 1.0);
        results.of(Topology::Direct, "one").add("y", "kpps", 3.0);
        let names = results.figures(Topology::Direct);
        assert_eq!(names[0].0, "y");
        assert_eq!(names[1].0, "z");
        assert_eq!(
            results.median(Topology::Direct, "one", "y", "kpps"),
            Some(2.0)
        );
        assert_eq!(results.median(Topology::Relay, "one", "y", "kpps"), None);
    }
}

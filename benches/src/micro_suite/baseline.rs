//! Counts as committed, and the comparison with them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::macro_suite::results::Machine;

/// Instructions of one call of every case, and where they were counted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Baseline {
    machine: Machine,
    instructions: BTreeMap<String, u64>,
}

impl Baseline {
    /// Counted here and now.
    pub(super) fn new(instructions: BTreeMap<String, u64>) -> Self {
        Self {
            machine: Machine::this(),
            instructions,
        }
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// As Markdown; with `other`, the change against it.
    pub(super) fn table(&self, other: Option<&Self>) -> String {
        let mut text = String::from("| case | instructions |");
        text.push_str(if other.is_some() {
            " change |\n|---|---:|---:|\n"
        } else {
            "\n|---|---:|\n"
        });
        for (name, count) in &self.instructions {
            let _ = write!(text, "| {name} | {count} |");
            if let Some(other) = other {
                let _ = match other.instructions.get(name) {
                    Some(before) => write!(text, " {:+.1} % |", change(*before, *count)),
                    None => write!(text, " new |"),
                };
            }
            text.push('\n');
        }
        text
    }

    /// What takes more instructions than `committed` by more than `tolerance` percent, and what is not in it. Cases that
    /// only the baseline has are those that a short run leaves out.
    pub(super) fn complaints(&self, committed: &Self, tolerance: f64) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, count) in &self.instructions {
            match committed.instructions.get(name) {
                None => complaints.push(format!("{name}: not in the baseline")),
                Some(before) if change(*before, *count) > tolerance => complaints.push(format!(
                    "{name}: {count} instructions instead of {before}, {:+.1} %, where {tolerance} % are tolerated",
                    change(*before, *count)
                )),
                Some(_) => {}
            }
        }
        complaints
    }
}

/// In percent.
fn change(before: u64, now: u64) -> f64 {
    (now as f64 - before as f64) / before.max(1) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> Baseline {
        Baseline::new(
            counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        )
    }

    #[test]
    fn more_than_tolerated_is_a_complaint() {
        let committed = counts(&[("one", 1000), ("two", 1000), ("long", 5)]);
        let now = counts(&[("one", 1030), ("two", 900)]);
        assert!(now.complaints(&committed, 3.0).is_empty());
        let now = counts(&[("one", 1031), ("two", 900), ("three", 1)]);
        let complaints = now.complaints(&committed, 3.0);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].starts_with("one: 1031") && complaints[1].starts_with("three"));
    }

    #[test]
    fn a_baseline_survives_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        counts(&[("one", 7)]).write(file.path()).unwrap();
        let read = Baseline::read(file.path()).unwrap();
        assert!(
            counts(&[("one", 8)])
                .table(Some(&read))
                .contains("| one | 8 | +14.3 % |")
        );
    }
}

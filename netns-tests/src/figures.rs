//! Measured figures: medians, the knobs of the environment, and one way to print and to judge them.

use std::fmt::Display;
use std::time::Duration;

use anyhow::ensure;

/// Whether the strict figures are asserted (`MYCELIUM_TEST_STRICT=1`): only meaningful on a quiet machine.
pub fn strict() -> bool {
    std::env::var_os("MYCELIUM_TEST_STRICT").is_some_and(|value| value == "1")
}

/// `usual` repetitions, or `thorough` in strict mode.
pub fn repetitions(usual: usize, thorough: usize) -> usize {
    if strict() { thorough } else { usual }
}

/// Bytes of a bulk transfer: `MYCELIUM_TEST_BYTES`, else `usual`.
pub fn bulk_bytes(usual: u64) -> u64 {
    std::env::var("MYCELIUM_TEST_BYTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

/// The median; of an even number of samples the upper of the middle two. Zero without samples.
pub fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Print one figure in the form that `grep '^figure'` collects.
pub fn report(what: &str, value: impl Display) {
    println!("figure | {what} | {value}");
}

/// Print median and range of `samples`, and check the median: against `strict_bound` in strict mode, else against
/// `generous_bound`, which only catches a broken node on a busy machine.
pub fn judge(
    what: &str,
    samples: &[Duration],
    strict_bound: Duration,
    generous_bound: Duration,
) -> anyhow::Result<()> {
    let middle = median(samples);
    let least = samples.iter().min().copied().unwrap_or_default();
    let most = samples.iter().max().copied().unwrap_or_default();
    report(
        what,
        format_args!(
            "median {middle:.1?} of {} ({least:.1?}..{most:.1?}), wanted {strict_bound:?}",
            samples.len()
        ),
    );
    let bound = if strict() {
        strict_bound
    } else {
        generous_bound
    };
    ensure!(!samples.is_empty(), "{what}: no sample");
    ensure!(
        middle <= bound,
        "{what}: median {middle:.1?} exceeds {bound:?}"
    );
    Ok(())
}

//! What a daemon takes that has nothing to do.

use std::time::{Duration, Instant};

use super::Bench;
use crate::macro_suite::results::Samples;

/// Until what the start and the first packets have caused is over.
const SETTLE: Duration = Duration::from_secs(5);
const SPAN: Duration = Duration::from_secs(60);

/// Share of one processor and resident memory of A.
pub(super) fn measure(name: &str, bench: &Bench<'_>, samples: &mut Samples) -> anyhow::Result<()> {
    let daemon = bench.overlay.daemon_of_a()?;
    std::thread::sleep(SETTLE);
    let (before, started) = (daemon.cpu()?, Instant::now());
    std::thread::sleep(SPAN);
    let used = daemon.cpu()?.since(&before);
    samples.add(
        name,
        "% CPU of a",
        used / started.elapsed().as_secs_f64() * 100.0,
    );
    samples.add(name, "MiB of a", daemon.memory()?);
    Ok(())
}

//! Waiting for conditions with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Ask `poll` every millisecond until it yields a value; an error naming `what` once `limit` has passed.
///
/// An `Err` from `poll` counts as "not yet" and is reported only if the deadline passes.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut poll: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let answer = poll();
        match answer {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if Instant::now() < deadline => {}
            Err(_) if Instant::now() < deadline => {}
            Ok(None) => bail!("{what}: not within {limit:?}"),
            Err(error) => {
                return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(20));
    }
}

//! The only place of the node that reads a clock for the core.

use mycelium_core::time::{Duration, Time};
use rustix::time::{ClockId, clock_gettime};

/// Now, in microseconds since boot. Counts the time that the machine was suspended, so that what should have expired
/// meanwhile has.
pub fn now() -> Time {
    let since_boot = clock_gettime(ClockId::Boottime);
    // Neither part is ever negative for this clock.
    let seconds = u64::try_from(since_boot.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(since_boot.tv_nsec).unwrap_or_default();
    Time::from_micros(
        seconds
            .saturating_mul(1_000_000)
            .saturating_add(nanos / 1000),
    )
}

/// Sleep until `deadline`; for ever when there is none.
///
/// The runtime's timer does not count suspended time: after a resume it fires late by at most what was left to wait.
pub(crate) async fn sleep_until(deadline: Option<Time>) {
    match deadline {
        Some(deadline) => {
            let wait = deadline.since(now());
            if wait > Duration::ZERO {
                tokio::time::sleep(wait).await;
            }
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_advances() {
        let before = now();
        assert!(before > Time::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert!(now().since(before) >= Duration::from_millis(1));
    }
}

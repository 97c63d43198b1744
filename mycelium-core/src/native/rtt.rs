//! Round trips of a link: smoothed and varying as in RFC 6298, and the smallest.

use super::event::Rtt;
use crate::time::Duration;

/// The timeout while nothing was measured.
const INITIAL_TIMEOUT: Duration = Duration::from_millis(250);
/// The shortest timeout: below it a busy processor looks like loss.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);
/// The longest round trip that anything waits for.
const MAX_SAMPLE: Duration = Duration::from_secs(10);

/// The estimate of one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RttEstimator {
    rtt: Option<(Rtt, Duration)>,
}

impl RttEstimator {
    /// Take a sample.
    pub(super) fn on_sample(&mut self, sample: Duration) -> Rtt {
        let sample = sample.min(MAX_SAMPLE);
        let (rtt, variation) = match self.rtt {
            None => {
                let rtt = Rtt {
                    latest: sample,
                    smoothed: sample,
                    minimum: sample,
                };
                (rtt, sample / 2)
            }
            Some((old, variation)) => {
                let rtt = Rtt {
                    latest: sample,
                    smoothed: (old.smoothed * 7 + sample) / 8,
                    minimum: old.minimum.min(sample),
                };
                (rtt, (variation * 3 + old.smoothed.abs_diff(sample)) / 4)
            }
        };
        self.rtt = Some((rtt, variation));
        rtt
    }

    /// The figures, once there was a sample.
    pub(super) fn rtt(&self) -> Option<Rtt> {
        self.rtt.map(|(rtt, _)| rtt)
    }

    /// The smoothed round trip; zero without one.
    pub(super) fn smoothed(&self) -> Duration {
        self.rtt.map_or(Duration::ZERO, |(rtt, _)| rtt.smoothed)
    }

    /// How long an answer is waited for.
    pub(super) fn timeout(&self) -> Duration {
        match self.rtt {
            None => INITIAL_TIMEOUT,
            Some((rtt, variation)) => (rtt.smoothed + variation * 4).max(MIN_TIMEOUT),
        }
    }
}

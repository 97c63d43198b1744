//! When to send echoes, and when the other end counts as gone.
//!
//! Whatever deserves an answer and gets none makes us ask, at 100 and 200 ms and every 50 ms from then on, and give up within
//! a second (on slow paths: four timeouts). An idle link is asked every 10 s; three unanswered echoes, a second apart, make it
//! a link with something unanswered. A hint from the network that the port is closed is only a reason to ask, three times, and
//! the link is dead after 10 ms (on slow paths: a timeout) without the answer.

use super::event::DownReason;
use super::rtt::RttEstimator;
use crate::time::{Duration, Time};

const FIRST_PROBE: Duration = Duration::from_millis(100);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// What waits for another way may wait a second in all.
const SILENCE: Duration = Duration::from_millis(900);
/// Echoes of a new link: 100 ms after the first, then at double the distance, until they would be a second apart.
const YOUNG_INTERVAL: Duration = Duration::from_millis(100);
const ACTIVE_INTERVAL: Duration = Duration::from_secs(1);
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// A link is active for so long after data.
const ACTIVE: Duration = Duration::from_secs(1);
const IDLE_ECHOES: u8 = 3;
/// Probes without which nobody is declared dead, however late we look.
const MIN_PROBES: u32 = 3;
/// Of two nodes with a relay between them, the one that only answers notices the relay's death when the other has turned to
/// another way, so an outage takes twice this.
const DOUBT: Duration = Duration::from_millis(10);
/// Asked in the first half of that time, so that each answer has a timeout to arrive.
const DOUBT_PROBES: u8 = 3;
/// A hint is followed at most so often. Anybody who knows two addresses can forge them, and on a lossy path all probes may be
/// lost: so each doubt that was answered doubles the distance to the next one, until there was none for a minute.
const MIN_DOUBT_INTERVAL: Duration = Duration::from_millis(200);
const MAX_DOUBT_INTERVAL: Duration = Duration::from_secs(30);
const DOUBT_MEMORY: Duration = Duration::from_secs(60);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Alive,
    /// Send an echo request.
    Ask,
    /// The link is over.
    Dead(DownReason),
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Time,
    asked: u8,
}

/// The liveness of one link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    /// Since when something is unanswered.
    unanswered: Option<Time>,
    probes: u32,
    last_probe: Time,
    /// When the last of [`MIN_PROBES`] was sent.
    enough_probes: Time,
    next_echo: Time,
    young: Duration,
    last_data: Time,
    idle_echoes: u8,
    doubt: Option<Doubt>,
    last_doubt: Option<Time>,
    doubt_interval: Duration,
}

impl Liveness {
    pub(super) fn new(now: Time) -> Self {
        Self {
            unanswered: None,
            probes: 0,
            last_probe: Time::ZERO,
            enough_probes: Time::ZERO,
            next_echo: now,
            young: YOUNG_INTERVAL,
            last_data: now,
            idle_echoes: 0,
            doubt: None,
            last_doubt: None,
            doubt_interval: MIN_DOUBT_INTERVAL,
        }
    }

    /// An authenticated datagram arrived.
    #[inline]
    pub(super) fn on_heard(&mut self, now: Time, rtt: &RttEstimator) {
        self.unanswered = None;
        if self.idle_echoes > 0 {
            self.idle_echoes = 0;
            self.next_echo = now + IDLE_INTERVAL;
        }
        // What was on its way when the port closed proves nothing.
        if let Some(doubt) = self.doubt
            && now >= doubt.since + rtt.smoothed()
        {
            self.doubt = None;
            self.doubt_interval = (self.doubt_interval * 2).min(MAX_DOUBT_INTERVAL);
        }
    }

    /// Something was sent that deserves an answer.
    #[inline]
    pub(super) fn on_sent(&mut self, now: Time) {
        if self.unanswered.is_none() {
            self.unanswered = Some(now);
            self.probes = 0;
        }
    }

    /// Data went one way or the other: the link is in use.
    #[inline]
    pub(super) fn on_data(&mut self, now: Time) {
        if now.since(self.last_data) >= ACTIVE {
            self.next_echo = self.next_echo.min(now + ACTIVE_INTERVAL);
        }
        self.last_data = now;
    }

    /// The network says that the port is closed.
    pub(super) fn on_unreachable(&mut self, now: Time) {
        if let Some(last) = self.last_doubt {
            let since = now.since(last);
            if since < self.doubt_interval {
                return;
            }
            if since >= DOUBT_MEMORY {
                self.doubt_interval = MIN_DOUBT_INTERVAL;
            }
        }
        self.last_doubt = Some(now);
        self.doubt = Some(Doubt {
            since: now,
            asked: 0,
        });
    }

    /// Whether data went by lately.
    pub(super) fn is_active(&self, now: Time) -> bool {
        now.since(self.last_data) < ACTIVE
    }

    /// When to call [`on_timeout`](Self::on_timeout).
    #[inline]
    pub(super) fn deadline(&self, rtt: &RttEstimator) -> Time {
        let mut deadline = self.next_echo;
        if let Some(since) = self.unanswered {
            deadline = deadline.min(self.next_probe(since, rtt));
            if self.probes >= MIN_PROBES {
                deadline = deadline.min(self.death(since, rtt));
            }
        }
        if let Some(doubt) = self.doubt {
            deadline = deadline.min(doubt_step(doubt, rtt));
        }
        deadline
    }

    /// Say what is due. To be called again until it is [`Verdict::Alive`].
    pub(super) fn on_timeout(&mut self, now: Time, rtt: &RttEstimator) -> Verdict {
        if let Some(doubt) = &mut self.doubt
            && now >= doubt_step(*doubt, rtt)
        {
            if doubt.asked >= DOUBT_PROBES {
                return Verdict::Dead(DownReason::Unreachable);
            }
            doubt.asked += 1;
            return Verdict::Ask;
        }
        if let Some(since) = self.unanswered {
            if self.probes >= MIN_PROBES && now >= self.death(since, rtt) {
                return Verdict::Dead(DownReason::Silent);
            }
            if now >= self.next_probe(since, rtt) {
                self.probes += 1;
                self.last_probe = now;
                if self.probes == MIN_PROBES {
                    self.enough_probes = now;
                }
                return Verdict::Ask;
            }
        }
        if now >= self.next_echo {
            return self.on_echo_time(now);
        }
        Verdict::Alive
    }

    fn on_echo_time(&mut self, now: Time) -> Verdict {
        if self.young < ACTIVE_INTERVAL {
            self.next_echo = now + self.young;
            self.young *= 2;
            self.on_sent(now);
        } else if self.is_active(now) {
            self.next_echo = now + ACTIVE_INTERVAL;
            self.on_sent(now);
        } else if self.idle_echoes < IDLE_ECHOES {
            self.next_echo = now + ACTIVE_INTERVAL;
            self.idle_echoes += 1;
        } else {
            self.next_echo = now + IDLE_INTERVAL;
            self.on_sent(now);
            return Verdict::Alive;
        }
        Verdict::Ask
    }

    fn next_probe(&self, since: Time, rtt: &RttEstimator) -> Time {
        let first = FIRST_PROBE.max(rtt.timeout());
        let interval = PROBE_INTERVAL.max(first / 4);
        let planned = match self.probes {
            0 => since + first,
            more => since + first * 2 + interval * (more - 1),
        };
        match self.probes {
            0 => planned,
            _ => planned.max(self.last_probe + interval / 2),
        }
    }

    fn death(&self, since: Time, rtt: &RttEstimator) -> Time {
        let silence = SILENCE.max(rtt.timeout() * 4);
        (since + silence).max(self.enough_probes + rtt.timeout())
    }
}

/// When the next probe of a doubt is due, or its end.
fn doubt_step(doubt: Doubt, rtt: &RttEstimator) -> Time {
    let whole = DOUBT.max(rtt.timeout() + DOUBT / 2);
    match doubt.asked {
        asked if asked < DOUBT_PROBES => doubt.since + DOUBT * u32::from(asked) / 4,
        _ => doubt.since + whole,
    }
}

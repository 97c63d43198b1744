//! How long datagrams may be: packetization layer path MTU discovery (after RFC 8899), with padded echoes as probes.
//!
//! Sizes are UDP payloads. A path starts at 1200; the largest size is tried first, then the middle of what is left. While
//! long data flows, the size in use is asked for again and again: if that stays unanswered and the path is alive, routers
//! swallow what is long, and the search starts over below it.

use std::net::IpAddr;

use crate::time::{Duration, Time};

/// What every path must carry.
pub(super) const BASE: u16 = 1200;
/// What is worth trying: 1280-byte links over IPv6 and IPv4, common tunnels, PPPoE, Ethernet, jumbo frames, loopback.
const SIZES: [u16; 16] = [
    1232, 1252, 1280, 1372, 1392, 1400, 1444, 1452, 1464, 1472, 4030, 8952, 8972, 16_336, 32_720,
    65_487,
];
/// Loss of a probe says little, of so many in a row that the size does not pass; more on a path that loses anyway.
const TRIES: u32 = 3;
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(50);
/// The size in use is asked for so often while long data flows.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// A larger size is tried again after so long (RFC 8899 §5.1.1: PMTU_RAISE_TIMER).
const RAISE_INTERVAL: Duration = Duration::from_secs(600);
/// The same after a black hole, which may have been a bout of loss.
const RAISE_AFTER_BLACK_HOLE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Search,
    Check,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    /// Position in `sizes`.
    at: usize,
    purpose: Purpose,
    /// Sent so far.
    tries: u32,
    /// When it counts as lost; in the past before it is sent.
    until: Time,
    in_flight: bool,
}

/// The size of one path.
#[derive(Debug)]
pub(super) struct PathMtu {
    /// In ascending order; the first is [`BASE`].
    sizes: Vec<u16>,
    /// Position of the size in use.
    confirmed: usize,
    /// Position of the smallest size that did not pass; beyond the end: none.
    failed: usize,
    probe: Option<Probe>,
    raise_at: Time,
    next_check: Time,
    /// Long data went out since the last check.
    long_data: bool,
    /// Anything was heard since the first unanswered try of the probe.
    heard: bool,
}

impl PathMtu {
    /// A path of which nothing is known. `max` is the largest size worth trying over IPv4.
    pub(super) fn new(remote: IpAddr, max: u16) -> Self {
        // The IPv6 header is 20 bytes longer.
        let max = match remote {
            IpAddr::V4(_) => max,
            IpAddr::V6(_) => max.saturating_sub(20),
        };
        let mut sizes = vec![BASE];
        sizes.extend(SIZES.iter().copied().filter(|&size| size < max));
        if max > BASE {
            sizes.push(max);
        }
        let failed = sizes.len();
        Self {
            sizes,
            confirmed: 0,
            failed,
            probe: None,
            raise_at: Time::FAR_FUTURE,
            next_check: Time::ZERO,
            long_data: false,
            heard: false,
        }
    }

    /// The size in use.
    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.sizes.get(self.confirmed).copied().unwrap_or(BASE)
    }

    /// A datagram of `len` bytes of data went out.
    #[inline]
    pub(super) fn on_data(&mut self, len: usize) {
        self.long_data |= len > usize::from(BASE);
    }

    /// Whether data of a length went out that is not known to arrive.
    #[inline]
    pub(super) fn wants_check(&self) -> bool {
        self.long_data && self.probe.is_none()
    }

    /// Something authenticated arrived.
    #[inline]
    pub(super) fn on_heard(&mut self) {
        self.heard = true;
    }

    /// Something hints that long datagrams do not pass: ask now.
    pub(super) fn on_hint(&mut self, now: Time) {
        self.next_check = now;
        self.long_data = self.confirmed > 0;
    }

    /// When to call [`on_timeout`](Self::on_timeout); in the past while a probe waits for being sent.
    pub(super) fn deadline(&self) -> Time {
        match &self.probe {
            Some(probe) if probe.in_flight => probe.until,
            Some(_) => Time::ZERO,
            None if self.next_target().is_some() => Time::ZERO,
            None if self.long_data => self.next_check.min(self.raise_at),
            None => self.raise_at,
        }
    }

    /// Count what was lost and choose what to ask next. `true` if the size in use has changed.
    pub(super) fn on_timeout(&mut self, now: Time, loss_permille: u16) -> bool {
        let mut changed = false;
        if let Some(probe) = &mut self.probe
            && probe.in_flight
            && now >= probe.until
        {
            probe.in_flight = false;
            let tries = TRIES + u32::from(loss_permille) / 50;
            let probe = *probe;
            if probe.tries >= tries {
                self.probe = None;
                changed = self.on_failure(probe, now);
            }
        }
        if self.probe.is_some() {
            return changed;
        }
        if now >= self.raise_at {
            self.failed = self.sizes.len();
            self.raise_at = Time::FAR_FUTURE;
        }
        let due = match self.next_target() {
            Some(at) => Some((at, Purpose::Search)),
            None if self.long_data && now >= self.next_check => {
                self.long_data = false;
                self.next_check = now + CHECK_INTERVAL;
                (self.confirmed > 0).then_some((self.confirmed, Purpose::Check))
            }
            None => None,
        };
        if let Some((at, purpose)) = due {
            self.heard = false;
            self.probe = Some(Probe {
                at,
                purpose,
                tries: 0,
                until: now,
                in_flight: false,
            });
        }
        changed
    }

    /// The size of the probe to send now.
    pub(super) fn poll_probe(&self) -> Option<u16> {
        let probe = self.probe.as_ref().filter(|probe| !probe.in_flight)?;
        self.sizes.get(probe.at).copied()
    }

    /// It was sent.
    pub(super) fn on_probe_sent(&mut self, now: Time, timeout: Duration) {
        if let Some(probe) = &mut self.probe {
            probe.tries += 1;
            probe.in_flight = true;
            probe.until = now + timeout.max(MIN_PROBE_TIMEOUT);
        }
    }

    /// A probe of `size` was answered. `true` if the size in use has changed.
    pub(super) fn on_reply(&mut self, size: u16, now: Time) -> bool {
        let Some(at) = self.sizes.iter().position(|&candidate| candidate == size) else {
            return false;
        };
        if self.probe.is_some_and(|probe| probe.at == at) {
            self.probe = None;
        }
        if at <= self.confirmed {
            return false;
        }
        self.confirmed = at;
        self.failed = self.failed.max(at + 1);
        self.finish_search(now, RAISE_INTERVAL);
        true
    }

    fn on_failure(&mut self, probe: Probe, now: Time) -> bool {
        match probe.purpose {
            Purpose::Search => {
                self.failed = self.failed.min(probe.at);
                self.finish_search(now, RAISE_INTERVAL);
                false
            }
            // A path that is dead altogether is the business of liveness.
            Purpose::Check if !self.heard => {
                self.long_data = true;
                false
            }
            Purpose::Check => {
                self.failed = self.confirmed;
                self.confirmed = 0;
                self.raise_at = now + RAISE_AFTER_BLACK_HOLE;
                true
            }
        }
    }

    fn finish_search(&mut self, now: Time, raise: Duration) {
        if self.confirmed + 1 >= self.failed && self.failed < self.sizes.len() {
            self.raise_at = self.raise_at.min(now + raise);
        }
    }

    /// The largest size if nothing failed yet, else the middle between what passes and what does not.
    fn next_target(&self) -> Option<usize> {
        if self.confirmed + 1 >= self.failed {
            None
        } else if self.failed == self.sizes.len() {
            Some(self.failed - 1)
        } else {
            Some((self.confirmed + self.failed) / 2)
        }
    }
}

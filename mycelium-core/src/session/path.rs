//! How large a packet towards a remote identity may be (docs/protocol.md §14, "Path sizes").
//!
//! A route of one hop carries anything: what does not fit its link is the link's business. Behind relays only a probe of the
//! session itself is believed, since a packet too large can make an upstream relay close its link. A probe that fails counts
//! against its remote, who may have swallowed it; all that it costs others is time until the next probe over the same next hop.

use std::collections::BTreeMap;

use crate::io::PeerId;
use crate::time::{Duration, Time};

/// Bytes on the wire that every path carries.
pub(crate) const SURE: u16 = 1162;
/// Larger sizes worth a probe: what QUIC carries over IPv6, and over IPv4, there the whole MTU.
const LADDER: [u16; 2] = [1414, 1434];
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A size in use is asked for again this often while packets need it.
const RECHECK: Duration = Duration::from_secs(15);
/// Between two probes for more over the same next hop, whatever their destinations: a burst of losses closes a link.
const SPACING: Duration = Duration::from_secs(10);
/// The same after several have failed in a row: doubles up to this.
const LONGEST_SPACING: Duration = Duration::from_secs(120);
const FIRST_PENALTY: Duration = Duration::from_secs(60);
const LONGEST_PENALTY: Duration = Duration::from_secs(3600);
/// Next hops remembered.
const NEXT_HOPS: usize = 1024;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) next_hop: PeerId,
    /// The next hop is the destination itself.
    pub(crate) direct: bool,
}

/// How to send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Whole,
    /// In two sealed halves.
    Halves,
    /// Not at all: hosts are told to send no more than this.
    TooBig(u16),
}

/// A probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) id: u32,
    pub(crate) size: u16,
}

/// What is known of one path.
#[derive(Debug)]
pub(crate) struct Path {
    route: Option<Route>,
    size: u16,
    confirmed: Time,
    probe: Option<(Probe, Time)>,
    misses: u8,
    /// Sizes that failed, as in [`LADDER`].
    penalties: [Option<Penalty>; LADDER.len()],
}

/// Probes for more over each next hop: when the next may go.
#[derive(Debug, Default)]
pub(crate) struct NextHops(BTreeMap<PeerId, Penalty>);

#[derive(Clone, Copy, Debug)]
struct Penalty {
    until: Time,
    next: Duration,
}

impl NextHops {
    fn is_busy(&self, next_hop: PeerId, now: Time) -> bool {
        self.0
            .get(&next_hop)
            .is_some_and(|spacing| now < spacing.until)
    }

    /// One is on its way. Unless it passes, the next but one waits longer.
    fn probed(&mut self, next_hop: PeerId, now: Time) {
        if self.0.len() >= NEXT_HOPS && !self.0.contains_key(&next_hop) {
            // Ids grow: the first is the oldest link.
            self.0.pop_first();
        }
        let spacing = self.0.entry(next_hop).or_insert(Penalty {
            until: now,
            next: SPACING,
        });
        spacing.until = now + spacing.next;
        spacing.next = (spacing.next * 2).min(LONGEST_SPACING);
    }

    fn passed(&mut self, next_hop: PeerId) {
        self.0.remove(&next_hop);
    }
}

impl Path {
    pub(crate) fn new() -> Self {
        Self {
            route: None,
            size: SURE,
            confirmed: Time::ZERO,
            probe: None,
            misses: 0,
            penalties: [None; LADDER.len()],
        }
    }

    fn allows(&self, size: u16, now: Time) -> bool {
        // A size also suffers from the failure of a smaller one.
        LADDER
            .iter()
            .zip(&self.penalties)
            .filter(|&(failed, _)| *failed <= size)
            .all(|(_, penalty)| penalty.is_none_or(|penalty| penalty.until <= now))
    }

    fn penalty_mut(&mut self, size: u16) -> Option<&mut Option<Penalty>> {
        let at = LADDER.iter().position(|&known| known == size)?;
        self.penalties.get_mut(at)
    }

    fn failed(&mut self, size: u16, now: Time) {
        if let Some(penalty) = self.penalty_mut(size) {
            let pause = penalty.map_or(FIRST_PENALTY, |penalty| penalty.next);
            *penalty = Some(Penalty {
                until: now + pause,
                next: (pause * 2).min(LONGEST_PENALTY),
            });
        }
    }

    /// The size in use, bytes on the wire; `None`: any.
    pub(crate) fn size(&self) -> Option<u16> {
        match self.route {
            Some(Route { direct: true, .. }) => None,
            _ => Some(self.size),
        }
    }

    /// How to send an IPv6 packet of `inner_len` bytes that takes `wire_len` bytes whole; and a probe to send beside it, with
    /// the id `id`.
    #[inline]
    pub(crate) fn fit(
        &mut self,
        route: Route,
        inner_len: usize,
        wire_len: usize,
        id: u32,
        next_hops: &mut NextHops,
        now: Time,
    ) -> (Fit, Option<Probe>) {
        if self.route != Some(route) {
            *self = Self::new();
            self.route = Some(route);
        }
        if route.direct || wire_len <= usize::from(SURE) {
            return (Fit::Whole, None);
        }
        self.fit_large(route, inner_len, wire_len, id, next_hops, now)
    }

    fn fit_large(
        &mut self,
        route: Route,
        inner_len: usize,
        wire_len: usize,
        id: u32,
        next_hops: &mut NextHops,
        now: Time,
    ) -> (Fit, Option<Probe>) {
        self.expire(now);
        let fits = wire_len <= usize::from(self.size);
        let mut probe = None;
        let mut waits = false;
        if self.probe.is_none() {
            let wanted = if !fits {
                LADDER
                    .into_iter()
                    .find(|&size| size > self.size && self.allows(size, now))
            } else {
                (self.misses > 0 || now.since(self.confirmed) >= RECHECK).then_some(self.size)
            };
            waits = !fits && wanted.is_some() && next_hops.is_busy(route.next_hop, now);
            if let Some(size) = wanted.filter(|_| !waits) {
                if !fits {
                    next_hops.probed(route.next_hop, now);
                }
                let new = Probe { id, size };
                self.probe = Some((new, now));
                probe = Some(new);
            }
        }
        let fit = if fits {
            Fit::Whole
        } else if self.probe.is_some() || waits || inner_len <= usize::from(MIN_MTU) {
            Fit::Halves
        } else {
            // What a v2 packet adds to its inner one: 74 bytes less the 40 of the inner header.
            Fit::TooBig((self.size - 34).max(MIN_MTU))
        };
        (fit, probe)
    }

    /// The remote says that a probe arrived.
    pub(crate) fn answered(&mut self, id: u32, size: u16, next_hops: &mut NextHops, now: Time) {
        let (Some((probe, _)), Some(route)) = (self.probe, self.route) else {
            return;
        };
        if probe == (Probe { id, size }) {
            self.probe = None;
            self.misses = 0;
            self.size = self.size.max(size);
            self.confirmed = now;
            if let Some(penalty) = self.penalty_mut(size) {
                *penalty = None;
            }
            next_hops.passed(route.next_hop);
        }
    }

    fn expire(&mut self, now: Time) {
        let Some((probe, sent)) = self.probe else {
            return;
        };
        if now.since(sent) < PROBE_TIMEOUT {
            return;
        }
        self.probe = None;
        if probe.size > self.size {
            self.failed(probe.size, now);
            return;
        }
        self.misses += 1;
        if self.misses >= 2 {
            self.failed(self.size, now);
            self.misses = 0;
            self.size = SURE;
        }
    }
}

/// The least MTU of IPv6 (RFC 8200 §5): hosts are never told less.
const MIN_MTU: u16 = 1280;

#[cfg(test)]
mod tests {
    use super::*;

    const RELAYED: Route = Route {
        next_hop: PeerId(1),
        direct: false,
    };

    fn fit(path: &mut Path, hops: &mut NextHops, inner: usize, now: Time) -> (Fit, Option<u16>) {
        let (fit, probe) = path.fit(RELAYED, inner, inner + 34, 5, hops, now);
        (fit, probe.map(|probe| probe.size))
    }

    #[test]
    fn a_direct_route_carries_anything() {
        let route = Route {
            direct: true,
            ..RELAYED
        };
        let (mut path, mut hops) = (Path::new(), NextHops::default());
        let fit = path.fit(route, 1400, 1434, 1, &mut hops, Time::ZERO);
        assert_eq!(fit, (Fit::Whole, None));
        assert_eq!(path.size(), None);
    }

    #[test]
    fn probes_climb_one_at_a_time_while_packets_go_in_halves() {
        let (mut path, mut hops) = (Path::new(), NextHops::default());
        let at = Time::from_millis;
        assert_eq!(fit(&mut path, &mut hops, 1128, at(0)), (Fit::Whole, None));
        assert_eq!(
            fit(&mut path, &mut hops, 1400, at(0)),
            (Fit::Halves, Some(1414))
        );
        assert_eq!(fit(&mut path, &mut hops, 1400, at(1)), (Fit::Halves, None));
        path.answered(6, 1414, &mut hops, at(2));
        assert_eq!(path.size(), Some(1162), "a guessed id proves nothing");
        path.answered(5, 1414, &mut hops, at(2));
        assert_eq!(fit(&mut path, &mut hops, 1380, at(3)), (Fit::Whole, None));
        assert_eq!(
            fit(&mut path, &mut hops, 1400, at(3)),
            (Fit::Halves, Some(1434))
        );
        path.answered(5, 1434, &mut hops, at(4));
        assert_eq!(fit(&mut path, &mut hops, 1400, at(5)), (Fit::Whole, None));
    }

    #[test]
    fn a_probe_that_failed_is_not_repeated_soon() {
        let (mut path, mut hops) = (Path::new(), NextHops::default());
        let at = Time::from_millis;
        fit(&mut path, &mut hops, 1400, at(0));
        assert_eq!(
            fit(&mut path, &mut hops, 1400, at(1000)),
            (Fit::TooBig(1280), None)
        );
        assert_eq!(
            fit(&mut path, &mut hops, 1280, at(1000)),
            (Fit::Halves, None)
        );
        assert_eq!(fit(&mut path, &mut hops, 1400, at(60_999)).1, None);
        assert_eq!(fit(&mut path, &mut hops, 1400, at(61_001)).1, Some(1414));
    }

    #[test]
    fn who_swallows_probes_costs_others_minutes_at_most() {
        let (mut swallower, mut hops) = (Path::new(), NextHops::default());
        let at = Time::from_millis;
        // An hour of failures of one remote.
        let mut failed = 0;
        for second in 0..3600 {
            let (_, probe) = fit(&mut swallower, &mut hops, 1400, at(second * 1000));
            failed += u32::from(probe.is_some());
        }
        assert!((4..8).contains(&failed), "{failed}");
        // Another one behind the same next hop goes in halves meanwhile, is told no size, and has its turn.
        let mut other = Path::new();
        let mut sent = None;
        for second in 3600..3725 {
            fit(&mut swallower, &mut hops, 1400, at(second * 1000));
            let (how, probe) = fit(&mut other, &mut hops, 1400, at(second * 1000));
            assert_eq!(how, Fit::Halves);
            if let Some(size) = probe {
                sent = Some(size);
                other.answered(5, size, &mut hops, at(second * 1000 + 50));
                break;
            }
        }
        assert_eq!(sent, Some(1414));
        assert_eq!(other.size(), Some(1414));
    }

    #[test]
    fn probes_that_fail_one_after_the_other_are_spaced_out() {
        let mut hops = NextHops::default();
        let at = Time::from_millis;
        // Each of many remotes may ask once a minute: a relay that loses them all must not see a burst.
        let mut paths: Vec<Path> = (0..100).map(|_| Path::new()).collect();
        let mut sent = Vec::new();
        for second in 0..1800 {
            for path in &mut paths {
                let (_, probe) = fit(path, &mut hops, 1400, at(second * 1000));
                if probe.is_some() {
                    sent.push(second);
                }
            }
        }
        let gaps: Vec<u64> = sent.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(gaps[..5], [10, 20, 40, 80, 120]);
        assert!(gaps[5..].iter().all(|&gap| gap == 120), "{gaps:?}");
    }

    #[test]
    fn one_probe_at_a_time_is_on_its_way_over_a_next_hop() {
        let mut hops = NextHops::default();
        let at = Time::from_millis;
        let mut paths: Vec<Path> = (0..1000).map(|_| Path::new()).collect();
        let mut probes = 0;
        for path in &mut paths {
            let (how, probe) = fit(path, &mut hops, 1400, at(0));
            assert_eq!(how, Fit::Halves, "nobody is told anything yet");
            probes += usize::from(probe.is_some());
        }
        assert_eq!(probes, 1);
        paths[0].answered(5, 1414, &mut hops, at(2));
        assert_eq!(fit(&mut paths[1], &mut hops, 1400, at(3)).1, Some(1414));
        // That one is lost.
        assert_eq!(fit(&mut paths[2], &mut hops, 1400, at(9_000)).1, None);
        assert_eq!(
            fit(&mut paths[2], &mut hops, 1400, at(10_003)).1,
            Some(1414)
        );
    }

    #[test]
    fn a_size_that_stops_working_is_given_up() {
        let (mut path, mut hops) = (Path::new(), NextHops::default());
        let at = Time::from_millis;
        fit(&mut path, &mut hops, 1380, at(0));
        path.answered(5, 1414, &mut hops, at(1));
        assert_eq!(
            fit(&mut path, &mut hops, 1380, at(16_000)),
            (Fit::Whole, Some(1414))
        );
        assert_eq!(
            fit(&mut path, &mut hops, 1380, at(17_100)),
            (Fit::Whole, Some(1414))
        );
        assert_eq!(
            fit(&mut path, &mut hops, 1380, at(18_200)),
            (Fit::TooBig(1280), None)
        );
        assert_eq!(path.size(), Some(SURE));
    }
}

//! Neighbours: liveness, round trip and cost of a link (RFC 8966 §3.2.4 and §3.4, wire spec §5.4 and §5.6).
//!
//! ```text
//!              Hello sent                     1.2 s without a sign of life,
//!              IHU seen      ┌───────┐        a Hello unanswered               ┌─────────┐   3 s more   ┌────────┐
//!            ┌──────────────►│ alive ├────────────────────────────────────────►│ suspect ├─────────────►│ closed │
//!            └───────────────┤       │◄────────────────────────────────────────┤         │              └────────┘
//!                            └───────┘  anything at all heard                  └─────────┘
//! ```
//!
//! One Hello is on its way at a time: IHUs do not say which Hello they answer. The exception is a sign that the
//! neighbour may be gone, which is followed by a Hello at once: unanswered for four round trips, that makes it suspect.

use std::collections::BTreeSet;

use super::budget::Budget;
use super::metric::Metric;
use super::timer::Armed;
use crate::addr::Subnet;
use crate::config::NodeConfig;
use crate::crypto::identity::PublicKey;
use crate::io::LinkInfo;
use crate::time::{Duration, Time};

/// One link to another node.
#[derive(Debug)]
pub(crate) struct Neighbour {
    static_cost: u16,
    rtt: RoundTrip,
    cost: Metric,
    cost_changed_at: Time,
    hello: HelloState,
    next_hello_seqno: u16,
    last_heard: Time,
    suspect_since: Option<Time>,
    /// There was a sign that it is gone: suspect at this time, unless heard before.
    doubted_until: Option<Time>,
    /// No other doubt before this.
    next_doubt: Time,
    /// No verdict on silence before this: we were stalled ourselves.
    lenient_until: Time,
    pub(crate) armed: Armed,
    pub(crate) dump: Dump,
    /// What is in use, on its way to be asked for.
    pub(crate) asking: Asking,
    pub(crate) public_key: Option<PublicKey>,
    pub(crate) duplicate_reported: bool,
    /// The subnets for which the route table has a route of this neighbour.
    pub(crate) routes: BTreeSet<Subnet>,
    pub(crate) budgets: Budgets,
}

/// The latest round trips; what counts is the lowest. A mean would follow every burst of traffic, and with it the
/// routes of the whole network; the lowest follows a real change within eight Hellos, a better one at once.
#[derive(Debug)]
struct RoundTrip {
    samples: [Duration; Self::WINDOW],
    /// How many of `samples` are set, the estimate from the set-up of the connection included.
    known: usize,
    /// How many Hellos were answered.
    measured: usize,
}

/// What one neighbour may still cause.
#[derive(Debug)]
pub(crate) struct Budgets {
    pub(crate) hellos: Budget,
    pub(crate) updates: Budget,
    pub(crate) queries: Budget,
    pub(crate) route_requests: Budget,
    pub(crate) seqno_requests: Budget,
}

/// A full table on its way to the neighbour, in slices.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    /// Where the next slice starts.
    pub(crate) cursor: Option<Subnet>,
    /// No other full table before this.
    pub(crate) not_before: Time,
    pub(crate) armed: Armed,
}

/// Requests for what is in use, in slices.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    /// Where the next slice starts.
    pub(crate) cursor: Option<Subnet>,
    pub(crate) armed: Armed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HelloState {
    /// Never sent.
    Idle,
    /// Sent and not answered. A second one makes the sample ambiguous. `more` were sent in doubt meanwhile, and have
    /// their own answers.
    Awaiting {
        sent_at: Time,
        ambiguous: bool,
        more: u8,
    },
    /// Answered; when it was sent paces the next.
    Answered { sent_at: Time },
}

/// What the clock asks of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// Send a Hello with this seqno.
    Hello(u16),
    /// It just became suspect.
    Suspect,
    /// It was suspect for too long.
    Close,
}

impl Neighbour {
    pub(crate) fn new(link: LinkInfo, config: &NodeConfig, now: Time) -> Self {
        let mut neighbour = Self {
            static_cost: link.static_cost,
            rtt: RoundTrip::starting_with(link.setup_rtt),
            cost: Metric::INFINITE,
            cost_changed_at: now,
            hello: HelloState::Idle,
            next_hello_seqno: 0,
            last_heard: now,
            suspect_since: None,
            doubted_until: None,
            next_doubt: now,
            lenient_until: now,
            armed: Armed::default(),
            dump: Dump::default(),
            asking: Asking::default(),
            public_key: None,
            duplicate_reported: false,
            routes: BTreeSet::new(),
            budgets: Budgets {
                hellos: Budget::new(config.hellos, now),
                updates: Budget::new(config.updates, now),
                queries: Budget::new(config.neighbour_queries, now),
                route_requests: Budget::new(config.route_requests, now),
                seqno_requests: Budget::new(config.seqno_requests, now),
            },
        };
        neighbour.cost = neighbour.measured_cost(config);
        neighbour
    }

    /// Cost of the link for selection: infinite while suspect.
    pub(crate) fn cost(&self) -> Metric {
        if self.is_suspect() {
            Metric::INFINITE
        } else {
            self.cost
        }
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect_since.is_some()
    }

    /// The lowest of the latest round trips, once known.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.lowest()
    }

    pub(crate) fn last_heard(&self) -> Time {
        self.last_heard
    }

    /// A sign of life. `true` if it was suspect until now.
    #[must_use]
    pub(crate) fn on_heard(&mut self, now: Time) -> bool {
        self.last_heard = self.last_heard.max(now);
        self.doubted_until = None;
        self.suspect_since.take().is_some()
    }

    /// An IHU. `true` if the cost of the link changed enough to look at its routes again.
    #[must_use]
    pub(crate) fn on_ihu(&mut self, config: &NodeConfig, now: Time) -> bool {
        let HelloState::Awaiting {
            sent_at,
            ambiguous,
            more,
        } = self.hello
        else {
            return false;
        };
        if let Some(more) = more.checked_sub(1) {
            self.hello = HelloState::Awaiting {
                sent_at,
                ambiguous,
                more,
            };
            return false;
        }
        self.hello = HelloState::Answered { sent_at };
        if ambiguous {
            return false;
        }
        let first = self.rtt.measured == 0;
        self.rtt.add(now.since(sent_at));
        let measured = self.measured_cost(config);
        let tolerance = Metric::new((self.cost.raw() / 8).max(2));
        let due = first || now.since(self.cost_changed_at) >= config.cost_spacing;
        if !due || measured.distance(self.cost) <= tolerance {
            return false;
        }
        self.cost = measured;
        self.cost_changed_at = now;
        true
    }

    /// What is to be done now. A verdict on silence also needs a Hello that has waited long enough.
    #[must_use]
    pub(crate) fn on_timer(&mut self, config: &NodeConfig, lateness: Duration, now: Time) -> Due {
        if lateness > config.stall_threshold {
            self.lenient_until = now + config.answer_grace;
        }
        match self.hello {
            HelloState::Awaiting { .. } if self.verdict_at(config).is_some_and(|at| at <= now) => {
                if self.suspect_since.is_some() {
                    return Due::Close;
                }
                self.suspect_since = Some(now);
                self.doubted_until = None;
                Due::Suspect
            }
            _ if self.hello_at(config) <= now => {
                let ambiguous = matches!(self.hello, HelloState::Awaiting { .. });
                self.hello = HelloState::Awaiting {
                    sent_at: now,
                    ambiguous,
                    more: 0,
                };
                Due::Hello(self.take_hello_seqno())
            }
            _ => Due::Nothing,
        }
    }

    /// A sign that it may be gone: the seqno of the Hello to send, if it is worth one.
    #[must_use]
    pub(crate) fn on_doubt(&mut self, config: &NodeConfig, now: Time) -> Option<u16> {
        if self.is_suspect() || self.doubted_until.is_some() || now < self.next_doubt {
            return None;
        }
        let distance = self.distance(config);
        self.doubted_until = Some(now + distance.max(config.doubt_grace));
        self.next_doubt = now + config.doubt_spacing;
        self.hello = match self.hello {
            // The patience with the one before is not extended.
            HelloState::Awaiting { sent_at, more, .. } => HelloState::Awaiting {
                sent_at,
                ambiguous: true,
                more: more.saturating_add(1),
            },
            HelloState::Idle | HelloState::Answered { .. } => HelloState::Awaiting {
                sent_at: now,
                ambiguous: false,
                more: 0,
            },
        };
        Some(self.take_hello_seqno())
    }

    fn take_hello_seqno(&mut self) -> u16 {
        let seqno = self.next_hello_seqno;
        self.next_hello_seqno = seqno.wrapping_add(1);
        seqno
    }

    /// When `on_timer` has something to do next.
    pub(crate) fn next_deadline(&self, config: &NodeConfig) -> Time {
        let hello = self.hello_at(config);
        self.verdict_at(config)
            .map_or(hello, |verdict| hello.min(verdict))
    }

    fn hello_at(&self, config: &NodeConfig) -> Time {
        match self.hello {
            HelloState::Idle => Time::ZERO,
            HelloState::Awaiting { .. } if self.is_suspect() => Time::FAR_FUTURE,
            HelloState::Awaiting {
                sent_at, more: 0, ..
            } => sent_at + config.hello_patience,
            // Should it answer only one of several Hellos, then it must not look silent for lack of another.
            HelloState::Awaiting { sent_at, .. } => {
                sent_at + config.hello_interval.max(self.distance(config))
            }
            HelloState::Answered { sent_at } => sent_at + config.hello_interval,
        }
    }

    /// When silence makes the neighbour suspect, or closes it.
    fn verdict_at(&self, config: &NodeConfig) -> Option<Time> {
        let HelloState::Awaiting { sent_at, .. } = self.hello else {
            return None;
        };
        let verdict = match self.suspect_since {
            Some(since) => since + config.close_after,
            None => {
                // A neighbour that has been slow lately may be slow again: its machine, or the link, is busy.
                let slowest = (self.rtt.highest() * 2).min(config.suspect_after);
                let patience = config.answer_grace.max(slowest);
                let patience = patience.max(self.distance(config));
                let silence = (self.last_heard + config.suspect_after).max(sent_at + patience);
                self.doubted_until
                    .map_or(silence, |doubt| doubt.min(silence))
            }
        };
        Some(verdict.max(self.lenient_until))
    }

    /// Four round trips: an answer that takes longer will not come, if nothing else slows it down.
    fn distance(&self, config: &NodeConfig) -> Duration {
        self.rtt().unwrap_or(config.suspect_after) * 4
    }

    fn measured_cost(&self, config: &NodeConfig) -> Metric {
        let millis = self.rtt().unwrap_or(config.unknown_rtt).as_millis();
        let rtt = u16::try_from(millis).unwrap_or(u16::MAX);
        // A link for free would make the feasibility condition refuse what the neighbour repeats.
        let cost = rtt.saturating_add(self.static_cost).max(1);
        Metric::new(cost).min(Metric::MAX_FINITE)
    }
}

impl RoundTrip {
    const WINDOW: usize = 8;

    fn starting_with(estimate: Option<Duration>) -> Self {
        let mut round_trip = Self {
            samples: [Duration::ZERO; Self::WINDOW],
            known: 0,
            measured: 0,
        };
        if let Some(estimate) = estimate {
            round_trip.samples[0] = estimate;
            round_trip.known = 1;
        }
        round_trip
    }

    fn add(&mut self, sample: Duration) {
        self.samples.rotate_right(1);
        self.samples[0] = sample;
        self.known = (self.known + 1).min(Self::WINDOW);
        self.measured = self.measured.saturating_add(1);
    }

    fn highest(&self) -> Duration {
        let known = self.samples.iter().take(self.known);
        known.max().copied().unwrap_or_default()
    }

    fn lowest(&self) -> Option<Duration> {
        self.samples.iter().take(self.known).min().copied()
    }
}

//! Limits and intervals of the control plane, each with its reason.
//!
//! Memory with every table filled by hostile neighbours (64-bit builds, space of trees and allocator included): 340
//! bytes a destination with its timers, 50 a route, 64 a source, 110 in the forwarding table, 150 a query, 300 a seqno
//! request. With the defaults that is 93 MB. With honest ones a destination with three routes takes about 670 bytes, so
//! ten thousand nodes over three links take 7 MB. (Measured: 580 bytes without the 90, computed, that note the use of a
//! route.)

use crate::babel::budget::Allowance;
use crate::time::Duration;

/// Settings of a [`Node`](crate::node::Node). `Default` is right for everybody; tests and simulations vary them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The zone bytes of the router-ids of our identities: a hint that the whole network carries along (wire spec
    /// §4.6). The present network uses zero.
    pub zone: [u8; 2],

    /// Between Hellos to a neighbour, and what they promise. An answered Hello a second notices silence in time.
    pub hello_interval: Duration,
    /// What our IHUs promise. The present network ignores it; 60 s is what it sends.
    pub ihu_interval: Duration,
    /// A neighbour that owes us an IHU is suspect after this long without a sign of life: its routes are not used.
    pub suspect_after: Duration,
    /// ... but never before a Hello has waited this long, or four times the lowest, or twice the highest of the latest
    /// round trips (the latter up to `suspect_after`). Covers a busy neighbour.
    pub answer_grace: Duration,
    /// In doubt (`Input::Doubt`) it is this, or four times the lowest round trip, and no life sign from then on counts. Of
    /// two nodes with a relay between them, the one that only answers notices the relay's death when the other has turned
    /// to another way, so an outage takes twice this. Errors about a living peer are forged or mean a broken path.
    pub doubt_grace: Duration,
    /// Least time between two doubts about a neighbour: each costs a Hello.
    pub doubt_spacing: Duration,
    /// A suspect neighbour is closed after this long. Longer than a busy machine stalls a process.
    pub close_after: Duration,
    /// A timer that is late by more than this means that we were stalled ourselves: nobody is suspected until the
    /// input that piled up meanwhile was read.
    pub stall_threshold: Duration,
    /// An IHU that is missing this long while other traffic arrives will not come; the next Hello is sent anyway.
    pub hello_patience: Duration,
    /// Round trip assumed of a link until it is measured.
    pub unknown_rtt: Duration,

    /// Between announcements of our own subnets, and what all our Updates promise. The present network's value.
    pub update_interval: Duration,
    /// How long a retracted route is remembered. The present network's value.
    pub retraction_hold: Duration,
    /// Routes are held at least this long, whatever interval their neighbour claims: an honest one repeats in time.
    pub min_hold: Duration,
    /// A route in use must be longer by more than this than the best one before it is replaced.
    pub hysteresis: u16,
    /// An Update is triggered when the announced metric changes by more than this.
    pub significant_change: u16,
    /// Least time between two changes of a link's cost after the first sample: each looks at all routes of the link.
    pub cost_spacing: Duration,
    /// How long feasibility distances outlive their routes (RFC 8966 appendix B; the present network's value).
    pub source_lifetime: Duration,

    /// Least time before an unanswered route request or seqno request is repeated; else two round trips. Doubles.
    pub retry_floor: Duration,
    /// How long we look for a route before `QueryFailed`. The host's first connection attempts last about as long.
    pub query_timeout: Duration,
    /// How long a route request is remembered, so that it is forwarded once. The present network's value.
    pub query_memory: Duration,
    /// How often a seqno request of ours is sent: with doubling pauses, more than the 4 s for which the present
    /// network refuses a second increase.
    pub seqno_tries: u8,
    /// A forwarded seqno request that comes again within this time is a duplicate, later a repetition.
    pub seqno_duplicate: Duration,
    /// How long those that asked for a newer seqno are remembered.
    pub seqno_memory: Duration,

    /// How long after its selection a route is looked at: if packets use it, and the loss of its next hop would leave
    /// none, other neighbours are asked. Doubles from look to look.
    pub fallback_delay: Duration,
    /// The longest pause between two such looks.
    pub fallback_pause: Duration,
    /// How long after it was seen used a route counts as in use.
    pub in_use_for: Duration,
    /// Most destinations that a new neighbour is asked for because they are in use.
    pub max_in_use: usize,
    /// Most neighbours asked at a time for another way.
    pub fallback_fanout: usize,
    /// Destinations for which neighbours are asked for another way.
    pub fallback_requests: Allowance,

    /// Most destinations. Beyond, new ones are refused.
    pub max_destinations: usize,
    /// Most routes of one neighbour. Beyond, its new ones are refused.
    pub max_routes_per_neighbour: usize,
    /// Most routes of all neighbours. Beyond, new ones are refused.
    pub max_routes: usize,
    /// Most feasibility distances, beyond one for each destination. Then a destination forgets its oldest for a new one.
    pub max_sources: usize,
    /// Most subnets looked for at a time, own and forwarded. Beyond, new ones are refused.
    pub max_queries: usize,
    /// Most seqno requests open at a time, own and forwarded. Beyond, new ones are refused.
    pub max_seqno_requests: usize,

    /// Look-ups that our own host may cause.
    pub host_queries: Allowance,
    /// Look-ups that the data packets of one neighbour may cause.
    pub neighbour_queries: Allowance,
    /// Route requests of one neighbour that we handle.
    pub route_requests: Allowance,
    /// Seqno requests of one neighbour that we handle.
    pub seqno_requests: Allowance,
    /// Seqno requests that we start.
    pub own_seqno_requests: Allowance,
    /// Increases of an origin's seqno. Each is announced to all neighbours.
    pub seqno_increases: Allowance,
    /// Hellos of one neighbour that we answer.
    pub hellos: Allowance,
    /// Updates of one neighbour that change our tables. Beyond it the neighbour's packets wait, and with them its link
    /// (`Node::paused_until`): to ignore an Update would leave routes wrong for many minutes.
    pub updates: Allowance,
    /// Changes of learned subnets that all neighbours are told of, each of them one Update a neighbour. What a neighbour
    /// of ours makes us say must stay below what others take from us (`updates`), and below what slow links carry.
    pub announcements: Allowance,
    /// Pause before more announcements go when `announcements` is spent.
    pub announcement_pause: Duration,
    /// Updates in one slice of a full table, and the pause between slices: a large table must not fill the queues.
    pub dump_slice: usize,
    /// See `dump_slice`.
    pub dump_pause: Duration,
    /// Least time between two full tables to the same neighbour.
    pub dump_spacing: Duration,
    /// A new neighbour is told our whole table if it has no more destinations than this.
    pub greeting_limit: usize,
    /// Events that wait for `poll_output` at most. Beyond, new ones are dropped and counted.
    pub max_queued_events: usize,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let allow = |per_second, burst| Allowance { per_second, burst };
        Self {
            zone: [0; 2],
            hello_interval: Duration::from_secs(1),
            ihu_interval: Duration::from_secs(60),
            suspect_after: Duration::from_millis(1200),
            answer_grace: Duration::from_millis(400),
            doubt_grace: Duration::from_millis(10),
            doubt_spacing: Duration::from_millis(100),
            close_after: Duration::from_secs(3),
            stall_threshold: Duration::from_millis(250),
            hello_patience: Duration::from_secs(10),
            unknown_rtt: Duration::from_millis(50),
            update_interval: Duration::from_secs(300),
            retraction_hold: Duration::from_secs(6),
            min_hold: Duration::from_secs(5),
            hysteresis: 10,
            significant_change: 10,
            cost_spacing: Duration::from_secs(2),
            source_lifetime: Duration::from_secs(30 * 60),
            retry_floor: Duration::from_millis(50),
            query_timeout: Duration::from_secs(3),
            query_memory: Duration::from_secs(15),
            seqno_tries: 8,
            seqno_duplicate: Duration::from_millis(400),
            seqno_memory: Duration::from_secs(15),
            fallback_delay: Duration::from_secs(1),
            fallback_pause: Duration::from_secs(32),
            in_use_for: Duration::from_secs(120),
            max_in_use: 256,
            fallback_fanout: 16,
            fallback_requests: allow(64, 256),
            max_destinations: 131_072,
            max_routes_per_neighbour: 65_536,
            max_routes: 262_144,
            max_sources: 262_144,
            max_queries: 4_096,
            max_seqno_requests: 4_096,
            host_queries: allow(256, 1_024),
            neighbour_queries: allow(64, 256),
            route_requests: allow(512, 4_096),
            seqno_requests: allow(256, 2_048),
            own_seqno_requests: allow(256, 2_048),
            seqno_increases: allow(2, 16),
            hellos: allow(20, 100),
            updates: allow(5_000, 16_384),
            announcements: allow(4_000, 4_096),
            announcement_pause: Duration::from_millis(5),
            dump_slice: 64,
            dump_pause: Duration::from_millis(5),
            dump_spacing: Duration::from_secs(10),
            greeting_limit: 256,
            max_queued_events: 16_384,
        }
    }
}

/// `duration` as the centiseconds of interval fields, saturating, at least one.
pub(crate) fn centiseconds(duration: Duration) -> u16 {
    u16::try_from(duration.as_millis() / 10)
        .unwrap_or(u16::MAX)
        .max(1)
}

/// The hold time that an Update's interval field asks for: 3.5 intervals (RFC 8966 appendix B).
pub(crate) fn hold_time(interval: u16) -> Duration {
    Duration::from_millis(u64::from(interval) * 35)
}

//! Router advertisements (RFC 4861, 4191, 8106): the router's half of address autoconfiguration.
//!
//! Answers go to all nodes, never to the one that asked: an answer for everybody needs no state per guest, so a flood of
//! solicitations costs one advertisement every three seconds, however many senders it pretends to have.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::Mac;

#[cfg(test)]
mod tests;

/// Where routers listen.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Where advertisements go.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// ICMPv6 type of a solicitation.
pub const SOLICITATION: u8 = 133;
/// ICMPv6 type of an advertisement.
pub const ADVERTISEMENT: u8 = 134;

/// RFC 4861 §6.2.1, MaxRtrAdvInterval: its default.
const LONGEST_INTERVAL: Duration = Duration::from_secs(600);
/// RFC 4861 §6.2.1, MinRtrAdvInterval: 0.33 of the above.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(198);
/// RFC 4861 §10: MAX_INITIAL_RTR_ADVERT_INTERVAL and MAX_INITIAL_RTR_ADVERTISEMENTS.
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
const INITIAL_COUNT: u8 = 3;
/// RFC 4861 §10: MAX_FINAL_RTR_ADVERTISEMENTS.
const FINAL_COUNT: u8 = 3;
/// RFC 4861 §10: MIN_DELAY_BETWEEN_RAS.
const LEAST_GAP: Duration = Duration::from_secs(3);
/// RFC 4861 §10: MAX_RA_DELAY_TIME.
const LONGEST_DELAY: Duration = Duration::from_millis(500);

/// Seconds that a router, a route and name servers stay valid: three intervals, so that two may be lost.
const LIFETIME: u32 = 1800;
/// Seconds that addresses stay valid and preferred: radvd's defaults. A guest keeps its address through a day of outage.
const PREFIX_VALID: u32 = 86_400;
const PREFIX_PREFERRED: u32 = 14_400;

/// The hop limit that guests should use.
const HOP_LIMIT: u8 = 64;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// A name server option must fit the packet; nobody asks more than three.
const MOST_NAME_SERVERS: usize = 3;

/// What the guests of a segment are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The network's /64; the last 64 bits do not matter.
    pub prefix: Ipv6Addr,
    /// Whether other addresses of the /64 are neighbours. No, where every guest has a wire of its own: it then sends
    /// everything to the router.
    pub on_link: bool,
    /// Where addresses come from.
    pub addressing: Addressing,
    /// What the router is good for.
    pub reach: Reach,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Name servers, at most three; the rest is not told.
    pub name_servers: Vec<Ipv6Addr>,
    /// The router's own card, which saves the guest a neighbour solicitation.
    pub router: Option<Mac>,
}

/// Where a guest's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// The guest makes one of its MAC (A flag).
    Automatic,
    /// DHCPv6 serves it (M flag), and nothing else is to be used.
    Dhcp,
}

/// What a guest should send to the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only `400::/7`: a route option, and a router lifetime of 0. Linux takes a route option only if the sysctl
    /// `accept_ra_rt_info_max_plen` is at least 7; its default is 0, but NetworkManager and systemd-networkd take it.
    Overlay,
    /// Everything: a default route.
    Everything,
}

/// Announces one network on one segment.
#[derive(Debug)]
pub struct Advertiser {
    advertised: Advertised,
    /// When the next advertisement goes out that nobody asked for.
    periodic: Instant,
    /// When the one goes out that somebody asked for.
    answer: Option<Instant>,
    last: Option<Instant>,
    initial_left: u8,
    /// How many advertisements of the end are still to be made; `None` before the end.
    final_left: Option<u8>,
    random: u64,
    counters: Counters,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Advertisements made.
    pub advertised: u64,
    /// Valid solicitations.
    pub solicited: u64,
    /// Messages that were no valid solicitation.
    pub refused: u64,
}

/// Why a message is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has passed a router, so it comes from elsewhere.
    #[error("hop limit {0} instead of 255")]
    HopLimit(u8),
    /// Neither a link-local address nor none.
    #[error("source {0} is not link-local")]
    Source(Ipv6Addr),
    /// Shorter than a solicitation.
    #[error("{0} bytes are too few")]
    Short(usize),
    /// Something else.
    #[error("ICMPv6 type {0}, code {1}")]
    Kind(u8, u8),
    /// An option of length 0, or longer than the message.
    #[error("malformed options")]
    Options,
    /// The end has been announced.
    #[error("withdrawn")]
    Withdrawn,
}

impl Advertiser {
    /// Start to announce `advertised`; the first advertisement is due at once. `seed` makes the intervals random.
    pub fn new(advertised: Advertised, now: Instant, seed: u64) -> Self {
        Self {
            advertised,
            periodic: now,
            answer: None,
            last: None,
            initial_left: INITIAL_COUNT,
            final_left: None,
            random: seed,
            counters: Counters::default(),
        }
    }

    /// An ICMPv6 message arrived; the kernel has checked its checksum.
    ///
    /// # Errors
    /// Why it is not a solicitation that must be answered. Nothing else follows from that.
    pub fn handle(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        hop_limit: u8,
        message: &[u8],
    ) -> Result<(), Refusal> {
        let checked = check(source, hop_limit, message).and(match self.final_left {
            None => Ok(()),
            Some(_) => Err(Refusal::Withdrawn),
        });
        if let Err(refusal) = checked {
            self.counters.refused += 1;
            return Err(refusal);
        }
        self.counters.solicited += 1;
        if self.answer.is_none() {
            let delayed = now + self.random_below(LONGEST_DELAY);
            self.answer = Some(self.allowed_from(delayed));
        }
        Ok(())
    }

    /// The next advertisement for [`ALL_NODES`], if one is due: an ICMPv6 message whose checksum is left to the kernel,
    /// to be sent with hop limit 255 from a link-local address.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.poll_timeout()? > now {
            return None;
        }
        self.last = Some(now);
        self.answer = None;
        self.counters.advertised += 1;
        if let Some(left) = &mut self.final_left {
            *left = left.saturating_sub(1);
            self.periodic = now + LEAST_GAP;
            return Some(encode(&self.advertised, true));
        }
        let interval = SHORTEST_INTERVAL
            + self.random_below(LONGEST_INTERVAL.saturating_sub(SHORTEST_INTERVAL));
        self.initial_left = self.initial_left.saturating_sub(1);
        self.periodic = now
            + if self.initial_left > 0 {
                interval.min(INITIAL_INTERVAL)
            } else {
                interval
            };
        Some(encode(&self.advertised, false))
    }

    /// When [`Self::poll_transmit`] has something next; `None` when the end has been announced.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.final_left == Some(0) {
            return None;
        }
        let due = self
            .answer
            .map_or(self.periodic, |answer| answer.min(self.periodic));
        Some(self.allowed_from(due))
    }

    /// Tell the guests something else from now on.
    pub fn replace(&mut self, advertised: Advertised, now: Instant) {
        if self.advertised != advertised {
            self.advertised = advertised;
            self.initial_left = INITIAL_COUNT;
            self.periodic = now;
        }
    }

    /// Announce the end: advertisements with lifetimes of 0 until [`Self::poll_timeout`] is `None`.
    pub fn withdraw(&mut self, now: Instant) {
        if self.final_left.is_none() {
            self.final_left = Some(FINAL_COUNT);
            self.answer = None;
            self.periodic = now;
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// RFC 4861 §6.2.6: advertisements to all nodes keep a distance.
    fn allowed_from(&self, time: Instant) -> Instant {
        self.last.map_or(time, |last| time.max(last + LEAST_GAP))
    }

    /// Evenly distributed, by SplitMix64; it only keeps routers from speaking in step.
    fn random_below(&mut self, limit: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let share = (word >> 32) as f64 / f64::from(u32::MAX);
        limit.mul_f64(share)
    }
}

/// RFC 4861 §6.1.1, except for the checksum, which the kernel verifies.
fn check(source: Ipv6Addr, hop_limit: u8, message: &[u8]) -> Result<(), Refusal> {
    if hop_limit != 255 {
        return Err(Refusal::HopLimit(hop_limit));
    }
    if !source.is_unspecified() && !source.is_unicast_link_local() {
        return Err(Refusal::Source(source));
    }
    let Some((&[kind, code, ..], mut options)) = message.split_first_chunk::<8>() else {
        return Err(Refusal::Short(message.len()));
    };
    if (kind, code) != (SOLICITATION, 0) {
        return Err(Refusal::Kind(kind, code));
    }
    while let Some((&option, rest)) = options.split_first() {
        let units = rest.first().copied().unwrap_or_default();
        // RFC 4861 §6.1.1: without an address there is no source link-layer address option.
        if units == 0 || source.is_unspecified() && option == SOURCE_LINK_LAYER {
            return Err(Refusal::Options);
        }
        options = options
            .get(usize::from(units) * 8..)
            .ok_or(Refusal::Options)?;
    }
    Ok(())
}

const SOURCE_LINK_LAYER: u8 = 1;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
/// RFC 4191.
const ROUTE_INFORMATION: u8 = 24;
/// RFC 8106.
const RECURSIVE_NAME_SERVERS: u8 = 25;

/// The message, with a checksum of 0.
fn encode(advertised: &Advertised, last: bool) -> Vec<u8> {
    let unless_last = |seconds: u32| if last { 0 } else { seconds };
    let router_lifetime = match advertised.reach {
        Reach::Overlay => 0,
        Reach::Everything => unless_last(LIFETIME),
    };
    let (flags, autonomous) = match advertised.addressing {
        Addressing::Automatic => (0, AUTONOMOUS),
        Addressing::Dhcp => (MANAGED | OTHER, 0),
    };
    let [.., high, low] = router_lifetime.to_be_bytes();
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, flags, high, low];
    // Reachable and retransmission times: the guest's own.
    message.extend_from_slice(&[0; 8]);
    if let Some(mac) = advertised.router {
        message.extend_from_slice(&[SOURCE_LINK_LAYER, 1]);
        message.extend_from_slice(&mac.octets());
    }
    message.extend_from_slice(&[MTU, 1, 0, 0]);
    message.extend_from_slice(&advertised.mtu.to_be_bytes());
    let on_link = if advertised.on_link { ON_LINK } else { 0 };
    message.extend_from_slice(&[PREFIX_INFORMATION, 4, 64, on_link | autonomous]);
    message.extend_from_slice(&unless_last(PREFIX_VALID).to_be_bytes());
    message.extend_from_slice(&unless_last(PREFIX_PREFERRED).to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    let [network @ .., _, _, _, _, _, _, _, _] = advertised.prefix.octets();
    message.extend_from_slice(&network);
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[ROUTE_INFORMATION, 2, 7, 0]);
    message.extend_from_slice(&unless_last(LIFETIME).to_be_bytes());
    message.extend_from_slice(&[0x04, 0, 0, 0, 0, 0, 0, 0]);
    let servers: Vec<_> = advertised
        .name_servers
        .iter()
        .take(MOST_NAME_SERVERS)
        .collect();
    if !servers.is_empty() {
        let units = servers.iter().fold(1, |units, _| units + 2);
        message.extend_from_slice(&[RECURSIVE_NAME_SERVERS, units, 0, 0]);
        message.extend_from_slice(&unless_last(LIFETIME).to_be_bytes());
        for server in servers {
            message.extend_from_slice(&server.octets());
        }
    }
    message
}

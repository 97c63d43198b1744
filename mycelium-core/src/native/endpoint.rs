//! All native links of one UDP socket: who gets a datagram, who is to be called when.

mod strangers;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use zeroize::Zeroize as _;

use super::accept::{Gate, HalfOpens};
use super::config::NativeConfig;
use super::datagram::{self, HANDSHAKE, Header, SEALED_AT, WHO};
use super::dial::Dial;
use super::event::{DownReason, Event};
use super::halves::Halves;
use super::io::{
    CloseCode, ControlError, DATA_HEADROOM, DataClass, LinkSnapshot, Received, SealError, Sealed,
};
use super::lane;
use super::link::{Fate, Link, MAX_EVENTS, Opened};
use super::link_id::LinkId;
use super::stats::NativeStats;
use super::timers::Timers;
use super::who::WhoKey;
use crate::babel::Allowance;
use crate::babel::budget::Budget;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::rng::Rng;
use crate::session::cookie::CookieKey;
use crate::session::fragment::{Reassembly, ReassemblyLimits};
use crate::session::handshake::{Local, Timestamp};
use crate::session::mac::MacKey;
use crate::time::{Duration, Time};

/// Datagrams of handshakes that wait for being polled; what does not fit is not sent (its sender tries again).
const MAX_OUTBOX: usize = 1024;
/// Copies of a close frame: nothing repeats it.
const CLOSE_COPIES: usize = 2;
/// One socket is one link to the reassembly, so it may have all places.
const REASSEMBLY: ReassemblyLimits = ReassemblyLimits {
    messages: 1024,
    messages_per_link: 1024,
    messages_per_source: 4,
};
/// Told strays.
const STRAYS: Allowance = Allowance {
    per_second: 10,
    burst: 10,
};

/// To whom an index of ours belongs.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// An epoch, or an attempt to make one, of a link.
    Link(LinkId),
    /// An attempt of a dial.
    Dial(LinkId),
    /// A handshake that we answered.
    HalfOpen,
}

/// All native links of one UDP socket. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct NativeEndpoint {
    config: NativeConfig,
    local: Local,
    /// Of what comes to us.
    mac_key: MacKey,
    cookie_key: CookieKey,
    who_key: WhoKey,
    rng: Rng,
    /// The wall clock: it showed the first at the second.
    wall: (Duration, Time),
    last_timestamp: Timestamp,
    next_link: u32,
    links: BTreeMap<LinkId, Link>,
    by_key: BTreeMap<PublicKey, LinkId>,
    dials: BTreeMap<LinkId, Dial>,
    indices: BTreeMap<u32, Owner>,
    half_open: HalfOpens,
    gate: Gate,
    /// For telling of datagrams with unknown indices.
    strays: Budget,
    reassembly: Reassembly,
    timers: Timers,
    /// Links that may have something to send.
    ready: VecDeque<LinkId>,
    outbox: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event>,
    scratch: Halves,
    stats: NativeStats,
    last_now: Time,
}

impl NativeEndpoint {
    /// An endpoint of the node with this secret. `unix` is the wall clock at `now`, which dates handshakes.
    pub fn new(
        config: NativeConfig,
        secret: &SecretKey,
        mut seed: [u8; 32],
        unix: Duration,
        now: Time,
    ) -> Self {
        let local = Local::new(secret.clone());
        let network_key = config.network_key.as_ref();
        let mut rng = Rng::from_seed(seed);
        seed.zeroize();
        Self {
            mac_key: MacKey::new(local.public_key(), network_key),
            cookie_key: CookieKey::new(local.public_key(), network_key),
            who_key: WhoKey::new(network_key),
            gate: Gate::new(&config, &mut rng, now),
            strays: Budget::new(STRAYS, now),
            config,
            local,
            rng,
            wall: (unix, now),
            last_timestamp: Timestamp::default(),
            next_link: 0,
            links: BTreeMap::new(),
            by_key: BTreeMap::new(),
            dials: BTreeMap::new(),
            indices: BTreeMap::new(),
            half_open: HalfOpens::default(),
            reassembly: Reassembly::new(REASSEMBLY),
            timers: Timers::default(),
            ready: VecDeque::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            scratch: Halves::default(),
            stats: NativeStats::default(),
            last_now: now,
        }
    }

    /// The wall clock was set: it shows `unix` at `now`.
    pub fn set_wall_clock(&mut self, unix: Duration, now: Time) {
        self.wall = (unix, now);
    }

    /// Make a link to whoever is at `address`, or only to the holder of `key`. Ends in `Up`, or `Down` with the reason.
    pub fn dial(&mut self, address: SocketAddr, key: Option<PublicKey>, now: Time) -> LinkId {
        self.last_now = now;
        let id = self.fresh_id();
        let failure = match key {
            _ if self.links.len() + self.dials.len() >= self.config.max_links => {
                Some(DownReason::Full)
            }
            Some(key) => self.needless(&key),
            None => None,
        };
        if let Some(reason) = failure {
            self.events.push_back(Event::Down { link: id, reason });
            return id;
        }
        let address = canonical(address);
        let mut dial = Dial::new(address, self.rng.array(), self.config.dial_timeout, now);
        if let Some(key) = key {
            dial.on_key(key, self.config.network_key.as_ref(), now);
        }
        self.dials.insert(id, dial);
        self.drive_dial(id, now);
        id
    }

    /// End a link or a dial. `Down` follows; the other end is told.
    pub fn close(&mut self, link: LinkId, code: CloseCode, now: Time) {
        self.last_now = now;
        if self.dials.contains_key(&link) {
            self.end_dial(link, DownReason::Closed);
        } else if self.links.contains_key(&link) {
            self.end_link(link, DownReason::Closed, Some(code), now);
        }
    }

    /// Close everything, telling the other ends: drain `poll_transmit` once more, then drop the endpoint.
    pub fn shutdown(&mut self, now: Time) {
        let all: Vec<LinkId> = self
            .links
            .keys()
            .chain(self.dials.keys())
            .copied()
            .collect();
        for link in all {
            self.close(link, CloseCode::Shutdown, now);
        }
    }

    /// Send one complete control packet: in order, exactly once, as long as the link lives.
    pub fn send_control(
        &mut self,
        link: LinkId,
        packet: &[u8],
        now: Time,
    ) -> Result<(), ControlError> {
        self.last_now = now;
        let found = self.links.get_mut(&link);
        let Some(found) = found.filter(|found| found.up_since.is_some()) else {
            return Err(ControlError::NoLink);
        };
        if !lane::is_control_packet(packet) {
            return Err(ControlError::NotControl);
        }
        if let Err(reason) = found.send_control(packet, &self.config) {
            self.end_link(link, reason, Some(CloseCode::Overflow), now);
            return Err(ControlError::Overflow);
        }
        make_ready(&mut self.ready, found);
        Ok(())
    }

    /// Back-pressure: while a link is held, control packets that arrive on it are neither taken nor acknowledged, so the other
    /// end sends them again later and its lane fills up instead of ours.
    pub fn hold_control(&mut self, link: LinkId, held: bool) {
        if let Some(link) = self.links.get_mut(&link) {
            link.held = held;
        }
    }

    /// Seal in place: `buffer` is [`DATA_HEADROOM`] bytes followed by one complete mycelium data frame, and becomes, at the
    /// same length, one datagram.
    #[inline]
    pub fn seal_data(
        &mut self,
        link: LinkId,
        class: DataClass,
        buffer: &mut [u8],
        now: Time,
    ) -> Result<Sealed<'_>, SealError> {
        self.last_now = now;
        let found = self.links.get_mut(&link);
        let Some(found) = found.filter(|found| found.up_since.is_some()) else {
            return Err(SealError::NoLink);
        };
        let (to, cut) = found.seal_data(class, buffer, &mut self.scratch, now)?;
        let due = found.data_deadline();
        if due < found.scheduled {
            self.timers.reschedule(link, &mut found.scheduled, due);
        }
        Ok(match cut {
            false => Sealed::Whole { to },
            true => Sealed::Halves {
                to,
                first: &self.scratch.first,
                second: &self.scratch.second,
            },
        })
    }

    /// Take one datagram (one GRO segment, not one GRO buffer).
    #[inline]
    pub fn handle_datagram<'a>(
        &'a mut self,
        now: Time,
        from: SocketAddr,
        datagram: &'a mut [u8],
    ) -> Received<'a> {
        self.last_now = now;
        let from = canonical(from);
        match datagram.first() {
            Some(&HANDSHAKE) => {
                self.on_unit(from, &datagram[1..], now);
                Received::Nothing
            }
            Some(&WHO) => {
                self.on_who(from, datagram, now);
                Received::Nothing
            }
            Some(datagram::DATA_SESSION..=datagram::SPARSE_SECOND) => {
                self.on_sealed(from, datagram, now)
            }
            _ => {
                self.stats.invalid += 1;
                Received::Nothing
            }
        }
    }

    /// The host at `address` reported the port closed (ICMP, the socket's error queue).
    pub fn on_unreachable(&mut self, address: SocketAddr, now: Time) {
        self.last_now = now;
        let address = canonical(address);
        let dials = self
            .dials
            .iter()
            .filter(|(_, dial)| dial.address == address);
        let dials: Vec<LinkId> = dials.map(|(&id, _)| id).collect();
        for id in dials {
            if let Some(dial) = self.dials.get_mut(&id) {
                dial.on_unreachable(now);
                self.drive_dial(id, now);
            }
        }
        self.on_hint(address, now, |link| link.on_unreachable(now));
    }

    /// The kernel, or a router by ICMP, refused a datagram to `address` for its size.
    pub fn on_too_large(&mut self, address: SocketAddr, now: Time) {
        self.last_now = now;
        self.on_hint(canonical(address), now, |link| link.on_too_large(now));
    }

    /// Addresses or routes of this host have changed: ask over every link, so that the other ends learn where we are now
    /// before they need to know.
    pub fn on_network_change(&mut self, now: Time) {
        self.last_now = now;
        let all: Vec<LinkId> = self.links.keys().copied().collect();
        for id in all {
            if let Some(link) = self.links.get_mut(&id) {
                link.on_network_change(now);
            }
            self.drive_link(id, now);
        }
    }

    /// Do what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.last_now = now;
        // Each once: what stays due until it is transmitted is due again after that.
        let due: Vec<LinkId> = std::iter::from_fn(|| self.timers.pop(now)).collect();
        for id in due {
            if let Some(dial) = self.dials.get_mut(&id) {
                dial.scheduled = Time::FAR_FUTURE;
                self.drive_dial(id, now);
            } else if let Some(link) = self.links.get_mut(&id) {
                link.scheduled = Time::FAR_FUTURE;
                self.drive_link(id, now);
            }
        }
        while let Some(index) = self.half_open.pop_expired(now) {
            self.indices.remove(&index);
            self.stats.abandoned += 1;
        }
        self.reassembly.expire(now);
    }

    /// When to call `handle_timeout`; the last `now` seen while anything waits to be sent or told.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.ready.is_empty() || !self.outbox.is_empty() || !self.events.is_empty() {
            return Some(self.last_now);
        }
        [
            self.timers.first(),
            self.half_open.deadline(),
            self.reassembly.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next datagram of control, written over `out`, and where it goes.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        self.last_now = now;
        if let Some((to, datagram)) = self.outbox.pop_front() {
            out.clear();
            out.extend_from_slice(&datagram);
            return Some(to);
        }
        while let Some(&id) = self.ready.front() {
            if let Some(link) = self.links.get_mut(&id) {
                if let Some(to) = link.poll_transmit(now, &mut self.rng, out) {
                    return Some(to);
                }
                link.ready = false;
                let due = link.deadline(&self.config);
                self.timers.reschedule(id, &mut link.scheduled, due);
            }
            self.ready.pop_front();
        }
        None
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The longest mycelium data frame that goes over `link` in one datagram; `None`: no such link.
    #[must_use]
    pub fn max_frame(&self, link: LinkId) -> Option<usize> {
        self.links.get(&link).map(Link::max_frame)
    }

    /// One link that is up.
    #[must_use]
    pub fn link(&self, link: LinkId, now: Time) -> Option<LinkSnapshot> {
        self.links.get(&link)?.snapshot(now)
    }

    /// The links that are up, in the order of their ids.
    pub fn links(&self, now: Time) -> impl Iterator<Item = LinkSnapshot> {
        self.links
            .values()
            .filter_map(move |link| link.snapshot(now))
    }

    /// What became of datagrams.
    #[must_use]
    pub fn stats(&self) -> NativeStats {
        self.stats
    }

    /// Sizes of the tables that strangers can fill: answered handshakes, messages of which a half is here, datagrams that wait.
    #[must_use]
    pub fn stranger_tables(&self) -> [usize; 3] {
        [
            self.half_open.len(),
            self.reassembly.len(),
            self.outbox.len(),
        ]
    }

    fn on_sealed<'a>(
        &'a mut self,
        from: SocketAddr,
        bytes: &'a mut [u8],
        now: Time,
    ) -> Received<'a> {
        let Some(header) = Header::parse(bytes) else {
            self.stats.invalid += 1;
            return Received::Nothing;
        };
        let id = match self.indices.get(&header.index) {
            Some(&Owner::Link(id)) => id,
            Some(Owner::HalfOpen) => return self.on_confirmation(from, header, bytes, now),
            Some(Owner::Dial(_)) | None => {
                self.on_stray(from, now);
                return Received::Nothing;
            }
        };
        let Some(link) = self.links.get_mut(&id) else {
            return Received::Nothing;
        };
        let Some(counter) = link.open(header, bytes, &mut self.stats) else {
            return Received::Nothing;
        };
        self.on_opened(id, header, counter, from, bytes, now)
    }

    /// What follows from a datagram that opened under the keys of a link.
    fn on_opened<'a>(
        &'a mut self,
        id: LinkId,
        header: Header,
        counter: u64,
        from: SocketAddr,
        bytes: &'a mut [u8],
        now: Time,
    ) -> Received<'a> {
        let opened = match self.links.get_mut(&id) {
            Some(link) => {
                let (rng, stats) = (&mut self.rng, &mut self.stats);
                let events = &mut self.events;
                link.on_opened(header, counter, from, bytes, now, rng, stats, events)
            }
            None => Opened::Taken,
        };
        if opened == Opened::Control {
            self.on_frames(id, header.index, &bytes[SEALED_AT..], now);
            return Received::Nothing;
        }
        let Some(link) = self.links.get_mut(&id) else {
            return Received::Nothing;
        };
        if !link.path.is_settled() {
            make_ready(&mut self.ready, link);
        }
        let due = link.data_deadline();
        if due < link.scheduled {
            self.timers.reschedule(id, &mut link.scheduled, due);
        }
        match opened {
            Opened::Data(class) => Received::Data {
                link: id,
                class,
                frame: &mut bytes[DATA_HEADROOM..],
            },
            Opened::Joined(class) => Received::Data {
                link: id,
                class,
                frame: link.joined(),
            },
            Opened::Control | Opened::Taken => Received::Nothing,
        }
    }

    /// A sealed datagram for no keys of ours: its sender may not know yet that we have started anew. Anybody can send such.
    fn on_stray(&mut self, from: SocketAddr, now: Time) {
        self.stats.unknown_index += 1;
        if self.events.len() < MAX_EVENTS && self.strays.take(now) {
            self.events.push_back(Event::Stray { address: from });
        }
    }

    fn on_frames(&mut self, id: LinkId, index: u32, frames: &[u8], now: Time) {
        let mut id = id;
        // Once more after a restart; a second one cannot come of the same frames.
        for _ in 0..2 {
            let Some(link) = self.links.get_mut(&id) else {
                return;
            };
            match link.on_frames(index, frames, now, &mut self.stats, &mut self.events) {
                Fate::Keep => {
                    make_ready(&mut self.ready, link);
                    return;
                }
                Fate::Restarted { index } => id = self.restart(id, index, now),
                Fate::End(reason, code) => {
                    self.end_link(id, reason, code, now);
                    return;
                }
            }
        }
        self.end_link(id, DownReason::Malformed, Some(CloseCode::Malformed), now);
    }

    /// The other end of a link is a new incarnation: what we had is down, and its newest keys go to a new link.
    fn restart(&mut self, old: LinkId, index: u32, now: Time) -> LinkId {
        let Some(mut link) = self.links.remove(&old) else {
            return old;
        };
        self.timers.remove(old, link.scheduled);
        let id = self.fresh_id();
        for gone in link.restart(id, index, now) {
            self.indices.remove(&gone);
        }
        self.indices.insert(index, Owner::Link(id));
        link.ready = false;
        link.scheduled = Time::FAR_FUTURE;
        self.by_key.insert(link.remote_key, id);
        self.events.push_back(Event::Down {
            link: old,
            reason: DownReason::Restarted,
        });
        self.links.insert(id, link);
        id
    }

    /// Somebody is heard or due for whom the network has a hint.
    fn on_hint(&mut self, address: SocketAddr, now: Time, hint: impl Fn(&mut Link)) {
        let links = self.links.iter_mut();
        let concerned: Vec<LinkId> = links
            .filter(|(_, link)| link.path.address() == address)
            .map(|(&id, link)| {
                hint(link);
                id
            })
            .collect();
        for id in concerned {
            self.drive_link(id, now);
        }
    }

    /// Do what is due on a link.
    fn drive_link(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let mut gone = Vec::new();
        let fate = link.on_timeout(now, &self.config, &mut gone, &mut self.events);
        for index in gone {
            self.indices.remove(&index);
        }
        if let Fate::End(reason, code) = fate {
            self.end_link(id, reason, code, now);
            return;
        }
        if link.wants_attempt(now, &self.config) {
            self.attempt_rekey(id, now);
        }
        if let Some(link) = self.links.get_mut(&id) {
            make_ready(&mut self.ready, link);
            let due = link.deadline(&self.config).max(now);
            self.timers.reschedule(id, &mut link.scheduled, due);
        }
    }

    fn end_link(&mut self, id: LinkId, reason: DownReason, code: Option<CloseCode>, now: Time) {
        let Some(mut link) = self.links.remove(&id) else {
            return;
        };
        if let Some(code) = code {
            for _ in 0..CLOSE_COPIES {
                if let Some((to, datagram)) = link.write_close(code, now) {
                    self.send(to, datagram);
                }
            }
        }
        for index in link.all_indices() {
            self.indices.remove(&index);
        }
        self.timers.remove(id, link.scheduled);
        self.by_key.remove(&link.remote_key);
        self.events.push_back(Event::Down { link: id, reason });
    }

    fn end_dial(&mut self, id: LinkId, reason: DownReason) {
        if let Some(dial) = self.dials.remove(&id) {
            for index in dial.indices() {
                self.indices.remove(&index);
            }
            self.timers.remove(id, dial.scheduled);
            self.events.push_back(Event::Down { link: id, reason });
        }
    }

    /// Why there is no need to dial the holder of `key`.
    fn needless(&self, key: &PublicKey) -> Option<DownReason> {
        if key == self.local.public_key() {
            return Some(DownReason::Ourselves);
        }
        self.by_key.get(key).map(|&id| DownReason::Duplicate(id))
    }

    /// Put a datagram of a handshake on its way.
    fn send(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        if self.outbox.len() < MAX_OUTBOX {
            self.outbox.push_back((to, datagram));
        } else {
            self.stats.outbox_full += 1;
        }
    }

    fn fresh_id(&mut self) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link = self.next_link.wrapping_add(1);
        id
    }
}

/// Put a link on the list of those that may have something to send.
fn make_ready(ready: &mut VecDeque<LinkId>, link: &mut Link) {
    if !link.ready {
        link.ready = true;
        ready.push_back(link.id);
    }
}

/// The one form of an address: IPv4 as such, no flow label.
fn canonical(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (IpAddr::V6(ip), SocketAddr::V6(v6)) => {
            SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()))
        }
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

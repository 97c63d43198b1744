//! Handshakes, both sides, and questions for keys: everything that is not sealed by a link.

use std::net::SocketAddr;

use super::super::accept::{Admission, HalfOpen, Room};
use super::super::datagram::Header;
use super::super::initiate::{self, Answered, Ingredients, Initiation};
use super::super::io::Received;
use super::super::link::{self, Link};
use super::super::who::Who;
use super::super::{DownReason, Event, LinkId};
use super::{NativeEndpoint, Owner, make_ready};
use crate::crypto::identity::PublicKey;
use crate::io::IdentityId;
use crate::session::fragment::{
    CookieReply, Fragment, MessageKind, Route, Source, Unit, Whole, split_second,
};
use crate::session::handshake::{Arrival, Established, Responder, Timestamp};
use crate::session::mac::{MacKey, Scope};
use crate::time::{Duration, Time};

impl NativeEndpoint {
    pub(super) fn on_who(&mut self, from: SocketAddr, bytes: &[u8], now: Time) {
        match self.who_key.parse(bytes) {
            None => self.stats.invalid += 1,
            Some(Who::Request { nonce }) => {
                if !self.gate.pay_who(from, now) {
                    self.stats.over_budget += 1;
                    return;
                }
                self.stats.who_answered += 1;
                let reply = self.who_key.reply(nonce, self.local.public_key());
                self.send(from, reply);
            }
            Some(Who::Reply { nonce, key }) => {
                let mut dials = self.dials.iter();
                let asker = dials.find(|(_, dial)| dial.asked(from, nonce));
                let Some(id) = asker.map(|(&id, _)| id) else {
                    self.stats.invalid += 1;
                    return;
                };
                if let Some(reason) = self.needless(&key) {
                    self.end_dial(id, reason);
                } else if let Some(dial) = self.dials.get_mut(&id) {
                    dial.on_key(key, self.config.network_key.as_ref(), now);
                    self.drive_dial(id, now);
                }
            }
        }
    }

    /// Do what is due on a dial.
    pub(super) fn drive_dial(&mut self, id: LinkId, now: Time) {
        let Some(dial) = self.dials.get_mut(&id) else {
            return;
        };
        if let Some(reason) = dial.failure(now) {
            self.end_dial(id, reason);
            return;
        }
        let address = dial.address;
        if let Some(nonce) = dial.poll_question(now) {
            let question = self.who_key.request(nonce);
            self.send(address, question);
        }
        let timestamp = self.timestamp(now);
        let index = self.fresh_index();
        let Some(dial) = self.dials.get_mut(&id) else {
            return;
        };
        if let Some(initiation) = dial.poll_attempt(now) {
            let with = Ingredients {
                local: &self.local,
                index,
                timestamp,
                has_aes: self.config.aes,
                rng: &mut self.rng,
            };
            // A key of low order cannot be met; the dial runs into its timeout.
            let attempt = initiation.attempt(with, now);
            self.send_attempt(address, index, Owner::Dial(id), attempt.ok(), now);
        }
        if let Some(dial) = self.dials.get_mut(&id) {
            let due = dial.deadline().max(now);
            self.timers.reschedule(id, &mut dial.scheduled, due);
        }
    }

    /// Begin a handshake that replaces the keys of a link, or begin it again.
    pub(super) fn attempt_rekey(&mut self, id: LinkId, now: Time) {
        let timestamp = self.timestamp(now);
        let index = self.fresh_index();
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let address = link.path.address();
        let remote = link.remote_key;
        let network_key = self.config.network_key.as_ref();
        let initiation = link
            .rekey
            .get_or_insert_with(|| Initiation::new(remote, network_key, now));
        let with = Ingredients {
            local: &self.local,
            index,
            timestamp,
            has_aes: self.config.aes,
            rng: &mut self.rng,
        };
        let attempt = initiation.attempt(with, now);
        self.send_attempt(address, index, Owner::Link(id), attempt.ok(), now);
    }

    fn send_attempt(
        &mut self,
        to: SocketAddr,
        index: u32,
        owner: Owner,
        attempt: Option<([Vec<u8>; 2], Option<u32>)>,
        now: Time,
    ) {
        self.last_now = now;
        let Some((datagrams, given_up)) = attempt else {
            return;
        };
        if let Some(old) = given_up {
            self.indices.remove(&old);
        }
        self.indices.insert(index, owner);
        for datagram in datagrams {
            self.send(to, datagram);
        }
    }

    pub(super) fn on_unit(&mut self, from: SocketAddr, bytes: &[u8], now: Time) {
        match Unit::parse(bytes) {
            Ok(Unit::Fragment(fragment)) if self.mac_key.verify(Scope::Link, bytes) => {
                match fragment.kind() {
                    MessageKind::One => self.on_fragment_of_one(from, &fragment, now),
                    MessageKind::Two => self.on_fragment_of_two(&fragment, now),
                }
            }
            Ok(Unit::CookieReply(reply)) => self.on_cookie(&reply, now),
            Ok(Unit::Fragment(_)) | Err(_) => self.stats.invalid += 1,
        }
    }

    fn on_cookie(&mut self, reply: &CookieReply<'_>, now: Time) {
        let Some((initiation, to)) = self.initiation(reply.receiver()) else {
            self.stats.invalid += 1;
            return;
        };
        match initiation.on_cookie(reply, now) {
            Some(datagrams) => {
                for datagram in datagrams {
                    self.send(to, datagram);
                }
            }
            None => self.stats.invalid += 1,
        }
    }

    /// The handshake of ours that knows itself by `index`, and where it goes.
    fn initiation(&mut self, index: u32) -> Option<(&mut Initiation, SocketAddr)> {
        match *self.indices.get(&index)? {
            Owner::Dial(id) => {
                let dial = self.dials.get_mut(&id)?;
                let to = dial.address;
                Some((dial.initiation()?, to))
            }
            Owner::Link(id) => {
                let link = self.links.get_mut(&id)?;
                let to = link.path.address();
                Some((link.rekey.as_mut()?, to))
            }
            Owner::HalfOpen => None,
        }
    }

    fn on_fragment_of_one(&mut self, from: SocketAddr, fragment: &Fragment<'_>, now: Time) {
        let (key, rng) = (&self.cookie_key, &mut self.rng);
        let links = self.links.values();
        self.gate
            .learn(now, || links.map(|link| link.path.address().ip()).collect());
        let mut route = Route {
            identity: IdentityId::NODE,
            source: Source::underlay(from.ip()),
            link: 0,
            proven: false,
        };
        let mut admission = self.gate.admit(fragment, from, key, rng, now);
        if let Admission::Pass { proven: false } = admission
            && self.reassembly.is_crowded(now, route, fragment)
        {
            admission = self.gate.challenge(fragment, from, key, rng, now);
        }
        let proven = match admission {
            Admission::Pass { proven } => proven,
            Admission::Cookie(reply) => {
                self.stats.cookies += 1;
                self.send(from, initiate::datagram(reply.to_vec()));
                return;
            }
            Admission::Drop => {
                self.stats.over_budget += 1;
                return;
            }
        };
        route.proven = proven;
        let Some(whole) = self.reassembly.add(now, route, fragment) else {
            return;
        };
        if let Some(half) = self.half_open.of_message(&whole.hash) {
            let answer = half.repeat(now).cloned();
            for datagram in answer.into_iter().flatten() {
                self.send(from, datagram);
            }
            return;
        }
        if !self.gate.pay(proven, from, now) {
            self.stats.over_budget += 1;
            return;
        }
        if self.answer(from, fragment, proven, &whole, now).is_none() {
            self.stats.refused += 1;
        }
    }

    /// Answer message 1. `None`: it is not worth an answer.
    fn answer(
        &mut self,
        from: SocketAddr,
        fragment: &Fragment<'_>,
        proven: bool,
        whole: &Whole,
        now: Time,
    ) -> Option<()> {
        let identified = Responder::identify(Arrival::Link, &self.local, &whole.message).ok()?;
        let remote = *identified.remote_key();
        if remote == *self.local.public_key() {
            return None;
        }
        let known = self.by_key.get(&remote).and_then(|id| self.links.get(id));
        if known.is_some_and(|link| link.has_answered(&whole.hash)) {
            return None;
        }
        let sender = fragment.sender();
        let mut proven = proven;
        let mut room = self.half_open.room(&remote, proven, now);
        if room == Room::WithCookie && self.gate.is_proven(fragment, from, now) {
            proven = true;
            room = self.half_open.room(&remote, proven, now);
        }
        match room {
            Room::Free => {}
            Room::WithCookie => {
                let (key, rng) = (&self.cookie_key, &mut self.rng);
                let reply = self.gate.cookie(whole, sender, from, key, rng, now)?;
                self.stats.cookies += 1;
                self.send(from, initiate::datagram(reply.to_vec()));
                return Some(());
            }
            Room::None => return None,
        }
        let authenticated = identified.authenticate(sender).ok()?;
        let index = self.fresh_index();
        let network_key = self.config.network_key.as_ref();
        let response = authenticated
            .respond(index, self.config.aes, network_key, &mut self.rng)
            .ok()?;
        let units = split_second(
            &response.message,
            index,
            sender,
            Scope::Link,
            &MacKey::new(&remote, network_key),
            &response.reply_key,
        );
        let answer = units.map(initiate::datagram);
        let half_open = HalfOpen::new(
            response.established,
            from,
            whole.hash,
            answer.clone(),
            proven,
            now,
        );
        if let Some(old) = self.half_open.insert(half_open) {
            self.indices.remove(&old);
            self.stats.abandoned += 1;
        }
        self.indices.insert(index, Owner::HalfOpen);
        self.stats.answered += 1;
        for datagram in answer {
            self.send(from, datagram);
        }
        Some(())
    }

    fn on_fragment_of_two(&mut self, fragment: &Fragment<'_>, now: Time) {
        let index = fragment.receiver();
        let Some(&owner) = self.indices.get(&index) else {
            self.stats.invalid += 1;
            return;
        };
        let network_key = self.config.network_key.clone();
        let Some((initiation, _)) = self.initiation(index) else {
            self.stats.invalid += 1;
            return;
        };
        match (
            initiation.on_fragment(fragment, network_key.as_ref(), now),
            owner,
        ) {
            (Answered::Done(established), Owner::Dial(id)) => {
                self.on_dialled(id, *established, now);
            }
            (Answered::Done(established), Owner::Link(id)) => {
                self.on_rekeyed(id, *established, now);
            }
            (Answered::Half, _) => {}
            (Answered::Useless, _) => self.stats.refused += 1,
            (Answered::Forged, _) | (_, Owner::HalfOpen) => self.stats.invalid += 1,
        }
    }

    /// The handshake of a dial is done: its keys go to a new link, or to the one that came into being meanwhile.
    fn on_dialled(&mut self, id: LinkId, established: Established, now: Time) {
        let Some(dial) = self.dials.remove(&id) else {
            return;
        };
        for index in dial.indices() {
            self.indices.remove(&index);
        }
        self.timers.remove(id, dial.scheduled);
        let remote = established.remote_key;
        let link = match self.by_key.get(&remote) {
            Some(&link) => {
                self.events.push_back(Event::Down {
                    link: id,
                    reason: DownReason::Duplicate(link),
                });
                link
            }
            None => {
                self.create(id, remote, dial.address, true, now);
                id
            }
        };
        self.add_epoch(link, established, None, now);
        self.drive_link(link, now);
    }

    fn on_rekeyed(&mut self, id: LinkId, established: Established, now: Time) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        for index in link.on_rekeyed().iter().flat_map(Initiation::indices) {
            self.indices.remove(&index);
        }
        self.add_epoch(id, established, None, now);
        self.drive_link(id, now);
    }

    /// A datagram for keys whose initiator has not shown itself: if it opens, it has.
    pub(super) fn on_confirmation<'a>(
        &'a mut self,
        from: SocketAddr,
        header: Header,
        bytes: &'a mut [u8],
        now: Time,
    ) -> Received<'a> {
        let Some(half) = self.half_open.get_mut(header.index) else {
            return Received::Nothing;
        };
        let remote = half.established.remote_key;
        let known = self.by_key.get(&remote).copied();
        // A quarter is kept for dials: whoever makes up identities must not keep us from those we want.
        let inbound = self.config.max_links - self.config.max_links / 4;
        if known.is_none() && self.links.len() + self.dials.len() >= inbound {
            self.stats.over_budget += 1;
            return Received::Nothing;
        }
        let receiver = &mut half.established.receiver;
        let Some(counter) = link::open(receiver, header, bytes, &mut self.stats) else {
            return Received::Nothing;
        };
        let Some(mut half) = self.half_open.remove(header.index) else {
            return Received::Nothing;
        };
        self.stats.confirmed += 1;
        half.established.sender.release();
        // A link that exists stays where it is: that a handshake came from elsewhere moves it no more than any datagram does.
        let id = known.unwrap_or_else(|| {
            let id = self.fresh_id();
            self.create(id, remote, half.address, false, now);
            id
        });
        self.add_epoch(id, half.established, Some(half.first_message), now);
        if let Some(link) = self.links.get_mut(&id) {
            link.on_confirmed(now.since(half.since));
            make_ready(&mut self.ready, link);
        }
        self.on_opened(id, header, counter, from, bytes, now)
    }

    fn create(
        &mut self,
        id: LinkId,
        remote: PublicKey,
        address: SocketAddr,
        dialled: bool,
        now: Time,
    ) {
        let link = Link::new(
            id,
            remote,
            self.local.public_key(),
            address,
            dialled,
            self.config.max_datagram,
            &mut self.rng,
            now,
        );
        self.links.insert(id, link);
        self.by_key.insert(remote, id);
    }

    fn add_epoch(
        &mut self,
        id: LinkId,
        established: Established,
        first_message: Option<[u8; 32]>,
        now: Time,
    ) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        self.indices
            .insert(established.local_index, Owner::Link(id));
        if let Some(displaced) = link.add_epoch(established, first_message, now) {
            self.indices.remove(&displaced);
        }
    }

    /// Our clock for a handshake, later than for any before.
    fn timestamp(&mut self, now: Time) -> Timestamp {
        let (unix, at) = self.wall;
        let clock = Timestamp::from_unix(unix + now.since(at));
        self.last_timestamp = clock.max(successor(self.last_timestamp));
        self.last_timestamp
    }

    fn fresh_index(&mut self) -> u32 {
        loop {
            let index = u32::from_be_bytes(self.rng.array());
            if index != 0 && !self.indices.contains_key(&index) {
                return index;
            }
        }
    }
}

/// The next nanosecond.
fn successor(timestamp: Timestamp) -> Timestamp {
    let (seconds, nanoseconds) = timestamp.0.split_at(8);
    let read = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    };
    Timestamp::from_unix(
        Duration::from_secs(read(seconds)) + Duration::from_nanos(read(nanoseconds) + 1),
    )
}

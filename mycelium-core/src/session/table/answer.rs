//! Handshakes that others begin: message 1, its answer, and the initiator's proof.

use std::net::Ipv6Addr;

use crate::addr::Subnet;
use crate::io::PeerId;
use crate::session::cookie::ReturnAddress;
use crate::session::fragment::{self, Fragment, Route, Source};
use crate::session::handshake::{Arrival, Responder};
use crate::session::mac::{MAC_LEN, MacKey, Scope};
use crate::session::remote::{Pair, Session};
use crate::session::responder::{Asked, HalfOpen, Room, Verdict};
use crate::session::transport::ReceiveError;
use crate::time::Time;

use super::{Action, LocalKeys, Locator, Opened, Sessions, Turn, fresh_index};

impl Sessions {
    /// The first packet of an initiator: its proof.
    #[cold]
    pub(super) fn open_first<'a>(
        &mut self,
        index: u32,
        pair: Pair,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        body: &'a mut [u8],
        now: Time,
    ) -> Option<Result<Opened<'a>, ReceiveError>> {
        let half = self.half_open.get_mut(index)?;
        if half.pair != pair {
            return None;
        }
        let plaintext = match half
            .established
            .receiver
            .open_body(source, destination, body)
        {
            Ok(plaintext) => plaintext,
            Err(error) => return Some(Err(error)),
        };
        let remote_key = half.established.remote_key;
        let slot = match self.pins.key(pair.1) {
            // Pinned since: whoever has the other key for this /64 was confirmed first.
            Some(pinned) if *pinned != remote_key => {
                self.stats.conflicts += 1;
                None
            }
            _ => self.slot_for(pair, &remote_key, Turn::Theirs, now),
        };
        let mut half = self.half_open.remove(index)?;
        let Some(slot) = slot else {
            self.by_index.remove(&u64::from(index));
            return None;
        };
        half.established.sender.release();
        let session = Session {
            sender: half.established.sender,
            receiver: half.established.receiver,
            suite: half.established.suite,
            created: half.created,
            initiated: false,
            crossed: half.crossed,
            message_hash: half.message_hash,
        };
        self.install(slot, session);
        // So that the initiator knows, also where our host has nothing to say.
        self.actions.push_back(Action::Empty {
            slot,
            confirm: true,
        });
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.counters.received += 1;
        }
        Some(Ok(Opened { slot, plaintext }))
    }

    pub(super) fn on_message_1(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        fragment: &Fragment<'_>,
        from: PeerId,
        now: Time,
    ) {
        let address = ReturnAddress::end_to_end(source);
        let proven = self.jar.verify(now, &address, fragment);
        let route = Route {
            identity: pair.0,
            source: Source::overlay(pair.1),
            link: from.0,
            proven,
        };
        // Somebody who proved its address and was answered may have lost the answer.
        let repeats = proven && self.half_open.has(pair);
        let loaded = !repeats && self.budgets.is_loaded(from, pair, proven, now);
        if loaded || !proven && self.reassembly.is_crowded(now, route, fragment) {
            if proven {
                self.stats.over_budget += 1;
            } else if fragment.number() == 0 {
                let asked = (fragment.sender(), fragment.mac1());
                self.tell_cookie(pair, source, asked, from, now);
            }
            return;
        }
        let Some(message) = self.reassembly.add(now, route, fragment) else {
            return;
        };
        let message_hash = message.hash;
        if let Some(half) = self.half_open.find(pair, &message_hash) {
            if half.may_repeat(now) {
                let units = half.units.clone();
                let half_open = Some((half.established.local_index, from));
                self.actions.push_back(Action::Units {
                    from: pair.0,
                    to: source,
                    units,
                    half_open,
                });
            }
            return;
        }
        let slot = self.slots.get(&pair).copied();
        let remote = slot.and_then(|slot| self.remotes[slot].as_ref());
        if remote.is_some_and(|remote| {
            let mut sessions = remote.sessions.iter();
            sessions.any(|session| session.message_hash == message_hash)
        }) {
            self.stats.drop_unit += 1;
            return;
        }
        match self.half_open.room(pair, now) {
            Room::Yes => {}
            Room::WithCookie if proven => {}
            Room::WithCookie => {
                let asked = (fragment.sender(), &message.mac1);
                self.tell_cookie(pair, source, asked, from, now);
                return;
            }
            Room::No => {
                self.stats.over_budget += 1;
                return;
            }
        }
        if !self.has_place(pair, now) {
            // It would take itself for heard, and not fall back to anything.
            self.stats.table_full += 1;
            return;
        }
        let verdict = match self.budgets.waits(&message_hash) {
            true => Verdict::Refused,
            false => self.budgets.take(from, pair, proven, now),
        };
        let asked = Asked {
            pair,
            source,
            sender: fragment.sender(),
            message,
            from,
        };
        match verdict {
            Verdict::Now => self.answer(&asked, now),
            Verdict::InTurn => self.budgets.line_up(asked),
            Verdict::Refused => {
                self.stats.over_budget += 1;
                if !proven {
                    let mac1 = (asked.sender, &asked.message.mac1);
                    self.tell_cookie(pair, source, mac1, from, now);
                }
            }
        }
    }

    /// Those that waited for their turn.
    pub(super) fn answer_in_turn(&mut self, now: Time) {
        while let Some(asked) = self.budgets.next_in_line(now) {
            // Others of the same pair may have been answered meanwhile.
            match self.half_open.room(asked.pair, now) {
                Room::Yes | Room::WithCookie => self.answer(&asked, now),
                Room::No => self.stats.over_budget += 1,
            }
        }
    }

    fn answer(&mut self, asked: &Asked, now: Time) {
        let Asked {
            pair, source, from, ..
        } = *asked;
        let Some(half) = self.respond(asked, now) else {
            self.stats.drop_handshake += 1;
            return;
        };
        let slot = self.slots.get(&pair).copied();
        let remote = slot.and_then(|slot| self.remotes[slot].as_ref());
        let crossed = remote.is_some_and(|remote| !remote.attempts.is_empty());
        let half = HalfOpen { crossed, ..half };
        let index = half.established.local_index;
        self.actions.push_back(Action::Units {
            from: pair.0,
            to: source,
            units: half.units.clone(),
            half_open: Some((index, from)),
        });
        for gone in self.half_open.insert(half) {
            self.by_index.remove(&u64::from(gone));
        }
        self.by_index.insert(u64::from(index), Locator::HalfOpen);
        self.stats.answered += 1;
    }

    /// Answer message 1, paying step by step.
    fn respond(&mut self, asked: &Asked, now: Time) -> Option<HalfOpen> {
        let Asked {
            pair,
            source,
            sender,
            ref message,
            from,
        } = *asked;
        let keys = self.locals.get(&pair.0)?;
        let identified =
            Responder::identify(Arrival::EndToEnd { source }, &keys.local, &message.message)
                .ok()?;
        let remote_key = *identified.remote_key();
        let is_ours = |other: &LocalKeys| *other.local.public_key() == remote_key;
        if self.locals.values().any(is_ours) {
            return None;
        }
        if self.pins.key(pair.1).is_some_and(|key| *key != remote_key) {
            self.stats.conflicts += 1;
            return None;
        }
        let authenticated = identified.authenticate(sender).ok()?;
        let index = fresh_index(&mut self.rng, &self.by_index);
        let network_key = self.config.network_key.as_ref();
        let response = authenticated
            .respond(index, self.config.has_aes, network_key, &mut self.rng)
            .ok()?;
        let established = response.established;
        let scope = Scope::EndToEnd {
            source: keys.local.address(),
            destination: source,
        };
        let units = fragment::split_second(
            &response.message,
            index,
            established.remote_index,
            scope,
            &MacKey::new(&remote_key, network_key),
            &response.reply_key,
        );
        Some(HalfOpen {
            pair,
            established,
            created: now,
            message_hash: message.hash,
            units: units.to_vec(),
            sent: now,
            unsent: false,
            from,
            crossed: false,
        })
    }

    /// Answer a first message with a cookie: its index, and MAC1 of its first half.
    pub(super) fn tell_cookie(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        (index, mac1): (u32, &[u8; MAC_LEN]),
        from: PeerId,
        now: Time,
    ) {
        let Some(keys) = self.locals.get(&pair.0) else {
            return;
        };
        if !self.budgets.take_cookie(from, now) {
            return;
        }
        let address = ReturnAddress::end_to_end(source);
        let (key, rng) = (&keys.cookie_key, &mut self.rng);
        let reply = self.jar.reply_to(now, &address, index, mac1, key, rng);
        self.stats.cookies_sent += 1;
        self.actions.push_back(Action::Units {
            from: pair.0,
            to: source,
            units: vec![reply.to_vec()],
            half_open: None,
        });
    }

    /// Message 2 found no route. True: ask for one.
    pub(crate) fn on_unsent(&mut self, index: u32, from: PeerId, now: Time) -> bool {
        self.half_open.mark_unsent(index);
        self.budgets.take_query(from, now)
    }

    /// There are new routes: send what waited for them.
    pub(crate) fn on_routes(&mut self, has_route: impl Fn(Subnet) -> bool) {
        for index in self.half_open.take_sendable(|pair| has_route(pair.1)) {
            if let Some(half) = self.half_open.get_mut(index) {
                self.actions.push_back(Action::Units {
                    from: half.pair.0,
                    to: half.established.remote_key.address(),
                    units: half.units.clone(),
                    half_open: Some((index, half.from)),
                });
            }
        }
    }
}

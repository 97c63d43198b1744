//! Handshakes that we begin: message 1, a cookie for it, message 2.

use std::net::Ipv6Addr;

use crate::session::fragment::{self, CookieReply, Fragment, SecondMessage};
use crate::session::handshake::{Context, Established, Hello, Initiator, Timestamp};
use crate::session::mac::Scope;
use crate::session::remote::{Attempt, Pair, Session};
use crate::time::Time;

use super::{Action, CONFIRM_AGAIN, Locator, Sessions, fresh_index};

/// Cookie replies that one message 1 is repeated for.
const COOKIES_PER_MESSAGE: u8 = 2;

impl Sessions {
    /// Begin a handshake.
    pub(super) fn initiate(&mut self, slot: usize, now: Time) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        remote.on_initiated(now);
        if !self.budgets.take_host(now) {
            self.stats.over_budget += 1;
            return;
        }
        let Some(keys) = self.locals.get(&remote.pair.0) else {
            return;
        };
        let index = fresh_index(&mut self.rng, &self.by_index);
        let hello = Hello {
            index,
            timestamp: Timestamp::from_unix(self.config.unix_epoch + now.since(Time::ZERO)),
            has_aes: self.config.has_aes,
        };
        let Ok((initiator, message)) = Initiator::start(
            Context::EndToEnd,
            &keys.local,
            &remote.key,
            &hello,
            &mut self.rng,
        ) else {
            self.stats.low_order += 1;
            return;
        };
        let scope = Scope::EndToEnd {
            source: keys.local.address(),
            destination: remote.address,
        };
        let mut units = fragment::split_first(&message, index, scope, &remote.mac_key);
        remote.cookies.stamp(now, &mut units);
        self.stats.initiated += 1;
        self.actions.push_back(Action::Units {
            from: remote.pair.0,
            to: remote.address,
            units: units.to_vec(),
            half_open: None,
        });
        // Two, so that an answer to the one before may still come.
        let old = (remote.attempts.len() >= 2).then(|| remote.attempts.remove(0));
        remote.attempts.push(Attempt {
            initiator,
            units,
            started: now,
            second: SecondMessage::default(),
            cookies: 0,
        });
        if let Some(old) = old {
            self.by_index.remove(&u64::from(old.initiator.index()));
        }
        self.by_index
            .insert(u64::from(index), Locator::Attempt(slot));
        self.arm(slot);
    }

    pub(super) fn on_cookie_reply(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        reply: &CookieReply<'_>,
        now: Time,
    ) {
        let index = reply.receiver();
        let Some(&Locator::Attempt(slot)) = self.by_index.get(&u64::from(index)) else {
            return;
        };
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        if remote.pair != pair || remote.address != source {
            return;
        }
        let Some(attempt) = remote
            .attempts
            .iter_mut()
            .find(|attempt| attempt.initiator.index() == index)
        else {
            return;
        };
        if attempt.cookies >= COOKIES_PER_MESSAGE
            || !remote.cookies.accept(now, &remote.cookie_key, reply)
        {
            return;
        }
        attempt.cookies += 1;
        remote.cookies.stamp(now, &mut attempt.units);
        self.stats.cookies_received += 1;
        self.actions.push_back(Action::Units {
            from: pair.0,
            to: remote.address,
            units: attempt.units.to_vec(),
            half_open: None,
        });
    }

    pub(super) fn on_message_2(
        &mut self,
        pair: Pair,
        source: Ipv6Addr,
        fragment: &Fragment<'_>,
        now: Time,
    ) {
        let index = fragment.receiver();
        let Some(&Locator::Attempt(slot)) = self.by_index.get(&u64::from(index)) else {
            self.stats.drop_unit += 1;
            return;
        };
        let network_key = self.config.network_key.as_ref();
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        if remote.pair != pair || remote.address != source {
            self.stats.drop_unit += 1;
            return;
        }
        if self.pins.key(pair.1).is_some_and(|key| *key != remote.key) {
            // Pinned since we began.
            self.stats.conflicts += 1;
            return;
        }
        let Some(position) = remote
            .attempts
            .iter()
            .position(|attempt| attempt.initiator.index() == index)
        else {
            return;
        };
        let attempt = &mut remote.attempts[position];
        if !attempt.initiator.reply_key().verify(fragment.bytes()) {
            self.stats.drop_mac1 += 1;
            return;
        }
        let Some(message) = attempt.second.add(now, fragment) else {
            return;
        };
        let finished = attempt
            .initiator
            .finish(fragment.sender(), &message.message, network_key);
        let Ok(established) = finished else {
            self.stats.drop_handshake += 1;
            return;
        };
        let started = remote.attempts.remove(position).started;
        // Their initiation was answered while ours was under way.
        let crossed = self.half_open.has(pair)
            || remote.sessions.first().is_some_and(|session| {
                !session.initiated && session.crossed && session.created >= started
            });
        let session = session_of(established, now, true, crossed, [0; 32]);
        self.install(slot, session);
        if let Some(Some(remote)) = self.remotes.get_mut(slot) {
            remote.confirm = Some((now + CONFIRM_AGAIN[0], 0));
        }
        self.actions.push_back(Action::Empty {
            slot,
            confirm: true,
        });
        self.arm(slot);
    }
}

fn session_of(
    established: Established,
    created: Time,
    initiated: bool,
    crossed: bool,
    message_hash: [u8; 32],
) -> Session {
    Session {
        sender: established.sender,
        receiver: established.receiver,
        suite: established.suite,
        created,
        initiated,
        crossed,
        message_hash,
    }
}

//! Our side of a handshake until it is finished: attempts, each with fresh keys, until one is answered.

use std::collections::VecDeque;

use super::datagram::HANDSHAKE;
use crate::crypto::identity::PublicKey;
use crate::rng::Rng;
use crate::session::cookie::{CookieKey, CookieMemory};
use crate::session::fragment::{CookieReply, Fragment, SecondMessage, split_first};
use crate::session::handshake::{
    Context, Established, Hello, Initiator, Local, LowOrder, Timestamp,
};
use crate::session::mac::{MacKey, NetworkKey, Scope};
use crate::time::{Duration, Time};

/// Attempts whose answer still counts: on a slow path the answer to one comes after the next was sent.
const MAX_ATTEMPTS: usize = 3;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_millis(800);
/// How often the last message is sent again, with a cookie, because the other end asked for one.
const MAX_REPETITIONS: u8 = 2;

#[derive(Debug)]
struct Attempt {
    initiator: Initiator,
    answer: SecondMessage,
}

/// A handshake that we want.
#[derive(Debug)]
pub(super) struct Initiation {
    remote: PublicKey,
    mac_key: MacKey,
    cookie_key: CookieKey,
    cookies: CookieMemory,
    attempts: VecDeque<Attempt>,
    /// The units of the last message.
    units: [Vec<u8>; 2],
    repetitions: u8,
    tries: u32,
    next: Time,
}

/// What an attempt is made of.
#[derive(Debug)]
pub(super) struct Ingredients<'a> {
    pub(super) local: &'a Local,
    pub(super) index: u32,
    pub(super) timestamp: Timestamp,
    pub(super) has_aes: bool,
    pub(super) rng: &'a mut Rng,
}

/// What became of a fragment of message 2.
#[derive(Debug)]
pub(super) enum Answered {
    /// Not the responder's: it changed nothing.
    Forged,
    /// The other half is still to come.
    Half,
    /// The responder's, but of no use: another suite than we offered, for example.
    Useless,
    /// The handshake is done.
    Done(Box<Established>),
}

impl Initiation {
    pub(super) fn new(remote: PublicKey, network_key: Option<&NetworkKey>, now: Time) -> Self {
        Self {
            remote,
            mac_key: MacKey::new(&remote, network_key),
            cookie_key: CookieKey::new(&remote, network_key),
            cookies: CookieMemory::default(),
            attempts: VecDeque::new(),
            units: [Vec::new(), Vec::new()],
            repetitions: 0,
            tries: 0,
            next: now,
        }
    }

    /// When the next attempt is due.
    pub(super) fn deadline(&self) -> Time {
        self.next
    }

    /// The indices by which answers come.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        let attempts = self.attempts.iter();
        attempts.map(|attempt| attempt.initiator.index())
    }

    /// Make an attempt: its datagrams, and the index of an older attempt that is given up for it.
    pub(super) fn attempt(
        &mut self,
        with: Ingredients<'_>,
        now: Time,
    ) -> Result<([Vec<u8>; 2], Option<u32>), LowOrder> {
        self.next = now + (FIRST_RETRY * 2u32.pow(self.tries.min(8))).min(MAX_RETRY);
        self.tries += 1;
        let Ingredients {
            local,
            index,
            timestamp,
            has_aes,
            rng,
        } = with;
        let hello = Hello {
            index,
            timestamp,
            has_aes,
        };
        let (initiator, message) =
            Initiator::start(Context::Link, local, &self.remote, &hello, rng)?;
        self.units = split_first(&message, index, Scope::Link, &self.mac_key);
        self.repetitions = 0;
        self.cookies.stamp(now, &mut self.units);
        let given_up = (self.attempts.len() >= MAX_ATTEMPTS)
            .then(|| self.attempts.pop_front())
            .flatten()
            .map(|attempt| attempt.initiator.index());
        self.attempts.push_back(Attempt {
            initiator,
            answer: SecondMessage::default(),
        });
        Ok((self.units.clone().map(datagram), given_up))
    }

    /// The other end is busy: the same message again, with the cookie. `None` if the reply answers something else.
    pub(super) fn on_cookie(&mut self, reply: &CookieReply<'_>, now: Time) -> Option<[Vec<u8>; 2]> {
        let genuine = self.cookies.accept(now, &self.cookie_key, reply);
        if !genuine || self.repetitions >= MAX_REPETITIONS {
            return None;
        }
        self.repetitions += 1;
        self.cookies.stamp(now, &mut self.units);
        Some(self.units.clone().map(datagram))
    }

    /// Take a fragment of message 2.
    pub(super) fn on_fragment(
        &mut self,
        fragment: &Fragment<'_>,
        network_key: Option<&NetworkKey>,
        now: Time,
    ) -> Answered {
        let mut attempts = self.attempts.iter_mut();
        let attempt = attempts.find(|attempt| attempt.initiator.index() == fragment.receiver());
        let Some(attempt) = attempt else {
            return Answered::Forged;
        };
        if !attempt.initiator.reply_key().verify(fragment.bytes()) {
            return Answered::Forged;
        }
        let Some(whole) = attempt.answer.add(now, fragment) else {
            return Answered::Half;
        };
        let initiator = &mut attempt.initiator;
        match initiator.finish(fragment.sender(), &whole.message, network_key) {
            Ok(established) => Answered::Done(Box::new(established)),
            Err(_) => Answered::Useless,
        }
    }
}

/// A handshake unit as a datagram.
pub(super) fn datagram(unit: Vec<u8>) -> Vec<u8> {
    let mut datagram = unit;
    datagram.insert(0, HANDSHAKE);
    datagram
}

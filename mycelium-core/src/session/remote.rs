//! What a local identity knows of a remote one: sessions, handshakes under way, signs of life. Decides, and sends nothing.

use std::net::Ipv6Addr;

use crate::addr::Subnet;
use crate::crypto::aead::Suite;
use crate::crypto::identity::PublicKey;
use crate::io::IdentityId;
use crate::time::{Duration, Time};

use super::config::{
    HANDSHAKE_LIFETIME, LONGEST_PAUSE, OWED, RECEIVE_FOR, SEND_FOR, SESSIONS_PER_REMOTE, UNHEARD,
    V1_FOR,
};
use super::cookie::{CookieKey, CookieMemory};
use super::fragment::SecondMessage;
use super::handshake::Initiator;
use super::mac::MacKey;
use super::path::Path;
use super::transport::{Receiver, Sender};
use super::view::SessionCounters;

/// A local identity and a remote /64.
pub(crate) type Pair = (IdentityId, Subnet);

/// A confirmed session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) suite: Suite,
    pub(crate) created: Time,
    /// We sent message 1.
    pub(crate) initiated: bool,
    /// Both ends initiated at the same time.
    pub(crate) crossed: bool,
    /// Of the message 1 that a responder answered: the same one again is dropped.
    pub(crate) message_hash: [u8; 32],
}

impl Session {
    fn may_send(&self, now: Time) -> bool {
        now.since(self.created) < SEND_FOR && !self.sender.is_exhausted()
    }
}

/// A handshake of ours that waits for message 2.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) initiator: Initiator,
    pub(crate) units: [Vec<u8>; 2],
    /// What has come of message 2.
    pub(crate) second: SecondMessage,
    pub(crate) started: Time,
    /// Cookie replies that made us send it again.
    pub(crate) cookies: u8,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) pair: Pair,
    pub(crate) key: PublicKey,
    /// Of the key.
    pub(crate) address: Ipv6Addr,
    pub(crate) mac_key: MacKey,
    pub(crate) cookie_key: CookieKey,
    pub(crate) cookies: CookieMemory,
    /// Newest first, at most [`SESSIONS_PER_REMOTE`].
    pub(crate) sessions: Vec<Session>,
    /// At most two, newest last.
    pub(crate) attempts: Vec<Attempt>,
    /// When the next message 1 goes out for packets that wait or traffic that is not answered.
    pub(crate) retry_at: Option<Time>,
    /// No message 1 earlier than this.
    pub(crate) quiet_until: Time,
    pause: Duration,
    /// Since when packets of our host have waited for a session.
    pub(crate) waiting_since: Option<Time>,
    /// It speaks v1, as far as we know, until then.
    pub(crate) v1_until: Time,
    v1_for: Duration,
    /// It says, by a hint, that it speaks v2.
    pub(crate) hinted: bool,
    /// Our host turned to it at some time.
    pub(crate) ours: bool,
    /// The latest packet of our host.
    pub(crate) last_host: Time,
    /// The latest packet that opened.
    pub(crate) last_heard: Option<Time>,
    /// Sent since then, heard nothing.
    unheard_since: Option<Time>,
    /// Heard since then, sent nothing.
    owed_since: Option<Time>,
    /// When our confirmation is repeated, and how often it was.
    pub(crate) confirm: Option<(Time, u8)>,
    pub(crate) path: Path,
    pub(crate) counters: SessionCounters,
    /// When its timer is set for.
    pub(crate) armed: Option<Time>,
}

impl Remote {
    pub(crate) fn new(pair: Pair, key: PublicKey, mac_key: MacKey, cookie_key: CookieKey) -> Self {
        Self {
            pair,
            key,
            address: key.address(),
            mac_key,
            cookie_key,
            cookies: CookieMemory::default(),
            sessions: Vec::new(),
            attempts: Vec::new(),
            retry_at: None,
            quiet_until: Time::ZERO,
            pause: FIRST_PAUSE,
            waiting_since: None,
            v1_until: Time::ZERO,
            v1_for: V1_FOR,
            hinted: false,
            ours: false,
            last_host: Time::ZERO,
            last_heard: None,
            unheard_since: None,
            owed_since: None,
            confirm: None,
            path: Path::new(),
            counters: SessionCounters::default(),
            armed: None,
        }
    }

    /// Which session to send on: the newest, or of two whose handshakes crossed the one that the lower key initiated, on which
    /// both ends agree.
    #[inline]
    pub(crate) fn current_position(&self, own: &PublicKey, now: Time) -> Option<usize> {
        let newest = self.sessions.first()?;
        if newest.crossed
            && let Some(other) = self.sessions.get(1)
            && other.crossed
            && other.initiated != newest.initiated
            && other.initiated == (own < &self.key)
            && newest.created.since(other.created) < HANDSHAKE_LIFETIME
            && other.may_send(now)
        {
            return Some(1);
        }
        newest.may_send(now).then_some(0)
    }

    /// The session that we know by `index`.
    #[inline]
    pub(crate) fn by_index(&mut self, index: u32) -> Option<&mut Session> {
        self.sessions
            .iter_mut()
            .find(|session| session.receiver.index() == index)
    }

    /// Whether the session in use is so old, or so used, that new keys are due. The initiator begins, a while later anyone.
    pub(crate) fn is_worn(&self, rekey_after: Duration, now: Time) -> bool {
        self.sessions.first().is_some_and(|session| {
            let age = now.since(session.created);
            let due = match session.initiated {
                true => rekey_after,
                false => rekey_after * 5 / 4,
            };
            age >= due || session.sender.is_worn()
        })
    }

    /// Something other than an empty packet was sent.
    #[inline]
    pub(crate) fn on_sent(&mut self, now: Time) {
        self.owed_since = None;
        if self.unheard_since.is_none() {
            self.unheard_since = Some(now);
        }
    }

    /// A packet opened.
    #[inline]
    pub(crate) fn on_heard(&mut self, is_empty: bool, now: Time) {
        self.last_heard = Some(now);
        self.unheard_since = None;
        self.confirm = None;
        if !is_empty && self.owed_since.is_none() {
            self.owed_since = Some(now);
        }
    }

    /// An empty packet was sent: what was owed.
    pub(crate) fn on_sent_empty(&mut self) {
        self.owed_since = None;
    }

    /// Whether an empty packet is due.
    pub(crate) fn owes(&self, now: Time) -> bool {
        self.owed_since
            .is_some_and(|since| now.since(since) >= OWED)
    }

    /// Whether what was sent has stayed without an answer for so long that the other end may have lost its keys.
    pub(crate) fn is_unheard(&self, now: Time) -> bool {
        self.unheard_since
            .is_some_and(|since| now.since(since) >= UNHEARD)
    }

    /// A handshake was begun: when the next may be.
    pub(crate) fn on_initiated(&mut self, now: Time) {
        self.quiet_until = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        // Counts anew from here.
        if self.unheard_since.is_some() {
            self.unheard_since = Some(now);
        }
    }

    /// Nobody answers: it is taken for a v1 node.
    pub(crate) fn on_v1_verdict(&mut self, now: Time) {
        self.v1_until = now + self.v1_for;
        self.v1_for = (self.v1_for * 2).min(super::config::V1_LONGEST);
        self.retry_at = None;
        self.waiting_since = None;
    }

    /// A session is there.
    pub(crate) fn on_session(&mut self, session: Session) -> Vec<u32> {
        self.pause = FIRST_PAUSE;
        self.quiet_until = session.created;
        self.retry_at = None;
        self.waiting_since = None;
        self.unheard_since = None;
        self.v1_until = Time::ZERO;
        self.v1_for = V1_FOR;
        self.counters.handshakes += 1;
        self.sessions.insert(0, session);
        let gone = self
            .sessions
            .drain(SESSIONS_PER_REMOTE.min(self.sessions.len())..);
        gone.map(|session| session.receiver.index()).collect()
    }

    /// Destroy what is too old; the indices that are free again.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<u32> {
        let mut gone = Vec::new();
        self.sessions.retain(|session| {
            let keep = now.since(session.created) < RECEIVE_FOR;
            if !keep {
                gone.push(session.receiver.index());
            }
            keep
        });
        self.attempts.retain(|attempt| {
            let keep = now.since(attempt.started) < HANDSHAKE_LIFETIME;
            if !keep {
                gone.push(attempt.initiator.index());
            }
            keep
        });
        gone
    }

    /// When something is due.
    pub(crate) fn next_due(&self) -> Option<Time> {
        let ends = self.sessions.iter().map(|s| s.created + RECEIVE_FOR);
        let attempts = self.attempts.iter().map(|a| a.started + HANDSHAKE_LIFETIME);
        let has_session = !self.sessions.is_empty();
        let unheard = self
            .unheard_since
            .filter(|_| has_session)
            .map(|since| (since + UNHEARD).max(self.quiet_until));
        let owed = self
            .owed_since
            .filter(|_| has_session)
            .map(|since| since + OWED);
        let confirm = self.confirm.map(|(at, _)| at);
        ends.chain(attempts)
            .chain(unheard)
            .chain(owed)
            .chain(confirm)
            .chain(self.retry_at)
            .min()
    }

    /// Whether its timer is set for `at` or earlier: then it need not be set for anything later.
    #[inline]
    pub(crate) fn is_armed_by(&self, at: Time) -> bool {
        self.armed.is_some_and(|armed| armed <= at)
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.attempts.is_empty()
    }
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);

//! One set of keys of a link, from its handshake to its retirement.
//!
//! Keys carry data once both ends have heard of each other's incarnation of the link under them: then the handshake is
//! confirmed both ways, and it is known whether the lanes go on or start anew.

use super::frame::Frame;
use super::rtt::RttEstimator;
use crate::crypto::aead::Suite;
use crate::session::handshake::Established;
use crate::session::transport::{Receiver, Sender};
use crate::time::{Duration, Time};

/// Two handshakes this close together were started at the same time from both ends.
const SIMULTANEOUS: Duration = Duration::from_secs(1);
const MAX_CONFIRM_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Epoch {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) suite: Suite,
    pub(super) since: Time,
    /// Whether we sent message 1.
    pub(super) initiated: bool,
    /// Whether the end with the lower key did.
    by_lower_key: bool,
    /// The other end's incarnation, once it told.
    peer_instance: Option<u64>,
    /// The other end has shown that it knows ours.
    peer_knows: bool,
    /// Say ours in the next datagram, whatever it knows.
    answer_instance: bool,
    /// When an initiator says its incarnation (again), while it knows nothing of the other's.
    confirm_at: Time,
    confirms: u32,
    /// BLAKE3 of the first message that we answered: it makes no other epoch.
    pub(super) first_message: Option<[u8; 32]>,
    /// What the other end reported last: highest counter and number of datagrams.
    reported: (u64, u64),
}

impl Epoch {
    /// Keys of a finished handshake: ours, or the answer to `first_message`. `lower`: our key is the lower one.
    pub(super) fn new(
        established: Established,
        first_message: Option<[u8; 32]>,
        lower: bool,
        now: Time,
    ) -> Self {
        let initiated = first_message.is_none();
        Self {
            sender: established.sender,
            receiver: established.receiver,
            suite: established.suite,
            since: now,
            initiated,
            by_lower_key: initiated == lower,
            peer_instance: None,
            peer_knows: false,
            answer_instance: false,
            confirm_at: now,
            confirms: 0,
            first_message,
            reported: (0, 0),
        }
    }

    /// The index by which the other end addresses these keys.
    pub(super) fn index(&self) -> u32 {
        self.receiver.index()
    }

    /// Whether they may carry data and the lane.
    pub(super) fn is_active(&self) -> bool {
        self.peer_instance.is_some()
    }

    /// Which of two active epochs to send with: the newer; of two that were made at once, that of the lower key.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        let apart = self.since.since(other.since) + other.since.since(self.since);
        if apart <= SIMULTANEOUS && self.by_lower_key != other.by_lower_key {
            self.by_lower_key
        } else {
            self.since > other.since
        }
    }

    /// Whether the other end has spoken for another incarnation than `own` under these keys.
    pub(super) fn speaks_for_another(&self, own: u64) -> bool {
        self.peer_instance.is_some_and(|known| known != own)
    }

    /// The other end speaks for `own`, and has heard under these keys that we speak for `known` (0: nothing yet); `ours` is
    /// what we speak for.
    pub(super) fn on_instance(&mut self, own: u64, known: u64, ours: u64) {
        self.peer_instance = Some(own);
        self.peer_knows |= known == ours;
        // A responder keeps saying its own until it hears that it is known; an initiator is asked by that.
        self.answer_instance |= self.initiated || known != ours;
    }

    /// What to put first in a control datagram, until the other end knows it.
    pub(super) fn instance(&self, ours: u64) -> Option<Frame<'static>> {
        (!self.peer_knows || self.answer_instance).then_some(Frame::Instance {
            own: ours,
            known: self.peer_instance.unwrap_or(0),
        })
    }

    /// Whether it is to be said even if nothing else is.
    pub(super) fn must_speak(&self, now: Time) -> bool {
        self.answer_instance || self.confirm_due().is_some_and(|at| at <= now)
    }

    /// The other end must hear at once, because it may be about to give up.
    pub(super) fn confirm_now(&mut self, now: Time) {
        self.confirm_at = now;
    }

    /// When an initiator has to confirm (again).
    pub(super) fn confirm_due(&self) -> Option<Time> {
        (self.initiated && !self.is_active()).then_some(self.confirm_at)
    }

    /// A control datagram went out under these keys, with our incarnation if that was due.
    pub(super) fn on_spoken(&mut self, now: Time, rtt: &RttEstimator) {
        self.answer_instance = false;
        if !self.is_active() {
            let wait = (rtt.timeout() * 2u32.pow(self.confirms.min(4))).min(MAX_CONFIRM_INTERVAL);
            self.confirms += 1;
            self.confirm_at = now + wait;
        }
    }

    /// Take a report; the loss since the last one in thousandths, if enough was sent to tell.
    pub(super) fn on_report(&mut self, highest: u64, received: u64) -> Option<u16> {
        const ENOUGH: u64 = 8;
        // Nobody can have received what was not sent.
        if highest >= self.sender.count() || received > highest + 1 {
            return None;
        }
        let (last_highest, last_received) = self.reported;
        let sent = highest.checked_sub(last_highest)?;
        let arrived = received.checked_sub(last_received)?;
        if sent < ENOUGH {
            return None;
        }
        self.reported = (highest, received);
        let lost = sent.saturating_sub(arrived);
        u16::try_from(lost * 1000 / sent).ok()
    }
}

//! A link that we want and do not have yet: who is there, then a handshake, until it succeeds or time is over.

use std::net::SocketAddr;

use super::event::DownReason;
use super::initiate::Initiation;
use crate::crypto::identity::PublicKey;
use crate::session::mac::NetworkKey;
use crate::time::{Duration, Time};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_millis(800);
/// How long a dial goes on after the network said that nobody listens there: anybody can forge that.
const REFUSED_GRACE: Duration = Duration::from_millis(250);

/// How far it is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The key is not known.
    Asking {
        nonce: [u8; 8],
        next: Time,
        tries: u32,
    },
    /// It is.
    Shaking(Box<Initiation>),
}

/// A dial.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) address: SocketAddr,
    pub(super) phase: Phase,
    give_up: Time,
    refused: bool,
    pub(super) scheduled: Time,
}

impl Dial {
    pub(super) fn new(address: SocketAddr, nonce: [u8; 8], timeout: Duration, now: Time) -> Self {
        Self {
            address,
            phase: Phase::Asking {
                nonce,
                next: now,
                tries: 0,
            },
            give_up: now + timeout,
            refused: false,
            scheduled: Time::FAR_FUTURE,
        }
    }

    /// The key is known now: shake hands.
    pub(super) fn on_key(&mut self, key: PublicKey, network_key: Option<&NetworkKey>, now: Time) {
        self.phase = Phase::Shaking(Box::new(Initiation::new(key, network_key, now)));
    }

    /// Whether this answer is to our question.
    pub(super) fn asked(&self, from: SocketAddr, answered: [u8; 8]) -> bool {
        match self.phase {
            Phase::Asking { nonce, .. } => nonce == answered && self.address == from,
            Phase::Shaking(_) => false,
        }
    }

    /// The network says that nobody listens there.
    pub(super) fn on_unreachable(&mut self, now: Time) {
        self.refused = true;
        self.give_up = self.give_up.min(now + REFUSED_GRACE);
    }

    pub(super) fn deadline(&self) -> Time {
        let next = match &self.phase {
            Phase::Asking { next, .. } => *next,
            Phase::Shaking(initiation) => initiation.deadline(),
        };
        next.min(self.give_up)
    }

    /// Whether it has failed.
    pub(super) fn failure(&self, now: Time) -> Option<DownReason> {
        (now >= self.give_up).then_some(match self.refused {
            true => DownReason::Refused,
            false => DownReason::Unanswered,
        })
    }

    /// The question to send now.
    pub(super) fn poll_question(&mut self, now: Time) -> Option<[u8; 8]> {
        match &mut self.phase {
            Phase::Asking { nonce, next, tries } if now >= *next => {
                *next = now + (FIRST_RETRY * 2u32.pow((*tries).min(8))).min(MAX_RETRY);
                *tries += 1;
                Some(*nonce)
            }
            _ => None,
        }
    }

    /// The handshake, if an attempt is due.
    pub(super) fn poll_attempt(&mut self, now: Time) -> Option<&mut Initiation> {
        match &mut self.phase {
            Phase::Shaking(initiation) if now >= initiation.deadline() => Some(initiation),
            _ => None,
        }
    }

    /// The handshake, once the key is known.
    pub(super) fn initiation(&mut self) -> Option<&mut Initiation> {
        match &mut self.phase {
            Phase::Asking { .. } => None,
            Phase::Shaking(initiation) => Some(initiation),
        }
    }

    /// The indices by which answers come.
    pub(super) fn indices(&self) -> Vec<u32> {
        match &self.phase {
            Phase::Asking { .. } => Vec::new(),
            Phase::Shaking(initiation) => initiation.indices().collect(),
        }
    }
}

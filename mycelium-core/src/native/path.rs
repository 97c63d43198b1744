//! Where the other end is, and how it moves.
//!
//! Only the newest datagram moves a link. Then both addresses, the new and the old one, are challenged. Until the new one's
//! challenge is answered it gets control only, at most three times what came from there, so that nobody can aim a link at a
//! third party. If the old one's is answered within a second, the link goes back: somebody sent copies of our peer's datagrams
//! from elsewhere (RFC 9000 §9.3.3).

use std::net::SocketAddr;

use super::rtt::RttEstimator;
use crate::time::{Duration, Time};

/// Bytes sent per byte received before an address has answered its challenge (as RFC 9000 §8).
const AMPLIFICATION: u64 = 3;
/// A move whose challenge is not answered within this is undone.
const VALIDATION: Duration = Duration::from_secs(3);
/// For so long the old address can take the link back.
const CONTEST: Duration = Duration::from_secs(1);
/// After it did, for so long the link does not move to the same address again.
const HOLD: Duration = Duration::from_secs(1);
const MIN_RETRY: Duration = Duration::from_millis(20);

/// A move that is not settled.
#[derive(Clone, Copy, Debug)]
struct Move {
    since: Time,
    token: [u8; 8],
    /// The new address has answered.
    proven: bool,
    received: u64,
    sent: u64,
    /// When the challenge of the new address is to be sent (again).
    next: Time,
    tries: u32,
    old: SocketAddr,
    old_token: [u8; 8],
    /// Its challenge is to be sent; only once, for one lost means an address that stays new.
    challenge_old: bool,
}

/// What an answer to a challenge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    Ignored,
    /// The new address is the other end's.
    Proven,
    /// The old one still is; the link left this address.
    Returned { from: SocketAddr },
}

/// The address of the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    address: SocketAddr,
    moving: Option<Move>,
    /// Where not to move until when.
    held: Option<(SocketAddr, Time)>,
}

impl Path {
    /// An address that the other end has shown to receive at, by the handshake.
    pub(super) fn validated(address: SocketAddr) -> Self {
        Self {
            address,
            moving: None,
            held: None,
        }
    }

    /// Where the other end was heard last.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The newest datagram, of `len` bytes, came from `from`. If that is a move, the address before it; `tokens` is fresh
    /// randomness for it.
    #[inline]
    pub(super) fn on_newest(
        &mut self,
        from: SocketAddr,
        len: usize,
        now: Time,
        tokens: impl FnOnce() -> [[u8; 8]; 2],
    ) -> Option<SocketAddr> {
        if from == self.address {
            if let Some(moving) = &mut self.moving {
                moving.received += len as u64;
            }
            return None;
        }
        self.begin(from, len, now, tokens)
    }

    fn begin(
        &mut self,
        from: SocketAddr,
        len: usize,
        now: Time,
        tokens: impl FnOnce() -> [[u8; 8]; 2],
    ) -> Option<SocketAddr> {
        if let Some((address, until)) = self.held
            && address == from
            && now < until
        {
            return None;
        }
        let before = self.address;
        // The last address that was shown to be the other end's.
        let old = match self.moving {
            Some(moving) if !moving.proven => moving.old,
            _ => before,
        };
        self.address = from;
        if from == old {
            self.held = Some((before, now + HOLD));
        }
        let [token, old_token] = tokens();
        self.moving = (from != old).then_some(Move {
            since: now,
            token,
            proven: false,
            received: len as u64,
            sent: 0,
            next: now,
            tries: 0,
            old,
            old_token,
            challenge_old: true,
        });
        Some(before)
    }

    /// Where data may go.
    #[inline]
    pub(super) fn data_address(&self) -> SocketAddr {
        match &self.moving {
            Some(moving) if !moving.proven => moving.old,
            _ => self.address,
        }
    }

    /// Where a control datagram of `len` bytes may go, and count it.
    pub(super) fn admit(&mut self, len: usize) -> SocketAddr {
        match &mut self.moving {
            Some(moving) if !moving.proven => match moving.pay(len) {
                true => self.address,
                false => moving.old,
            },
            _ => self.address,
        }
    }

    /// Whether the address was shown to be the other end's.
    pub(super) fn is_validated(&self) -> bool {
        self.moving.is_none_or(|moving| moving.proven)
    }

    /// Whether nothing is going on.
    pub(super) fn is_settled(&self) -> bool {
        self.moving.is_none()
    }

    /// A challenge to send now, in a datagram of `len` bytes, and where: only ever to the address in question.
    pub(super) fn poll_challenge(
        &mut self,
        now: Time,
        len: usize,
        rtt: &RttEstimator,
    ) -> Option<([u8; 8], SocketAddr)> {
        let moving = self.moving.as_mut()?;
        if std::mem::take(&mut moving.challenge_old) {
            return Some((moving.old_token, moving.old));
        }
        if moving.proven || now < moving.next {
            return None;
        }
        moving.tries += 1;
        let wait = rtt.timeout().max(MIN_RETRY) * 2u32.pow(moving.tries.min(5) - 1);
        moving.next = now + wait;
        moving.pay(len).then_some((moving.token, self.address))
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Time> {
        let moving = self.moving.as_ref()?;
        Some(match moving.proven {
            true => moving.since + CONTEST,
            false => moving.next.min(moving.since + VALIDATION),
        })
    }

    /// The other end answered a challenge, from wherever.
    pub(super) fn on_response(&mut self, token: [u8; 8], now: Time) -> Answer {
        let Some(moving) = &mut self.moving else {
            return Answer::Ignored;
        };
        if token == moving.old_token && now.since(moving.since) <= CONTEST {
            let from = std::mem::replace(&mut self.address, moving.old);
            self.moving = None;
            self.held = Some((from, now + HOLD));
            Answer::Returned { from }
        } else if token == moving.token && !moving.proven {
            moving.proven = true;
            Answer::Proven
        } else {
            Answer::Ignored
        }
    }

    /// End what has lasted long enough; the address before, if a move was undone.
    pub(super) fn on_timeout(&mut self, now: Time) -> Option<SocketAddr> {
        let moving = self.moving?;
        if moving.proven {
            self.moving.take_if(|moving| now >= moving.since + CONTEST);
            return None;
        }
        if now < moving.since + VALIDATION {
            return None;
        }
        self.moving = None;
        Some(std::mem::replace(&mut self.address, moving.old))
    }
}

impl Move {
    /// Count `len` bytes to the new address, if they may go there.
    fn pay(&mut self, len: usize) -> bool {
        let sent = self.sent + len as u64;
        let may = sent <= self.received * AMPLIFICATION;
        if may {
            self.sent = sent;
        }
        may
    }
}

//! Echo requests under way.

use std::collections::VecDeque;

use crate::rng::Rng;
use crate::time::{Duration, Time};

/// Requests of which the answer still counts; the oldest goes.
const MAX_OUTSTANDING: usize = 64;

/// An answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) round_trip: Duration,
    /// The size of the datagram, if it was to find out whether that passes.
    pub(super) size: Option<u16>,
}

#[derive(Debug)]
struct Request {
    id: u32,
    sent: Time,
    size: Option<u16>,
}

/// The requests of one link.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    outstanding: VecDeque<Request>,
}

impl Echoes {
    /// A new request; its id, which nobody can guess who has not got it.
    pub(super) fn send(&mut self, now: Time, size: Option<u16>, rng: &mut Rng) -> u32 {
        if self.outstanding.len() >= MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
        let id = u32::from_be_bytes(rng.array());
        self.outstanding.push_back(Request {
            id,
            sent: now,
            size,
        });
        id
    }

    /// An answer; `None` if the request is unknown or was answered before.
    pub(super) fn on_reply(&mut self, id: u32, now: Time) -> Option<Answered> {
        let at = self
            .outstanding
            .iter()
            .position(|request| request.id == id)?;
        let request = self.outstanding.remove(at)?;
        Some(Answered {
            round_trip: now.since(request.sent),
            size: request.size,
        })
    }
}

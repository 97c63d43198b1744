//! Deadlines of everything that times out, in one ordered set: no table is ever walked to find what is due.

use std::collections::BTreeSet;

use crate::addr::Subnet;
use crate::io::PeerId;
use crate::time::Time;

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A Hello to send, or silence to notice.
    Neighbour(PeerId),
    /// The next slice of a full table for a neighbour that asked for it.
    Dump(PeerId),
    /// A route or a source that expires, or a route in use to refresh.
    Destination(Subnet),
    /// The next requests to a new neighbour for what is in use.
    Ask(PeerId),
    /// A selected route: is it in use, and is there another?
    Watch(Subnet),
    /// A query to repeat or to give up.
    Query(Subnet),
    /// Seqno requests of a subnet to repeat or to forget.
    Seqno(Subnet),
    /// More announcements may go.
    Pace,
    /// Our own subnets to announce again.
    Announce,
}

/// The set. Each object remembers in an [`Armed`] for when it is in the set, if at all.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Time, Timer)>);

/// When an object's timer is set for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Armed(Option<Time>);

impl Timers {
    pub(crate) fn next(&self) -> Option<Time> {
        self.0.first().map(|&(at, _)| at)
    }

    /// Take the earliest timer that is due. The owner's `Armed` must be cleared or set anew.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(Time, Timer)> {
        let &(at, timer) = self.0.first()?;
        if at > now {
            return None;
        }
        self.0.pop_first();
        Some((at, timer))
    }

    /// Set `timer` for exactly `at`; `None` disarms.
    pub(crate) fn set(&mut self, armed: &mut Armed, at: Option<Time>, timer: Timer) {
        if armed.0 == at {
            return;
        }
        if let Some(old) = armed.0 {
            self.0.remove(&(old, timer));
        }
        if let Some(at) = at {
            self.0.insert((at, timer));
        }
        armed.0 = at;
    }

    /// See to it that `timer` fires at `at` or earlier. Later deadlines are found when it fires: a refresh costs
    /// nothing here.
    pub(crate) fn no_later_than(&mut self, armed: &mut Armed, at: Time, timer: Timer) {
        if armed.0.is_none_or(|old| at < old) {
            self.set(armed, Some(at), timer);
        }
    }

    /// Set `timer` for `at` as well, whatever else it is set for. Its owner must cope with firing too early.
    pub(crate) fn schedule(&mut self, at: Time, timer: Timer) {
        self.0.insert((at, timer));
    }
}

impl Armed {
    /// To be called when the timer fired.
    pub(crate) fn fired(&mut self) {
        self.0 = None;
    }
}

//! Deadlines of links and dials, soonest first.

use std::collections::BTreeSet;

use super::link_id::LinkId;
use crate::time::Time;

/// At most one deadline per link.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Time, LinkId)>);

impl Timers {
    /// Move the deadline of `link` from `scheduled` to `at`.
    pub(super) fn reschedule(&mut self, link: LinkId, scheduled: &mut Time, at: Time) {
        if *scheduled != at {
            self.0.remove(&(*scheduled, link));
            self.0.insert((at, link));
            *scheduled = at;
        }
    }

    pub(super) fn remove(&mut self, link: LinkId, scheduled: Time) {
        self.0.remove(&(scheduled, link));
    }

    /// The soonest deadline.
    pub(super) fn first(&self) -> Option<Time> {
        self.0.first().map(|&(at, _)| at)
    }

    /// A link whose deadline has passed; it has none from then on.
    pub(super) fn pop(&mut self, now: Time) -> Option<LinkId> {
        let &(at, link) = self.0.first()?;
        if at > now {
            return None;
        }
        self.0.pop_first();
        Some(link)
    }
}

//! What neighbours must be told, and in which order. Paced by the node: a flood of changes must not fill the queues of
//! links that have nothing to do with it.
//!
//! Only subnets are kept; what is said of them is their state when their turn comes. So many changes of one subnet are
//! one Update, and the size is bounded by that of the tables.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::addr::Subnet;
use crate::io::PeerId;

/// The next thing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// To all neighbours.
    All(Subnet),
    /// To one.
    One(PeerId, Subnet),
}

/// A subnet is in at most one of the sets of subnets.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Our own, and never paced: few, and their changes have a budget of their own.
    origins: BTreeSet<Subnet>,
    /// Those that somebody asked for and waits for.
    awaited: BTreeSet<Subnet>,
    lost: BTreeSet<Subnet>,
    changed: BTreeSet<Subnet>,
    /// Single neighbours that must be told of a subnet, because they were its next hop and so never heard of ours.
    asides: BTreeSet<(PeerId, Subnet)>,
    /// Where to go on: low prefixes must not starve high ones.
    last: Option<Subnet>,
    last_aside: Option<(PeerId, Subnet)>,
}

impl News {
    pub(super) fn contains(&self, subnet: Subnet) -> bool {
        let sets = [&self.origins, &self.awaited, &self.lost, &self.changed];
        sets.iter().any(|set| set.contains(&subnet))
    }

    /// Whether anything waits for the pace.
    pub(super) fn has_paced(&self) -> bool {
        let subnets = [&self.awaited, &self.lost, &self.changed];
        !self.asides.is_empty() || subnets.iter().any(|set| !set.is_empty())
    }

    pub(super) fn has_origins(&self) -> bool {
        !self.origins.is_empty()
    }

    pub(super) fn origin(&mut self, subnet: Subnet) {
        self.remove(subnet);
        self.origins.insert(subnet);
    }

    pub(super) fn lost(&mut self, subnet: Subnet) {
        if !self.awaited.contains(&subnet) {
            self.changed.remove(&subnet);
            self.lost.insert(subnet);
        }
    }

    pub(super) fn changed(&mut self, subnet: Subnet) {
        if !self.awaited.contains(&subnet) {
            self.lost.remove(&subnet);
            self.changed.insert(subnet);
        }
    }

    /// Somebody waits for it: if it is to be told, then first.
    pub(super) fn awaited(&mut self, subnet: Subnet) {
        if self.lost.remove(&subnet) || self.changed.remove(&subnet) {
            self.awaited.insert(subnet);
        }
    }

    pub(super) fn aside(&mut self, peer: PeerId, subnet: Subnet) {
        self.asides.insert((peer, subnet));
    }

    /// Nothing is to be told any more.
    pub(super) fn remove(&mut self, subnet: Subnet) {
        self.origins.remove(&subnet);
        self.awaited.remove(&subnet);
        self.lost.remove(&subnet);
        self.changed.remove(&subnet);
    }

    /// The neighbour is gone.
    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        let first = (peer, Subnet::from_octets([0; 8]));
        let last = (peer, Subnet::from_octets([u8::MAX; 8]));
        while let Some(&aside) = self.asides.range(first..=last).next() {
            self.asides.remove(&aside);
        }
    }

    pub(super) fn pop_origin(&mut self) -> Option<Subnet> {
        self.origins.pop_first()
    }

    /// The next of what is paced.
    pub(super) fn pop_paced(&mut self) -> Option<Item> {
        for set in [&mut self.awaited, &mut self.lost, &mut self.changed] {
            if let Some(subnet) = pop_after(set, self.last) {
                self.last = Some(subnet);
                return Some(Item::All(subnet));
            }
        }
        let (peer, subnet) = pop_after(&mut self.asides, self.last_aside)?;
        self.last_aside = Some((peer, subnet));
        Some(Item::One(peer, subnet))
    }
}

/// Take the first element after `last`, or the first of all.
fn pop_after<T: Ord + Copy>(set: &mut BTreeSet<T>, last: Option<T>) -> Option<T> {
    let after = last.map_or(Bound::Unbounded, Bound::Excluded);
    let next = set.range((after, Bound::Unbounded)).next().copied();
    match next {
        Some(next) => set.take(&next),
        None => set.pop_first(),
    }
}

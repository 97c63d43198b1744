//! Who is known to speak v2, and under which key: v1 from them, or another key, is refused from then on.
//!
//! Two classes, so that strangers, whose keys cost nothing, cannot push out what matters: those our hosts turned to (and what
//! was loaded from disk), and those that only turned to us. A full class gives up its oldest pin that is not in use; where all
//! are, the newcomer stays unpinned, which is counted.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::addr::Subnet;
use crate::crypto::identity::PublicKey;
use crate::fib::SubnetHash;

/// How many pins are looked at for one to give up.
const TRIES: usize = 16;

/// A confirmed speaker of v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Whose /64.
    pub subnet: Subnet,
    /// Under this key.
    pub key: PublicKey,
    /// Whether our side turned to it first, at any time.
    pub ours: bool,
}

/// All pins.
#[derive(Debug)]
pub(crate) struct Pins {
    pins: HashMap<u64, Pin, SubnetHash>,
    /// By class, oldest first; entries of removed or promoted pins are skipped.
    order: [VecDeque<Subnet>; 2],
    count: [usize; 2],
    capacity: [usize; 2],
    generation: u64,
    refused: u64,
}

impl Pins {
    pub(crate) fn new(own: usize, theirs: usize, hash_key: u64) -> Self {
        Self {
            pins: HashMap::with_hasher(SubnetHash::new(hash_key)),
            order: [VecDeque::new(), VecDeque::new()],
            count: [0; 2],
            capacity: [theirs, own],
            generation: 0,
            refused: 0,
        }
    }

    /// The key that `subnet` is pinned to.
    #[inline]
    pub(crate) fn key(&self, subnet: Subnet) -> Option<&PublicKey> {
        self.pins.get(&subnet.bits()).map(|pin| &pin.key)
    }

    /// Pin, or move to the better class. False if there is no room or another key is pinned.
    pub(crate) fn insert(&mut self, pin: Pin, in_use: impl Fn(Subnet) -> bool) -> bool {
        if let Some(known) = self.pins.get_mut(&pin.subnet.bits()) {
            if known.key != pin.key {
                return false;
            }
            if known.ours || !pin.ours {
                return true;
            }
        }
        let class = usize::from(pin.ours);
        if self.count[class] >= self.capacity[class] && !self.make_room(class, in_use) {
            self.refused += 1;
            return self.pins.contains_key(&pin.subnet.bits());
        }
        if let Some(old) = self.pins.insert(pin.subnet.bits(), pin) {
            self.count[usize::from(old.ours)] -= 1;
        }
        self.count[class] += 1;
        self.order[class].push_back(pin.subnet);
        if self.order[class].len() > 2 * self.capacity[class] + TRIES {
            self.compact(class);
        }
        self.generation += 1;
        true
    }

    /// Drop the entries of pins that were removed, moved to the other class or made anew.
    fn compact(&mut self, class: usize) {
        let Self { pins, order, .. } = self;
        let mut seen = HashSet::with_hasher(*pins.hasher());
        order[class].retain(|subnet| {
            let bits = subnet.bits();
            let stands = pins
                .get(&bits)
                .is_some_and(|pin| usize::from(pin.ours) == class);
            stands && seen.insert(bits)
        });
    }

    /// An operator says that whoever is there need not speak v2 any more.
    pub(crate) fn forget(&mut self, subnet: Subnet) -> bool {
        let Some(old) = self.pins.remove(&subnet.bits()) else {
            return false;
        };
        self.count[usize::from(old.ours)] -= 1;
        self.generation += 1;
        true
    }

    /// All pins, in a fixed order.
    pub(crate) fn entries(&self) -> Vec<Pin> {
        let mut pins: Vec<Pin> = self.pins.values().copied().collect();
        pins.sort_unstable_by_key(|pin| pin.subnet);
        pins
    }

    /// Changes with every change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn len(&self) -> usize {
        self.pins.len()
    }

    /// Newcomers that found no room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn make_room(&mut self, class: usize, in_use: impl Fn(Subnet) -> bool) -> bool {
        for _ in 0..TRIES {
            let Some(oldest) = self.order[class].pop_front() else {
                return false;
            };
            match self.pins.get(&oldest.bits()) {
                Some(pin) if usize::from(pin.ours) == class => {}
                // Gone, or in the other class by now: its entry there stands for it.
                _ => continue,
            }
            if in_use(oldest) {
                self.order[class].push_back(oldest);
                continue;
            }
            return self.forget(oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(number: u8, ours: bool) -> Pin {
        Pin {
            subnet: Subnet::from_octets([4, 0, 0, 0, 0, 0, 0, number]),
            key: PublicKey([number; 32]),
            ours,
        }
    }

    #[test]
    fn strangers_push_out_strangers_only_and_never_one_in_use() {
        let mut pins = Pins::new(2, 2, 1);
        assert!(pins.insert(pin(1, true), |_| false));
        for number in 10..20 {
            assert!(pins.insert(pin(number, false), |_| false));
        }
        assert_eq!(pins.len(), 3);
        assert!(pins.key(pin(1, true).subnet).is_some());
        assert!(!pins.insert(pin(30, false), |_| true));
        assert_eq!((pins.len(), pins.refused()), (3, 1));
    }

    #[test]
    fn the_order_of_pins_is_bounded_as_they_are() {
        let mut pins = Pins::new(4, 4, 1);
        for number in 0..=255 {
            assert!(pins.insert(pin(number, false), |_| false));
            assert!(pins.insert(pin(number, true), |_| false));
            assert!(pins.forget(pin(number, true).subnet));
        }
        for order in &pins.order {
            assert!(order.len() <= 2 * 4 + TRIES, "{}", order.len());
        }
    }

    #[test]
    fn another_key_never_replaces_the_pinned_one() {
        let mut pins = Pins::new(2, 2, 1);
        assert!(pins.insert(pin(1, false), |_| false));
        let other = Pin {
            key: PublicKey([9; 32]),
            ..pin(1, true)
        };
        assert!(!pins.insert(other, |_| false));
        assert_eq!(pins.key(other.subnet), Some(&PublicKey([1; 32])));
        assert!(pins.forget(other.subnet));
        assert!(pins.insert(other, |_| false));
    }

    #[test]
    fn a_stranger_we_turn_to_becomes_ours() {
        let mut pins = Pins::new(2, 1, 1);
        assert!(pins.insert(pin(1, false), |_| false));
        assert!(pins.insert(pin(1, true), |_| false));
        assert!(pins.insert(pin(2, false), |_| false));
        assert!(pins.insert(pin(3, false), |_| false));
        let left: Vec<_> = pins.entries().iter().map(|pin| pin.key.0[0]).collect();
        assert_eq!(left, [1, 3]);
    }
}

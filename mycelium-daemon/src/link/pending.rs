//! Inbound connections that are still being set up: a bounded number, and few of them from one place, so that nobody
//! takes all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// At a time; further ones are refused.
const MAX: usize = 64;
/// At a time from one IPv4 address or IPv6 /64.
const MAX_PER_SOURCE: usize = 16;
/// From this many on, a stranger must first show that its address is its own.
const UNVALIDATED: usize = 16;
/// The same, counted for its address: otherwise a forger could fill the places of somebody else.
const UNVALIDATED_PER_SOURCE: usize = 2;

/// The count. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// Taken until dropped.
#[derive(Debug)]
pub(super) struct Place {
    pending: Pending,
    source: IpAddr,
}

/// What to do about a new connection.
#[derive(Debug)]
pub(super) enum Admission {
    /// Set it up.
    Granted(Place),
    /// Let it show that its address is its own, then ask again.
    Validate,
    /// There are too many.
    Refused,
}

impl Pending {
    pub(super) fn admit(&self, remote: IpAddr, is_validated: bool) -> Admission {
        let source = source_of(remote);
        let mut held = self.held();
        let all: usize = held.values().sum();
        let of_source = held.get(&source).copied().unwrap_or(0);
        if !is_validated && (all >= UNVALIDATED || of_source >= UNVALIDATED_PER_SOURCE) {
            return Admission::Validate;
        }
        if all >= MAX || of_source >= MAX_PER_SOURCE {
            return Admission::Refused;
        }
        *held.entry(source).or_default() += 1;
        Admission::Granted(Place {
            pending: self.clone(),
            source,
        })
    }

    /// Every change is one statement, so a panic leaves nothing half done.
    fn held(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.pending.held();
        if let Some(count) = held.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

/// What one party can hold many of counts as one: the first address of an IPv6 /64 stands for it.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(pending: &Pending, remote: &str, is_validated: bool) -> Option<Place> {
        match pending.admit(remote.parse().unwrap(), is_validated) {
            Admission::Granted(place) => Some(place),
            Admission::Validate | Admission::Refused => None,
        }
    }

    #[test]
    fn one_source_cannot_take_all_places() {
        let pending = Pending::default();
        let held: Vec<_> = (0..200)
            .filter_map(|host| granted(&pending, &format!("2001:db8::{host:x}"), true))
            .collect();
        assert_eq!(held.len(), MAX_PER_SOURCE);
        assert!(granted(&pending, "2001:db8:0:1::1", true).is_some());
        drop(held);
        assert!(granted(&pending, "2001:db8::1", true).is_some());
        assert!(pending.held().is_empty());
    }

    #[test]
    fn forged_addresses_leave_room_for_their_owner_and_for_all() {
        let pending = Pending::default();
        let _forged: Vec<_> = (0..200)
            .filter_map(|_| granted(&pending, "192.0.2.1", false))
            .collect();
        assert!(matches!(
            pending.admit(IpAddr::from([192, 0, 2, 1]), false),
            Admission::Validate
        ));
        assert!(granted(&pending, "192.0.2.1", true).is_some());
        let spread: Vec<_> = (0..200)
            .filter_map(|host| granted(&pending, &format!("198.51.100.{host}"), false))
            .collect();
        assert!(spread.len() < UNVALIDATED);
        assert!(granted(&pending, "203.0.113.1", true).is_some());
    }

    #[test]
    fn the_number_of_places_is_bounded() {
        let pending = Pending::default();
        let held: Vec<_> = (0..200)
            .filter_map(|host| granted(&pending, &format!("192.0.2.{host}"), true))
            .collect();
        assert_eq!(held.len(), MAX);
    }
}

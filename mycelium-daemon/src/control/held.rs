//! Control packets of neighbours that change our tables faster than we take it from one: they wait here, and with them
//! the link. Its budget of bytes (`worker/receive.rs`) is not given back before they are handled, so that no more is
//! read, and the transport's flow control slows the neighbour down. It may be an honest one that passes a flood on.

use std::collections::{BTreeMap, VecDeque};

use mycelium_core::io::PeerId;
use mycelium_core::time::Time;
use tokio::sync::OwnedSemaphorePermit;

/// Complete packets of one neighbour, back to back.
#[derive(Debug)]
pub(super) struct Packets {
    pub(super) bytes: Vec<u8>,
    /// Where the first one starts that is not handled yet.
    pub(super) position: usize,
    /// The neighbour's budget, given back when all are.
    pub(super) _budget: OwnedSemaphorePermit,
}

/// By neighbour. Bounded by their budgets.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<PeerId, Waiting>);

#[derive(Debug)]
struct Waiting {
    until: Time,
    packets: VecDeque<Packets>,
}

impl Held {
    /// Queue `packets` behind those of the same neighbour; they come back if there are none, and may be handled.
    pub(super) fn queue(&mut self, peer: PeerId, packets: Packets) -> Option<Packets> {
        match self.0.get_mut(&peer) {
            Some(waiting) => {
                waiting.packets.push_back(packets);
                None
            }
            None => Some(packets),
        }
    }

    /// Keep what is left of `packets` until then, ahead of what came later.
    pub(super) fn keep(&mut self, peer: PeerId, packets: Packets, until: Time) {
        let waiting = self.0.entry(peer).or_insert_with(|| Waiting {
            until,
            packets: VecDeque::new(),
        });
        waiting.until = until;
        waiting.packets.push_front(packets);
    }

    /// The next packets of a neighbour whose time has come.
    pub(super) fn next(&mut self, now: Time) -> Option<(PeerId, Packets)> {
        let due = |(_, waiting): &(&PeerId, &mut Waiting)| waiting.until <= now;
        let (&peer, waiting) = self.0.iter_mut().find(due)?;
        let packets = waiting.packets.pop_front();
        if waiting.packets.is_empty() {
            self.0.remove(&peer);
        }
        packets.map(|packets| (peer, packets))
    }

    /// When [`next`](Self::next) will have something.
    pub(super) fn due(&self) -> Option<Time> {
        self.0.values().map(|waiting| waiting.until).min()
    }

    /// The link is gone.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.0.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn packets(budget: &Arc<Semaphore>, byte: u8) -> Packets {
        let permit = Arc::clone(budget).try_acquire_owned();
        Packets {
            bytes: vec![byte],
            position: 0,
            _budget: permit.unwrap(),
        }
    }

    #[test]
    fn what_waits_keeps_its_order_and_its_budget() {
        let budget = Arc::new(Semaphore::new(3));
        let [one, other] = [1, 2].map(PeerId);
        let mut held = Held::default();
        let first = held.queue(one, packets(&budget, 1)).unwrap();
        held.keep(one, first, Time::from_millis(5));
        assert!(held.queue(one, packets(&budget, 2)).is_none());
        assert!(held.queue(other, packets(&budget, 3)).is_some());
        assert_eq!(budget.available_permits(), 1);
        assert_eq!(held.due(), Some(Time::from_millis(5)));
        assert!(held.next(Time::from_millis(4)).is_none());

        // The first is handled in part only.
        let (peer, first) = held.next(Time::from_millis(5)).unwrap();
        assert_eq!((peer, first.bytes[0]), (one, 1));
        held.keep(one, first, Time::from_millis(6));
        let order: Vec<u8> = std::iter::from_fn(|| held.next(Time::from_millis(6)))
            .map(|(_, packets)| packets.bytes[0])
            .collect();
        assert_eq!(order, [1, 2]);
        assert_eq!((held.due(), budget.available_permits()), (None, 3));

        let last = packets(&budget, 4);
        held.keep(one, last, Time::from_millis(9));
        held.forget(one);
        assert_eq!((held.due(), budget.available_permits()), (None, 3));
    }
}

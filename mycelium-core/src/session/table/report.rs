//! What is known of remote identities, for users and for what is remembered.

use crate::addr::Subnet;
use crate::session::pins::Pin;
use crate::session::remote::{Pair, Session};
use crate::session::view::{Protocol, SessionStats, SessionView};
use crate::time::Time;

use super::Sessions;

impl Sessions {
    /// A session of the remote in `pair` by the index under which *it* knows it: for bodies of ours that are quoted to us.
    pub(crate) fn sender_of(&mut self, pair: Pair, index: u32) -> Option<&mut Session> {
        let &slot = self.slots.get(&pair)?;
        let remote = self.remotes.get_mut(slot)?.as_mut()?;
        remote
            .sessions
            .iter_mut()
            .find(|session| session.sender.index() == index)
    }

    /// Counters.
    pub(crate) fn stats(&self) -> SessionStats {
        SessionStats {
            half_open: self.half_open.len() as u64,
            pins: self.pins.len() as u64,
            pins_refused: self.pins.refused(),
            halves_dropped: self.halves.dropped(),
            reassembly_forged: self.reassembly.stats().forged,
            ..self.stats
        }
    }

    /// Every remote identity that anything is known of, in a fixed order.
    pub(crate) fn views(&self, now: Time) -> Vec<SessionView> {
        let mut views: Vec<SessionView> = self
            .remotes
            .iter()
            .flatten()
            .map(|remote| {
                let own = self.locals.get(&remote.pair.0);
                let current = own
                    .and_then(|keys| remote.current_position(keys.local.public_key(), now))
                    .and_then(|position| remote.sessions.get(position));
                SessionView {
                    identity: remote.pair.0,
                    subnet: remote.pair.1,
                    key: remote.key,
                    protocol: match current {
                        Some(_) => Protocol::V2,
                        None if remote.waiting_since.is_some() => Protocol::Waiting,
                        // Handshakes may go on beside it: what counts is how packets go.
                        None if now < remote.v1_until => Protocol::V1,
                        None if !remote.attempts.is_empty() && remote.hinted => Protocol::Waiting,
                        None => Protocol::Idle,
                    },
                    suite: current.map(|session| session.suite),
                    age: current.map(|session| now.since(session.created)),
                    initiated: current.is_some_and(|session| session.initiated),
                    pinned: self.pins.key(remote.pair.1) == Some(&remote.key),
                    path_size: current.and_then(|_| remote.path.size()),
                    counters: remote.counters,
                }
            })
            .collect();
        views.sort_unstable_by_key(|view| (view.identity, view.subnet));
        views
    }

    /// The pins.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        self.pins.entries()
    }

    /// Changes whenever the pins do.
    pub(crate) fn pin_generation(&self) -> u64 {
        self.pins.generation()
    }

    /// Take over pins from before a restart.
    pub(crate) fn load_pins(&mut self, pins: &[Pin]) {
        for &pin in pins {
            self.pins.insert(pin, |_| false);
        }
    }

    /// An operator says that `subnet` need not speak v2 any more: its pin and sessions are gone.
    pub(crate) fn forget(&mut self, subnet: Subnet) -> bool {
        let slots: Vec<usize> = self
            .locals
            .keys()
            .filter_map(|&id| self.slots.get(&(id, subnet)).copied())
            .collect();
        for slot in slots {
            self.remove(slot);
        }
        self.pins.forget(subnet)
    }
}

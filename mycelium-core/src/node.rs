//! The control plane's front door. Wiring only: routing is in [`babel`](crate::babel).
//!
//! ```text
//!   handle(Input, now) ──┐                        ┌── poll_output() -> Output   until None, after every call
//!                        ├──►  tables of babel ──►├── poll_timeout() -> Time    when to call handle_timeout
//!   handle_timeout(now) ─┘                        └── fib_if_changed() -> Fib   what the data plane needs
//! ```

use crate::babel::Babel;
pub use crate::config::NodeConfig;
use crate::crypto::identity::SecretKey;
use crate::fib::Fib;
use crate::io::{IdentityId, Input, Output, PeerId};
use crate::snapshot::Snapshot;
use crate::time::Time;

/// One node of the overlay, without I/O, clock or threads: the same inputs at the same times give the same outputs.
#[derive(Debug)]
pub struct Node {
    babel: Babel,
    now: Time,
}

impl Node {
    /// A node that originates `secret`'s subnet as [`IdentityId::NODE`]. `seed` makes router-ids and the hash of the
    /// forwarding table unpredictable; it must differ between runs.
    pub fn new(config: NodeConfig, secret: SecretKey, seed: [u8; 32], now: Time) -> Self {
        let mut babel = Babel::new(config, seed, now);
        babel.add_identity(IdentityId::NODE, secret, now);
        Self { babel, now }
    }

    /// Take one input. Fetch all output before the next one.
    pub fn handle(&mut self, input: Input<'_>, now: Time) {
        let now = self.advance(now);
        match input {
            Input::PeerUp { peer, link } => self.babel.peer_up(peer, link, now),
            Input::PeerAuthenticated { peer, public_key } => {
                self.babel.peer_authenticated(peer, public_key)
            }
            Input::PeerDown { peer } => self.babel.peer_down(peer, now),
            Input::Control { peer, packet } => self.babel.on_packet(peer, packet, now),
            Input::Heard { peer } => self.babel.on_heard(peer, now),
            Input::Doubt { peer } => self.babel.on_doubt(peer, now),
            Input::RouteNeeded { subnet, from } => self.babel.on_route_needed(subnet, from, now),
            Input::AddIdentity { id, secret } => self.babel.add_identity(id, secret, now),
            Input::RemoveIdentity { id } => self.babel.remove_identity(id, now),
            Input::Resolve { subnet } => self.babel.look_for(subnet, now),
            Input::Shutdown => self.babel.shutdown(),
        }
    }

    /// Do what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        let now = self.advance(now);
        self.babel.on_timeout(now);
    }

    /// The next thing to do for the caller.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.babel.poll_output(self.now)
    }

    /// When to call `handle_timeout`; the latest `now` while output is waiting.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.babel.has_output() {
            return Some(self.now);
        }
        self.babel.next_timer()
    }

    /// Until when this neighbour's packets should wait, after [`Input::Control`]: it changed more of our tables than one
    /// may at a time (`NodeConfig::updates`). It may be an honest one that passes on what others flood it with, so it is
    /// slowed down. Only if it is fed on all the same it is closed, when it has spent its burst twice.
    #[must_use]
    pub fn paused_until(&self, peer: PeerId, now: Time) -> Option<Time> {
        let until = self.babel.paused_until(peer)?;
        (until > now).then_some(until)
    }

    /// The forwarding table as of now.
    pub fn fib(&self) -> &Fib {
        self.babel.fib()
    }

    /// The forwarding table, once after each change.
    pub fn fib_if_changed(&mut self) -> Option<Fib> {
        self.babel.take_fib()
    }

    /// A view of everything. Costs as much as the tables are long.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        self.babel.snapshot(now)
    }

    #[cfg(test)]
    pub(crate) fn babel(&self) -> &Babel {
        &self.babel
    }

    /// Time never runs backwards here, whatever the caller says.
    fn advance(&mut self, now: Time) -> Time {
        self.now = self.now.max(now);
        self.now
    }
}

#[cfg(test)]
mod tests;

//! Whole tables: for a neighbour that is new, or that asks for everything (RFC 8966 §3.8.1.1, wire spec §5.14).
//!
//! In slices, so that a large table fills neither our queues nor the link's.

use super::Babel;
use super::metric::Metric;
use super::timer::Timer;
use crate::addr::Subnet;
use crate::config::centiseconds;
use crate::io::PeerId;
use crate::time::Time;
use crate::wire::babel::Tlv;

impl Babel {
    /// Tell a new neighbour what we know, unless that is a lot: then it asks for what it needs. The present network
    /// does not do this, and so its nodes know no second way when their neighbour fails.
    pub(super) fn greet(&mut self, peer: PeerId, now: Time) {
        if self.table.len() > self.config.greeting_limit {
            return;
        }
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.dump.cursor = Some(Subnet::from_octets([0; 8]));
            self.on_dump_timer(peer, now);
        }
    }

    /// Start sending the whole table to `peer`; `false` if it asked too soon.
    pub(super) fn start_dump(&mut self, peer: PeerId, now: Time) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return false;
        };
        if neighbour.dump.cursor.is_some() || now < neighbour.dump.not_before {
            return false;
        }
        neighbour.dump.cursor = Some(Subnet::from_octets([0; 8]));
        neighbour.dump.not_before = now + self.config.dump_spacing;
        let interval = centiseconds(self.config.update_interval);
        let ours: Vec<Tlv> = self
            .origins
            .iter()
            .map(|(subnet, origin)| Tlv::Update(origin.update(subnet, Metric::ZERO, interval)))
            .collect();
        for update in ours {
            self.send(peer, &update);
        }
        self.on_dump_timer(peer, now);
        true
    }

    pub(super) fn on_dump_timer(&mut self, peer: PeerId, now: Time) {
        let Some(start) = self
            .neighbours
            .get(&peer)
            .and_then(|neighbour| neighbour.dump.cursor)
        else {
            return;
        };
        let mut slice: Vec<Subnet> = self
            .table
            .from(start)
            .map(|(subnet, _)| subnet)
            .take(self.config.dump_slice + 1)
            .collect();
        let next = (slice.len() > self.config.dump_slice)
            .then(|| slice.pop())
            .flatten();
        for subnet in slice {
            self.send_selected(peer, subnet, now);
        }
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.dump.cursor = next;
            let at = next.map(|_| now + self.config.dump_pause);
            self.timers
                .set(&mut neighbour.dump.armed, at, Timer::Dump(peer));
        }
    }
}

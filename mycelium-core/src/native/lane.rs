//! The lane of control packets: numbered, acknowledged, repeated, delivered in order and exactly once.
//!
//! Acknowledgements name the next packet expected and which of the 64 beyond it are here. A packet that was overtaken by three
//! datagrams sent later is repeated at once; the last ones of a burst are repeated by timer.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{BABEL_OVERHEAD, Frame};
use super::rtt::RttEstimator;
use crate::time::{Duration, Time};
use crate::wire::frame::{self, Kind};

/// Packets under way at once: so many the receiver holds, 260 kB at most.
const WINDOW: u32 = 256;
/// Datagrams that may overtake a packet before it counts as lost.
const REORDERING: u64 = 3;
/// The timer doubles up to this; liveness ends the link soon after.
const MAX_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether `packet` is exactly one control packet.
pub(super) fn is_control_packet(packet: &[u8]) -> bool {
    matches!(
        frame::next_frame(packet),
        Ok(Some(frame)) if frame.kind == Kind::Control && frame.len == packet.len()
    )
}

#[derive(Debug)]
struct Entry {
    packet: Vec<u8>,
    /// Which datagram of the lane carried it last; 0: none yet.
    carried_by: u64,
    acknowledged: bool,
    lost: bool,
}

/// Our packets to the other end.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Number of the first entry.
    base: u32,
    entries: VecDeque<Entry>,
    /// How many of the entries were sent at least once.
    sent: usize,
    /// Marked as lost and not sent again yet.
    lost: usize,
    bytes: usize,
    /// Datagrams of the lane so far.
    datagrams: u64,
    /// When the last datagram left that is not acknowledged as a whole.
    last_sent: Time,
    backoff: u32,
    repeated: u64,
}

impl Outgoing {
    /// Packets that wait for being sent or acknowledged.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets sent more than once.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(super) fn push(&mut self, packet: &[u8]) {
        self.bytes += packet.len();
        self.entries.push_back(Entry {
            packet: packet.to_vec(),
            carried_by: 0,
            acknowledged: false,
            lost: false,
        });
    }

    /// Whether a packet may be sent now.
    pub(super) fn is_ready(&self) -> bool {
        self.lost > 0 || (self.sent < self.entries.len() && self.sent < WINDOW as usize)
    }

    /// Append as many packets as make `out` at most `size` bytes long.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, size: usize, now: Time) {
        if !self.is_ready() {
            return;
        }
        let before = out.len();
        let datagram = self.datagrams + 1;
        let limit = self.entries.len().min(WINDOW as usize);
        let from = if self.lost > 0 { 0 } else { self.sent };
        for (at, entry) in self.entries.iter_mut().enumerate().take(limit).skip(from) {
            if at < self.sent && !entry.lost {
                continue;
            }
            if out.len() + BABEL_OVERHEAD + entry.packet.len() > size {
                break;
            }
            let offset = u32::try_from(at).expect("at is below WINDOW");
            Frame::Babel {
                seq: self.base.wrapping_add(offset),
                packet: &entry.packet,
            }
            .write(out);
            entry.carried_by = datagram;
            if entry.lost {
                entry.lost = false;
                self.lost -= 1;
                self.repeated += 1;
            } else {
                self.sent += 1;
            }
        }
        if out.len() > before {
            self.datagrams = datagram;
            self.last_sent = now;
        }
    }

    /// Take an acknowledgement. `false`, and nothing happened, if it speaks of packets that were never sent.
    pub(super) fn on_ack(&mut self, next: u32, held: u64) -> bool {
        let advanced = next.wrapping_sub(self.base);
        if advanced > 1 << 31 {
            return true; // An old one that was overtaken.
        }
        let count = usize::try_from(advanced).unwrap_or(usize::MAX);
        if count > self.sent {
            return false;
        }
        let mut newest = 0;
        for entry in self.entries.drain(..count) {
            self.bytes -= entry.packet.len();
            self.lost -= usize::from(entry.lost);
            newest = newest.max(entry.carried_by);
        }
        self.sent -= count;
        self.base = next;
        for (bit, entry) in self
            .entries
            .iter_mut()
            .take(self.sent)
            .skip(1)
            .enumerate()
            .take(64)
        {
            if held & (1 << bit) != 0 {
                if !entry.acknowledged {
                    newest = newest.max(entry.carried_by);
                }
                self.lost -= usize::from(entry.lost);
                entry.acknowledged = true;
                entry.lost = false;
            }
        }
        if newest > 0 {
            self.backoff = 0;
        }
        for entry in self.entries.iter_mut().take(self.sent) {
            if !entry.acknowledged && !entry.lost && entry.carried_by + REORDERING <= newest {
                entry.lost = true;
                self.lost += 1;
            }
        }
        true
    }

    /// When the oldest packets are to be repeated, if nothing is heard of them.
    pub(super) fn deadline(&self, rtt: &RttEstimator) -> Option<Time> {
        if self.sent == 0 {
            return None;
        }
        let timeout = (rtt.timeout() * 2u32.pow(self.backoff.min(6))).min(MAX_TIMEOUT);
        Some(self.last_sent + timeout)
    }

    /// The deadline has passed: whatever is not acknowledged counts as lost.
    pub(super) fn on_timeout(&mut self, now: Time) {
        self.backoff += 1;
        self.last_sent = now;
        for entry in self.entries.iter_mut().take(self.sent) {
            if !entry.acknowledged && !entry.lost {
                entry.lost = true;
                self.lost += 1;
            }
        }
    }
}

/// The other end's packets to us.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    next: u32,
    /// Packets beyond a gap, by how far they are beyond `next` at most [`WINDOW`].
    held: BTreeMap<u32, Vec<u8>>,
    ack_due: bool,
    duplicates: u64,
}

impl Incoming {
    /// Packets that came again.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Whether an acknowledgement is to be sent.
    pub(super) fn ack_due(&self) -> bool {
        self.ack_due
    }

    /// Take a packet; `deliver` gets those whose turn it is. Packets beyond the window are not taken and come again.
    pub(super) fn on_packet(&mut self, seq: u32, packet: &[u8], mut deliver: impl FnMut(Vec<u8>)) {
        self.ack_due = true;
        let ahead = seq.wrapping_sub(self.next);
        if ahead >= WINDOW || self.held.contains_key(&seq) {
            self.duplicates += 1;
            return;
        }
        if ahead > 0 {
            self.held.insert(seq, packet.to_vec());
            return;
        }
        deliver(packet.to_vec());
        self.next = self.next.wrapping_add(1);
        while let Some(packet) = self.held.remove(&self.next) {
            deliver(packet);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// The acknowledgement of now. It is no longer due.
    pub(super) fn take_ack(&mut self) -> Frame<'static> {
        self.ack_due = false;
        let first = self.next.wrapping_add(1);
        let held = (0..64u32)
            .filter(|&bit| self.held.contains_key(&first.wrapping_add(bit)))
            .fold(0, |held, bit| held | 1 << bit);
        Frame::Ack {
            next: self.next,
            held,
        }
    }
}

#[cfg(test)]
mod tests;

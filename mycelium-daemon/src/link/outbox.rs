//! What waits to be sent on one link: a control lane and a data lane.
//!
//! ```text
//!   data packets    ──► reserve/commit ──► [ data lane    ] ──┐ behind control,
//!                                          ≤ 1 MiB, ≤ 30 ms   ├─► one write per batch
//!   control packets ──► push_control   ──► [ control lane ] ──┘ ahead, at packet boundaries
//!                                          ≤ 4 MiB, overflow closes the link
//! ```
//!
//! Each lane is one contiguous buffer, so that a whole batch leaves with one vectored write and without a copy. A packet
//! that a write has begun is finished before anything else: streams have no other boundaries.

use std::collections::VecDeque;

use mycelium_core::native::DataClass;
use mycelium_core::time::{Duration, Time};

/// Most bytes that wait in the data lane. Two milliseconds at 4 Gb/s; slower links are bounded by [`DATA_MAX_AGE`].
pub const DATA_MAX_BYTES: usize = 1 << 20;
/// A data packet that waited longer is dropped when its turn comes, oldest first: senders hear of congestion within
/// this time and what is left is fresh. Above the scheduling jitter of a busy two-core machine (about 10 ms).
pub const DATA_MAX_AGE: Duration = Duration::from_millis(30);
/// The age bound spares this much, or a link that takes longer than the bound for one packet would carry none.
pub const DATA_MIN_BYTES: usize = 4 << 10;
/// Most bytes that wait in the control lane: about 40 000 Updates. A peer that leaves more is as good as dead.
pub const CONTROL_MAX_BYTES: usize = 4 << 20;
/// Buffers start at this size and go back to it when they have been idle.
const INITIAL_BYTES: usize = 4 << 10;

/// The control lane is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control lane full: the peer does not take what it must know")]
pub struct ControlOverflow;

/// The two lanes of a link.
#[derive(Debug, Default)]
pub struct Outbox {
    control: Lane,
    data: Lane,
    reserved: usize,
    /// Free bytes before every data packet, which go with it.
    headroom: usize,
}

/// What became of a data packet that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As it was committed.
    Plain(DataClass),
    /// Made a datagram, headroom included.
    Sealed,
    /// Not to be sent.
    Dead,
}

impl Outbox {
    /// An outbox that leaves `headroom` bytes before every data packet.
    pub fn with_headroom(headroom: usize) -> Self {
        Self {
            headroom,
            ..Self::default()
        }
    }

    /// Space for one data packet of `len` bytes; `None` when the lane is full. Discards an uncommitted reservation.
    pub fn reserve_data(&mut self, len: usize) -> Option<&mut [u8]> {
        let headroom = self.headroom;
        self.reserved = headroom + len;
        let space = self.data.reserve(headroom + len, DATA_MAX_BYTES)?;
        space.get_mut(headroom..)
    }

    /// What was written into the last reservation.
    pub fn reserved(&self) -> &[u8] {
        let lane = &self.data;
        let space = lane.tail..lane.tail + self.reserved;
        let packet = lane
            .buffer
            .get(space)
            .and_then(|all| all.get(self.headroom..));
        packet.unwrap_or_default()
    }

    /// Queue the packet written into the last reservation. Without one this does nothing.
    pub fn commit_data(&mut self, class: DataClass, now: Time) {
        let len = std::mem::take(&mut self.reserved);
        if len > 0 {
            self.data.commit(len, now, Stage::Plain(class));
        }
    }

    /// Queue a control packet ahead of all data.
    ///
    /// # Errors
    /// When the lane is full; the link must then be closed, for the peer can no longer be kept up to date.
    pub fn push_control(&mut self, packet: &[u8], now: Time) -> Result<(), ControlOverflow> {
        let space = self
            .control
            .reserve(packet.len(), CONTROL_MAX_BYTES)
            .ok_or(ControlOverflow)?;
        space.copy_from_slice(packet);
        self.control
            .commit(packet.len(), now, Stage::Plain(DataClass::OTHER));
        Ok(())
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.data.is_empty()
    }

    /// No control packet waits.
    pub fn control_is_empty(&self) -> bool {
        self.control.is_empty()
    }

    /// Bytes that wait in the data lane.
    pub fn data_len(&self) -> usize {
        self.data.len()
    }

    /// Drop data that waited longer than [`DATA_MAX_AGE`]; returns how many packets.
    pub fn expire(&mut self, now: Time) -> u64 {
        self.data.expire(now)
    }

    /// What a stream should be given next, in this order: the rest of a packet already begun, control, data.
    pub fn slices(&self) -> [&[u8]; 3] {
        let (begun, data) = self.data.bytes().split_at(self.data.begun_rest());
        [begun, self.control.bytes(), data]
    }

    /// What a stream should be given next where data packets may leave it by another way: the rest of a data packet
    /// already begun on the stream, then control.
    pub fn stream_slice(&self) -> &[u8] {
        match self.data.begun_rest() {
            0 => self.control.bytes(),
            rest => &self.data.bytes()[..rest],
        }
    }

    /// The stream took `written` bytes of what [`slices`](Self::slices) gave.
    pub fn advance(&mut self, written: usize) {
        let begun = written.min(self.data.begun_rest());
        self.data.advance(begun);
        let control = (written - begun).min(self.control.len());
        self.control.advance(control);
        self.data.advance(written - begun - control);
    }

    /// The oldest control packet, unless a stream has begun it.
    pub fn next_control(&self) -> Option<&[u8]> {
        self.control.first()
    }

    /// The oldest control packet, of `len` bytes, is gone.
    pub fn advance_control(&mut self, len: usize) {
        self.control.advance(len);
    }

    /// Length, headroom included, and stage of the data packet that has `index` others before it.
    pub fn data_packet(&self, index: usize) -> Option<(usize, Stage)> {
        let packet = self.data.packets.get(index)?;
        Some((packet.len, packet.stage))
    }

    /// Note what became of a data packet.
    pub fn set_stage(&mut self, index: usize, stage: Stage) {
        if let Some(packet) = self.data.packets.get_mut(index) {
            packet.stage = stage;
        }
    }

    /// Data packets as they lie, headroom included.
    pub fn data(&self) -> &[u8] {
        self.data.bytes()
    }

    /// The same, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        let lane = &mut self.data;
        &mut lane.buffer[lane.head..lane.tail]
    }

    /// The oldest data packet, unless a stream has begun it.
    pub fn next_data(&self) -> Option<&[u8]> {
        self.data.first()
    }

    /// The stream took `written` bytes of the oldest data packet.
    pub fn advance_data(&mut self, written: usize) {
        self.data.advance(written);
    }

    /// Give memory back. Call when nothing has been sent for a while.
    pub fn shrink(&mut self) {
        self.control.shrink();
        self.data.shrink();
    }

    /// Bytes of memory held, for tests and the memory budget.
    pub fn capacity(&self) -> usize {
        self.control.buffer.capacity() + self.data.buffer.capacity()
    }
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    len: usize,
    queued: Time,
    stage: Stage,
}

/// Packets back to back in `buffer[head..tail]`. Bytes behind `tail` are initialised leftovers, ready to be overwritten.
#[derive(Debug, Default)]
struct Lane {
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
    packets: VecDeque<Packet>,
    /// Bytes of the first packet that are gone already.
    begun: usize,
}

impl Lane {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.head..self.tail]
    }

    fn len(&self) -> usize {
        self.tail - self.head
    }

    fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    fn first(&self) -> Option<&[u8]> {
        if self.begun > 0 {
            return None;
        }
        let first = self.packets.front()?;
        self.bytes().get(..first.len)
    }

    /// Bytes left of a packet that a stream has begun.
    fn begun_rest(&self) -> usize {
        match self.packets.front() {
            Some(first) if self.begun > 0 => first.len - self.begun,
            _ => 0,
        }
    }

    fn reserve(&mut self, len: usize, limit: usize) -> Option<&mut [u8]> {
        if self.len() + len > limit {
            return None;
        }
        if self.tail + len > self.buffer.len() {
            if self.head > 0 {
                self.buffer.copy_within(self.head..self.tail, 0);
                self.tail -= self.head;
                self.head = 0;
            }
            if self.tail + len > self.buffer.len() {
                let size = (self.tail + len)
                    .next_power_of_two()
                    .clamp(INITIAL_BYTES, limit.max(INITIAL_BYTES));
                self.buffer.resize(size, 0);
            }
        }
        self.buffer.get_mut(self.tail..self.tail + len)
    }

    fn commit(&mut self, len: usize, now: Time, stage: Stage) {
        debug_assert!(
            self.tail + len <= self.buffer.len(),
            "commit follows a reservation of the same length"
        );
        self.tail += len;
        self.packets.push_back(Packet {
            len,
            queued: now,
            stage,
        });
    }

    fn advance(&mut self, written: usize) {
        if written == self.len() {
            self.head = 0;
            self.tail = 0;
            self.begun = 0;
            self.packets.clear();
            return;
        }
        self.head += written;
        let mut gone = self.begun + written;
        while let Some(first) = self.packets.front()
            && gone >= first.len
        {
            gone -= first.len;
            self.packets.pop_front();
        }
        self.begun = gone;
    }

    fn expire(&mut self, now: Time) -> u64 {
        let begun = usize::from(self.begun > 0);
        let mut dropped = 0;
        let mut bytes = 0;
        while let Some(oldest) = self.packets.get(begun)
            && now.since(oldest.queued) > DATA_MAX_AGE
            && self.len() - bytes > DATA_MIN_BYTES
        {
            bytes += oldest.len;
            dropped += 1;
            self.packets.remove(begun);
        }
        if bytes > 0 {
            // What is left of a begun packet moves up to the first packet that stays.
            let rest = self.begun_rest();
            self.buffer
                .copy_within(self.head..self.head + rest, self.head + bytes);
            self.head += bytes;
        }
        dropped
    }

    fn shrink(&mut self) {
        if self.is_empty() {
            self.head = 0;
            self.tail = 0;
        }
        if self.is_empty() && self.buffer.len() > INITIAL_BYTES {
            self.buffer = Vec::new();
            self.packets = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests;

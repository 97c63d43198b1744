//! What was read before its turn, in order of arrival: a ring of bytes.
//!
//! The system hands packets over in the order of their arrival. While the worker was off the processor megabytes of a bulk
//! transfer may have come; what else came behind them is found by reading ahead, and goes first (ADR 0017).

use std::collections::VecDeque;

/// Bytes of the ring: sixteen super-packets, some two milliseconds at 4 Gb/s, and half of the second-level cache of today's
/// processors.
const CAPACITY: usize = 1 << 20;
/// Entries in it.
const ENTRIES: usize = 1024;
/// What is shorter moves up to what is before it; for longer ones that costs more than the room.
const MOVED: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct ReadAhead<T> {
    /// Made when something is read, and kept: fresh from the system it is resident only as far as it was used, and the
    /// allocator gives it so but once.
    memory: Vec<u8>,
    entries: VecDeque<Entry<T>>,
    /// Where the latest room began, and what is still free of it.
    room: usize,
    free: usize,
}

#[derive(Debug)]
struct Entry<T> {
    what: T,
    start: usize,
    len: usize,
}

impl<T> Default for ReadAhead<T> {
    fn default() -> Self {
        Self {
            memory: Vec::new(),
            entries: VecDeque::new(),
            room: 0,
            free: 0,
        }
    }
}

impl<T> ReadAhead<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is room for `len` bytes; if not, first what waits.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.free_at(len).is_some()
    }

    /// Room for `len` bytes to be read into.
    pub(super) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.memory.is_empty() {
            self.memory = vec![0; CAPACITY];
        }
        self.room = self.free_at(len)?;
        self.free = self.room;
        self.memory.get_mut(self.room..self.room + len)
    }

    /// The `len` bytes at `offset` of the latest room wait for their turn. In the order of their offsets.
    pub(super) fn push(&mut self, what: T, offset: usize, len: usize) {
        let mut start = self.room + offset;
        if len < MOVED && start > self.free {
            self.memory.copy_within(start..start + len, self.free);
            start = self.free;
        }
        self.free = start + len;
        self.entries.push_back(Entry { what, start, len });
    }

    /// Whose turn it is. Its bytes are free with the next call to [`room`](Self::room).
    pub(super) fn pop(&mut self) -> Option<(T, &mut [u8])> {
        let entry = self.entries.pop_front()?;
        let bytes = self.memory.get_mut(entry.start..entry.start + entry.len)?;
        Some((entry.what, bytes))
    }

    fn free_at(&self, len: usize) -> Option<usize> {
        let (Some(first), Some(last)) = (self.entries.front(), self.entries.back()) else {
            return Some(0);
        };
        if self.entries.len() >= ENTRIES {
            return None;
        }
        let (head, tail) = (first.start, last.start + last.len);
        if last.start < head {
            // It went round the end.
            return (head - tail >= len).then_some(tail);
        }
        if CAPACITY - tail >= len {
            return Some(tail);
        }
        (head >= len).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: usize = 65_545;

    #[test]
    fn what_goes_in_comes_out_in_order_round_the_end_again_and_again() {
        let mut ring = ReadAhead::default();
        let mut lengths = [LARGEST, 100, 40_000, 1, 65_000, 1200, 0]
            .into_iter()
            .cycle();
        let mut waiting = VecDeque::new();
        let mut number = 0_u8;
        for round in 0..3000 {
            let batch = 1 + round % 4;
            while let Some(room) = ring.room(batch * LARGEST) {
                let slots = room.chunks_exact_mut(LARGEST);
                let filled: Vec<(u8, usize)> = slots
                    .map(|slot| {
                        let len = lengths.next().unwrap();
                        number = number.wrapping_add(1);
                        slot[..len].fill(number);
                        (number, len)
                    })
                    .collect();
                for (slot, &(number, len)) in filled.iter().enumerate() {
                    ring.push(number, slot * LARGEST, len);
                }
                waiting.extend(filled);
            }
            for _ in 0..round % 11 + 1 {
                let Some((number, len)) = waiting.pop_front() else {
                    break;
                };
                let (what, bytes) = ring.pop().unwrap();
                assert_eq!((what, bytes.len()), (number, len));
                assert!(bytes.iter().all(|&byte| byte == number));
            }
        }
        while ring.pop().is_some() {}
        assert!(ring.is_empty());
        assert!(ring.has_room(CAPACITY));
    }

    #[test]
    fn short_ones_fill_it_by_their_number() {
        let mut ring = ReadAhead::default();
        for _ in 0..ENTRIES / 4 {
            assert!(ring.room(4 * LARGEST).is_some());
            for slot in 0..4 {
                ring.push((), slot * LARGEST, 200);
            }
        }
        assert!(!ring.has_room(1));
        ring.pop();
        assert!(ring.has_room(LARGEST));
    }
}

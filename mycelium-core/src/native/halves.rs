//! Hot path: see docs/architecture.md#hot-path. Data frames that are too long for the path, in two datagrams.
//!
//! What is cut is the sealed 33 bytes and the body together; each half is sealed whole, after the frame's number.

use super::datagram::{
    self, DATA_BODY_AT, DATA_HEADER_LEN, HALF_FIRST, HALF_OVERHEAD, Header, SEALED_AT, SPARSE_FIRST,
};
use super::io::{BodyKind, DataClass, is_sparse};
use crate::session::transport::{SealError, Sender};
use crate::time::{Duration, Time};

/// Frames of one link of which one half is here. One more, and the oldest goes. Of a peer that has proved its key, but keys
/// cost nothing.
const MAX_PARTIALS: usize = 16;
/// Bytes of all of them: half of the longest frame twice.
const MAX_BYTES: usize = 64 << 10;
/// Longer buffers are not kept.
const LONGEST_SPARE: usize = 2048;
/// How long the other half is waited for.
const LIFETIME: Duration = Duration::from_millis(500);

/// Two sealed datagrams, in buffers that are used again.
#[derive(Debug, Default)]
pub(super) struct Halves {
    pub(super) first: Vec<u8>,
    pub(super) second: Vec<u8>,
}

/// Whether a frame in `buffer` (with headroom) fits two datagrams of at most `size` bytes.
pub(super) fn fits(buffer: &[u8], size: usize) -> bool {
    (buffer.len() - SEALED_AT).div_ceil(2) + HALF_OVERHEAD <= size
}

impl Halves {
    /// Seal the data frame of `class` behind the headroom of `buffer` as frame number `id`.
    pub(super) fn seal(
        &mut self,
        sender: &mut Sender,
        class: DataClass,
        id: u32,
        buffer: &[u8],
    ) -> Result<(), SealError> {
        let whole = buffer.get(SEALED_AT..).ok_or(SealError::Length)?;
        let (front, back) = whole.split_at(whole.len().div_ceil(2));
        let [first, second] = class.half_types();
        for (half, kind, chunk) in [
            (&mut self.first, first, front),
            (&mut self.second, second, back),
        ] {
            half.clear();
            half.resize(SEALED_AT, 0);
            half.extend_from_slice(&id.to_be_bytes());
            half.extend_from_slice(chunk);
            datagram::seal(sender, kind, half)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Partial {
    id: u32,
    is_first: bool,
    arrived: Time,
    chunk: Vec<u8>,
}

/// Puts halves together.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    partials: Vec<Partial>,
    /// Buffers of finished partials, to be used again.
    spare: Vec<Vec<u8>>,
    whole: Vec<u8>,
}

impl Joiner {
    /// Take the opened half in `datagram`. If the frame is complete, it waits in [`frame`](Self::frame); of this class.
    pub(super) fn add(&mut self, header: Header, datagram: &[u8], now: Time) -> Option<DataClass> {
        let (id, chunk) = datagram
            .get(SEALED_AT..)
            .and_then(<[u8]>::split_first_chunk::<4>)?;
        let id = u32::from_be_bytes(*id);
        let is_first = matches!(header.kind, HALF_FIRST | SPARSE_FIRST);
        self.expire(now);
        let Some(at) = self.partials.iter().position(|partial| partial.id == id) else {
            self.keep(id, is_first, chunk, now);
            return None;
        };
        if self.partials[at].is_first == is_first {
            return None;
        }
        let other = self.partials.swap_remove(at);
        let (front, back) = match is_first {
            true => (chunk, &other.chunk[..]),
            false => (&other.chunk[..], chunk),
        };
        let complete = self.join(front, back);
        self.recycle(other.chunk);
        complete.then_some(DataClass {
            body: BodyKind::Other,
            sparse: is_sparse(header.kind),
        })
    }

    /// The frame that was completed last.
    pub(super) fn frame(&mut self) -> &mut [u8] {
        let at = self.whole.len().min(datagram::DATA_OVERHEAD);
        &mut self.whole[at..]
    }

    fn join(&mut self, front: &[u8], back: &[u8]) -> bool {
        if self.whole.capacity() > 2 * LONGEST_SPARE {
            self.whole = Vec::new();
        }
        self.whole.clear();
        self.whole.resize(SEALED_AT, 0);
        self.whole.extend_from_slice(front);
        self.whole.extend_from_slice(back);
        let Some(inner) = self
            .whole
            .get(SEALED_AT..)
            .and_then(<[u8]>::first_chunk::<DATA_HEADER_LEN>)
            .copied()
        else {
            return false;
        };
        let Ok(body_len) = u16::try_from(self.whole.len() - DATA_BODY_AT) else {
            return false;
        };
        datagram::write_frame_header(&mut self.whole, &inner, body_len);
        true
    }

    fn keep(&mut self, id: u32, is_first: bool, chunk: &[u8], now: Time) {
        let mut bytes: usize = self.partials.iter().map(|other| other.chunk.len()).sum();
        while !self.partials.is_empty()
            && (self.partials.len() >= MAX_PARTIALS || bytes + chunk.len() > MAX_BYTES)
        {
            // In order of arrival but for gaps that `swap_remove` fills: near enough to the oldest.
            let oldest = self.partials.remove(0);
            bytes -= oldest.chunk.len();
            self.recycle(oldest.chunk);
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(chunk);
        self.partials.push(Partial {
            id,
            is_first,
            arrived: now,
            chunk: kept,
        });
    }

    fn expire(&mut self, now: Time) {
        while let Some(at) = self
            .partials
            .iter()
            .position(|partial| now.since(partial.arrived) >= LIFETIME)
        {
            let old = self.partials.swap_remove(at);
            self.recycle(old.chunk);
        }
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= LONGEST_SPARE {
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_sends_long_halves_gets_no_more_memory_for_them() {
        let mut joiner = Joiner::default();
        let header = Header {
            kind: HALF_FIRST,
            index: 1,
            counter: 0,
        };
        let mut half = vec![0; 65_000];
        for id in 0..100u32 {
            half[SEALED_AT..][..4].copy_from_slice(&id.to_be_bytes());
            let now = Time::from_millis(u64::from(id) * 100);
            assert_eq!(joiner.add(header, &half, now), None);
        }
        let kept = joiner
            .partials
            .iter()
            .map(|partial| partial.chunk.capacity());
        let spare = joiner.spare.iter().map(Vec::capacity);
        let held: usize = kept.chain(spare).sum();
        assert!(held <= 2 * 65_535, "{held}");
    }
}

//! QUIC datagrams on their way from the thread that reads the socket to quinn.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use quinn::udp::RecvMeta;

/// Most bytes that wait. Beyond, new datagrams are dropped, as in a full socket.
const MAX_BYTES: usize = 2 << 20;
/// What a waiting datagram costs beside its bytes.
const OVERHEAD: usize = 128;

/// Closed until opened, then for ever open.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    open: AtomicBool,
    queue: Mutex<Queue>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    datagrams: VecDeque<(RecvMeta, Vec<u8>)>,
    bytes: usize,
    dropped: u64,
}

impl Inbox {
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.reader.wake();
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Put in datagrams of one sender; `meta` says how they are joined. The reader is not woken yet.
    pub(crate) fn push(&self, meta: RecvMeta, datagrams: &[u8]) {
        let mut queue = self.queue();
        let cost = datagrams.len() + OVERHEAD;
        if queue.bytes + cost > MAX_BYTES {
            queue.dropped += 1;
            return;
        }
        queue.bytes += cost;
        queue.datagrams.push_back((meta, datagrams.to_vec()));
    }

    /// Let the reader take what is there.
    pub(crate) fn wake(&self) {
        self.reader.wake();
    }

    /// Datagrams dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.queue().dropped
    }

    /// How many were copied out; pending while there are none.
    pub(super) fn poll_take(
        &self,
        context: &Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<usize> {
        self.reader.register(context.waker());
        let mut queue = self.queue();
        let mut taken = 0;
        for (buffer, slot) in buffers.iter_mut().zip(meta) {
            let Some((first, datagrams)) = queue.datagrams.pop_front() else {
                break;
            };
            queue.bytes -= datagrams.len() + OVERHEAD;
            // They were read into buffers of at most this size.
            let len = datagrams.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagrams[..len]);
            *slot = RecvMeta { len, ..first };
            taken += 1;
        }
        match taken {
            0 => Poll::Pending,
            taken => Poll::Ready(taken),
        }
    }

    /// Every change is complete before anything can panic.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn datagrams_come_out_in_order_and_never_more_than_the_bound() {
        let inbox = Inbox::default();
        let sent = 100_000;
        for number in 0..sent {
            inbox.push(RecvMeta::default(), &u32::to_be_bytes(number));
        }
        let mut seen = 0_u32;
        let context = Context::from_waker(Waker::noop());
        loop {
            let mut space = [[0; 16]; 3];
            let mut buffers = space.each_mut().map(|buffer| IoSliceMut::new(buffer));
            let mut meta = [RecvMeta::default(); 3];
            let Poll::Ready(taken) = inbox.poll_take(&context, &mut buffers, &mut meta) else {
                break;
            };
            for (buffer, meta) in space.iter().zip(meta).take(taken) {
                assert_eq!(buffer[..meta.len], seen.to_be_bytes());
                seen += 1;
            }
        }
        assert_eq!(u64::from(seen) + inbox.dropped(), u64::from(sent));
        assert!(seen as usize <= MAX_BYTES / OVERHEAD, "{seen}");
        inbox.push(RecvMeta::default(), b"room again");
        assert_eq!(inbox.queue().datagrams.len(), 1);
    }
}

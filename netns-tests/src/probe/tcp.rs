//! Bulk TCP transfers whose content is hashed at both ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};

use crate::lab::Host;
use crate::wait;

/// Bytes per write; each block is stamped with its offset, so that a block lost, doubled or swapped changes the hash.
const BLOCK: usize = 256 << 10;
/// Stamps within a block.
const STAMP_EVERY: usize = 1024;
/// A transfer that makes no progress for this long has failed.
const STALL: Duration = Duration::from_secs(20);

/// A transfer slower than this, bytes per second, has failed: it is being retransmitted to death.
const SLOWEST: u64 = 4_000_000;

/// A transfer that arrived intact.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes carried.
    pub bytes: u64,
    /// From the first byte sent to the last received.
    pub elapsed: Duration,
}

impl Transfer {
    /// Megabits per second.
    pub fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.elapsed.as_secs_f64()
    }
}

/// Send `bytes` from `from` to `address` on `to`; an error if they do not arrive, or not as sent.
pub fn transfer(from: &Host, to: &Host, address: Ipv6Addr, bytes: u64) -> anyhow::Result<Transfer> {
    let limit = STALL + Duration::from_secs(bytes / SLOWEST);
    let transfer = Running::begin(from, to, address, bytes, limit)?.finish()?;
    ensure!(
        transfer.bytes == bytes,
        "{} to {}: {} of {bytes} bytes were sent",
        from.name(),
        to.name(),
        transfer.bytes
    );
    Ok(transfer)
}

/// A transfer that goes on until it is told to stop.
#[derive(Debug)]
pub struct Running {
    label: String,
    progress: Arc<Progress>,
    started: Instant,
    sender: JoinHandle<anyhow::Result<Sent>>,
    receiver: JoinHandle<anyhow::Result<Received>>,
}

#[derive(Debug, Default)]
struct Progress {
    arrived: AtomicU64,
    stop: AtomicBool,
}

impl Running {
    /// Send from `from` to `address` on `to`, for at most `limit`.
    pub fn start(
        from: &Host,
        to: &Host,
        address: Ipv6Addr,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        Self::begin(from, to, address, u64::MAX, limit)
    }

    fn begin(
        from: &Host,
        to: &Host,
        address: Ipv6Addr,
        most: u64,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let listener = to
            .inside(|| TcpListener::bind(SocketAddr::from((address, 0))))?
            .with_context(|| format!("listen on {address} at {}", to.name()))?;
        let target = listener.local_addr()?;
        let progress = Arc::new(Progress::default());
        let counted = Arc::clone(&progress);
        let receiver = std::thread::spawn(move || receive_counted(&listener, limit, &counted));
        let stream = from
            .inside(|| TcpStream::connect_timeout(&target, STALL))?
            .with_context(|| {
                format!("connect from {} to {target} on {}", from.name(), to.name())
            })?;
        let counted = Arc::clone(&progress);
        Ok(Self {
            label: format!("{} to {}", from.name(), to.name()),
            progress,
            started: Instant::now(),
            sender: std::thread::spawn(move || send_until_told(stream, most, &counted)),
            receiver,
        })
    }

    /// Bytes that arrived so far.
    pub fn arrived(&self) -> u64 {
        self.progress.arrived.load(Ordering::Relaxed)
    }

    /// Wait until `bytes` more have arrived; how long that took.
    pub fn advance(&self, bytes: u64, limit: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let wanted = self.arrived() + bytes;
        wait::until("progress of the transfer", limit, || {
            ensure!(!self.receiver.is_finished(), "the transfer has ended");
            Ok((self.arrived() >= wanted).then_some(()))
        })
        .with_context(|| format!("{}, at {} of {wanted} bytes", self.label, self.arrived()))?;
        Ok(started.elapsed())
    }

    /// Send no more; an error if what was sent did not arrive, or not as sent.
    pub fn stop(self) -> anyhow::Result<Transfer> {
        self.progress.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    fn finish(self) -> anyhow::Result<Transfer> {
        let sent = self
            .sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))?;
        let received = self.receiver.join();
        let received = received.map_err(|_| anyhow!("the receiver panicked"))?;
        let label = self.label;
        let sent = sent.with_context(|| match &received {
            Ok(got) => format!("{label}: {} bytes arrived", got.bytes),
            Err(error) => format!("{label}: {error:#}"),
        })?;
        let received = received.with_context(|| label.clone())?;
        ensure!(
            received.bytes == sent.bytes,
            "{label}: {} of {} bytes arrived",
            received.bytes,
            sent.bytes
        );
        ensure!(
            received.hash == sent.hash,
            "{label}: the bytes that arrived are not those sent"
        );
        Ok(Transfer {
            bytes: received.bytes,
            elapsed: received.finished.duration_since(self.started),
        })
    }
}

struct Sent {
    bytes: u64,
    hash: blake3::Hash,
}

/// What the receiving end saw.
pub(crate) struct Received {
    pub(crate) bytes: u64,
    pub(crate) hash: blake3::Hash,
    pub(crate) finished: Instant,
}

/// Accept one connection and read it to its end.
pub(crate) fn receive(listener: &TcpListener, limit: Duration) -> anyhow::Result<Received> {
    receive_counted(listener, limit, &Progress::default())
}

fn receive_counted(
    listener: &TcpListener,
    limit: Duration,
    progress: &Progress,
) -> anyhow::Result<Received> {
    listener.set_nonblocking(true)?;
    let (mut stream, _) = wait::until("a connection", STALL, || match listener.accept() {
        Ok(accepted) => Ok(Some(accepted)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STALL))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BLOCK];
    let mut bytes = 0;
    let deadline = Instant::now() + limit;
    loop {
        ensure!(
            Instant::now() < deadline,
            "only {bytes} bytes within {limit:?}"
        );
        let length = stream
            .read(&mut buffer)
            .with_context(|| format!("receiving stopped after {bytes} bytes"))?;
        if length == 0 {
            return Ok(Received {
                bytes,
                hash: hasher.finalize(),
                finished: Instant::now(),
            });
        }
        hasher.update(buffer.get(..length).unwrap_or_default());
        bytes += length as u64;
        progress.arrived.store(bytes, Ordering::Relaxed);
    }
}

/// Send `bytes` and close; their hash.
pub(crate) fn send(stream: TcpStream, bytes: u64) -> anyhow::Result<blake3::Hash> {
    Ok(send_until_told(stream, bytes, &Progress::default())?.hash)
}

/// Send at most so much, until told to stop, and close.
fn send_until_told(mut stream: TcpStream, most: u64, progress: &Progress) -> anyhow::Result<Sent> {
    stream.set_write_timeout(Some(STALL))?;
    let mut block = vec![0; BLOCK];
    // Incompressible and different from anything a codec might leave in a buffer.
    blake3::Hasher::new()
        .update(b"bulk")
        .finalize_xof()
        .fill(&mut block);
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < most && !progress.stop.load(Ordering::Relaxed) {
        for (index, piece) in block.chunks_mut(STAMP_EVERY).enumerate() {
            let stamp = offset + (index * STAMP_EVERY) as u64;
            if let Some(front) = piece.first_chunk_mut::<8>() {
                *front = stamp.to_be_bytes();
            }
        }
        let length = usize::try_from(most - offset).unwrap_or(BLOCK).min(BLOCK);
        let part = block.get(..length).unwrap_or_default();
        stream
            .write_all(part)
            .with_context(|| format!("sending stopped after {offset} bytes"))?;
        hasher.update(part);
        offset += length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(Sent {
        bytes: offset,
        hash: hasher.finalize(),
    })
}

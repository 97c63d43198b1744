//! Bulk TCP transfers whose content is hashed at both ends.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};

use crate::lab::Host;

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
    let listener = to
        .inside(|| TcpListener::bind(SocketAddr::from((address, 0))))?
        .with_context(|| format!("listen on {address} at {}", to.name()))?;
    let target = listener.local_addr()?;
    let limit = STALL + Duration::from_secs(bytes / SLOWEST);
    let receiver = std::thread::spawn(move || receive(&listener, limit));
    let stream = from
        .inside(|| TcpStream::connect_timeout(&target, STALL))?
        .with_context(|| format!("connect from {} to {target} on {}", from.name(), to.name()))?;
    let started = Instant::now();
    let sent = send(stream, bytes);
    let received = receiver
        .join()
        .map_err(|_| anyhow!("the receiver panicked"))?;
    let label = || format!("{} to {}", from.name(), to.name());
    let sent = sent.with_context(|| match &received {
        Ok(got) => format!("{}: {} of {bytes} bytes arrived", label(), got.bytes),
        Err(error) => format!("{}: {error:#}", label()),
    })?;
    let received = received.with_context(label)?;
    ensure!(
        received.bytes == bytes,
        "{}: {} of {bytes} bytes arrived",
        label(),
        received.bytes
    );
    ensure!(
        received.hash == sent,
        "{}: the bytes that arrived are not those sent",
        label()
    );
    Ok(Transfer {
        bytes,
        elapsed: received.finished.duration_since(started),
    })
}

/// What the receiving end saw.
pub(crate) struct Received {
    pub(crate) bytes: u64,
    pub(crate) hash: blake3::Hash,
    pub(crate) finished: Instant,
}

/// Accept one connection and read it to its end.
pub(crate) fn receive(listener: &TcpListener, limit: Duration) -> anyhow::Result<Received> {
    listener.set_nonblocking(true)?;
    let (mut stream, _) = crate::wait::until("a connection", STALL, || match listener.accept() {
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
    }
}

/// Send `bytes` and close; their hash.
pub(crate) fn send(mut stream: TcpStream, bytes: u64) -> anyhow::Result<blake3::Hash> {
    stream.set_write_timeout(Some(STALL))?;
    let mut block = vec![0; BLOCK];
    // Incompressible and different from anything a codec might leave in a buffer.
    blake3::Hasher::new()
        .update(b"bulk")
        .finalize_xof()
        .fill(&mut block);
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < bytes {
        for (index, piece) in block.chunks_mut(STAMP_EVERY).enumerate() {
            let stamp = offset + (index * STAMP_EVERY) as u64;
            if let Some(front) = piece.first_chunk_mut::<8>() {
                *front = stamp.to_be_bytes();
            }
        }
        let length = usize::try_from(bytes - offset).unwrap_or(BLOCK).min(BLOCK);
        let part = block.get(..length).unwrap_or_default();
        stream
            .write_all(part)
            .with_context(|| format!("sending stopped after {offset} bytes"))?;
        hasher.update(part);
        offset += length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hasher.finalize())
}

//! Bulk data over one TCP connection through the overlay.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use node_integration::Namespace;

/// Written and read at a time.
const CHUNK: usize = 256 << 10;

/// A connection on which nothing moves for this long is broken.
const STALLED: Duration = Duration::from_secs(4);

/// What a transfer did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    /// Bytes written by the sender.
    pub(super) sent: u64,
    /// Bytes read by the receiver, until the end.
    pub(super) received: u64,
    /// From the first write to the last read.
    pub(super) elapsed: Duration,
}

/// Send from one namespace to `address` in another for `duration`.
///
/// # Errors
/// `TimedOut` or `WouldBlock` when the connection does not come up or stalls.
pub(super) fn run(
    from: &Namespace,
    to: &Namespace,
    address: Ipv6Addr,
    duration: Duration,
) -> io::Result<Moved> {
    let listener = to.run(|| TcpListener::bind((address, 0)))??;
    let target = SocketAddr::from((address, listener.local_addr()?.port()));
    // Sockets keep the namespace they are made in.
    let sender = from.run(|| TcpStream::connect_timeout(&target, STALLED))??;
    let (receiver, _) = listener.accept()?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let receiving = std::thread::Builder::new()
            .name("receiver".into())
            .spawn_scoped(scope, || receive(&receiver))?;
        let sent = send(&sender, started + duration);
        if sent.is_err() {
            // Nothing more will come; do not let the receiver wait for it.
            let _ = sender.shutdown(Shutdown::Both);
        }
        let received = receiving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let elapsed = started.elapsed();
        // What the sender met comes first: the receiver's trouble follows from it.
        Ok(Moved {
            sent: sent?,
            received: received?,
            elapsed,
        })
    })
}

fn send(mut stream: &TcpStream, until: Instant) -> io::Result<u64> {
    stream.set_write_timeout(Some(STALLED))?;
    let chunk = vec![0x6d; CHUNK];
    let mut sent = 0;
    while Instant::now() < until {
        sent += stream.write(&chunk)? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

fn receive(mut stream: &TcpStream) -> io::Result<u64> {
    stream.set_read_timeout(Some(STALLED))?;
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(received),
            length => received += length as u64,
        }
    }
}

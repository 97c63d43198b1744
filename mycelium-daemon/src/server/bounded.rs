//! A listener that serves a bounded number of connections.
//!
//! Whoever can reach the API can also open connections and leave them. When there are too many, the oldest is closed: a
//! request takes milliseconds, so the oldest is hardly ever one that still matters, and nobody can keep others out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::descriptors;

/// Connections of one server at a time; each takes some 20 KiB.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// Pause when the system has no descriptors left: accepting again at once would spin.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Bounded {
    listener: TcpListener,
    /// Dropping one closes its connection. Oldest first; closed by their clients already, some of them.
    open: VecDeque<oneshot::Sender<Infallible>>,
}

/// A connection that may be closed from outside.
pub(super) struct Connection {
    stream: TcpStream,
    /// `None` once it is to be closed.
    kept: Option<oneshot::Receiver<Infallible>>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            open: VecDeque::new(),
        }
    }

    fn admit(&mut self, stream: TcpStream) -> Connection {
        self.open.retain(|connection| !connection.is_closed());
        if self.open.len() >= MAX_CONNECTIONS {
            tracing::debug!("too many connections to the API: the oldest is closed");
            self.open.pop_front();
        }
        let (keep, kept) = oneshot::channel();
        self.open.push_back(keep);
        Connection {
            stream,
            kept: Some(kept),
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if descriptors::is_scarce(&stream, descriptors::Source::Client) => {
                    // Ours make room for the next attempt.
                    self.open.pop_front();
                }
                Ok((stream, remote)) => return (self.admit(stream), remote),
                Err(error) => {
                    tracing::debug!(%error, "no connection accepted by a server");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    /// An error once it is to be closed; otherwise the task is woken when that happens.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let is_kept = self
            .kept
            .as_mut()
            .is_some_and(|kept| Pin::new(kept).poll(context).is_pending());
        if is_kept {
            return Ok(());
        }
        self.kept = None;
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use axum::Router;
    use axum::routing::get;

    use super::*;

    /// Clients that say nothing, that stop in the middle of a request, and that read no answer.
    #[test]
    fn idle_clients_do_not_keep_others_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = Bounded::new(TcpListener::from_std(listener).unwrap());
                let app = Router::new().route("/", get(|| async { vec![b'x'; 8 << 20] }));
                axum::serve(listener, app).await
            })
        });
        let connect = || {
            let stream = std::net::TcpStream::connect(address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream
        };
        let mut held: Vec<_> = (0..2 * MAX_CONNECTIONS)
            .map(|number| {
                let mut stream = connect();
                let request: &[u8] = match number % 3 {
                    0 => b"",
                    1 => b"GET / HTTP/1.1\r\nHost: loc",
                    _ => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                };
                stream.write_all(request).unwrap();
                stream
            })
            .collect();
        let mut stream = connect();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", answer.len());
        // The first of each kind were closed.
        for stream in &mut held[..3] {
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest).map_err(|error| error.kind());
            assert!(
                matches!(end, Ok(_) | Err(io::ErrorKind::ConnectionReset)),
                "{end:?}"
            );
        }
    }
}

//! A listener that serves a bounded number of connections, over TCP or a Unix socket.
//!
//! Whoever can reach the API can also open connections and leave them. When there are too many, the oldest is closed: a
//! request takes milliseconds, so the oldest is hardly ever one that still matters, and nobody can keep others out. A
//! client that does not read what it asked for ([`PORTION`] in [`PATIENCE`]) is closed too.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use crate::api::credentials::Client;
use crate::descriptors;

/// Connections of one server at a time. Each takes some 20 KiB, and up to 256 KiB of an answer that is not taken.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// How long a client may take for [`PORTION`], or for the rest of its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// About as much as the server buffers for a client.
const PORTION: usize = 256 << 10;
/// Pause when the system has no descriptors left: accepting again at once would spin.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(super) enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// See the module.
pub(super) struct Bounded {
    source: Source,
    patience: Duration,
    /// Dropping one closes its connection. Oldest first; closed by their clients already, some of them.
    open: VecDeque<oneshot::Sender<Infallible>>,
}

/// A connection that may be closed from outside.
pub(super) struct Connection {
    stream: Stream,
    /// `None` once it is to be closed.
    kept: Option<oneshot::Receiver<Infallible>>,
    patience: Duration,
    /// Since the client could not take more, until it has taken everything or a portion.
    behind: Option<Pin<Box<Sleep>>>,
    /// What it took of the portion.
    taken: usize,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Bounded {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            patience: PATIENCE,
            open: VecDeque::new(),
        }
    }

    fn admit(&mut self, stream: Stream) -> Connection {
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
            patience: self.patience,
            behind: None,
            taken: 0,
        }
    }
}

impl Source {
    /// A connection, unless it would take one of the last descriptors.
    async fn accept(&self) -> io::Result<Option<(Stream, Client)>> {
        let client = descriptors::Source::Client;
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                let scarce = descriptors::is_scarce(&stream, client);
                (!scarce).then_some((Stream::Tcp(stream), Client::Tcp(remote)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                let scarce = descriptors::is_scarce(&stream, client);
                (!scarce).then_some((Stream::Unix(stream), Client::Unix(user)))
            }
        })
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = Client;

    async fn accept(&mut self) -> (Connection, Client) {
        loop {
            match self.source.accept().await {
                Ok(Some((stream, remote))) => return (self.admit(stream), remote),
                Ok(None) => {
                    // Ours make room for the next attempt.
                    self.open.pop_front();
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection accepted by a server");
                    sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Client> {
        Ok(match &self.source {
            Source::Tcp(listener) => Client::Tcp(listener.local_addr()?),
            Source::Unix(_) => Client::Unix(None),
        })
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

    /// What a write came to, or an error once the client has been behind for too long; else the task is woken then.
    fn wrote(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.taken += count;
            if self.taken >= PORTION {
                self.keeps_up();
            }
        } else if written.is_pending() {
            let patience = self.patience;
            let behind = self.behind.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(behind.as_mut().poll(context));
            tracing::debug!("a client of the API does not read: it is cut off");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    fn keeps_up(&mut self) {
        self.behind = None;
        self.taken = 0;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.wrote(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        self.wrote(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The server calls this when it has written everything that it had buffered.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        self.keeps_up();
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;

    use super::*;

    fn large_answers() -> Router {
        // In pieces, as ours are.
        let pieces = || {
            let pieces = std::iter::repeat_with(|| Ok::<_, io::Error>(vec![b'x'; 16 << 10]));
            Body::from_stream(futures_util::stream::iter(pieces.take(512)))
        };
        Router::new().route("/", get(async move || pieces()))
    }

    /// One that reads nothing, one that reads a little now and then, and one that reads slowly, but reads.
    #[test]
    fn who_does_not_read_is_cut_off_and_who_is_slow_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let source = Source::Unix(UnixListener::from_std(listener).unwrap());
                let listener = Bounded {
                    patience: Duration::from_millis(300),
                    ..Bounded::new(source)
                };
                axum::serve(listener, large_answers()).await
            })
        });
        let ask = || {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .unwrap();
            stream
        };
        let mut idle = ask();
        let mut dripping = ask();
        let mut slow = ask();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    let _ = dripping.read(&mut [0; 64]);
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let mut taken = 0;
            let mut piece = vec![0; 1 << 20];
            while let Ok(count @ 1..) = slow.read(&mut piece) {
                taken += count;
                // Longer than it may take for a piece, in all.
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(taken > 8 << 20, "{taken}");
        });
        for stream in [&mut idle, &mut dripping] {
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest);
            assert!(rest.len() < 4 << 20, "{} {end:?}", rest.len());
        }
    }

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
                let listener = Bounded::new(Source::Tcp(TcpListener::from_std(listener).unwrap()));
                axum::serve(listener, large_answers()).await
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

//! TCP links: packets back to back on a byte stream (wire spec §2.3).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use mycelium_core::time::Duration;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Established, Transport, link_info, unmapped};
use crate::descriptors;

mod pace;
mod round_trip;

use pace::SetAside;

/// Static cost over IPv4 (wire spec §2.7).
const COST: u16 = 15;
/// The kernel takes no more while this much is unsent, so that control packets overtake data in our outbox instead of
/// queueing behind it in the socket. Below 64 KiB throughput suffers from the extra wake-ups.
const NOTSENT_LOWAT: u32 = 128 << 10;
/// Longer than any handshake that leads to a useful link; the operating system would try for two minutes.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 1024;
/// Pause when the process or the system is out of descriptors or memory: accepting again at once would spin.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    pace: SetAside,
}

impl Listener {
    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Connect to `remote`. The firewall mark is set before the first packet leaves.
///
/// # Errors
/// What the system says, or `TimedOut` after 10 s.
pub async fn dial(remote: SocketAddr, firewall_mark: Option<u32>) -> io::Result<Established> {
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = firewall_mark {
        socket.set_mark(mark)?;
    }
    set_options(&socket)?;
    let pace = pace::set_aside(&socket);
    let socket = TcpSocket::from_std_stream(socket.into());
    let started = Instant::now();
    let stream = tokio::time::timeout(DIAL_LIMIT, socket.connect(remote))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s"))??;
    established(stream, remote, Some(started.elapsed()), &pace)
}

/// Listen on all addresses of both families, or of IPv4 alone where the system has no IPv6.
///
/// # Errors
/// `AddrInUse` when the port is busy, and whatever else the system says.
pub fn listen(port: u16, firewall_mark: Option<u32>) -> io::Result<Listener> {
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match listen_on(any_v6, firewall_mark) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
            ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            listen_on(any_v4, firewall_mark)
        }
        result => result,
    }
}

fn listen_on(address: SocketAddr, firewall_mark: Option<u32>) -> io::Result<Listener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = firewall_mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&address.into())?;
    let pace = pace::set_aside(&socket);
    socket.listen(BACKLOG)?;
    Ok(Listener {
        socket: TcpListener::from_std(socket.into())?,
        pace,
    })
}

/// The next inbound connection. Whatever is wrong with one connection is that connection's end, never the listener's.
///
/// # Errors
/// Only when the listening socket itself is broken.
pub async fn accept(listener: &Listener) -> io::Result<Established> {
    loop {
        match listener.socket.accept().await {
            Ok((stream, remote)) if descriptors::is_scarce(&stream, descriptors::Source::Peer) => {
                tracing::debug!(%remote, "too few descriptors left: inbound connection refused");
            }
            Ok((stream, remote)) => {
                let result = set_options(&SockRef::from(&stream))
                    .and_then(|()| established(stream, unmapped(remote), None, &listener.pace));
                match result {
                    Ok(link) => return Ok(link),
                    Err(error) => {
                        tracing::debug!(%remote, %error, "inbound connection lost at once")
                    }
                }
            }
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                if is_exhaustion(&error) {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}

fn is_fatal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [
        Errno::BADF,
        Errno::INVAL,
        Errno::NOTSOCK,
        Errno::OPNOTSUPP,
        Errno::FAULT,
    ]
    .iter()
    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn set_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

fn established(
    stream: TcpStream,
    remote: SocketAddr,
    setup_rtt: Option<Duration>,
    pace: &SetAside,
) -> io::Result<Established> {
    let remote = unmapped(remote);
    let local = stream.local_addr().ok().map(unmapped);
    if let Some(local) = local {
        pace.give_back(&SockRef::from(&stream), local, remote);
    }
    Ok(Established {
        local,
        remote,
        info: link_info(COST, remote, setup_rtt),
        transport: Transport::Tcp(stream),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dialled_link_is_accepted_over_both_families() {
        let listener = listen(0, None).unwrap();
        let port = listener.local_addr().unwrap().port();
        for (host, cost) in [("127.0.0.1", 15), ("[::1]", 10)] {
            let remote = format!("{host}:{port}").parse().unwrap();
            let (dialled, accepted) = tokio::join!(dial(remote, None), accept(&listener));
            let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
            assert_eq!(dialled.remote, remote);
            assert_eq!(Some(accepted.remote), dialled.local);
            assert_eq!(
                (dialled.info.static_cost, accepted.info.static_cost),
                (cost, cost)
            );
            assert!(dialled.info.setup_rtt.is_some());
        }
    }

    #[tokio::test]
    async fn a_refused_dial_says_so() {
        let listener = listen(0, None).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = dial(([127, 0, 0, 1], port).into(), None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_busy_port_says_so() {
        let listener = listen(0, None).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(
            listen(port, None).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }
}

//! Links over vsock: a byte stream between a guest and its host that needs no network (wire spec §2.1, §2.3, §2.7).
//!
//! A guest dials and accepts at the socket family `AF_VSOCK`. So does a host whose kernel carries it (vhost-vsock).
//! Cloud Hypervisor, Firecracker and vhost-device-vsock show a guest's vsock to the host as Unix sockets instead:
//! - the host dials the monitor's socket `PATH` and says `CONNECT PORT\n`; `OK PORT\n` comes back when the guest has
//!   accepted (Firecracker, docs/vsock.md);
//! - what the guest dials on the host's port arrives at the Unix socket `PATH_PORT`, which the host's program makes.

use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mycelium_core::io::LinkInfo;
use mycelium_core::time::Duration;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use super::{Established, Transport};
use crate::descriptors;
use crate::server::local::{self, SocketFile};

/// Wire spec §2.7.
const COST: u16 = 5;
const BACKLOG: i32 = 128;
/// As `VMADDR_CID_ANY`: on which addresses to listen, and the context id of a guest that is not known by one.
pub(crate) const ANY: u32 = u32::MAX;
/// A monitor's answer, `OK ` and a number, is shorter.
const LONGEST_ANSWER: usize = 32;
/// Pause after an accept that failed, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What stands for a vsock address where tables of links want a socket address: in `100::/8`, which is reserved, so it
/// can be confused with no place, and a /64 for each context id, because inbound links are counted by /64.
pub(crate) fn stand_in(cid: u32, port: u32) -> SocketAddr {
    let bits = 0x0100 << 112 | u128::from(cid) << 64 | u128::from(port);
    SocketAddr::from((Ipv6Addr::from_bits(bits), 1))
}

/// Context id and port behind [`stand_in`].
#[expect(
    clippy::cast_possible_truncation,
    reason = "each is the 32 bits that were put there"
)]
pub(crate) fn of_stand_in(address: SocketAddr) -> (u32, u32) {
    match address {
        SocketAddr::V6(v6) => {
            let bits = v6.ip().to_bits();
            ((bits >> 64) as u32, bits as u32)
        }
        SocketAddr::V4(_) => (ANY, ANY),
    }
}

/// Connect to a port of the context `cid`: 2 is the host.
///
/// # Errors
/// What the system says: `Unsupported` without vsock, `ConnectionReset` when nobody listens.
pub(crate) async fn dial(cid: u32, port: u32) -> io::Result<Established> {
    let started = Instant::now();
    let socket = Socket::new(Domain::VSOCK, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&SockAddr::vsock(cid, port)) {
        Err(error)
            if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            return Err(error);
        }
        _ => {}
    }
    let stream = as_stream(socket)?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    Ok(established(
        stream,
        stand_in(cid, port),
        Some(started.elapsed()),
    ))
}

/// Connect to a port of the guest whose monitor shows its vsock at `path`.
///
/// # Errors
/// What the system says; `ConnectionRefused` when the monitor hangs up, since nobody listens in the guest;
/// `InvalidData` when it is no monitor.
pub(crate) async fn dial_monitor(path: &Path, port: u32) -> io::Result<Established> {
    let started = Instant::now();
    let mut stream = UnixStream::connect(path).await?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await?;
    // Byte by byte: what follows the line is the guest's.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        if answer.len() == LONGEST_ANSWER {
            return Err(bad_answer(&answer));
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(io::Error::new(
                    ErrorKind::ConnectionRefused,
                    "the guest does not listen there",
                ));
            }
            Err(error) => return Err(error),
        }
    }
    let accepted = answer
        .strip_prefix(b"OK ")
        .and_then(|rest| rest.strip_suffix(b"\n"))
        .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit));
    if !accepted {
        return Err(bad_answer(&answer));
    }
    let stream = as_stream(stream.into_std()?)?;
    Ok(established(
        stream,
        stand_in(ANY, port),
        Some(started.elapsed()),
    ))
}

fn bad_answer(answer: &[u8]) -> io::Error {
    let shown = String::from_utf8_lossy(answer);
    let text = format!(
        "no virtual machine monitor's answer: {:?}",
        shown.trim_end()
    );
    io::Error::new(ErrorKind::InvalidData, text)
}

/// Accepts links.
#[derive(Debug)]
pub(crate) enum Listener {
    /// At the socket family.
    Family(TcpStream),
    /// At the Unix socket of one guest.
    Monitor {
        /// The socket.
        listener: UnixListener,
        /// Which guest; tells its links from those of others.
        number: u32,
        /// Removed with the listener.
        _file: SocketFile,
    },
}

/// Where a guest's connections to `port` arrive, if its monitor has its vsock at `path`.
pub(crate) fn monitor_socket(path: &Path, port: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    PathBuf::from(name)
}

impl Listener {
    /// Listen on a port of all contexts of this machine.
    ///
    /// # Errors
    /// What the system says: `Unsupported` without vsock, `AddrInUse`.
    pub(crate) fn family(port: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::VSOCK, Type::STREAM.nonblocking(), None)?;
        socket.bind(&SockAddr::vsock(ANY, port))?;
        socket.listen(BACKLOG)?;
        // Of the stream only its readiness is used.
        as_stream(socket).map(Self::Family)
    }

    /// Listen for the guest whose monitor has its vsock at `path`. Anybody who may enter the directory may connect, as
    /// anybody may over the network.
    ///
    /// # Errors
    /// What the system says: `AddrInUse` when another process listens there.
    pub(crate) fn monitor(path: &Path, port: u32, number: u32) -> io::Result<Self> {
        let path = monitor_socket(path, port);
        let (listener, file) = local::bind(&path)?;
        Ok(Self::Monitor {
            listener: UnixListener::from_std(listener)?,
            number,
            _file: file,
        })
    }

    /// The next inbound link. Whatever is wrong with one connection is that connection's end.
    pub(crate) async fn accept(&self) -> Established {
        loop {
            let accepted = match self {
                Self::Family(listener) => accept_family(listener).await,
                Self::Monitor {
                    listener, number, ..
                } => accept_monitor(listener, *number).await,
            };
            match accepted {
                Ok(link) => return link,
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn accept_family(listener: &TcpStream) -> io::Result<Established> {
    loop {
        listener.readable().await?;
        let accepted = listener.try_io(Interest::READABLE, || SockRef::from(listener).accept());
        let (socket, address) = match accepted {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            accepted => accepted?,
        };
        refuse_scarce(&socket)?;
        socket.set_nonblocking(true)?;
        let (cid, port) = address.as_vsock_address().unwrap_or((ANY, ANY));
        return Ok(established(as_stream(socket)?, stand_in(cid, port), None));
    }
}

async fn accept_monitor(listener: &UnixListener, number: u32) -> io::Result<Established> {
    let (stream, _) = listener.accept().await?;
    refuse_scarce(&stream)?;
    let stream = as_stream(stream.into_std()?)?;
    // No guest has such a number: they are counted from the highest.
    Ok(established(stream, stand_in(ANY - number, 0), None))
}

fn refuse_scarce(accepted: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    if descriptors::is_scarce(accepted, descriptors::Source::Peer) {
        return Err(io::Error::other("too few descriptors left"));
    }
    Ok(())
}

/// A connected, non-blocking byte stream of any family, as the type that links over TCP have: reading, writing and
/// readiness are the same.
fn as_stream(socket: impl Into<OwnedFd>) -> io::Result<TcpStream> {
    TcpStream::from_std(socket.into().into())
}

fn established(stream: TcpStream, remote: SocketAddr, setup_rtt: Option<Duration>) -> Established {
    Established {
        transport: Transport::Vsock(stream),
        local: None,
        remote,
        info: LinkInfo {
            static_cost: COST,
            setup_rtt,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that answers one connection with `answer` and what follows it.
    async fn monitor(answer: &'static [u8]) -> io::Result<(Established, Vec<u8>)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vm.vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 13];
            stream.read_exact(&mut asked).await.unwrap();
            stream.write_all(answer).await.unwrap();
            asked.to_vec()
        };
        let (link, asked) = tokio::join!(dial_monitor(&path, 9651), serve);
        Ok((link?, asked))
    }

    #[tokio::test]
    async fn a_monitor_is_asked_and_the_stream_starts_after_its_line() {
        let (link, asked) = monitor(b"OK 1073741824\nfirst").await.unwrap();
        assert_eq!(asked, b"CONNECT 9651\n");
        assert_eq!(link.info.static_cost, 5);
        assert_eq!(of_stand_in(link.remote), (ANY, 9651));
        let Transport::Vsock(mut stream) = link.transport else {
            panic!("another transport");
        };
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"first");
    }

    #[tokio::test]
    async fn what_is_no_monitor_is_refused() {
        for answer in [
            &b"OK \n"[..],
            b"OK 12x\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            &[b'O'; 100],
        ] {
            let error = monitor(answer).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{answer:?}");
        }
        let error = monitor(b"").await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let nowhere = dial_monitor(Path::new("/nonexistent/vsock"), 1).await;
        assert_eq!(nowhere.map(drop).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_guest_connects_where_its_monitor_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vm.vsock");
        let listener = Listener::monitor(&path, 9651, 3).unwrap();
        let socket = directory.path().join("vm.vsock_9651");
        let (link, guest) = tokio::join!(listener.accept(), UnixStream::connect(&socket));
        guest.unwrap();
        assert_eq!(of_stand_in(link.remote), (ANY - 3, 0));
        assert!(Listener::monitor(&path, 9651, 4).is_err(), "it is in use");
        drop(listener);
        assert!(!socket.exists());
    }

    #[test]
    fn addresses_stand_for_vsock_addresses() {
        for (cid, port) in [(2, 9651), (3, 0), (ANY, ANY), (0, 1 << 31)] {
            assert_eq!(of_stand_in(stand_in(cid, port)), (cid, port));
        }
        assert_eq!(stand_in(3, 9651).to_string(), "[100:0:0:3::25b3]:1");
    }
}

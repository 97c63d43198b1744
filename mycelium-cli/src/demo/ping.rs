//! Echo requests over a raw ICMPv6 socket (RFC 4443 §4), so that no `ping` has to be installed.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use node_integration::Namespace;
use socket2::{Domain, Protocol, Socket, Type};

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// Tells our replies from those to others; the namespace is ours alone.
const IDENTIFIER: [u8; 2] = *b"my";

/// As `ping` sends.
const PAYLOAD: usize = 56;

/// How long an [attempt](Pinger::attempt) waits.
pub(super) const RETRY: Duration = Duration::from_millis(5);

/// Pings one address from one namespace.
pub(super) struct Pinger {
    // The standard library has no type for raw sockets; sending and receiving are the same as for UDP. The kernel
    // takes the IPv6 header off and fills in and checks the checksum.
    socket: UdpSocket,
    target: SocketAddr,
    sequence: u16,
}

impl Pinger {
    pub(super) fn open(namespace: &Namespace, target: Ipv6Addr) -> io::Result<Self> {
        let socket =
            namespace.run(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)))??;
        let target = SocketAddrV6::new(target, 0, 0, 0).into();
        Ok(Self {
            socket: socket.into(),
            target,
            sequence: 0,
        })
    }

    /// Send one request and wait a moment for an answer to it or to an earlier one; when it came.
    pub(super) fn attempt(&mut self) -> io::Result<Option<Instant>> {
        let sent = self.send()?;
        self.receive(sent + RETRY, is_reply)
    }

    /// Send one request and wait for the answer to it; how long that took.
    pub(super) fn round_trip(&mut self, limit: Duration) -> io::Result<Option<Duration>> {
        let sent = self.send()?;
        let sequence = self.sequence.to_be_bytes();
        let answered = self.receive(sent + limit, |message| {
            is_reply(message) && message.get(6..8) == Some(&sequence[..])
        })?;
        Ok(answered.map(|answered| answered - sent))
    }

    fn send(&mut self) -> io::Result<Instant> {
        self.sequence = self.sequence.wrapping_add(1);
        let sent = Instant::now();
        self.socket.send_to(&request(self.sequence), self.target)?;
        Ok(sent)
    }

    /// When the first message from the target that is `wanted` arrived; `None` if none did before `deadline`.
    fn receive(
        &self,
        deadline: Instant,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Instant>> {
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    if from.ip() == self.target.ip() && buffer.get(..length).is_some_and(&wanted) {
                        return Ok(Some(Instant::now()));
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

/// Type, code, checksum (by the kernel), identifier, sequence number, payload.
fn request(sequence: u16) -> Vec<u8> {
    let mut message = vec![ECHO_REQUEST, 0, 0, 0];
    message.extend(IDENTIFIER);
    message.extend(sequence.to_be_bytes());
    message.resize(8 + PAYLOAD, 0);
    message
}

/// Whether a message answers one of our requests.
fn is_reply(message: &[u8]) -> bool {
    message.starts_with(&[ECHO_REPLY, 0]) && message.get(4..6) == Some(&IDENTIFIER[..])
}

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

/// How long an unanswered first request is waited for before the next.
const RETRY: Duration = Duration::from_millis(5);

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
        let socket = namespace.run(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)))??;
        let target = SocketAddrV6::new(target, 0, 0, 0).into();
        Ok(Self { socket: socket.into(), target, sequence: 0 })
    }

    /// Send requests until one is answered; how long that one took. `None` if none was within `limit`, with what
    /// sending gave last if it failed.
    pub(super) fn first_reply(&mut self, limit: Duration) -> Result<Duration, Option<io::Error>> {
        let deadline = Instant::now() + limit;
        let mut failure = None;
        while Instant::now() < deadline {
            match self.round_trip(RETRY) {
                Ok(Some(time)) => return Ok(time),
                Ok(None) => failure = None,
                // No interface yet, or no route.
                Err(error) => {
                    failure = Some(error);
                    std::thread::sleep(RETRY);
                }
            }
        }
        Err(failure)
    }

    /// Send one request and wait for the answer to it or to an earlier one; the time since it was sent.
    pub(super) fn round_trip(&mut self, limit: Duration) -> io::Result<Option<Duration>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence);
        let sent = Instant::now();
        self.socket.send_to(&request, self.target)?;
        let mut buffer = [0; 2048];
        loop {
            let left = limit.saturating_sub(sent.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let message = buffer.get(..length).unwrap_or_default();
                    if from.ip() == self.target.ip() && is_reply(message, self.sequence) {
                        return Ok(Some(sent.elapsed()));
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
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

fn is_reply(message: &[u8], sequence: u16) -> bool {
    let mut expected = request(sequence);
    expected[0] = ECHO_REPLY;
    message.first() == expected.first() && message.get(4..) == expected.get(4..)
}

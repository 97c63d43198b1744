//! Answers the guests of one network: sockets in the network's namespace, one task.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::io::{ErrorKind, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mycelium_core::addr::Subnet;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::advert::{self, Advertised, Advertiser};
use super::{Mac, dhcp};
use crate::{Error, Namespace, Result, link};

/// The link-local address that the interface must have: the guests' gateway.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What waits for the task in the kernel, bytes for each socket; the rest is dropped there. A thousand guests that
/// start at once ask again after a second.
const BACKLOG: usize = 64 << 10;
/// Messages of one socket that are handled in one go, before other tasks of the thread have their turn.
const BATCH: usize = 32;

/// Everything that the guests of one network are told. Comparable, so that an unchanged one need not be told again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// By router advertisements.
    pub advertised: Advertised,
    /// By DHCPv6: who gets which address. Nobody else is answered.
    pub leases: BTreeMap<Mac, Ipv6Addr>,
}

impl Segment {
    fn served(&self) -> dhcp::Served {
        dhcp::Served {
            subnet: Subnet::containing(self.advertised.prefix),
            leases: self.leases.clone(),
            name_servers: self.advertised.name_servers.clone(),
        }
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of router advertisements.
    pub advert: advert::Counters,
    /// Of DHCPv6.
    pub dhcp: dhcp::Counters,
    /// Messages that the kernel did not take.
    pub unsent: u64,
}

/// A running responder. It ends when dropped; its sockets with it.
#[derive(Debug)]
pub struct Responder {
    wanted: watch::Sender<Wanted>,
    counters: Arc<Mutex<Counters>>,
    task: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
struct Wanted {
    segment: Arc<Segment>,
    end: bool,
}

impl Responder {
    /// Open the sockets on `interface` of the namespace behind the path `netns` and answer from now on. Must be called
    /// within a tokio runtime with I/O and time; blocks for well under a millisecond.
    ///
    /// # Errors
    /// [`Error::NoSuchInterface`]; [`Error::Refused`] with `AddrNotAvailable` while the interface has no usable
    /// [`GATEWAY`]; [`Error::NotPermitted`] without CAP_NET_RAW and CAP_SYS_ADMIN.
    pub fn start(netns: &Path, interface: &str, segment: Segment) -> Result<Self> {
        let action = format!("answer the guests behind {interface}");
        let refused = |error: io::Error| Error::from_io(action.clone(), error);
        let namespace = Namespace::open(netns).map_err(refused)?;
        let index = link::index(&namespace, interface)?.ok_or_else(|| Error::NoSuchInterface {
            action: action.clone(),
            interface: interface.to_owned(),
        })?;
        let sockets = namespace
            .run(|| Sockets::open(interface, index))
            .and_then(|opened| opened)
            .map_err(refused)?;
        let sockets = sockets.register().map_err(refused)?;
        let counters = Arc::new(Mutex::new(Counters::default()));
        let segment = Arc::new(segment);
        let task = Task {
            advertiser: Advertiser::new(
                segment.advertised.clone(),
                Instant::now(),
                RandomState::new().hash_one(index),
            ),
            server: dhcp::Server::new(segment.served()),
            sockets,
            counters: Arc::clone(&counters),
            unsent: 0,
        };
        let (wanted, changes) = watch::channel(Wanted {
            segment,
            end: false,
        });
        Ok(Self {
            wanted,
            counters,
            task: Some(tokio::spawn(Box::pin(task.run(changes)))),
        })
    }

    /// Tell the guests something else from now on.
    pub fn update(&self, segment: Segment) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted.segment != segment;
            if changed {
                wanted.segment = Arc::new(segment);
            }
            changed
        });
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tell the guests that the router is no more, and end. One message is sent: a guest that misses it notices when
    /// lifetimes end.
    pub async fn withdraw(mut self) {
        self.wanted.send_modify(|wanted| wanted.end = true);
        if let Some(task) = self.task.take() {
            // A panic of the task has been reported; there is nothing to do about it here.
            let _ = task.await;
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Both sockets, and the interface's number.
#[derive(Debug)]
struct Sockets<S> {
    icmp: S,
    udp: S,
    index: u32,
}

impl Sockets<Socket> {
    /// Open both in the namespace of the calling thread.
    fn open(interface: &str, index: u32) -> io::Result<Self> {
        let icmp = Socket::new(
            Domain::IPV6,
            Type::RAW.nonblocking(),
            Some(Protocol::ICMPV6),
        )?;
        icmp.attach_filter(&SOLICITATIONS_ONLY)?;
        icmp.bind_device(Some(interface.as_bytes()))?;
        icmp.bind(&SocketAddr::V6(SocketAddrV6::new(GATEWAY, 0, 0, index)).into())?;
        icmp.join_multicast_v6(&advert::ALL_ROUTERS, index)?;
        icmp.set_recv_hoplimit_v6(true)?;
        icmp.set_multicast_hops_v6(255)?;
        icmp.set_multicast_loop_v6(false)?;
        icmp.set_recv_buffer_size(BACKLOG)?;

        let udp = Socket::new(Domain::IPV6, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        udp.set_only_v6(true)?;
        udp.bind_device(Some(interface.as_bytes()))?;
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, dhcp::SERVER_PORT, 0, 0);
        udp.bind(&SocketAddr::V6(any).into())?;
        udp.join_multicast_v6(&dhcp::ALL_SERVERS, index)?;
        udp.set_recv_buffer_size(BACKLOG)?;
        Ok(Self { icmp, udp, index })
    }

    /// Hand them to the runtime. Its UDP sockets are good for any socket that knows datagrams: what is used of them is
    /// readiness.
    fn register(self) -> io::Result<Sockets<UdpSocket>> {
        let register = |socket: Socket| UdpSocket::from_std(OwnedFd::from(socket).into());
        Ok(Sockets {
            icmp: register(self.icmp)?,
            udp: register(self.udp)?,
            index: self.index,
        })
    }
}

/// A program of the kernel's packet filter (classic BPF): a router solicitation, judged by its first byte, passes
/// whole, everything else not at all. Neighbour discovery and pings would wake the task for nothing.
const SOLICITATIONS_ONLY: [SockFilter; 4] = [
    // BPF_LD | BPF_B | BPF_ABS
    SockFilter::new(0x30, 0, 0, 0),
    // BPF_JMP | BPF_JEQ | BPF_K
    SockFilter::new(0x15, 0, 1, advert::SOLICITATION as u32),
    // BPF_RET | BPF_K
    SockFilter::new(0x06, 0, 0, u32::MAX),
    SockFilter::new(0x06, 0, 0, 0),
];

/// What runs.
#[derive(Debug)]
struct Task {
    advertiser: Advertiser,
    server: dhcp::Server,
    sockets: Sockets<UdpSocket>,
    counters: Arc<Mutex<Counters>>,
    unsent: u64,
}

impl Task {
    async fn run(mut self, mut changes: watch::Receiver<Wanted>) {
        loop {
            self.advertise();
            self.publish();
            let Some(due) = self.advertiser.poll_timeout() else {
                return;
            };
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = changes.borrow_and_update().clone();
                    if wanted.end {
                        self.advertiser.withdraw(Instant::now());
                        self.say_farewell();
                        return;
                    }
                    self.advertiser.replace(wanted.segment.advertised.clone(), Instant::now());
                    self.server.replace(wanted.segment.served());
                }
                ready = self.sockets.icmp.readable() => {
                    let advertiser = &mut self.advertiser;
                    let drained = ready.and_then(|()| {
                        drain(&self.sockets.icmp, |socket| solicited(socket, advertiser))
                    });
                    match drained {
                        Ok(Drained::Empty) => {}
                        Ok(Drained::More) => tokio::task::yield_now().await,
                        Err(_) => return,
                    }
                }
                ready = self.sockets.udp.readable() => {
                    let (server, unsent) = (&mut self.server, &mut self.unsent);
                    let drained = ready.and_then(|()| {
                        drain(&self.sockets.udp, |socket| asked(socket, server, unsent))
                    });
                    match drained {
                        Ok(Drained::Empty) => {}
                        Ok(Drained::More) => tokio::task::yield_now().await,
                        Err(_) => return,
                    }
                }
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }

    /// Send the advertisements that are due.
    fn advertise(&mut self) {
        while let Some(message) = self.advertiser.poll_transmit(Instant::now()) {
            self.send(&message);
        }
    }

    /// The last advertisement, at once: the distance that advertisements keep matters no more.
    fn say_farewell(&mut self) {
        let due = self.advertiser.poll_timeout();
        if let Some(message) = due.and_then(|due| self.advertiser.poll_transmit(due)) {
            self.send(&message);
        }
        self.publish();
    }

    fn send(&mut self, message: &[u8]) {
        let target = SocketAddrV6::new(advert::ALL_NODES, 0, 0, self.sockets.index);
        let sent =
            SockRef::from(&self.sockets.icmp).send_to(message, &SocketAddr::V6(target).into());
        if sent.is_err() {
            self.unsent += 1;
        }
    }

    fn publish(&self) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        *counters = Counters {
            advert: self.advertiser.counters(),
            dhcp: self.server.counters(),
            unsent: self.unsent,
        };
    }
}

enum Drained {
    Empty,
    More,
}

/// Call `receive` until the socket is empty or others should have their turn. Errors belong to single messages (a
/// guest refuses the answer), so the next one is tried; the last error if there is nothing but errors.
fn drain(
    socket: &UdpSocket,
    mut receive: impl FnMut(&UdpSocket) -> io::Result<()>,
) -> io::Result<Drained> {
    let mut drained = Ok(Drained::Empty);
    for attempt in 0..BATCH {
        match socket.try_io(Interest::READABLE, || receive(socket)) {
            Ok(()) => drained = Ok(Drained::More),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Drained::Empty),
            Err(error) if attempt == 0 || drained.is_err() => drained = Err(error),
            Err(_) => {}
        }
    }
    drained
}

/// Receive one router solicitation.
fn solicited(socket: &UdpSocket, advertiser: &mut Advertiser) -> io::Result<()> {
    let mut message = [0; dhcp::LARGEST];
    let (source, hop_limit, length) = {
        let mut parts = [IoSliceMut::new(&mut message)];
        let mut control = nix::cmsg_space!(i32);
        let received = recvmsg::<SockaddrIn6>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let hop_limit = received.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6HopLimit(limit) => u8::try_from(limit).ok(),
            _ => None,
        });
        (received.address, hop_limit, received.bytes)
    };
    // Without a hop limit it counts as one that has passed a router.
    if let Some(source) = source {
        let message = message.get(..length).unwrap_or_default();
        // What is refused is counted.
        let _ = advertiser.handle(
            Instant::now(),
            source.ip(),
            hop_limit.unwrap_or_default(),
            message,
        );
    }
    Ok(())
}

/// Receive one message of DHCPv6 and answer it.
fn asked(socket: &UdpSocket, server: &mut dhcp::Server, unsent: &mut u64) -> io::Result<()> {
    let mut message = [0; dhcp::LARGEST];
    let mut parts = [IoSliceMut::new(&mut message)];
    let received = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty())?;
    let (source, length) = (received.address, received.bytes);
    let Some(source) = source.map(SocketAddrV6::from) else {
        return Ok(());
    };
    let message = message.get(..length).unwrap_or_default();
    // What is refused is counted.
    if let Ok(answer) = server.handle(Instant::now(), *source.ip(), message) {
        let target = SocketAddrV6::new(*source.ip(), dhcp::CLIENT_PORT, 0, source.scope_id());
        if SockRef::from(socket)
            .send_to(&answer, &SocketAddr::V6(target).into())
            .is_err()
        {
            *unsent += 1;
        }
    }
    Ok(())
}

//! The data worker: one thread that owns the data plane, all links and all host interfaces.
//!
//! Tasks of one current-thread runtime share the [`Worker`] through an `Rc<RefCell>` that is never borrowed across an
//! await. See [`receive`] for the tasks of links and interfaces; here are those of the worker itself.

use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::dataplane::{AddressTraffic, DataPlane, DataPlaneStats};
use mycelium_core::io::{IdentityId, Output, PeerId};
use mycelium_core::native::{NativeEndpoint, NativeStats};
use mycelium_core::session::pins::Pin;
use mycelium_core::session::view::{SessionStats, SessionView};
use mycelium_core::time::{Duration, Time};
use quinn::VarInt;
use quinn::udp::RecvMeta;
use socket2::SockRef;
use tokio::sync::{Notify, mpsc, oneshot};
use tun_rs::AsyncDevice;

use crate::clock;
use crate::control::{ControlInput, Hint};
use crate::host::HostInterface;
use crate::link::native::{NativeError, NativeTransmit, PeerNews};
use crate::link::port::{LinkPort, QuicTransmit, TcpTransmit, Transmit};
use crate::link::udp_socket::UdpSocket;
use crate::link::unreachable::NetworkError;
use crate::link::{Established, LinkClosed, LinkStats, Transport};

mod coalesce;
mod flows;
mod host_port;
mod native;
mod offload;
mod ports;
mod read_ahead;
mod receive;

use flows::Flows;
use host_port::HostPort;
use native::Native;
use ports::WorkerPorts;
use read_ahead::ReadAhead;
use receive::ControlLane;

/// Read buffer for streams, shared by all links: what a read leaves over, less than one packet, is kept by the link.
const STREAM_BUFFER: usize = 256 << 10;
/// Packets that one super-packet from the host is cut into, at most. Fewer than 65536 / 536.
const SEGMENTS: usize = 128;
/// Longest packet from the host; its interface has a smaller MTU.
const SEGMENT_LEN: usize = 1500;
/// Bytes of the largest read from a TUN: header and super-packet.
const RAW_LEN: usize = tun_rs::VIRTIO_NET_HDR_LEN + 65535;
/// A super-packet of this many bytes is sent before the next one is read.
const LARGE_BATCH: usize = 20 << 10;
/// Unused buffers are given back this long after traffic.
const SHRINK_AFTER: Duration = Duration::from_secs(5);
/// Where in a control packet we tell at which UDP port we take native links. Whoever does not know what that is ignores it
/// (wire spec §4.5).
const NATIVE_PORT: std::ops::Range<usize> = 2..4;
/// Leaving: until every control packet is with its transport.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);
/// Leaving: until the peers have taken it and hung up.
const LINGER_LIMIT: Duration = Duration::from_millis(200);

/// The worker, as its tasks share it.
pub(crate) type Shared = Rc<RefCell<Worker>>;

/// What the control thread tells the worker after a turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// A new forwarding table is published.
    pub(crate) fib_changed: bool,
    /// What to send, close and fail, in order.
    pub(crate) outputs: Vec<Output>,
}

/// What handles tell the worker.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    AttachLink {
        peer: PeerId,
        link: Box<Established>,
        stats: Arc<LinkStats>,
        closed: oneshot::Sender<LinkClosed>,
    },
    CloseLink {
        peer: PeerId,
        reason: LinkClosed,
    },
    /// ICMP errors came back.
    Errors {
        errors: Vec<NetworkError>,
    },
    /// This host has lost addresses, or has others, or other routes.
    NetworkChanged {
        vanished: Vec<IpAddr>,
        paths: bool,
    },
    /// Read these sockets, and make native links over them.
    AttachUdp {
        endpoint: Box<NativeEndpoint>,
        sockets: Vec<Arc<UdpSocket>>,
        port: u16,
        news: mpsc::Sender<PeerNews>,
    },
    DialNative {
        remote: SocketAddr,
        /// Whom to accept there; `None`: anybody.
        key: Option<PublicKey>,
        reply: oneshot::Sender<Result<Established, NativeError>>,
    },
    AttachHost {
        identity: IdentityId,
        host: HostInterface,
        done: oneshot::Sender<std::io::Result<()>>,
    },
    DetachHost {
        identity: IdentityId,
        done: oneshot::Sender<()>,
    },
    Report {
        /// With [`WorkerReport::sessions`].
        sessions: bool,
        reply: oneshot::Sender<WorkerReport>,
    },
    /// Forget the pin and the sessions of a subnet.
    ForgetSession {
        subnet: Subnet,
        done: oneshot::Sender<bool>,
    },
    /// The pins, if they are not those of this generation.
    Pins {
        unless: Option<u64>,
        reply: oneshot::Sender<Option<(u64, Vec<Pin>)>>,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// What the worker counted.
#[derive(Clone, Debug, Default)]
pub struct WorkerReport {
    /// Verdicts of the data plane.
    pub dataplane: DataPlaneStats,
    /// What is known of remote identities, if asked for.
    pub sessions: Vec<SessionView>,
    /// Counters of sessions.
    pub session_stats: SessionStats,
    /// Remote identities that v1 keys are held for because packets went that way.
    pub v1_keys: usize,
    /// Traffic by source address, in no particular order.
    pub by_source: Vec<AddressTraffic>,
    /// Traffic by destination address, in no particular order.
    pub by_destination: Vec<AddressTraffic>,
    /// Links closed because bytes on their stream could not be a packet.
    pub bad_streams: u64,
    /// Batches that an interface did not take in full.
    pub host_refused: u64,
    /// Datagrams of native links that were not what they should be, and handshakes.
    pub native: NativeStats,
    /// Control packets that the other ends of native links have not acknowledged.
    pub native_control_waiting: usize,
    /// QUIC datagrams that were read but not taken in time by QUIC's thread.
    pub quic_dropped: u64,
    /// Packets from interfaces that could not be used: longer than the MTU, or cut into too many segments.
    pub host_unusable: u64,
}

/// Everything that the tasks of the worker share.
pub(crate) struct Worker {
    dataplane: DataPlane,
    ports: WorkerPorts,
    control: mpsc::Sender<ControlInput>,
    stream_buffer: Vec<u8>,
    segments: Segments,
    from_hosts: ReadAhead<IdentityId>,
    /// One for each UDP socket.
    from_sockets: Vec<ReadAhead<RecvMeta>>,
    flows: Flows,
    bad_streams: u64,
    bad_host_packets: u64,
    /// A writer finished, or a link is gone.
    drained: Rc<Notify>,
    timer: Rc<Notify>,
    timer_armed: Option<Time>,
    /// For the tasks that it starts.
    me: Weak<RefCell<Self>>,
    /// There was traffic, so there may be memory to give back.
    activity: Rc<Notify>,
    shrink_pending: bool,
}

/// Buffers for what is read from a host interface.
#[derive(Default)]
struct Segments {
    /// Made, 190 KiB, when something is cut that the data plane does not cut itself.
    packets: Vec<Vec<u8>>,
    lengths: Vec<usize>,
}

/// The worker's ends of its channels.
pub(crate) struct WorkerChannels {
    pub(crate) control: mpsc::Sender<ControlInput>,
    pub(crate) hints: mpsc::Sender<Hint>,
    pub(crate) turns: mpsc::Receiver<Turn>,
    pub(crate) commands: mpsc::Receiver<WorkerCommand>,
}

/// Run the worker until it is told to stop or nobody is left to tell it. Inside a `LocalSet`.
pub(crate) async fn run(dataplane: DataPlane, channels: WorkerChannels) {
    let WorkerChannels {
        control,
        hints,
        mut turns,
        mut commands,
    } = channels;
    let worker = Rc::new(RefCell::new(Worker {
        dataplane,
        ports: WorkerPorts::new(control.clone(), hints),
        control,
        stream_buffer: vec![0; STREAM_BUFFER],
        segments: Segments {
            packets: Vec::new(),
            lengths: vec![0; SEGMENTS],
        },
        from_hosts: ReadAhead::default(),
        from_sockets: Vec::new(),
        flows: Flows::new(),
        bad_streams: 0,
        bad_host_packets: 0,
        drained: Rc::default(),
        timer: Rc::default(),
        timer_armed: None,
        me: Weak::new(),
        activity: Rc::default(),
        shrink_pending: false,
    }));
    worker.borrow_mut().me = Rc::downgrade(&worker);
    tokio::task::spawn_local(keep_time(Rc::clone(&worker)));
    tokio::task::spawn_local(give_memory_back(Rc::clone(&worker)));
    let mut is_controlled = true;
    loop {
        tokio::select! {
            turn = turns.recv(), if is_controlled => match turn {
                Some(turn) => worker.borrow_mut().take_turn(turn),
                // The control thread has stopped; the order to leave follows.
                None => is_controlled = false,
            },
            command = commands.recv() => match command {
                Some(WorkerCommand::Shutdown { done }) => {
                    // Turns sent before this command are with us already: the control thread has stopped.
                    while let Ok(turn) = turns.try_recv() {
                        worker.borrow_mut().take_turn(turn);
                    }
                    leave(&worker).await;
                    // The caller may have given up waiting.
                    let _ = done.send(());
                    break;
                }
                Some(command) => handle_command(&worker, command),
                None => break,
            },
        }
    }
    let mut worker = worker.borrow_mut();
    let peers: Vec<_> = worker.ports.links().iter().map(|link| link.peer).collect();
    for peer in peers {
        worker
            .ports
            .close_link(peer, LinkClosed::new("the node is stopping"), false);
    }
}

fn handle_command(worker: &Shared, command: WorkerCommand) {
    match command {
        WorkerCommand::AttachLink {
            peer,
            link,
            stats,
            closed,
        } => attach_link(worker, peer, *link, stats, closed),
        WorkerCommand::CloseLink { peer, reason } => {
            let mut worker = worker.borrow_mut();
            worker.begin();
            worker.ports.close_link(peer, reason, true);
            worker.finish();
        }
        WorkerCommand::Errors { errors } => {
            let mut worker = worker.borrow_mut();
            worker.begin();
            worker.ports.doubt(&errors);
            worker.finish();
        }
        WorkerCommand::NetworkChanged { vanished, paths } => {
            let mut worker = worker.borrow_mut();
            worker.begin();
            let now = worker.ports.now;
            if let Some(native) = &mut worker.ports.native {
                native.on_network_change(&vanished, paths, now);
            }
            worker.finish();
        }
        WorkerCommand::AttachUdp {
            endpoint,
            sockets,
            port,
            news,
        } => {
            if let Err(error) = Native::attach(worker, *endpoint, sockets, port, news) {
                tracing::error!(%error, "no native links");
            }
        }
        WorkerCommand::DialNative { remote, key, reply } => {
            let mut worker = worker.borrow_mut();
            worker.begin();
            let now = worker.ports.now;
            match &mut worker.ports.native {
                Some(native) => native.dial(remote, key, reply, now),
                None => drop(reply.send(Err(NativeError::Disabled))),
            }
            worker.finish();
        }
        WorkerCommand::AttachHost {
            identity,
            host,
            done,
        } => {
            let result = attach_host(worker, identity, host);
            if let Err(error) = &result {
                tracing::error!(identity = identity.0, %error, "cannot use the interface");
            }
            // A caller that gave up gets no answer; the interface is attached all the same.
            let _ = done.send(result);
        }
        WorkerCommand::DetachHost { identity, done } => {
            worker.borrow_mut().ports.remove_host(identity);
            let _ = done.send(());
        }
        WorkerCommand::Report { sessions, reply } => {
            let _ = reply.send(worker.borrow_mut().report(sessions));
        }
        WorkerCommand::ForgetSession { subnet, done } => {
            let known = worker.borrow_mut().dataplane.forget_session(subnet);
            let _ = done.send(known);
        }
        WorkerCommand::Pins { unless, reply } => {
            let worker = worker.borrow();
            let generation = worker.dataplane.pin_generation();
            let changed = unless != Some(generation);
            let _ = reply.send(changed.then(|| (generation, worker.dataplane.pins())));
        }
        // Handled where the loop can be left.
        WorkerCommand::Shutdown { .. } => {}
    }
}

fn attach_link(
    worker: &Shared,
    peer: PeerId,
    link: Established,
    stats: Arc<LinkStats>,
    closed: oneshot::Sender<LinkClosed>,
) {
    let Established {
        transport, info, ..
    } = link;
    let control = worker.borrow().control.clone();
    let mut remote_key = None;
    let lane = || ControlLane::new(peer, control.clone());
    let mut tasks: Vec<LinkTask> = Vec::new();
    let mut first: Option<LinkTask> = None;
    let transmit = match transport {
        Transport::Tcp(stream) | Transport::Vsock(stream) => {
            // The socket moves from the runtime that made it to ours.
            let stream = match stream.into_std().and_then(tokio::net::TcpStream::from_std) {
                Ok(stream) => Rc::new(stream),
                Err(error) => {
                    let _ = closed.send(LinkClosed::new(format!("cannot take over: {error}")));
                    return;
                }
            };
            let tcp = TcpTransmit::new(Rc::clone(&stream));
            let wake = tcp.writer.wake();
            first = Some(Box::pin(receive::read_tcp(
                Rc::clone(worker),
                peer,
                Rc::clone(&stream),
                lane(),
            )));
            tasks.push(Box::pin(receive::write_tcp(
                Rc::clone(worker),
                peer,
                stream,
                wake,
            )));
            Transmit::Tcp(tcp)
        }
        Transport::Quic {
            connection,
            send,
            recv,
        } => {
            let quic = QuicTransmit::new(connection.clone(), send);
            let stream_wake = quic.stream_writer.wake();
            let datagram_wake = quic.datagram_writer.wake();
            tasks.push(Box::pin(receive::read_quic_stream(
                Rc::clone(worker),
                peer,
                recv,
                lane(),
            )));
            tasks.push(Box::pin(receive::read_quic_datagrams(
                Rc::clone(worker),
                peer,
                connection.clone(),
                lane(),
            )));
            tasks.push(Box::pin(receive::write_quic_stream(
                Rc::clone(worker),
                peer,
                stream_wake,
            )));
            tasks.push(Box::pin(receive::write_quic_datagrams(
                Rc::clone(worker),
                peer,
                connection,
                datagram_wake,
            )));
            Transmit::Quic(Box::new(quic))
        }
        Transport::Native(native) => {
            let now = clock::now();
            let adopted = match &mut worker.borrow_mut().ports.native {
                Some(links) => links.adopt(native.id(), peer, now),
                None => None,
            };
            let Some(adopted) = adopted else {
                let _ = closed.send(LinkClosed::new("lost before it was used"));
                return;
            };
            let transmit = NativeTransmit::new(native.id(), adopted.remote);
            let wake = transmit.writer.wake();
            tasks.push(Box::pin(native::forward_control(
                Rc::clone(worker),
                native.id(),
                adopted.control,
                lane(),
            )));
            tasks.push(Box::pin(native::write_native(
                Rc::clone(worker),
                peer,
                wake,
            )));
            remote_key = Some(native.remote_key());
            Transmit::Native(transmit)
        }
    };
    tasks.extend(first);
    worker
        .borrow_mut()
        .ports
        .insert_link(LinkPort::new(peer, transmit, stats, closed));
    // Reading starts when the control plane knows the link, so that it never hears from a stranger.
    let worker_of_up = Rc::clone(worker);
    let up = tokio::task::spawn_local(async move {
        let known = control
            .send(ControlInput::PeerUp {
                peer,
                link: info,
                remote_key,
            })
            .await;
        if known.is_err() {
            let reason = LinkClosed::new("the node is stopping");
            worker_of_up
                .borrow_mut()
                .ports
                .close_link(peer, reason, false);
            return;
        }
        for task in tasks {
            spawn_link_task(&worker_of_up, peer, task);
        }
    });
    if let Some(link) = worker.borrow_mut().ports.link(peer) {
        link.tasks.push(up.abort_handle());
    }
}

type LinkTask = std::pin::Pin<Box<dyn Future<Output = LinkClosed>>>;

/// Run one task of a link; its end is the link's.
fn spawn_link_task(worker: &Shared, peer: PeerId, task: LinkTask) {
    let mut shared = worker.borrow_mut();
    let Some(link) = shared.ports.link(peer) else {
        return;
    };
    let worker = Rc::clone(worker);
    let handle = tokio::task::spawn_local(async move {
        let reason = task.await;
        let mut worker = worker.borrow_mut();
        worker.ports.close_link(peer, reason, true);
        worker.drained.notify_waiters();
    });
    link.tasks.push(handle.abort_handle());
}

fn attach_host(worker: &Shared, identity: IdentityId, host: HostInterface) -> std::io::Result<()> {
    let name = host.name().to_owned();
    let device = Rc::new(AsyncDevice::new(host.into_device())?);
    let mut port = HostPort::new(identity, Rc::clone(&device));
    let reader = receive::read_host(Rc::clone(worker), identity, device);
    let worker_of_reader = Rc::clone(worker);
    let task = tokio::task::spawn_local(async move {
        let reason = reader.await;
        tracing::warn!(name, identity = identity.0, %reason, "interface lost");
        worker_of_reader.borrow_mut().ports.remove_host(identity);
    });
    port.task = Some(task.abort_handle());
    let mut worker = worker.borrow_mut();
    worker.ports.insert_host(port);
    Ok(())
}

/// Wake the data plane for packets that waited too long for a route.
async fn keep_time(worker: Shared) {
    let timer = Rc::clone(&worker.borrow().timer);
    loop {
        let deadline = worker.borrow().timer_armed;
        tokio::select! {
            () = clock::sleep_until(deadline) => {
                let mut worker = worker.borrow_mut();
                worker.begin();
                let now = worker.ports.now;
                if let Some(native) = &mut worker.ports.native {
                    native.handle_timeout(now);
                }
                worker.finish();
            }
            () = timer.notified() => {}
        }
    }
}

/// Some seconds after traffic. A node without any is not woken.
async fn give_memory_back(worker: Shared) {
    let activity = Rc::clone(&worker.borrow().activity);
    loop {
        activity.notified().await;
        tokio::time::sleep(SHRINK_AFTER).await;
        let mut worker = worker.borrow_mut();
        worker.ports.shrink();
        worker.shrink_pending = false;
    }
}

/// Hand every control packet over, hang up in good order and give the peers a moment to do the same.
async fn leave(worker: &Shared) {
    let drained = Rc::clone(&worker.borrow().drained);
    let flushed = async {
        loop {
            let progress = drained.notified();
            let pending = {
                let mut worker = worker.borrow_mut();
                worker.ports.now = clock::now();
                worker.ports.flush();
                worker
                    .ports
                    .links()
                    .iter()
                    .any(|link| !link.outbox.control_is_empty())
            };
            if !pending {
                break;
            }
            progress.await;
        }
    };
    if tokio::time::timeout(FLUSH_LIMIT, flushed).await.is_err() {
        tracing::debug!("some peers did not take our goodbye");
    }
    {
        let mut worker = worker.borrow_mut();
        worker.begin();
        let now = worker.ports.now;
        if let Some(native) = &mut worker.ports.native {
            native.shutdown(now);
        }
        worker.finish();
    }
    for link in worker.borrow_mut().ports.links() {
        match &mut link.transmit {
            // Told already.
            Transmit::Native(_) => {}
            Transmit::Tcp(tcp) => {
                // Closing with unread data would reset the connection and lose what is under way.
                if let Err(error) = SockRef::from(&*tcp.stream).shutdown(std::net::Shutdown::Write)
                {
                    tracing::debug!(peer = link.peer.0, %error, "shutdown");
                }
            }
            Transmit::Quic(quic) => {
                let _ = quic.send.finish();
                let acknowledged = quic.send.stopped();
                let connection = quic.connection.clone();
                tokio::task::spawn_local(async move {
                    let _ = acknowledged.await;
                    connection.close(VarInt::from_u32(0), b"leaving");
                });
            }
        }
    }
    let gone = async {
        loop {
            let progress = drained.notified();
            if worker.borrow_mut().ports.links().is_empty() {
                break;
            }
            progress.await;
        }
    };
    // Peers that keep their end open see it closed by us.
    let _ = tokio::time::timeout(LINGER_LIMIT, gone).await;
}

impl Worker {
    /// Before any packet of a batch.
    fn begin(&mut self) {
        let now = clock::now();
        self.ports.now = now;
        self.dataplane.begin_batch(now, &mut self.ports);
    }

    /// After the last packet of a batch: write everything out.
    fn finish(&mut self) {
        self.drive_native();
        self.ports.flush();
        self.drive_native();
        if !self.shrink_pending {
            self.shrink_pending = true;
            self.activity.notify_one();
        }
        let native = self.ports.native.as_ref().and_then(|n| n.poll_timeout());
        let deadline = self
            .dataplane
            .poll_timeout()
            .into_iter()
            .chain(native)
            .min();
        if deadline != self.timer_armed {
            self.timer_armed = deadline;
            self.timer.notify_one();
        }
    }

    fn take_turn(&mut self, turn: Turn) {
        self.begin();
        for output in turn.outputs {
            match output {
                Output::Send { peer, mut packet } => {
                    if let (Some(native), Some(bytes)) =
                        (&self.ports.native, packet.get_mut(NATIVE_PORT))
                    {
                        bytes.copy_from_slice(&native.port().to_be_bytes());
                    }
                    self.ports.send_control(peer, &packet);
                }
                Output::Close { peer, reason } => {
                    self.ports
                        .close_link(peer, LinkClosed::new(reason.to_string()), false);
                    self.drained.notify_waiters();
                }
                Output::QueryFailed { subnet } => {
                    self.dataplane.query_failed(subnet, &mut self.ports);
                }
                // Logged where it came from.
                Output::Event(_) => {}
            }
        }
        self.finish();
    }

    fn report(&mut self, sessions: bool) -> WorkerReport {
        WorkerReport {
            dataplane: *self.dataplane.stats(),
            sessions: if sessions {
                self.dataplane.sessions()
            } else {
                Vec::new()
            },
            session_stats: self.dataplane.session_stats(),
            v1_keys: self.dataplane.key_counts().0,
            by_source: self.dataplane.by_source().iter().copied().collect(),
            by_destination: self.dataplane.by_destination().iter().copied().collect(),
            bad_streams: self.bad_streams,
            native: self
                .ports
                .native
                .as_ref()
                .map(|n| n.stats())
                .unwrap_or_default(),
            native_control_waiting: self
                .ports
                .native
                .as_ref()
                .map_or(0, |n| n.control_waiting()),
            quic_dropped: self.ports.native.as_ref().map_or(0, |n| n.quic_dropped()),
            host_refused: self.ports.host_refused(),
            host_unusable: self.bad_host_packets,
        }
    }
}

//! A peer that throws packets at a node at a steady rate, answers its Hellos meanwhile, and counts what comes back and what
//! processor time the throwing took.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use mycelium_core::config::NodeConfig;
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::io::{Input, LinkInfo, Output, PeerId};
use mycelium_core::node::Node;
use mycelium_core::time::Time;
use mycelium_core::wire::frame::{self, Kind};

use crate::daemon::key_of;
use crate::flood_frames::{Frames, renew_source};
use crate::lab::Host;

/// Packets go out this often, all that are due.
const STEP: Duration = Duration::from_millis(1);
/// What could not be thrown for so long is not made up for.
const LATE: Duration = Duration::from_millis(20);
/// Control packets that wait for the flooder's own routing.
const WAITING: usize = 1024;
/// Data packets kept for whoever asks.
const KEPT: usize = 16_384;
const LINK: PeerId = PeerId(0);
/// Where a control packet says what it is.
const TLV_TYPE: usize = 8;
/// Sockets that datagrams are thrown from, each with a port of its own.
const SOCKETS: usize = 16;

/// What a flood came to.
#[derive(Clone, Copy, Debug)]
pub struct Thrown {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the first to the last.
    pub elapsed: Duration,
    /// Processor time of the throwing thread.
    pub cpu: Duration,
}

impl Thrown {
    /// One flood after another.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        Self {
            packets: self.packets + next.packets,
            bytes: self.bytes + next.bytes,
            elapsed: self.elapsed + next.elapsed,
            cpu: self.cpu + next.cpu,
        }
    }

    /// Packets a second.
    pub fn rate(&self) -> f64 {
        // Below 2^53.
        self.packets as f64 / self.elapsed.as_secs_f64()
    }
}

/// What came back over the flooder's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Data packets.
    pub data: u64,
    /// Bytes of all packets.
    pub bytes: u64,
    /// Route requests.
    pub route_requests: u64,
}

#[derive(Debug, Default)]
struct Counts {
    data: AtomicU64,
    bytes: AtomicU64,
    route_requests: AtomicU64,
    /// Data packets that nobody has asked for yet.
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Counts {
    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Order {
    /// Once, as fast as the link takes them.
    Say(Vec<Vec<u8>>),
    Throw(Frames, Pace, SyncSender<anyhow::Result<Thrown>>),
    Stop,
}

/// A peer over TCP. Leaves with this value.
#[derive(Debug)]
pub struct Flooder {
    orders: SyncSender<Order>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Flooder {
    /// Connect from `host` to the node at `target`.
    pub fn connect(host: &Host, target: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let limit = Duration::from_secs(10);
        let stream = host.inside(|| TcpStream::connect_timeout(&target, limit))??;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(limit))?;
        let counts = Arc::new(Counts::default());
        let (to_peer, inbox) = sync_channel(WAITING);
        let (orders, ordered) = sync_channel(1);
        let reading = (stream.try_clone()?, Arc::clone(&counts));
        std::thread::Builder::new()
            .name("flood-read".into())
            .spawn(move || read(reading.0, &reading.1, &to_peer))?;
        let secret = SecretKey::from_bytes(key_of(name));
        let peer = Peer {
            node: Node::new(
                NodeConfig::default(),
                secret,
                key_of("flood seed"),
                Time::ZERO,
            ),
            started: Instant::now(),
            stream,
            inbox,
        };
        let thread = std::thread::Builder::new()
            .name("flood".into())
            .spawn(move || peer.run(&ordered))?;
        Ok(Self {
            orders,
            counts,
            thread: Some(thread),
        })
    }

    /// Send these packets once, in the background.
    pub fn say(&self, packets: Vec<Vec<u8>>) -> anyhow::Result<()> {
        self.order(Order::Say(packets))
    }

    /// Throw `frames` for `duration`, over and over, at `rate` packets a second or as many as the link takes.
    pub fn throw(&self, frames: &Frames, rate: u32, duration: Duration) -> anyhow::Result<Thrown> {
        let (done, outcome) = sync_channel(1);
        let pace = Pace { rate, duration };
        self.order(Order::Throw(frames.clone(), pace, done))?;
        outcome
            .recv_timeout(duration + Duration::from_secs(30))
            .context("the flooder does not end")?
    }

    /// What came back so far.
    pub fn received(&self) -> Received {
        Received {
            data: self.counts.data.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            route_requests: self.counts.route_requests.load(Ordering::Relaxed),
        }
    }

    /// The data packets that came back since the last call, but not more than some ten thousand.
    pub fn packets(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.counts.kept())
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders
            .send(order)
            .map_err(|_| anyhow!("the node hung up on the flooder"))
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Throw datagrams from `host` at `target`, from several ports.
pub fn throw_datagrams(
    host: &Host,
    target: SocketAddr,
    frames: &Frames,
    rate: u32,
    duration: Duration,
) -> anyhow::Result<Thrown> {
    let sockets = host.inside(|| {
        (0..SOCKETS)
            .map(|_| {
                let any = match target {
                    SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
                    SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(target)?;
                Ok(socket)
            })
            .collect::<std::io::Result<Vec<UdpSocket>>>()
    })??;
    let mut turn = sockets.iter().cycle();
    let pace = Pace { rate, duration };
    pace.throw(frames, |frames| {
        for frame in frames {
            if let Some(socket) = turn.next() {
                // A refusal (the node is gone, a full queue) is a packet less.
                let _ = socket.send(frame);
            }
        }
        Ok(())
    })
}

#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Packets a second.
    rate: u32,
    duration: Duration,
}

impl Pace {
    /// Give `send` what is due, until the time is over. Between the steps `send` gets nothing, once.
    fn throw(
        self,
        frames: &Frames,
        mut send: impl FnMut(&[Vec<u8>]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Thrown> {
        let before = thread_cpu()?;
        let start = Instant::now();
        let mut pool = frames.frames.clone();
        let late = self.due_after(LATE);
        let (mut thrown, mut given_up, mut bytes) = (0_u64, 0_u64, 0_u64);
        let mut place = 0;
        while start.elapsed() < self.duration {
            let due = self.due_after(start.elapsed()).saturating_sub(given_up);
            given_up += due.saturating_sub(thrown).saturating_sub(late);
            let mut wanted = due.saturating_sub(thrown).min(late);
            while wanted > 0 {
                let end = pool
                    .len()
                    .min(place + usize::try_from(wanted).unwrap_or(usize::MAX));
                let run = pool.get_mut(place..end).unwrap_or_default();
                for (number, frame) in (thrown..).zip(run.iter_mut()) {
                    if frames.fresh_sources {
                        renew_source(frame, number);
                    }
                    bytes += frame.len() as u64;
                }
                send(run)?;
                thrown += run.len() as u64;
                wanted -= run.len() as u64;
                place = if end == pool.len() { 0 } else { end };
            }
            send(&[])?;
            std::thread::sleep(STEP);
        }
        Ok(Thrown {
            packets: thrown,
            bytes,
            elapsed: start.elapsed(),
            cpu: thread_cpu()?.saturating_sub(before),
        })
    }

    fn due_after(self, elapsed: Duration) -> u64 {
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX) * u64::from(self.rate) / 1_000_000
    }
}

/// Processor time of the calling thread, from the scheduler's nanosecond accounting.
fn thread_cpu() -> anyhow::Result<Duration> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = statistics
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .context("schedstat")?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// The routing of an ordinary node, over one link.
struct Peer {
    node: Node,
    started: Instant,
    stream: TcpStream,
    inbox: Receiver<Vec<u8>>,
}

impl Peer {
    fn run(mut self, orders: &Receiver<Order>) {
        let link = LinkInfo {
            static_cost: 0,
            setup_rtt: None,
        };
        let now = self.now();
        self.node.handle(Input::PeerUp { peer: LINK, link }, now);
        // An error is the end of the link; who waits for a flood to end sees its channel closed.
        let _ = self.serve(orders);
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn serve(&mut self, orders: &Receiver<Order>) -> anyhow::Result<()> {
        loop {
            self.route()?;
            match orders.try_recv() {
                Ok(Order::Say(packets)) => {
                    for packet in packets {
                        self.stream.write_all(&packet)?;
                    }
                }
                Ok(Order::Throw(frames, pace, done)) => {
                    let mut batch = Vec::new();
                    let outcome = pace.throw(&frames, |frames| {
                        if frames.is_empty() {
                            return self.route();
                        }
                        batch.clear();
                        for frame in frames {
                            batch.extend_from_slice(frame);
                        }
                        Ok(self.stream.write_all(&batch)?)
                    });
                    let failed = outcome.is_err();
                    // Whoever asked may have given up.
                    let _ = done.send(outcome);
                    anyhow::ensure!(!failed, "the link is gone");
                }
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => std::thread::sleep(STEP),
            }
        }
    }

    /// Handle what has come, and what time brings.
    fn route(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        loop {
            match self.inbox.try_recv() {
                Ok(packet) => self.node.handle(
                    Input::Control {
                        peer: LINK,
                        packet: &packet,
                    },
                    now,
                ),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => anyhow::bail!("the node hung up"),
            }
        }
        if self.node.poll_timeout().is_some_and(|due| due <= now) {
            self.node.handle_timeout(now);
        }
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { packet, .. } => self.stream.write_all(&packet)?,
                Output::Close { reason, .. } => anyhow::bail!("the node is silent: {reason:?}"),
                Output::QueryFailed { .. } | Output::Event(_) => {}
            }
        }
        Ok(())
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Count what arrives and pass the control packets on.
fn read(mut stream: TcpStream, counts: &Counts, to_peer: &SyncSender<Vec<u8>>) {
    let mut buffer = vec![0; 2 * frame::MAX_LEN];
    let mut filled = 0;
    loop {
        let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) else {
            return;
        };
        match stream.read(free) {
            Ok(length @ 1..) => filled += length,
            _ => return,
        }
        let mut taken = 0;
        while let Ok(Some(found)) = frame::next_frame(buffer.get(taken..filled).unwrap_or_default())
        {
            let packet = buffer.get(taken..taken + found.len).unwrap_or_default();
            counts.bytes.fetch_add(found.len as u64, Ordering::Relaxed);
            match found.kind {
                Kind::Data => {
                    counts.data.fetch_add(1, Ordering::Relaxed);
                    let mut kept = counts.kept();
                    if kept.len() < KEPT {
                        kept.push(packet.to_vec());
                    }
                }
                Kind::Control => {
                    let is_request = packet.get(TLV_TYPE) == Some(&9);
                    counts
                        .route_requests
                        .fetch_add(u64::from(is_request), Ordering::Relaxed);
                    if to_peer.send(packet.to_vec()).is_err() {
                        return;
                    }
                }
            }
            taken += found.len;
        }
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
    }
}

/// The value at that percentage of the sorted samples, such as 99; zero without samples.
pub fn quantile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let place = sorted.len() * percent / 100;
    sorted
        .get(place.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

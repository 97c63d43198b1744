//! A relay that is not what it seems: it routes like any node, so that others send their packets through it, and does
//! with them what its [`Mischief`] says. It also writes down what somebody with both ends' keys could read.
//!
//! Built on the core's own routing and codecs; handshakes are forged from the protocol document alone.

mod eavesdropper;
mod forge;
mod mischief;
mod wire;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use mycelium_core::addr::Subnet;
use mycelium_core::config::NodeConfig;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::fib::Lookup;
use mycelium_core::io::{Input, LinkInfo, Output, PeerId};
use mycelium_core::node::Node;
use mycelium_core::time::Time;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};
use mycelium_core::wire::frame::{self, Kind};

use eavesdropper::Eavesdropper;
pub use eavesdropper::Overheard;
pub use mischief::Mischief;
use mischief::{Meddler, Sending};
pub use wire::{WireMischief, Wiretap};

use crate::daemon::{PORT, key_of};
use crate::lab::Host;

/// Packets that wait for the relay's one thread; more are the sender's back-pressure.
const WAITING: usize = 1024;

/// A running hostile relay. Ends with this value.
#[derive(Debug)]
pub struct Rogue {
    events: SyncSender<Event>,
    key: PublicKey,
}

type Order = Box<dyn FnOnce(&mut Relay) + Send>;

enum Event {
    Up(TcpStream),
    Packet(PeerId, Vec<u8>),
    Down(PeerId),
    Order(Order),
    Stop,
}

impl Rogue {
    /// Listen on `host` and relay honestly, until told otherwise. `victims` are the secrets of the nodes whose traffic
    /// it will try to read.
    pub fn start(host: &Arc<Host>, name: &str, victims: &[&str]) -> anyhow::Result<Self> {
        let listener = host
            .inside(|| TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))))?
            .with_context(|| format!("rogue on {}", host.name()))?;
        let secret = SecretKey::from_bytes(key_of(name));
        let key = secret.public_key();
        let victims: Vec<SecretKey> = victims
            .iter()
            .map(|name| SecretKey::from_bytes(key_of(name)))
            .collect();
        let (events, inbox) = sync_channel(WAITING);
        let relay = Relay {
            node: Node::new(
                NodeConfig::default(),
                secret,
                key_of("rogue seed"),
                Time::ZERO,
            ),
            started: Instant::now(),
            links: BTreeMap::new(),
            next: 0,
            meddler: Meddler::default(),
            eavesdropper: Eavesdropper::new(&victims),
            strips_hints: false,
        };
        let to_relay = events.clone();
        std::thread::Builder::new()
            .name("rogue".into())
            .spawn(move || relay.run(&inbox, &to_relay))?;
        let accepted = events.clone();
        std::thread::Builder::new()
            .name("rogue-accept".into())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    if accepted.send(Event::Up(stream)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { events, key })
    }

    /// Its own identity.
    pub fn public_key(&self) -> PublicKey {
        self.key
    }

    /// Do this with every data packet from now on.
    pub fn commit(&self, mischief: Mischief) -> anyhow::Result<()> {
        self.order(move |relay| relay.meddler.begin(mischief))
    }

    /// Remove the hints from all routes that are passed on, or leave them from now on.
    pub fn strip_hints(&self, on: bool) -> anyhow::Result<()> {
        self.order(move |relay| relay.strips_hints = on)
    }

    /// Tell everybody that the subnet of `victim` is here, at no cost and newer than any news of it. `number` makes
    /// another router of each call.
    pub fn announce(&self, victim: PublicKey, number: u8) -> anyhow::Result<()> {
        self.order(move |relay| {
            let packet = forge::update(&victim, number);
            let peers: Vec<PeerId> = relay.links.keys().copied().collect();
            for peer in peers {
                relay.write(peer, &packet);
            }
        })
    }

    /// Close all links.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        self.order(|relay| {
            for stream in relay.links.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        })
    }

    /// What went through so far from one victim to another.
    pub fn overheard(&self, from: Subnet, to: Subnet) -> anyhow::Result<Overheard> {
        self.order(move |relay| relay.eavesdropper.overheard(from, to))
    }

    /// How many packets the mischief has touched since it began.
    pub fn misdeeds(&self) -> anyhow::Result<u64> {
        self.order(|relay| relay.meddler.misdeeds())
    }

    fn order<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Relay) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (done, outcome) = sync_channel(1);
        let order: Order = Box::new(move |relay| {
            let _ = done.send(work(relay));
        });
        self.events
            .send(Event::Order(order))
            .map_err(|_| anyhow!("the rogue has ended"))?;
        outcome
            .recv_timeout(Duration::from_secs(10))
            .context("the rogue does not answer")
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        // The thread may have ended already; the listener's thread ends with the process.
        let _ = self.events.send(Event::Stop);
    }
}

struct Relay {
    node: Node,
    started: Instant,
    links: BTreeMap<PeerId, TcpStream>,
    next: u32,
    meddler: Meddler,
    eavesdropper: Eavesdropper,
    strips_hints: bool,
}

impl Relay {
    fn run(mut self, inbox: &Receiver<Event>, to_relay: &SyncSender<Event>) {
        loop {
            let now = self.now();
            let patience = self
                .node
                .poll_timeout()
                .map_or(Duration::from_millis(10), |due| due.since(now))
                .min(Duration::from_millis(10));
            match inbox.recv_timeout(patience) {
                Ok(Event::Up(stream)) => self.up(stream, to_relay),
                Ok(Event::Packet(peer, packet)) => self.packet(peer, packet),
                Ok(Event::Down(peer)) => self.down(peer),
                Ok(Event::Order(order)) => order(&mut self),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let late = self.meddler.idle();
                    self.deliver(late);
                }
            }
            let now = self.now();
            if self.node.poll_timeout().is_some_and(|due| due <= now) {
                self.node.handle_timeout(now);
            }
            self.drain();
        }
        for stream in self.links.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn up(&mut self, stream: TcpStream, to_relay: &SyncSender<Event>) {
        let peer = PeerId(self.next);
        self.next += 1;
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
        let Ok(reading) = stream.try_clone() else {
            return;
        };
        let events = to_relay.clone();
        std::thread::spawn(move || {
            read(reading, peer, &events);
            let _ = events.send(Event::Down(peer));
        });
        self.links.insert(peer, stream);
        let link = LinkInfo {
            static_cost: 0,
            setup_rtt: None,
        };
        let now = self.now();
        self.node.handle(Input::PeerUp { peer, link }, now);
    }

    fn down(&mut self, peer: PeerId) {
        if self.links.remove(&peer).is_some() {
            let now = self.now();
            self.node.handle(Input::PeerDown { peer }, now);
        }
    }

    fn packet(&mut self, peer: PeerId, mut packet: Vec<u8>) {
        let now = self.now();
        if packet.get(1) == Some(&1) {
            self.node.handle(
                Input::Control {
                    peer,
                    packet: &packet,
                },
                now,
            );
            return;
        }
        let Ok(header) = DataHeader::parse(&packet) else {
            return;
        };
        self.eavesdropper.listen(&header, &packet);
        if let Some(hops) = packet.get_mut(7) {
            *hops = hops.saturating_sub(1);
        }
        let keys = self.keys(&header);
        let outcome = self.meddler.handle(packet, keys);
        self.deliver(outcome);
    }

    /// The public keys at both ends, as the routes tell.
    fn keys(&self, header: &DataHeader) -> Option<[PublicKey; 2]> {
        let key = |address| match self.node.fib().lookup(Subnet::containing(address)) {
            Lookup::Remote(entry) => Some(entry.public_key),
            Lookup::Local(_) | Lookup::Unknown => None,
        };
        Some([key(header.source)?, key(header.destination)?])
    }

    fn deliver(&mut self, outcome: Vec<Sending>) {
        for Sending { towards, packet } in outcome {
            let subnet = Subnet::containing(towards);
            let hop = match self.node.fib().lookup(subnet) {
                Lookup::Remote(entry) => {
                    entry.mark_used();
                    Some(entry.next_hop)
                }
                Lookup::Local(_) => continue,
                Lookup::Unknown => None,
            };
            if let Some(hop) = hop {
                self.write(hop, &packet);
            } else {
                // A relay that knows no way asks for one; this packet is lost.
                let now = self.now();
                let from = None;
                self.node.handle(Input::RouteNeeded { subnet, from }, now);
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { peer, mut packet } => {
                    if self.strips_hints {
                        forge::strip_hint(&mut packet);
                    }
                    self.write(peer, &packet);
                }
                Output::Close { peer, .. } => {
                    if let Some(stream) = self.links.remove(&peer) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                }
                _ => {}
            }
        }
    }

    fn write(&mut self, peer: PeerId, packet: &[u8]) {
        let failed = self
            .links
            .get_mut(&peer)
            .is_some_and(|stream| stream.write_all(packet).is_err());
        if failed {
            self.down(peer);
        }
    }
}

/// Cut what arrives into packets.
fn read(mut stream: TcpStream, peer: PeerId, events: &SyncSender<Event>) {
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
            let whole = found.kind == Kind::Control || packet.len() >= BODY_OFFSET;
            if whole && events.send(Event::Packet(peer, packet.to_vec())).is_err() {
                return;
            }
            taken += found.len;
        }
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
    }
}

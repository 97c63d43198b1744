//! A native endpoint at work. One peer that has proved its key and lies in everything else, strangers, the network, the clock
//! and the driver: bytes decide what they do.
//!
//! Checked after every step: what comes out is well formed and belongs to a link that is up, links begin and end once, tables
//! that others fill are bounded, and nothing goes on for ever without time passing.
use std::collections::BTreeSet;
use std::net::SocketAddr;

use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::native::{
    BodyKind, CloseCode, DATA_HEADROOM, DataClass, Event, LinkId, NativeConfig, NativeEndpoint,
    Received, Sealed,
};
use mycelium_core::rng::Rng;
use mycelium_core::session::fragment::{SecondMessage, Unit, split_first};
use mycelium_core::session::handshake::{Context, Established, Hello, Initiator, Local, Timestamp};
use mycelium_core::session::mac::{MacKey, Scope};
use mycelium_core::time::{Duration, Time};
use mycelium_core::wire::data::DataHeader;
use mycelium_core::wire::frame::{Kind, next_frame};

const HEADER: usize = 9;
const SEALED_AT: usize = 25;

/// The peer: it makes handshakes by the rules, and whatever the bytes say after that.
struct Peer {
    local: Local,
    address: SocketAddr,
    rng: Rng,
    pending: Option<(Initiator, SecondMessage)>,
    sessions: Vec<Established>,
    indices: u32,
}

impl Peer {
    /// The datagrams of a first message.
    fn shake(&mut self, target: &PublicKey) -> [Vec<u8>; 2] {
        self.indices += 1;
        let hello = Hello {
            index: self.indices,
            timestamp: Timestamp::default(),
            has_aes: true,
        };
        let started = Initiator::start(Context::Link, &self.local, target, &hello, &mut self.rng);
        let (initiator, message) = started.expect("not of low order");
        let key = MacKey::new(target, None);
        let units = split_first(&message, hello.index, Scope::Link, &key);
        self.pending = Some((initiator, SecondMessage::default()));
        units.map(|unit| [&[0x04][..], &unit].concat())
    }

    /// Take a datagram of the endpoint.
    fn hear(&mut self, datagram: &[u8], now: Time) {
        let Some((0x04, unit)) = datagram.split_first().map(|(kind, rest)| (*kind, rest)) else {
            return;
        };
        if let Ok(Unit::Fragment(fragment)) = Unit::parse(unit)
            && let Some((initiator, second)) = &mut self.pending
            && fragment.receiver() == initiator.index()
            && let Some(whole) = second.add(now, &fragment)
            && let Ok(session) = initiator.finish(fragment.sender(), &whole.message, None)
        {
            self.sessions.push(session);
            self.pending = None;
        }
    }

    /// Seal `plaintext` as a datagram of this type under one of the sessions.
    fn seal(&mut self, which: usize, kind: u8, plaintext: &[u8]) -> Option<Vec<u8>> {
        let count = self.sessions.len();
        let session = self.sessions.get_mut(which % count.max(1))?;
        let counter = session.sender.take_counter().ok()?;
        let mut datagram = vec![kind];
        datagram.extend_from_slice(&session.remote_index.to_be_bytes());
        datagram.extend_from_slice(&(counter as u32).to_be_bytes());
        let mut sealed = plaintext.to_vec();
        let tag = if matches!(kind, 0x05 | 0x0a..=0x0c) {
            sealed.resize(sealed.len().max(33), 0);
            let (inner, body) = sealed.split_at_mut(33);
            let mut aad = datagram.clone();
            aad.extend_from_slice(&(body.len() as u16).to_be_bytes());
            aad.extend_from_slice(match kind {
                0x05 | 0x0b => &body[body.len().saturating_sub(16)..],
                _ => body,
            });
            session.sender.seal(counter, &aad, inner)
        } else {
            session.sender.seal(counter, &datagram, &mut sealed)
        };
        datagram.extend_from_slice(&tag);
        datagram.extend_from_slice(&sealed);
        Some(datagram)
    }
}

struct World {
    endpoint: NativeEndpoint,
    target: PublicKey,
    peer: Peer,
    now: Time,
    up: BTreeSet<LinkId>,
    over: BTreeSet<LinkId>,
    heard: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let secret = SecretKey::from_bytes([1; 32]);
        let now = Time::from_millis(1000);
        let config = NativeConfig {
            max_links: 8,
            max_control_packets: 64,
            rekey_after: Duration::from_secs(2),
            aes: true,
            ..NativeConfig::default()
        };
        let unix = Duration::from_secs(1_800_000_000);
        Self {
            endpoint: NativeEndpoint::new(config, &secret, [2; 32], unix, now),
            target: secret.public_key(),
            peer: Peer {
                local: Local::new(SecretKey::from_bytes([3; 32])),
                address: SocketAddr::from(([192, 0, 2, 9], 9651)),
                rng: Rng::from_seed([4; 32]),
                pending: None,
                sessions: Vec::new(),
                indices: 0,
            },
            now,
            up: BTreeSet::new(),
            over: BTreeSet::new(),
            heard: Vec::new(),
        }
    }

    fn receive(&mut self, from: SocketAddr, mut datagram: Vec<u8>) {
        match self.endpoint.handle_datagram(self.now, from, &mut datagram) {
            Received::Data { link, frame, .. } => {
                assert!(self.up.contains(&link));
                let header = DataHeader::parse(frame).expect("one data frame");
                assert_eq!(header.packet_len(), frame.len());
            }
            Received::Nothing => {}
        }
        self.drain();
    }

    /// What a driver does after each input.
    fn drain(&mut self) {
        let mut out = Vec::new();
        let mut count = 0;
        while let Some(to) = self.endpoint.poll_transmit(self.now, &mut out) {
            assert!(matches!(out.first(), Some(0x04 | 0x06 | 0x07)));
            assert!(out.len() <= 1472);
            if to == self.peer.address {
                self.peer.hear(&out, self.now);
            }
            if self.heard.len() < 64 {
                self.heard.push(out.clone());
            }
            count += 1;
            assert!(count < 5000, "poll_transmit never ends");
        }
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Up { link, .. } => {
                    assert!(!self.over.contains(&link) && self.up.insert(link))
                }
                Event::Down { link, .. } => {
                    self.up.remove(&link);
                    assert!(self.over.insert(link));
                }
                Event::Control { link, packet } => {
                    assert!(self.up.contains(&link));
                    let frame = next_frame(&packet).expect("framing").expect("complete");
                    assert_eq!((frame.kind, frame.len), (Kind::Control, packet.len()));
                }
                Event::PathChanged {
                    link, max_frame, ..
                } => {
                    assert!(self.up.contains(&link));
                    assert!((1182..=1472).contains(&max_frame));
                }
                Event::Observed { link, .. } | Event::Rtt { link, .. } => {
                    assert!(self.up.contains(&link));
                }
                Event::Stray { .. } => {}
            }
        }
        let strangers = self.endpoint.stranger_tables();
        assert!(strangers.iter().all(|&len| len <= 1024));
        assert!(self.endpoint.links(self.now).count() <= 8);
    }

    /// Let time pass, stopping wherever the endpoint wants to be called.
    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        for _ in 0..2000 {
            match self.endpoint.poll_timeout() {
                Some(due) if due <= until => self.now = self.now.max(due),
                _ => {
                    self.now = until;
                    return;
                }
            }
            self.endpoint.handle_timeout(self.now);
            self.drain();
        }
        panic!("it never comes to rest");
    }

    fn shake(&mut self) {
        for datagram in self.peer.shake(&self.target) {
            self.receive(self.peer.address, datagram);
        }
    }
}

/// A well-formed control packet.
fn control(len: usize) -> Vec<u8> {
    let mut packet = vec![1, 1, 0, 0, 42, 3, 0, len as u8];
    packet.resize(8 + len, 9);
    packet
}

pub(crate) fn check(bytes: &[u8]) {
    let mut world = World::new();
    world.shake();
    let mut rest = bytes;
    for _ in 0..200 {
        let Some((&[op, a, b], behind)) = rest.split_first_chunk::<3>() else {
            return;
        };
        let len = usize::from(a).min(behind.len());
        let link = world.up.first().copied().unwrap_or(LinkId(u32::from(a)));
        let elsewhere = SocketAddr::from(([198, 51, 100, b], 1000));
        let now = world.now;
        rest = behind;
        match op % 16 {
            // Frames of the peer, as the bytes say.
            0..=3 => {
                let (plaintext, behind) = behind.split_at(len);
                rest = behind;
                if let Some(datagram) = world.peer.seal(usize::from(b), 0x06, plaintext) {
                    let from = match op & 0x80 {
                        0 => world.peer.address,
                        _ => elsewhere,
                    };
                    world.receive(from, datagram);
                }
            }
            // What the peer would say if it behaved: its incarnation and a control packet.
            4 => {
                let mut plaintext = vec![10, 0, 16];
                plaintext.extend_from_slice(&u64::from(b & 3).to_be_bytes());
                plaintext.extend_from_slice(&[0; 8]);
                plaintext.extend_from_slice(&[1, 0, 18, 0, 0, 0, a]);
                plaintext.extend_from_slice(&control(6));
                if let Some(datagram) = world.peer.seal(usize::MAX, 0x06, &plaintext) {
                    world.receive(world.peer.address, datagram);
                }
            }
            // Any other type, sealed.
            5 => {
                let (plaintext, behind) = behind.split_at(len);
                rest = behind;
                let kind = 0x05 + b % 8;
                if let Some(datagram) = world.peer.seal(usize::from(b >> 4), kind, plaintext) {
                    world.receive(world.peer.address, datagram);
                }
            }
            // Anything from anybody.
            6 => {
                let (datagram, behind) = behind.split_at(len);
                rest = behind;
                world.receive(elsewhere, datagram.to_vec());
            }
            // Something that the endpoint itself sent, changed in one byte.
            7 => {
                let count = world.heard.len().max(1);
                if let Some(mut datagram) = world.heard.get(usize::from(a) % count).cloned() {
                    let at = usize::from(b) % datagram.len();
                    datagram[at] ^= op >> 4;
                    world.receive(world.peer.address, datagram);
                }
            }
            8 => world.pass(Duration::from_millis(u64::from(a) * 10)),
            9 => world.pass(Duration::from_millis(u64::from(b))),
            10 => {
                let _ = world
                    .endpoint
                    .send_control(link, &control(usize::from(a % 60) + 2), now);
                world.drain();
            }
            11 => {
                let body = usize::from(a) * 8;
                let mut buffer = vec![0; DATA_HEADROOM + 40 + body];
                buffer[DATA_HEADROOM] = 1;
                buffer[DATA_HEADROOM + 5..DATA_HEADROOM + 7]
                    .copy_from_slice(&(body as u16).to_be_bytes());
                let class = DataClass {
                    body: match b & 1 {
                        0 => BodyKind::Session,
                        _ => BodyKind::Other,
                    },
                    sparse: b & 2 != 0,
                };
                let whole = buffer.len();
                match world.endpoint.seal_data(link, class, &mut buffer, now) {
                    Ok(Sealed::Whole { .. }) => assert_eq!(buffer.len(), whole),
                    Ok(Sealed::Halves { first, second, .. }) => {
                        assert_eq!(first.len() + second.len(), whole + HEADER + SEALED_AT - 1);
                    }
                    Err(_) => {}
                }
                world.drain();
            }
            12 => world.shake(),
            13 => {
                let key = (b & 1 == 0).then(|| SecretKey::from_bytes([b; 32]).public_key());
                let _ = world.endpoint.dial(elsewhere, key, now);
                world.drain();
            }
            14 => {
                match b % 4 {
                    0 => world.endpoint.on_unreachable(world.peer.address, now),
                    1 => world.endpoint.on_too_large(world.peer.address, now),
                    2 => world.endpoint.on_unreachable(elsewhere, now),
                    _ => world.endpoint.hold_control(link, a & 1 == 0),
                }
                world.drain();
            }
            _ => {
                match b % 8 {
                    0 => world.endpoint.close(link, CloseCode::Unwanted, now),
                    1 => world.endpoint.shutdown(now),
                    _ => world.peer.address.set_port(1 + u16::from(a)),
                }
                world.drain();
            }
        }
    }
}

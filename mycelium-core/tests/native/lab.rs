//! Endpoints on a network in virtual time that loses, delays, duplicates, cuts sizes and changes addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::native::{
    BodyKind, DATA_HEADROOM, DataClass, DownReason, Event, LinkId, NativeConfig, NativeEndpoint,
    Received, Sealed,
};
use mycelium_core::rng::Rng;
use mycelium_core::time::{Duration, Time};
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};

pub(crate) struct Station {
    pub(crate) endpoint: NativeEndpoint,
    pub(crate) key: PublicKey,
    secret: SecretKey,
    config: NativeConfig,
    /// Where it sends from, as the others see it.
    pub(crate) address: SocketAddr,
    pub(crate) up: BTreeMap<LinkId, PublicKey>,
    pub(crate) downs: Vec<(LinkId, DownReason)>,
    pub(crate) control: Vec<Vec<u8>>,
    pub(crate) data: Vec<(DataClass, Vec<u8>)>,
    pub(crate) events: Vec<Event>,
    pub(crate) sent: usize,
    /// Closed ports answer with an ICMP error.
    pub(crate) dead: bool,
    incarnation: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Flying {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Lab {
    pub(crate) now: Time,
    pub(crate) stations: Vec<Station>,
    flying: BTreeMap<(Time, u64), Flying>,
    next: u64,
    rng: Rng,
    pub(crate) loss_permille: u64,
    pub(crate) duplicate_permille: u64,
    pub(crate) latency: Duration,
    /// Up to so much more, at random: reorders.
    pub(crate) jitter: Duration,
    /// The longest UDP payload that passes.
    pub(crate) mtu: usize,
    /// Everything that was sent, while recording.
    pub(crate) recorded: Option<Vec<Flying>>,
    pub(crate) icmp: bool,
}

pub(crate) fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes([n + 1; 32])
}

pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n + 1], 9651))
}

impl Lab {
    pub(crate) fn new(seed: u8, stations: u8) -> Self {
        Self::with(seed, stations, &NativeConfig::default())
    }

    pub(crate) fn with(seed: u8, stations: u8, config: &NativeConfig) -> Self {
        let mut lab = Self {
            now: Time::from_millis(1000),
            stations: Vec::new(),
            flying: BTreeMap::new(),
            next: 0,
            rng: Rng::from_seed([seed; 32]),
            loss_permille: 0,
            duplicate_permille: 0,
            latency: Duration::from_millis(5),
            jitter: Duration::ZERO,
            mtu: 1472,
            recorded: None,
            icmp: false,
        };
        for n in 0..stations {
            let secret = secret(n);
            let station = Station {
                endpoint: endpoint(&secret, config, n, 0, lab.now),
                key: secret.public_key(),
                secret,
                config: config.clone(),
                address: address(n),
                up: BTreeMap::new(),
                downs: Vec::new(),
                control: Vec::new(),
                data: Vec::new(),
                events: Vec::new(),
                sent: 0,
                dead: false,
                incarnation: 0,
            };
            lab.stations.push(station);
        }
        lab
    }

    /// Forget everything a station knows, as a new process does.
    pub(crate) fn restart(&mut self, at: usize) {
        let now = self.now;
        let station = &mut self.stations[at];
        station.incarnation += 1;
        station.endpoint = endpoint(
            &station.secret,
            &station.config,
            u8::try_from(at).unwrap(),
            station.incarnation,
            now,
        );
        station.up.clear();
        station.control.clear();
        station.data.clear();
        station.dead = false;
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize) -> LinkId {
        let (address, key) = (self.stations[to].address, self.stations[to].key);
        let now = self.now;
        let link = self.stations[from].endpoint.dial(address, Some(key), now);
        self.drain(from);
        link
    }

    /// The link of one station to another, if it is up.
    pub(crate) fn link(&self, from: usize, to: usize) -> Option<LinkId> {
        let key = self.stations[to].key;
        let mut up = self.stations[from].up.iter();
        up.find(|(_, other)| **other == key).map(|(&link, _)| link)
    }

    pub(crate) fn linked(&self, one: usize, other: usize) -> bool {
        self.link(one, other).is_some() && self.link(other, one).is_some()
    }

    pub(crate) fn send_control(&mut self, from: usize, to: usize, packet: &[u8]) -> bool {
        let Some(link) = self.link(from, to) else {
            return false;
        };
        let now = self.now;
        let taken = self.stations[from].endpoint.send_control(link, packet, now);
        self.drain(from);
        taken.is_ok()
    }

    /// Send a data frame with a body of `len` bytes that starts with `number`.
    pub(crate) fn send_data(&mut self, from: usize, to: usize, number: u32, len: usize) -> bool {
        let Some(link) = self.link(from, to) else {
            return false;
        };
        let mut buffer = data_buffer(number, len);
        let now = self.now;
        let station = &mut self.stations[from];
        let sealed = station
            .endpoint
            .seal_data(link, class(number), &mut buffer, now);
        let datagrams = match sealed {
            Ok(Sealed::Whole { to }) => vec![(to, buffer)],
            Ok(Sealed::Halves { to, first, second }) => {
                vec![(to, first.to_vec()), (to, second.to_vec())]
            }
            Err(_) => return false,
        };
        for (to, bytes) in datagrams {
            self.launch(from, to, bytes);
        }
        self.drain(from);
        true
    }

    pub(crate) fn launch(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let station = &mut self.stations[from];
        station.sent += 1;
        let from = station.address;
        self.inject(Flying { from, to, bytes });
    }

    /// Put a datagram on the network.
    #[expect(clippy::needless_pass_by_value, reason = "it is gone for its sender")]
    pub(crate) fn inject(&mut self, flying: Flying) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(flying.clone());
        }
        let copies = 1 + u64::from(self.rng.next_u64() % 1000 < self.duplicate_permille);
        for _ in 0..copies {
            let lost = self.rng.next_u64() % 1000 < self.loss_permille;
            if lost || flying.bytes.len() > self.mtu {
                continue;
            }
            let jitter = match u64::try_from(self.jitter.as_micros()).unwrap() {
                0 => 0,
                most => self.rng.next_u64() % most,
            };
            let at = self.now + self.latency + Duration::from_micros(jitter);
            self.next += 1;
            self.flying.insert((at, self.next), flying.clone());
        }
    }

    /// Take what a station has to say.
    pub(crate) fn drain(&mut self, at: usize) {
        let mut out = Vec::new();
        let now = self.now;
        for _ in 0..10_000 {
            let Some(to) = self.stations[at].endpoint.poll_transmit(now, &mut out) else {
                self.collect(at);
                return;
            };
            self.launch(at, to, out.clone());
        }
        panic!("poll_transmit never ends");
    }

    fn collect(&mut self, at: usize) {
        let station = &mut self.stations[at];
        while let Some(event) = station.endpoint.poll_event() {
            match &event {
                Event::Up {
                    link, remote_key, ..
                } => {
                    assert!(station.up.insert(*link, *remote_key).is_none());
                }
                Event::Down { link, reason } => {
                    station.up.remove(link);
                    station.downs.push((*link, *reason));
                }
                Event::Control { link, packet } => {
                    assert!(station.up.contains_key(link), "control before up");
                    station.control.push(packet.clone());
                }
                _ => {}
            }
            station.events.push(event);
        }
    }

    /// Go to the next thing that happens. `false` if that is after `until`.
    pub(crate) fn step(&mut self, until: Time) -> bool {
        let arrival = self.flying.first_key_value().map(|(&(at, _), _)| at);
        let timers = self.stations.iter().filter(|station| !station.dead);
        let timer = timers
            .filter_map(|station| station.endpoint.poll_timeout())
            .min();
        let Some(next) = arrival.into_iter().chain(timer).min() else {
            self.now = until;
            return false;
        };
        if next > until {
            self.now = until;
            return false;
        }
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let (_, flying) = self.flying.pop_first().unwrap();
            self.deliver(flying);
            return true;
        }
        for at in 0..self.stations.len() {
            let due = self.stations[at].endpoint.poll_timeout();
            if !self.stations[at].dead && due.is_some_and(|due| due <= self.now) {
                self.stations[at].endpoint.handle_timeout(self.now);
                self.drain(at);
            }
        }
        true
    }

    fn deliver(&mut self, flying: Flying) {
        let Flying {
            from,
            to,
            mut bytes,
        } = flying;
        let now = self.now;
        let Some(at) = self
            .stations
            .iter()
            .position(|station| station.address == to)
        else {
            return;
        };
        if self.stations[at].dead {
            if self.icmp
                && let Some(sender) = self
                    .stations
                    .iter()
                    .position(|station| station.address == from)
            {
                self.stations[sender].endpoint.on_unreachable(to, now);
                self.drain(sender);
            }
            return;
        }
        let station = &mut self.stations[at];
        match station.endpoint.handle_datagram(now, from, &mut bytes) {
            Received::Data { link, class, frame } => {
                assert!(station.up.contains_key(&link), "data before up");
                let header = DataHeader::parse(frame).unwrap();
                assert_eq!(header.packet_len(), frame.len());
                station.data.push((class, frame.to_vec()));
            }
            Received::Nothing => {}
        }
        self.drain(at);
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        let mut steps = 0u64;
        while self.step(until) {
            steps += 1;
            assert!(steps < 300_000, "the network never comes to rest");
        }
    }

    /// Run until `done`, at most for `limit`. Gives how long it took.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        let until = start + limit;
        let mut steps = 0u64;
        while !done(self) {
            steps += 1;
            assert!(steps < 300_000, "the network never comes to rest");
            if !self.step(until) {
                return done(self).then(|| self.now.since(start));
            }
        }
        Some(self.now.since(start))
    }

    /// Two stations with a link.
    pub(crate) fn pair(seed: u8) -> Self {
        Self::pair_at(seed, Duration::from_millis(5))
    }

    /// The same, so far from each other.
    pub(crate) fn pair_at(seed: u8, latency: Duration) -> Self {
        let mut lab = Self::new(seed, 2);
        lab.latency = latency;
        lab.dial(0, 1);
        lab.run_until(Duration::from_secs(1), |lab| lab.linked(0, 1))
            .expect("a link comes up on a perfect network");
        lab.run(Duration::from_secs(2));
        lab
    }
}

fn endpoint(
    secret: &SecretKey,
    config: &NativeConfig,
    n: u8,
    incarnation: u8,
    now: Time,
) -> NativeEndpoint {
    let mut seed = [n; 32];
    seed[1] = incarnation;
    let unix = Duration::from_secs(1_800_000_000);
    NativeEndpoint::new(config.clone(), secret, seed, unix, now)
}

/// Headroom and a data frame with a body of `len` bytes that starts with `number`.
pub(crate) fn data_buffer(number: u32, len: usize) -> Vec<u8> {
    let mut body = vec![u8::try_from(number % 251).unwrap(); len];
    body[..4].copy_from_slice(&number.to_be_bytes());
    let header = DataHeader {
        body_len: u16::try_from(len).unwrap(),
        hop_limit: 61,
        source: "437:5106:5530:1589::1".parse().unwrap(),
        destination: "430:9364:d8d8:84a9::2".parse().unwrap(),
    };
    let mut head = [0; BODY_OFFSET];
    header.write(&mut head);
    let mut buffer = vec![0xee; DATA_HEADROOM];
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(&body);
    buffer
}

/// The number in a data frame of [`data_buffer`], which must be unchanged otherwise.
pub(crate) fn number_of(frame: &[u8]) -> u32 {
    let number = u32::from_be_bytes(frame[BODY_OFFSET..BODY_OFFSET + 4].try_into().unwrap());
    let expected = data_buffer(number, frame.len() - BODY_OFFSET);
    assert_eq!(frame, &expected[DATA_HEADROOM..]);
    number
}

/// A control packet that carries a number: a well-formed frame of an unknown TLV.
pub(crate) fn control_packet(number: u32, len: usize) -> Vec<u8> {
    let len = len.max(6);
    let mut packet = vec![1, 1, 0, 0, 42, 3];
    packet.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet.extend_from_slice(&[200, u8::try_from((len - 2).min(255)).unwrap()]);
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(8 + len, 7);
    packet
}

pub(crate) fn control_number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[10..14].try_into().unwrap())
}

/// The class of the data frame with this number.
pub(crate) fn class(number: u32) -> DataClass {
    DataClass {
        body: match number % 2 {
            0 => BodyKind::Session,
            _ => BodyKind::Other,
        },
        sparse: number.is_multiple_of(3),
    }
}

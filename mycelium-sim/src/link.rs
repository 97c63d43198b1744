//! Links: what becomes of a packet between two nodes.
//!
//! A link is the cable and its weather (latency, loss, rate, silence). A [`Connection`] is what the two nodes opened
//! over it: it has a `PeerId` at each end, and it can be half open when one end died without a word.

use std::collections::VecDeque;
use std::time::Duration;

use mycelium_core::io::{LinkInfo, PeerId};
use mycelium_core::time::Time;

use crate::choices::Choices;

/// What a stream does when a packet is lost: its first retransmission timeout, doubled for every further loss.
const RETRANSMISSION_TIMEOUT: Duration = Duration::from_millis(200);
/// A stream that lost the same packet this often is given up by its sender's kernel.
const MAX_RETRANSMISSIONS: u32 = 6;
/// Bytes that a stream holds back while nothing gets through; one more and the connection is reset.
const STREAM_HOLDS: usize = 1 << 20;

/// How packets are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// TCP: everything in order; a loss is a delay for everything behind it.
    Stream,
    /// QUIC as the present network uses it: control on a stream, data in datagrams.
    Mixed,
    /// Everything may be lost, control too: harsher than any transport in use.
    Datagram,
}

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Routing.
    Control,
    /// Sealed packets of hosts.
    Data,
}

/// The properties of a link, both directions alike.
#[derive(Clone, Copy, Debug)]
pub struct LinkSpec {
    /// How packets are carried.
    pub kind: LinkKind,
    /// One way.
    pub latency: Duration,
    /// Lost packets in a million, each direction.
    pub loss: u32,
    /// Bytes a second; `None` is infinitely fast.
    pub rate: Option<u64>,
    /// Data waits behind at most this much; what comes on top is dropped.
    pub queue: Duration,
    /// The fixed part of the cost (wire spec §2.7).
    pub static_cost: u16,
    /// How long after a connection ended, or became possible, its dialling end tries again.
    pub redial: Duration,
}

impl LinkSpec {
    /// A lossless TCP link over IPv6 of `latency` milliseconds one way.
    pub const fn tcp(latency: u64) -> Self {
        Self {
            kind: LinkKind::Stream,
            latency: Duration::from_millis(latency),
            loss: 0,
            rate: None,
            queue: Duration::from_millis(50),
            static_cost: 10,
            redial: Duration::from_millis(20),
        }
    }

    /// A lossless QUIC link over IPv6 of `latency` milliseconds one way.
    pub const fn quic(latency: u64) -> Self {
        Self {
            kind: LinkKind::Mixed,
            static_cost: 7,
            ..Self::tcp(latency)
        }
    }

    /// A link of `latency` milliseconds one way on which control packets get lost too.
    pub const fn datagram(latency: u64) -> Self {
        Self {
            kind: LinkKind::Datagram,
            ..Self::tcp(latency)
        }
    }

    /// With this many lost packets in a million.
    pub const fn with_loss(self, per_million: u32) -> Self {
        Self {
            loss: per_million,
            ..self
        }
    }

    /// What a node is told of a connection over this link.
    pub fn info(&self) -> LinkInfo {
        LinkInfo {
            static_cost: self.static_cost,
            setup_rtt: Some(self.latency * 2),
        }
    }

    /// What the link truly costs: its fixed part and its round trip in milliseconds, rounded down.
    pub fn cost(&self) -> u32 {
        u32::from(self.static_cost)
            + u32::try_from(self.latency.as_millis() * 2).unwrap_or(u32::MAX / 2)
    }

    fn reliable(&self, lane: Lane) -> bool {
        match self.kind {
            LinkKind::Stream => true,
            LinkKind::Mixed => lane == Lane::Control,
            LinkKind::Datagram => false,
        }
    }
}

/// A place where two nodes can connect.
#[derive(Debug)]
pub struct Link {
    /// The nodes; `[0]` dials.
    pub ends: [usize; 2],
    /// Its properties, which may change while it is in use.
    pub spec: LinkSpec,
    /// Without carrier both ends know at once.
    pub carrier: bool,
    /// Packets vanish and nobody is told.
    pub silent: bool,
    /// What was sent into it, from each end.
    pub sent: [Traffic; 2],
    /// What it lost or refused, from each end.
    pub lost: [Traffic; 2],
    /// The connection that the dialling end believes to be alive.
    pub(crate) dialled: Option<usize>,
    /// Whether a dial is already scheduled.
    pub(crate) dialling: bool,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Control packets.
    pub control: u64,
    /// Bytes in them.
    pub control_bytes: u64,
    /// Data packets.
    pub data: u64,
    /// Bytes in them.
    pub data_bytes: u64,
}

impl Traffic {
    pub(crate) fn count(&mut self, lane: Lane, len: usize) {
        match lane {
            Lane::Control => {
                self.control += 1;
                self.control_bytes += len as u64;
            }
            Lane::Data => {
                self.data += 1;
                self.data_bytes += len as u64;
            }
        }
    }

    /// The sum of two.
    pub fn plus(self, other: Self) -> Self {
        Self {
            control: self.control + other.control,
            control_bytes: self.control_bytes + other.control_bytes,
            data: self.data + other.data,
            data_bytes: self.data_bytes + other.data_bytes,
        }
    }
}

/// What two nodes opened over a link.
#[derive(Debug)]
pub struct Connection {
    /// Over which link.
    pub link: usize,
    /// Its name at each end; `None` where the end has closed it, died, or not seen it yet.
    pub peers: [Option<PeerId>; 2],
    pub(crate) directions: [Direction; 2],
}

#[derive(Debug, Default)]
pub(crate) struct Direction {
    busy_until: Time,
    last_arrival: Time,
    held: VecDeque<(Lane, Vec<u8>)>,
    held_bytes: usize,
}

/// What becomes of a packet that a node sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives then.
    Arrives(Time, Vec<u8>),
    /// It waits for the silence to end.
    Held,
    /// It is gone.
    Lost,
    /// The stream gives up: the sender's connection is reset.
    Reset,
}

impl Connection {
    pub(crate) fn new(link: usize) -> Self {
        Self {
            link,
            peers: [None; 2],
            directions: [Direction::default(), Direction::default()],
        }
    }

    /// What becomes of a packet that the end `from` sends now.
    pub(crate) fn transmit(
        &mut self,
        from: usize,
        lane: Lane,
        packet: Vec<u8>,
        link: &mut Link,
        now: Time,
        choices: &mut Choices,
    ) -> Fate {
        let direction = &mut self.directions[from];
        let spec = &link.spec;
        let len = packet.len();
        let start = direction.busy_until.max(now);
        if lane == Lane::Data && start.since(now) > spec.queue {
            link.lost[from].count(lane, len);
            return Fate::Lost;
        }
        link.sent[from].count(lane, len);
        let reliable = spec.reliable(lane);
        if link.silent && !reliable {
            link.lost[from].count(lane, len);
            return Fate::Lost;
        }
        if link.silent || !direction.held.is_empty() {
            return direction.hold(lane, packet);
        }
        let sent = match spec.rate {
            Some(rate) => start + Duration::from_micros(len as u64 * 1_000_000 / rate.max(1)),
            None => start,
        };
        direction.busy_until = sent;
        let mut arrival = sent + spec.latency;
        if !reliable {
            if choices.chance(spec.loss) {
                link.lost[from].count(lane, len);
                return Fate::Lost;
            }
            return Fate::Arrives(arrival, packet);
        }
        let mut losses = 0;
        while choices.chance(spec.loss) {
            arrival = arrival + RETRANSMISSION_TIMEOUT * 2_u32.pow(losses);
            losses += 1;
            if losses == MAX_RETRANSMISSIONS {
                return Fate::Reset;
            }
        }
        direction.last_arrival = direction.last_arrival.max(arrival);
        Fate::Arrives(direction.last_arrival, packet)
    }

    /// The silence ended: what a stream held back arrives after one retransmission timeout, in order.
    pub(crate) fn release(
        &mut self,
        from: usize,
        link: &Link,
        now: Time,
    ) -> Vec<(Time, Lane, Vec<u8>)> {
        let direction = &mut self.directions[from];
        let arrival = direction
            .last_arrival
            .max(now + RETRANSMISSION_TIMEOUT + link.spec.latency);
        direction.last_arrival = arrival;
        direction.held_bytes = 0;
        direction
            .held
            .drain(..)
            .map(|(lane, packet)| (arrival, lane, packet))
            .collect()
    }
}

impl Link {
    pub(crate) fn new(ends: [usize; 2], spec: LinkSpec) -> Self {
        Self {
            ends,
            spec,
            carrier: true,
            silent: false,
            sent: Default::default(),
            lost: Default::default(),
            dialled: None,
            dialling: false,
        }
    }
}

impl Direction {
    pub(crate) fn last_arrival(&self) -> Time {
        self.last_arrival
    }

    fn hold(&mut self, lane: Lane, packet: Vec<u8>) -> Fate {
        self.held_bytes += packet.len();
        if self.held_bytes > STREAM_HOLDS {
            self.held.clear();
            return Fate::Reset;
        }
        self.held.push_back((lane, packet));
        Fate::Held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(spec: LinkSpec) -> Link {
        Link::new([0, 1], spec)
    }

    #[test]
    fn a_stream_keeps_the_order_and_loses_nothing() {
        let mut link = link(LinkSpec::tcp(5).with_loss(200_000));
        let mut connection = Connection::new(0);
        let mut choices = Choices::from_seed(3);
        let mut last = Time::ZERO;
        for n in 0..500 {
            let now = Time::from_millis(n);
            match connection.transmit(0, Lane::Control, vec![1; 60], &mut link, now, &mut choices) {
                Fate::Arrives(at, _) => {
                    assert!(at >= last && at >= now + link.spec.latency);
                    last = at;
                }
                Fate::Reset => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(link.lost[0], Traffic::default());
    }

    #[test]
    fn a_datagram_link_loses_about_as_many_as_it_says() {
        let mut link = link(LinkSpec::datagram(5).with_loss(100_000));
        let mut connection = Connection::new(0);
        let mut choices = Choices::from_seed(4);
        for _ in 0..2000 {
            connection.transmit(
                0,
                Lane::Control,
                vec![1; 60],
                &mut link,
                Time::ZERO,
                &mut choices,
            );
        }
        assert!(
            (140..260).contains(&link.lost[0].control),
            "{:?}",
            link.lost
        );
    }

    #[test]
    fn a_silent_stream_holds_and_a_silent_datagram_link_loses() {
        let mut choices = Choices::from_seed(5);
        let mut stream = link(LinkSpec::tcp(5));
        stream.silent = true;
        let mut connection = Connection::new(0);
        let fate = connection.transmit(
            0,
            Lane::Control,
            vec![1],
            &mut stream,
            Time::ZERO,
            &mut choices,
        );
        assert_eq!(fate, Fate::Held);
        let mut datagram = link(LinkSpec::datagram(5));
        datagram.silent = true;
        let fate = Connection::new(0).transmit(
            0,
            Lane::Control,
            vec![1],
            &mut datagram,
            Time::ZERO,
            &mut choices,
        );
        assert_eq!(fate, Fate::Lost);
        stream.silent = false;
        let released = connection.release(0, &stream, Time::from_millis(1000));
        assert_eq!(
            released,
            [(Time::from_millis(1205), Lane::Control, vec![1])]
        );
    }

    #[test]
    fn a_rate_spaces_packets_and_bounds_the_queue_of_data() {
        let mut choices = Choices::from_seed(6);
        let mut slow = link(LinkSpec {
            rate: Some(100_000),
            ..LinkSpec::tcp(0)
        });
        let mut connection = Connection::new(0);
        let mut arrivals = Vec::new();
        for _ in 0..20 {
            if let Fate::Arrives(at, _) = connection.transmit(
                0,
                Lane::Data,
                vec![0; 1000],
                &mut slow,
                Time::ZERO,
                &mut choices,
            ) {
                arrivals.push(at.as_micros());
            }
        }
        assert_eq!(arrivals, [10_000, 20_000, 30_000, 40_000, 50_000, 60_000]);
        assert_eq!(slow.lost[0].data, 14);
    }
}

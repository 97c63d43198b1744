//! One node, played by hand: every neighbour is the test itself.

mod budgets;
mod fallback;
mod feasibility;
mod invariants;
mod liveness;
mod origins;
mod pacing;
mod requests;
mod selection;

use std::num::NonZeroU8;

use crate::addr::Subnet;
use crate::config::NodeConfig;
use crate::crypto::identity::{PublicKey, SecretKey};
use crate::io::{CloseReason, Event, Input, LinkInfo, Output, PeerId};
use crate::node::Node;
use crate::router_id::RouterId;
use crate::snapshot::RouteSnapshot;
use crate::time::{Duration, Time};
use crate::wire::babel::{
    Generation, Hello, Ihu, Item, Prefix, RouteRequest, SeqnoRequest, Tlv, Update, walk,
};

pub(super) const INFINITE: u16 = u16::MAX;
/// Every link of the tests costs this: 10 for the transport and no measurable round trip.
pub(super) const LINK: u16 = 10;

/// A remote node, or what is announced in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) public_key: PublicKey,
    pub(super) router_id: RouterId,
}

impl Remote {
    pub(super) fn new(number: u8) -> Self {
        Self::incarnation(number, 1)
    }

    pub(super) fn incarnation(number: u8, incarnation: u8) -> Self {
        let mut secret = [number; 32];
        secret[1] = 0xee;
        Self::of(SecretKey::from_bytes(secret).public_key(), incarnation)
    }

    pub(super) fn of(public_key: PublicKey, incarnation: u8) -> Self {
        Self {
            public_key,
            router_id: RouterId::new(public_key, [0; 2], [incarnation; 6]),
        }
    }

    /// A remote whose key nobody has: as good as any for routing.
    pub(super) fn numbered(number: u32) -> Self {
        let mut key = [0x77; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        Self::of(PublicKey(key), 1)
    }

    pub(super) fn subnet(&self) -> Subnet {
        self.public_key.subnet()
    }

    pub(super) fn update(&self, seqno: u16, metric: u16) -> Update {
        Update {
            interval: 30_000,
            seqno,
            metric,
            prefix: self.subnet().into(),
            router_id: self.router_id,
        }
    }
}

/// The node under test, and the time.
pub(super) struct Solo {
    pub(super) node: Node,
    pub(super) now: Time,
    /// Events and other output that is not a packet, since the start.
    pub(super) other: Vec<Output>,
}

impl Solo {
    pub(super) fn new() -> Self {
        Self::with(NodeConfig::default())
    }

    pub(super) fn with(config: NodeConfig) -> Self {
        let secret = SecretKey::from_bytes([3; 32]);
        let node = Node::new(config, secret, [9; 32], Time::ZERO);
        let mut solo = Self {
            node,
            now: Time::ZERO,
            other: Vec::new(),
        };
        solo.drain();
        solo
    }

    /// Our own announcement's router-id.
    pub(super) fn ourselves(&mut self) -> Remote {
        let probe = PeerId(9_999);
        let sent = self.up(probe);
        self.input(Input::PeerDown { peer: probe });
        let update = sent.iter().find_map(|(_, tlv)| match tlv {
            Tlv::Update(update) if update.metric == 0 => Some(*update),
            _ => None,
        });
        let router_id = update.unwrap().router_id;
        Remote {
            public_key: router_id.public_key(),
            router_id,
        }
    }

    pub(super) fn input(&mut self, input: Input<'_>) -> Vec<(PeerId, Tlv)> {
        self.node.handle(input, self.now);
        self.drain()
    }

    /// Fetch all output: packets are returned, the rest is kept in `other`.
    pub(super) fn drain(&mut self) -> Vec<(PeerId, Tlv)> {
        let mut sent = Vec::new();
        loop {
            let timeout = self.node.poll_timeout();
            let Some(output) = self.node.poll_output() else {
                return sent;
            };
            assert_eq!(timeout, Some(self.now), "output was waiting");
            match output {
                Output::Send { peer, packet } => {
                    let items: Vec<Item> = walk(&packet).unwrap().map(Result::unwrap).collect();
                    let [Item::Tlv(tlv)] = items[..] else {
                        panic!("one TLV a packet, not {items:?}");
                    };
                    sent.push((peer, tlv));
                }
                other => self.other.push(other),
            }
        }
    }

    /// A new link that costs `LINK` and whose first Hello is answered.
    pub(super) fn up(&mut self, peer: PeerId) -> Vec<(PeerId, Tlv)> {
        self.up_at_cost(peer, LINK)
    }

    pub(super) fn up_at_cost(&mut self, peer: PeerId, static_cost: u16) -> Vec<(PeerId, Tlv)> {
        let link = LinkInfo {
            static_cost,
            setup_rtt: Some(Duration::ZERO),
        };
        let sent = self.input(Input::PeerUp { peer, link });
        self.tlv(peer, ihu());
        sent
    }

    /// A new link whose first Hello is not answered.
    pub(super) fn up_in_silence(&mut self, peer: PeerId) {
        let link = LinkInfo {
            static_cost: LINK,
            setup_rtt: Some(Duration::ZERO),
        };
        self.input(Input::PeerUp { peer, link });
    }

    pub(super) fn tlv(&mut self, peer: PeerId, tlv: Tlv) -> Vec<(PeerId, Tlv)> {
        let packet = tlv.to_packet();
        self.input(Input::Control {
            peer,
            packet: &packet,
        })
    }

    pub(super) fn update(&mut self, peer: PeerId, update: Update) -> Vec<(PeerId, Tlv)> {
        self.tlv(peer, Tlv::Update(update))
    }

    pub(super) fn request(
        &mut self,
        peer: PeerId,
        subnet: Subnet,
        generation: u8,
    ) -> Vec<(PeerId, Tlv)> {
        self.tlv(peer, route_request(subnet, generation))
    }

    pub(super) fn seqno_request(
        &mut self,
        peer: PeerId,
        of: Remote,
        seqno: u16,
        hops: u8,
    ) -> Vec<(PeerId, Tlv)> {
        self.tlv(peer, seqno_request(of, seqno, hops))
    }

    /// Let time pass. With `lively`, every Hello is answered at once, so that nobody dies.
    pub(super) fn pass(&mut self, duration: Duration, lively: bool) -> Vec<(PeerId, Tlv)> {
        let end = self.now + duration;
        let mut sent = Vec::new();
        while let Some(at) = self.node.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            for (peer, tlv) in self.drain() {
                if lively && matches!(tlv, Tlv::Hello(_)) {
                    sent.extend(self.tlv(peer, ihu()));
                }
                sent.push((peer, tlv));
            }
        }
        self.now = end;
        sent
    }

    pub(super) fn next_hop(&self, remote: Remote) -> Option<PeerId> {
        self.node
            .fib()
            .route(remote.subnet())
            .map(|entry| entry.next_hop)
    }

    pub(super) fn routes(&self, remote: Remote) -> Vec<RouteSnapshot> {
        let snapshot = self.node.snapshot(self.now);
        let mut routes = snapshot.selected;
        routes.extend(snapshot.fallback);
        routes.retain(|route| route.subnet == remote.subnet());
        routes
    }

    pub(super) fn events(&self) -> Vec<&Event> {
        self.other
            .iter()
            .filter_map(|output| match output {
                Output::Event(event) => Some(event),
                _ => None,
            })
            .collect()
    }

    pub(super) fn closed(&self) -> Vec<(PeerId, CloseReason)> {
        self.other
            .iter()
            .filter_map(|output| match *output {
                Output::Close { peer, reason } => Some((peer, reason)),
                _ => None,
            })
            .collect()
    }
}

pub(super) fn ihu() -> Tlv {
    Tlv::Ihu(Ihu {
        rx_cost: 1000,
        interval: 6000,
    })
}

pub(super) fn hello() -> Tlv {
    Tlv::Hello(Hello {
        seqno: 0,
        interval: 2000,
    })
}

pub(super) fn route_request(subnet: Subnet, generation: u8) -> Tlv {
    Tlv::RouteRequest(RouteRequest {
        generation: Generation(generation),
        prefix: Some(subnet.into()),
    })
}

pub(super) fn seqno_request(of: Remote, seqno: u16, hops: u8) -> Tlv {
    Tlv::SeqnoRequest(SeqnoRequest {
        seqno,
        hop_count: NonZeroU8::new(hops).unwrap(),
        router_id: of.router_id,
        prefix: of.subnet().into(),
    })
}

/// The Updates about `remote` in `sent`, as (peer, seqno, metric).
pub(super) fn updates(sent: &[(PeerId, Tlv)], remote: Remote) -> Vec<(PeerId, u16, u16)> {
    sent.iter()
        .filter_map(|(peer, tlv)| match tlv {
            Tlv::Update(update) if update.prefix == Prefix::from(remote.subnet()) => {
                Some((*peer, update.seqno, update.metric))
            }
            _ => None,
        })
        .collect()
}

/// The route requests for `remote` in `sent`, as (peer, generation).
pub(super) fn requests(sent: &[(PeerId, Tlv)], remote: Remote) -> Vec<(PeerId, u8)> {
    sent.iter()
        .filter_map(|(peer, tlv)| match tlv {
            Tlv::RouteRequest(request) if request.prefix == Some(remote.subnet().into()) => {
                Some((*peer, request.generation.0))
            }
            _ => None,
        })
        .collect()
}

/// The seqno requests for `remote` in `sent`, as (peer, seqno, hop count).
pub(super) fn seqno_requests(sent: &[(PeerId, Tlv)], remote: Remote) -> Vec<(PeerId, u16, u8)> {
    sent.iter()
        .filter_map(|(peer, tlv)| match tlv {
            Tlv::SeqnoRequest(request) if request.router_id == remote.router_id => {
                Some((*peer, request.seqno, request.hop_count.get()))
            }
            _ => None,
        })
        .collect()
}

pub(super) const P1: PeerId = PeerId(1);
pub(super) const P2: PeerId = PeerId(2);
pub(super) const P3: PeerId = PeerId(3);

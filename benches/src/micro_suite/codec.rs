//! Reading control packets, and agreeing on keys.

use std::hint::black_box;

use mycelium_core::rng::Rng;
use mycelium_core::router_id::RouterId;
use mycelium_core::session::handshake::{
    Arrival, Context, Hello, Initiator, Local, Responder, Response, Timestamp,
};
use mycelium_core::wire::babel::{self, Item, Prefix, Tlv, Update};

use super::case::Case;
use super::station::stranger;

pub(super) fn cases() -> Vec<Case> {
    vec![
        decode("tlv/hello", || {
            Tlv::Hello(babel::Hello {
                seqno: 1,
                interval: 2000,
            })
        }),
        decode("tlv/update", || {
            let key = stranger(1);
            Tlv::Update(Update {
                interval: 6000,
                seqno: 1,
                metric: 10,
                prefix: Prefix::new(key.address(), 64).expect("a /64"),
                router_id: RouterId::new(key, [0; 2], [0; 6]),
            })
        }),
        Case::new("handshake/v1/agreement", 8, || {
            let (ours, theirs) = (crate::secret(1), crate::secret(2).public_key());
            move || {
                black_box(ours.agree(black_box(&theirs)));
            }
        }),
        Case::new("handshake/v2/start", 8, || {
            let mut ends = Ends::new();
            move || {
                black_box(ends.start());
            }
        }),
        Case::new("handshake/v2/respond", 8, || {
            let mut ends = Ends::new();
            let (_, hello) = ends.start();
            move || {
                black_box(ends.respond(black_box(&hello)));
            }
        }),
        Case::new("handshake/v2/all", 8, || {
            let mut ends = Ends::new();
            move || {
                let (mut initiator, hello) = ends.start();
                let response = ends.respond(&hello);
                black_box(initiator.finish(2, &response.message, None)).expect("genuine");
            }
        }),
    ]
}

fn decode(name: &'static str, tlv: impl FnOnce() -> Tlv + 'static) -> Case {
    Case::new(name, 256, move || {
        let tlv = tlv();
        let packet = tlv.to_packet();
        move || {
            let mut walk = babel::walk(black_box(&packet)).expect("well formed");
            assert_eq!(walk.next(), Some(Ok(Item::Tlv(tlv))));
        }
    })
}

/// The two ends of handshakes.
struct Ends {
    ours: Local,
    theirs: Local,
    rng: Rng,
}

impl Ends {
    fn new() -> Self {
        Self {
            ours: Local::new(crate::secret(1)),
            theirs: Local::new(crate::secret(2)),
            rng: Rng::from_seed([3; 32]),
        }
    }

    fn start(&mut self) -> (Initiator, Vec<u8>) {
        let hello = Hello {
            index: 1,
            timestamp: Timestamp::default(),
            has_aes: true,
        };
        let theirs = self.theirs.public_key();
        Initiator::start(Context::EndToEnd, &self.ours, theirs, &hello, &mut self.rng)
            .expect("not of low order")
    }

    fn respond(&mut self, message: &[u8]) -> Response {
        let arrival = Arrival::EndToEnd {
            source: self.ours.address(),
        };
        Responder::identify(arrival, &self.theirs, message)
            .and_then(|identified| identified.authenticate(1))
            .and_then(|authenticated| authenticated.respond(2, true, None, &mut self.rng))
            .expect("genuine")
    }
}

//! Nanoseconds of everything a session v2 costs, single-threaded: each step of the handshake at either end, and a packet of
//! 1400 bytes under both suites; and the bytes of memory that a session is.

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::secret;
use mycelium_core::crypto::aead::{AeadKey, TAG_LEN};
use mycelium_core::io::IdentityId;
use mycelium_core::rng::Rng;
use mycelium_core::session::cookie::{CookieJar, CookieKey, ReturnAddress};
use mycelium_core::session::fragment::{
    Fragment, Reassembly, ReassemblyLimits, Route, Source, Unit, split_first,
};
use mycelium_core::session::handshake::{
    Arrival, Context, Established, Hello, Initiator, Local, Responder, Response, Timestamp,
};
use mycelium_core::session::mac::{MacKey, Scope};
use mycelium_core::session::replay::{WINDOW, Window};
use mycelium_core::session::transport::OVERHEAD;
use mycelium_core::time::Time;

const ROUNDS: u32 = 20;
const ROUND: Duration = Duration::from_millis(50);
/// A full packet on the TUN: 8 bytes of stub instead of 40 of header.
const PLAINTEXT: usize = 1368;

struct Pair {
    ours: Local,
    theirs: Local,
    rng: Rng,
}

impl Pair {
    fn new() -> Self {
        Self {
            ours: Local::new(secret(1)),
            theirs: Local::new(secret(2)),
            rng: Rng::from_seed([3; 32]),
        }
    }

    fn start(&mut self, has_aes: bool) -> (Initiator, Vec<u8>) {
        let hello = Hello {
            index: 1,
            timestamp: Timestamp::default(),
            has_aes,
        };
        let (ours, theirs) = (&self.ours, self.theirs.public_key());
        Initiator::start(Context::EndToEnd, ours, theirs, &hello, &mut self.rng)
            .expect("not of low order")
    }

    fn arrival(&self) -> Arrival {
        Arrival::EndToEnd {
            source: self.ours.address(),
        }
    }

    fn respond(&mut self, message: &[u8]) -> Response {
        Responder::identify(self.arrival(), &self.theirs, message)
            .and_then(|identified| identified.authenticate(1))
            .and_then(|authenticated| authenticated.respond(2, true, None, &mut self.rng))
            .expect("genuine")
    }

    fn session(&mut self, has_aes: bool) -> [Established; 2] {
        let (mut initiator, message) = self.start(has_aes);
        let response = self.respond(&message);
        let ours = initiator
            .finish(2, &response.message, None)
            .expect("genuine");
        [ours, response.established]
    }
}

fn main() {
    // `cargo test --benches` runs this once, to see that it works.
    let test = std::env::args().any(|argument| argument == "--test");
    println!("{:<28} {:>12} {:>12}", "what", "median ns", "best ns");
    handshake(test);
    guards(test);
    for has_aes in [true, false] {
        packets(has_aes, test);
    }
    window(test);
    memory();
}

fn handshake(test: bool) {
    let mut pair = Pair::new();
    let (_, one) = pair.start(true);
    measure("initiator: start", test, || {
        black_box(pair.start(true));
    });
    let arrival = pair.arrival();
    let theirs = pair.theirs.clone();
    measure("responder: identify", test, || {
        black_box(Responder::identify(arrival, &theirs, &one)).expect("genuine");
    });
    measure("responder: to authenticate", test, || {
        let identified = Responder::identify(arrival, &theirs, &one);
        black_box(identified.and_then(|i| i.authenticate(1))).expect("genuine");
    });
    measure("responder: all", test, || {
        black_box(pair.respond(&one));
    });
    // A handshake gives one session, so each needs a pending one of its own.
    measure("initiator and responder: all", test, || {
        black_box(pair.session(true));
    });
}

fn guards(test: bool) {
    let mut pair = Pair::new();
    let (_, one) = pair.start(true);
    let scope = Scope::EndToEnd {
        source: pair.ours.address(),
        destination: pair.theirs.address(),
    };
    let mac_key = MacKey::new(pair.theirs.public_key(), None);
    measure("MAC key", test, || {
        black_box(MacKey::new(pair.theirs.public_key(), None));
    });
    let units = split_first(&one, 1, scope, &mac_key);
    measure("MAC1 of a fragment", test, || {
        assert!(mac_key.verify(scope, black_box(&units[0])));
    });
    let route = Route {
        identity: IdentityId(0),
        source: Source::overlay(pair.ours.public_key().subnet()),
        link: 0,
        proven: false,
    };
    let mut table = Reassembly::new(ReassemblyLimits::default());
    measure("two fragments to a message", test, || {
        let [first, second] = [fragment(&units[0]), fragment(&units[1])];
        assert!(table.add(Time::ZERO, route, &first).is_none());
        assert!(table.add(Time::ZERO, route, &second).is_some());
    });
    let mut jar = CookieJar::default();
    let address = ReturnAddress::end_to_end(pair.ours.address());
    let key = CookieKey::new(pair.theirs.public_key(), None);
    let first = fragment(&units[0]);
    measure("cookie reply", test, || {
        black_box(jar.reply(Time::ZERO, &address, &first, &key, &mut pair.rng));
    });
}

fn fragment(unit: &[u8]) -> Fragment<'_> {
    match Unit::parse(unit) {
        Ok(Unit::Fragment(fragment)) => fragment,
        other => panic!("{other:?}"),
    }
}

fn packets(has_aes: bool, test: bool) {
    let mut pair = Pair::new();
    let (from, to) = (pair.ours.address(), pair.theirs.address());
    let [mut ours, mut theirs] = pair.session(has_aes);
    let suite = ours.suite;
    let mut body = vec![7; PLAINTEXT + OVERHEAD];
    measure(&format!("{suite:?}: seal body"), test, || {
        ours.sender
            .seal_body(from, to, black_box(&mut body))
            .expect("far from the limit");
    });
    // A packet opens once, so what is opened has to be sealed first.
    measure(&format!("{suite:?}: seal and open"), test, || {
        ours.sender
            .seal_body(from, to, &mut body)
            .expect("far from the limit");
        theirs
            .receiver
            .open_body(from, to, black_box(&mut body))
            .expect("genuine");
    });
    let key = AeadKey::new(suite, &[9; 32]);
    let mut text = vec![7; 1400];
    measure(&format!("{suite:?}: AEAD, 1400 B"), test, || {
        black_box(key.seal([1; 12], &[2; 36], black_box(&mut text)));
    });
    let mut header = [7; 33];
    measure(&format!("{suite:?}: link header"), test, || {
        let counter = ours.sender.take_counter().expect("far from the limit");
        let tag: [u8; TAG_LEN] = ours.sender.seal(counter, &[2; 27], &mut header);
        theirs
            .receiver
            .open_at(counter, &[2; 27], tag, &mut header)
            .expect("genuine");
    });
    measure(&format!("{suite:?}: new key and drop"), test, || {
        black_box(AeadKey::new(suite, black_box(&[9; 32])));
    });
}

fn window(test: bool) {
    let mut window = Window::new();
    let mut counter = 0;
    measure("window: in order", test, || {
        counter += 1;
        window.accept(black_box(counter)).expect("new");
    });
    let mut counter = 0;
    let mut window = Window::new();
    measure("window: out of order", test, || {
        // Pairs change places, so that each second one lies behind.
        counter += 1;
        window.accept(black_box(counter ^ 1)).expect("new");
    });
}

fn memory() {
    let keys = 2 * size_of::<AeadKey>();
    let fixed = size_of::<Established>();
    println!("\nbytes of an Established: {fixed} in place, {keys} of keys,");
    println!("window {} (idle) to {} (busy)", 2 * 8, WINDOW / 8 + 8);
    println!("bytes of an Initiator: {}", size_of::<Initiator>());
}

fn measure(what: &str, test: bool, mut one: impl FnMut()) {
    let mut rounds = Vec::new();
    for _ in 0..if test { 1 } else { ROUNDS } {
        let start = Instant::now();
        let mut times = 0u32;
        let elapsed = loop {
            for _ in 0..8 {
                one();
            }
            times += 8;
            let elapsed = start.elapsed();
            if test || elapsed >= ROUND {
                break elapsed;
            }
        };
        rounds.push(elapsed.as_secs_f64() * 1e9 / f64::from(times));
    }
    rounds.sort_by(f64::total_cmp);
    let median = rounds[rounds.len() / 2];
    println!("{what:<28} {median:>12.1} {:>12.1}", rounds[0]);
}

//! Two parties shake hands while the input decides what arrives: their own fragments and messages, changed ones, arbitrary
//! bytes, cookie replies, when, and from where.
//!
//! Checked: nothing but the genuine messages makes a session, both ends then hold the same one, a cookie counts only at the
//! address it was told to, and the table of halves keeps its bounds.
use std::net::Ipv6Addr;
use std::sync::LazyLock;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::io::IdentityId;
use mycelium_core::rng::Rng;
use mycelium_core::session::cookie::{CookieJar, CookieKey, CookieMemory, ReturnAddress};
use mycelium_core::session::fragment::{
    Fragment, Reassembly, ReassemblyLimits, Route, SecondMessage, Source, Unit, split_first,
    split_second,
};
use mycelium_core::session::handshake::{
    Arrival, Context, Established, HandshakeError, Hello, Initiator, Local, Responder, Response,
    Timestamp,
};
use mycelium_core::session::mac::{MacKey, NetworkKey, ReplyKey, Scope};
use mycelium_core::time::{Duration, Time};

const LIMITS: ReassemblyLimits = ReassemblyLimits {
    messages: 6,
    messages_per_link: 4,
    messages_per_source: 2,
};
const STEPS: usize = 48;
const ALICES_INDEX: u32 = 0x0a0a_0a0a;
const BOBS_INDEX: u32 = 0x0b0b_0b0b;

/// A genuine handshake, made once for each choice of settings: the curve is too slow for a fuzzer.
struct Genuine {
    message_1: Vec<u8>,
    first: [Vec<u8>; 2],
    message_2: Vec<u8>,
    second: [Vec<u8>; 2],
    reply_key: ReplyKey,
}

static GENUINE: LazyLock<[Genuine; 8]> =
    LazyLock::new(|| std::array::from_fn(|settings| Genuine::new(Settings(settings as u8))));

static ALICE: LazyLock<Local> = LazyLock::new(|| Local::new(SecretKey::from_bytes([0x41; 32])));
static BOB: LazyLock<Local> = LazyLock::new(|| Local::new(SecretKey::from_bytes([0x42; 32])));

/// Takes decisions off the front of the input.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// One of the first `count` numbers.
    fn below(&mut self, count: usize) -> Option<usize> {
        let number = u16::from_le_bytes([self.byte()?, self.byte()?]);
        Some(usize::from(number) % count.max(1))
    }

    fn rest(&mut self, max: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(max.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// `bytes`, changed in up to three places, perhaps cut or extended.
    fn spoil(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        let how = self.byte()?;
        for _ in 0..how & 3 {
            let at = self.below(bytes.len())?;
            let change = self.byte()?;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= change;
            }
        }
        match how >> 6 {
            1 => bytes.truncate(self.below(bytes.len())?),
            2 => bytes.extend_from_slice(self.rest(8)),
            _ => {}
        }
        Some(bytes)
    }
}

#[derive(Clone, Copy)]
struct Settings(u8);

impl Settings {
    fn context(self) -> Context {
        match self.0 & 1 {
            0 => Context::EndToEnd,
            _ => Context::Link,
        }
    }

    fn arrival(self) -> Arrival {
        match self.context() {
            Context::EndToEnd => Arrival::EndToEnd {
                source: ALICE.address(),
            },
            Context::Link => Arrival::Link,
        }
    }

    fn network_key(self) -> Option<NetworkKey> {
        match self.0 & 2 {
            0 => None,
            _ => NetworkKey::from_bytes([0x55; 32]),
        }
    }

    fn start(self) -> (Initiator, Vec<u8>) {
        let hello = Hello {
            index: ALICES_INDEX,
            timestamp: Timestamp([self.0; 12]),
            has_aes: self.0 & 4 != 0,
        };
        let mut rng = Rng::from_seed([self.0; 32]);
        Initiator::start(self.context(), &ALICE, BOB.public_key(), &hello, &mut rng)
            .expect("not of low order")
    }

    fn respond(self, message: &[u8]) -> Result<Response, HandshakeError> {
        let mut rng = Rng::from_seed([!self.0; 32]);
        Responder::identify(self.arrival(), &BOB, message)?
            .authenticate(ALICES_INDEX)?
            .respond(BOBS_INDEX, true, self.network_key().as_ref(), &mut rng)
    }
}

impl Genuine {
    fn new(settings: Settings) -> Self {
        let (context, network_key) = (settings.context(), settings.network_key());
        let (_, message_1) = settings.start();
        let response = settings.respond(&message_1).expect("genuine");
        let mac_key = |local: &Local| MacKey::new(local.public_key(), network_key.as_ref());
        let (to_bob, to_alice) = (scope(context, true), scope(context, false));
        Self {
            first: split_first(&message_1, ALICES_INDEX, to_bob, &mac_key(&BOB)),
            second: split_second(
                &response.message,
                BOBS_INDEX,
                ALICES_INDEX,
                to_alice,
                &mac_key(&ALICE),
                &response.reply_key,
            ),
            message_1,
            message_2: response.message,
            reply_key: response.reply_key,
        }
    }
}

struct World {
    now: Time,
    rng: Rng,
    settings: Settings,
    genuine: &'static Genuine,
    /// The first message with MAC2, once there is a cookie.
    first: [Vec<u8>; 2],
    memory: CookieMemory,
    table: Reassembly,
    jar: CookieJar,
    place: SecondMessage,
    /// Made when something gets that far.
    alice: Option<Initiator>,
    answered: bool,
    finished: bool,
}

impl World {
    fn new(choices: &mut Choices<'_>) -> Option<Self> {
        let settings = Settings(choices.byte()? & 7);
        let genuine = &GENUINE[usize::from(settings.0)];
        let mut first = genuine.first.clone();
        let mut memory = CookieMemory::default();
        memory.stamp(Time::ZERO, &mut first);
        Some(Self {
            now: Time::from_millis(1_000),
            rng: Rng::from_seed([settings.0; 32]),
            settings,
            genuine,
            first,
            memory,
            table: Reassembly::new(LIMITS),
            jar: CookieJar::default(),
            place: SecondMessage::default(),
            alice: None,
            answered: false,
            finished: false,
        })
    }

    /// A unit reaches Bob.
    fn bob_gets(&mut self, bytes: &[u8], from: u8) {
        let Ok(Unit::Fragment(fragment)) = Unit::parse(bytes) else {
            return;
        };
        assert_eq!(fragment.bytes(), bytes);
        let network_key = self.settings.network_key();
        let mac_key = MacKey::new(BOB.public_key(), network_key.as_ref());
        let genuine = self.is_genuine(&fragment);
        let valid = mac_key.verify(scope(self.settings.context(), true), bytes);
        assert!(valid || !genuine, "MAC1 of a genuine fragment");
        let address = address(from);
        if self.jar.verify(self.now, &address, &fragment) {
            assert!(from == 0 && genuine, "a cookie was told to Alice only");
        }
        let source = Ipv6Addr::from_bits(ALICE.address().to_bits() ^ u128::from(from) << 64);
        let route = Route {
            identity: IdentityId(0),
            source: Source::overlay(Subnet::containing(source)),
            link: u32::from(from % 3),
            proven: from.is_multiple_of(5),
        };
        // MAC1 is left out of the way: whoever knows Bob's key can make it.
        if let Some(whole) = self.table.add(self.now, route, &fragment) {
            self.message_to_bob(&whole.message);
        }
    }

    fn is_genuine(&self, fragment: &Fragment<'_>) -> bool {
        let covered = fragment.bytes().len() - 16;
        let mut first = self.first.iter();
        first.any(|unit| unit[..covered.min(unit.len())] == fragment.bytes()[..covered])
    }

    fn message_to_bob(&mut self, message: &[u8]) {
        if message == self.genuine.message_1 {
            if !self.answered {
                let response = self.settings.respond(message).expect("genuine");
                assert_eq!(response.message, self.genuine.message_2);
                assert!(!response.established.sender.is_released());
                self.answered = true;
            }
            return;
        }
        if let Ok(identified) = Responder::identify(self.settings.arrival(), &BOB, message) {
            // The ephemeral and the sealed key are bound to each other; only the rest can still differ.
            assert_eq!(message[..80], self.genuine.message_1[..80]);
            assert_eq!(identified.remote_key(), ALICE.public_key());
            assert!(identified.authenticate(ALICES_INDEX).is_err());
        }
    }

    /// A unit reaches Alice.
    fn alice_gets(&mut self, bytes: &[u8], skip_mac: bool) {
        match Unit::parse(bytes) {
            Ok(Unit::CookieReply(reply)) => {
                let network_key = self.settings.network_key();
                let key = CookieKey::new(BOB.public_key(), network_key.as_ref());
                self.memory.accept(self.now, &key, &reply);
            }
            Ok(Unit::Fragment(fragment)) => {
                let valid = self.genuine.reply_key.verify(bytes);
                if (valid || skip_mac)
                    && let Some(whole) = self.place.add(self.now, &fragment)
                {
                    self.message_to_alice(fragment.sender(), &whole.message);
                }
            }
            Err(_) => {}
        }
    }

    fn message_to_alice(&mut self, index: u32, message: &[u8]) {
        let alice = self.alice.get_or_insert_with(|| {
            let (alice, message_1) = self.settings.start();
            assert_eq!(message_1, self.genuine.message_1);
            alice
        });
        let genuine = (index, message) == (BOBS_INDEX, &self.genuine.message_2[..]);
        let network_key = self.settings.network_key();
        match alice.finish(index, message, network_key.as_ref()) {
            Ok(ours) => {
                assert!(
                    genuine && !self.finished,
                    "one session, of the genuine message"
                );
                self.finished = true;
                let response = self.settings.respond(&self.genuine.message_1);
                alike(ours, &mut response.expect("genuine").established);
            }
            Err(_) => assert!(!genuine || self.finished),
        }
    }
}

/// The first packet of the initiator opens at the responder.
fn alike(mut ours: Established, theirs: &mut Established) {
    assert_eq!(ours.suite, theirs.suite);
    assert_eq!(
        (ours.local_index, ours.remote_index),
        (theirs.remote_index, theirs.local_index)
    );
    let (from, to) = (ALICE.address(), BOB.address());
    let mut body = [0; 34];
    ours.sender
        .seal_body(from, to, &mut body)
        .expect("an initiator may send");
    theirs
        .receiver
        .open_body(from, to, &mut body)
        .expect("both ends hold the same keys");
}

fn scope(context: Context, to_bob: bool) -> Scope {
    let (alice, bob) = (ALICE.address(), BOB.address());
    match context {
        Context::Link => Scope::Link,
        Context::EndToEnd => {
            let (source, destination) = if to_bob { (alice, bob) } else { (bob, alice) };
            Scope::EndToEnd {
                source,
                destination,
            }
        }
    }
}

fn address(from: u8) -> ReturnAddress {
    ReturnAddress::link(([192, 0, 2, from], 9651).into())
}

fn play(choices: &mut Choices<'_>) -> Option<()> {
    let mut world = World::new(choices)?;
    for _ in 0..STEPS {
        match choices.byte()? % 12 {
            0..3 => {
                let half = choices.below(2)?;
                let from = choices.byte()? & 1;
                let unit = world.first[half].clone();
                world.bob_gets(&unit, from);
            }
            3 => {
                let half = choices.below(2)?;
                let unit = choices.spoil(&world.first[half])?;
                let from = choices.byte()?;
                world.bob_gets(&unit, from);
            }
            4 => {
                let from = choices.byte()?;
                let len = choices.below(1_000)?;
                let unit = choices.rest(len);
                world.bob_gets(unit, from);
            }
            5 => {
                let message = choices.spoil(&world.genuine.message_1)?;
                world.message_to_bob(&message);
            }
            6 => {
                let half = choices.below(2)?;
                let skip_mac = choices.byte()? & 1 == 0;
                let unit = choices.spoil(&world.genuine.second[half])?;
                world.alice_gets(&unit, skip_mac);
            }
            7 => {
                let half = choices.below(2)?;
                world.alice_gets(&world.genuine.second[half], false);
            }
            8 => {
                let message = choices.spoil(&world.genuine.message_2)?;
                world.message_to_alice(BOBS_INDEX, &message);
            }
            9 => {
                let half = choices.below(2)?;
                let unit = world.first[half].clone();
                let Ok(Unit::Fragment(fragment)) = Unit::parse(&unit) else {
                    panic!("ours is legal");
                };
                let network_key = world.settings.network_key();
                let key = CookieKey::new(BOB.public_key(), network_key.as_ref());
                let now = world.now;
                let reply = world
                    .jar
                    .reply(now, &address(0), &fragment, &key, &mut world.rng);
                assert_eq!(reply.is_some(), half == 0);
                if let Some(reply) = reply {
                    let spoiled = choices.spoil(&reply)?;
                    let had = world.memory.has_cookie(now);
                    world.alice_gets(&spoiled, false);
                    // The header is not covered: it only says whom it is for.
                    let has = world.memory.has_cookie(now);
                    assert!(had || !has || spoiled[12..] == reply[12..]);
                    world.memory.stamp(now, &mut world.first);
                }
            }
            10 => {
                let len = choices.below(800)?;
                let unit = choices.rest(len);
                world.alice_gets(unit, true);
            }
            _ => {
                let millis = choices.below(60_000)?;
                world.now = world.now + Duration::from_millis(millis as u64);
                world.table.expire(world.now);
            }
        }
        assert!(world.table.len() <= LIMITS.messages);
        assert!(world.table.poll_timeout().is_none_or(|at| at > world.now));
    }
    Some(())
}

pub(crate) fn check(bytes: &[u8]) {
    play(&mut Choices(bytes));
}

//! An established session while the input decides what is sealed, what arrives, changed or not, how often and in which order.
//!
//! Checked against a model with a perfect memory: what was sealed opens once while it is in the window, and with the same text;
//! nothing else ever opens.
use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::rng::Rng;
use mycelium_core::session::handshake::{
    Arrival, Context, Established, Hello, Initiator, Local, Responder, Timestamp,
};
use mycelium_core::session::replay::WINDOW;
use mycelium_core::session::transport::{HEAD_LEN, OVERHEAD, index_of};

const STEPS: usize = 400;

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

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?);
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        Some(bytes)
    }
}

/// Something that the sender sealed.
struct Packet {
    counter: u64,
    sealed: Vec<u8>,
    text: Vec<u8>,
    /// As a datagram of a link is, with its tag in front.
    apart: bool,
}

/// The rule of the window.
#[derive(Default)]
struct Model {
    highest: u64,
    seen: BTreeSet<u64>,
}

impl Model {
    fn takes(&self, counter: u64) -> bool {
        counter + WINDOW > self.highest && !self.seen.contains(&counter)
    }

    fn take(&mut self, counter: u64) {
        self.seen.insert(counter);
        self.highest = self.highest.max(counter);
    }
}

fn session(settings: u8) -> [Established; 2] {
    let alice = Local::new(SecretKey::from_bytes([0x41; 32]));
    let bob = Local::new(SecretKey::from_bytes([0x42; 32]));
    let mut rng = Rng::from_seed([settings; 32]);
    let hello = Hello {
        index: 7,
        timestamp: Timestamp::default(),
        has_aes: settings & 1 != 0,
    };
    let (mut pending, one) =
        Initiator::start(Context::Link, &alice, bob.public_key(), &hello, &mut rng)
            .expect("not of low order");
    let response = Responder::identify(Arrival::Link, &bob, &one)
        .and_then(|identified| identified.authenticate(7))
        .and_then(|authenticated| authenticated.respond(9, true, None, &mut rng))
        .expect("genuine");
    let ours = pending.finish(9, &response.message, None).expect("genuine");
    [ours, response.established]
}

fn play(choices: &mut Choices<'_>) -> Option<()> {
    let [mut ours, mut theirs] = session(choices.byte()?);
    let (from, to) = (Ipv6Addr::from_bits(4 << 120), Ipv6Addr::from_bits(5 << 120));
    let mut model = Model::default();
    let mut packets: Vec<Packet> = Vec::new();
    let mut accepted = 0;
    for _ in 0..STEPS {
        match choices.byte()? % 8 {
            0 => {
                let text = choices.bytes()?.to_vec();
                let counter = ours.sender.count();
                let mut sealed = vec![0; OVERHEAD + text.len()];
                sealed[HEAD_LEN..][..text.len()].copy_from_slice(&text);
                ours.sender
                    .seal_body(from, to, &mut sealed)
                    .expect("far from the limit");
                assert_eq!(index_of(&sealed), Some(9));
                packets.push(Packet {
                    counter,
                    sealed,
                    text,
                    apart: false,
                });
            }
            1 => {
                let text = choices.bytes()?.to_vec();
                let counter = ours.sender.take_counter().expect("far from the limit");
                let mut sealed = text.clone();
                let tag = ours.sender.seal(counter, b"header", &mut sealed);
                packets.push(Packet {
                    counter,
                    sealed: [&tag[..], &sealed].concat(),
                    text,
                    apart: true,
                });
            }
            2 => {
                for _ in 0..choices.below(9_000)? {
                    ours.sender.take_counter().expect("far from the limit");
                }
            }
            3..6 => {
                let at = choices.below(packets.len())?;
                let Some(packet) = packets.get(at) else {
                    continue;
                };
                let mut bytes = packet.sealed.clone();
                let mut destination = to;
                let mut changed = false;
                match choices.byte()? {
                    0..200 => {}
                    200..250 => {
                        let at = choices.below(bytes.len())?;
                        let change = choices.byte()?;
                        bytes[at] ^= change;
                        changed = change != 0;
                    }
                    250..253 => {
                        bytes.truncate(choices.below(bytes.len())?);
                        changed = true;
                    }
                    _ => {
                        destination = from;
                        // A datagram of a link has no addresses to authenticate here.
                        changed = !packet.apart;
                    }
                }
                let expected = !changed && model.takes(packet.counter);
                let receiver = &mut theirs.receiver;
                let opened = if packet.apart {
                    let counter = match model.highest.abs_diff(packet.counter) < 1 << 31 {
                        true => receiver.reconstruct(packet.counter as u32),
                        false => packet.counter,
                    };
                    assert_eq!(counter, packet.counter);
                    match bytes.split_first_chunk_mut() {
                        None => None,
                        Some((tag, rest)) => receiver
                            .open_at(counter, b"header", *tag, rest)
                            .is_ok()
                            .then(|| rest.to_vec()),
                    }
                } else {
                    receiver
                        .open_body(from, destination, &mut bytes)
                        .ok()
                        .map(|text| text.to_vec())
                };
                assert_eq!(opened.is_some(), expected);
                if let Some(text) = opened {
                    assert_eq!(text, packet.text);
                    model.take(packet.counter);
                    accepted += 1;
                }
            }
            6 => {
                let mut bytes = choices.bytes()?.to_vec();
                if let (Some(first), 0) = (bytes.first_chunk_mut::<6>(), choices.byte()? & 1) {
                    *first = [0, 0, 0, 9, 0, 0];
                }
                assert!(theirs.receiver.open_body(from, to, &mut bytes).is_err());
            }
            _ => {
                let at = choices.below(packets.len())?;
                if let Some(packet) = packets.get(at)
                    && !packet.apart
                {
                    let mut quote = packet.sealed.clone();
                    let opened = ours.sender.open_own(from, to, &mut quote);
                    assert_eq!(opened.expect("we sealed it"), packet.text);
                }
            }
        }
        assert_eq!(theirs.receiver.highest(), model.highest);
        assert_eq!(theirs.receiver.accepted(), accepted);
        assert!(ours.sender.count() > model.highest || accepted == 0);
    }
    Some(())
}

pub(crate) fn check(bytes: &[u8]) {
    play(&mut Choices(bytes));
}

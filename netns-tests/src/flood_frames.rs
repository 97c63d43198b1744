//! What floods are made of: packets that cost nothing to make and something to judge (docs/protocol.md §14.3, §15).

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::rng::Rng;
use mycelium_core::router_id::RouterId;
use mycelium_core::session::cookie::{CookieKey, CookieMemory};
use mycelium_core::session::fragment::{Unit, split_first};
use mycelium_core::session::handshake::{Context, Hello, Initiator, Local, Timestamp};
use mycelium_core::session::mac::{MacKey, Scope};
use mycelium_core::time::Time;
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};

use crate::daemon::key_of;

/// Distinct packets of a kind; a flood repeats them.
const DISTINCT: usize = 8192;
/// Body of garbage: a short packet of a session, or of protocol v1.
const GARBAGE_BODY: usize = 100;
/// The four zero bytes before a unit, and a unit of message 1: header, half of the message, two MACs.
const UNIT_HEADER: usize = 20;
const HALF: usize = 650;
const UNIT_LEN: usize = UNIT_HEADER + HALF + 32;
/// A data packet's hop limit.
const HOP_LIMIT: u8 = 64;
/// A flood is shorter than a cookie lives.
const NOW: Time = Time::ZERO;
/// Who-request: type, request, nonce, zeros, MAC.
const WHO_LEN: usize = 80;

/// Packets to throw, one after the other.
#[derive(Clone, Debug)]
pub struct Frames {
    /// Whole packets, or datagrams.
    pub frames: Vec<Vec<u8>>,
    /// Every packet comes from an overlay address that was never used before.
    pub fresh_sources: bool,
}

/// Self-made identities and a first message of each.
#[derive(Debug)]
pub struct Strangers {
    victim: PublicKey,
    members: Vec<Stranger>,
}

#[derive(Debug)]
struct Stranger {
    key: PublicKey,
    units: [Vec<u8>; 2],
    cookies: CookieMemory,
}

struct Maker(Rng);

/// Packets to `victim` from addresses that nobody has: bodies as of sessions, as of protocol v1, and handshake units whose
/// MAC1 is noise, in turn.
pub fn garbage(victim: Ipv6Addr) -> Frames {
    let mut maker = Maker::new("garbage");
    let frames = (0..DISTINCT)
        .map(|n| {
            let body = match n % 4 {
                // An index, a counter and noise; v1 bodies look just like this as well.
                0..=2 => maker.noise(GARBAGE_BODY + n % 3),
                _ => maker.unit(),
            };
            data(maker.stranger(), victim, &body)
        })
        .collect();
    Frames {
        frames,
        fresh_sources: true,
    }
}

/// Packets to `victim` that say they come from `source`, which has a session there: noise under random indices, halves of
/// messages of noise under a right MAC1, and both halves of such messages, in turn.
pub fn spoofed(source: Ipv6Addr, victim: &PublicKey) -> Frames {
    let mut maker = Maker::new("spoofed");
    let key = MacKey::new(victim, None);
    let scope = Scope::EndToEnd {
        source,
        destination: victim.address(),
    };
    let frames = (0..DISTINCT / 4)
        .flat_map(|n| {
            let message = maker.noise(2 * HALF);
            let [first, second] =
                split_first(&message, maker.index(), scope, &key).map(|unit| body_of(&unit));
            [
                maker.noise(GARBAGE_BODY),
                maker.signed_unit(&key, scope, n),
                first,
                second,
            ]
        })
        .map(|body| data(source, victim.address(), &body))
        .collect();
    Frames {
        frames,
        fresh_sources: false,
    }
}

/// Valid first messages to `victim` of `count` identities made for the purpose.
///
/// # Panics
/// Never: keys made from secrets are not of low order.
pub fn strangers(victim: &PublicKey, count: usize) -> Strangers {
    let mut maker = Maker::new("strangers");
    let mac_key = MacKey::new(victim, None);
    let members = (0..count).map(|_| {
        let local = Local::new(SecretKey::from_bytes(maker.0.array()));
        let hello = Hello {
            index: maker.index(),
            timestamp: Timestamp::from_unix(Duration::from_secs(1_700_000_000)),
            has_aes: true,
        };
        let (_, message) =
            Initiator::start(Context::EndToEnd, &local, victim, &hello, &mut maker.0)
                .expect("a key made from a secret");
        let scope = Scope::EndToEnd {
            source: local.address(),
            destination: victim.address(),
        };
        let mut units = split_first(&message, hello.index, scope, &mac_key);
        let mut cookies = CookieMemory::default();
        cookies.stamp(NOW, &mut units);
        Stranger {
            key: *local.public_key(),
            units,
            cookies,
        }
    });
    Strangers {
        victim: *victim,
        members: members.collect(),
    }
}

impl Strangers {
    /// Updates that announce all of them.
    pub fn updates(&self) -> Vec<Vec<u8>> {
        let members = self.members.iter();
        members.map(|member| update(&member.key, true)).collect()
    }

    /// Both halves of each message, as data packets.
    pub fn frames(&self) -> Frames {
        self.frames_of(|_| true)
    }

    /// The same of those that [were told a cookie](Self::take_cookies), with the proof.
    pub fn proven(&self) -> Frames {
        self.frames_of(|member| member.cookies.has_cookie(NOW))
    }

    fn frames_of(&self, wanted: impl Fn(&Stranger) -> bool) -> Frames {
        let members = self.members.iter().filter(|member| wanted(member));
        let frames = members.flat_map(|member| {
            let (from, to) = (member.key.address(), self.victim.address());
            let halves = member.units.iter();
            halves.map(move |unit| data(from, to, &body_of(unit)))
        });
        Frames {
            frames: frames.collect(),
            fresh_sources: false,
        }
    }

    /// Find the cookies among data packets that came back; how many strangers have one now.
    pub fn take_cookies(&mut self, packets: &[Vec<u8>]) -> usize {
        let key = CookieKey::new(&self.victim, None);
        let mut places: BTreeMap<Ipv6Addr, usize> = BTreeMap::new();
        for (place, member) in self.members.iter().enumerate() {
            places.insert(member.key.address(), place);
        }
        for packet in packets {
            if let Ok(header) = DataHeader::parse(packet)
                && let Some(unit) = packet.get(BODY_OFFSET + 4..)
                && let Ok(Unit::CookieReply(reply)) = Unit::parse(unit)
                && let Some(&place) = places.get(&header.destination)
                && let Some(member) = self.members.get_mut(place)
                && member.cookies.accept(NOW, &key, &reply)
            {
                member.cookies.stamp(NOW, &mut member.units);
            }
        }
        let proven = |member: &&Stranger| member.cookies.has_cookie(NOW);
        self.members.iter().filter(proven).count()
    }
}

/// Datagrams to the native port of `victim`: halves of messages of noise under a right MAC1, data and control under random
/// indices, questions who is there, and noise, in turn.
pub fn datagrams(victim: &PublicKey) -> Frames {
    let mut maker = Maker::new("datagrams");
    let key = MacKey::new(victim, None);
    let frames = (0..DISTINCT)
        .map(|n| match n % 6 {
            0 | 1 => {
                // The body of a data packet has four zero bytes where this has one byte of type.
                let mut datagram = maker.signed_unit(&key, Scope::Link, n).split_off(3);
                datagram[0] = 4;
                datagram
            }
            2 => maker.typed(5, 150),
            3 => maker.typed(6, 60),
            4 => who(maker.0.array()),
            _ => maker.typed(0x0b, 40),
        })
        .collect();
    Frames {
        frames,
        fresh_sources: false,
    }
}

/// An Update for the subnet of `key`, of its own router, at no cost.
fn update(key: &PublicKey, speaks_v2: bool) -> Vec<u8> {
    let mut packet = vec![1, 1, 0, 0, 42, 3, 0, 60, 8, 58, 2, 0, 64, 0, 0x75, 0x30];
    // Sequence number and metric.
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&key.address().octets()[..8]);
    packet.extend_from_slice(&key.0);
    let zone = match speaks_v2 {
        true => RouterId::SPEAKS_V2,
        false => [0; 2],
    };
    packet.extend_from_slice(&zone);
    packet.extend_from_slice(&key.0[..6]);
    packet
}

/// Make the source of a data packet one that was never used, out of a running number.
pub(crate) fn renew_source(frame: &mut [u8], number: u64) {
    if let Some(bytes) = frame.get_mut(9..17) {
        // 400::/7 and 56 bits that differ.
        bytes.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    }
}

/// A handshake unit as the body of a data packet.
fn body_of(unit: &[u8]) -> Vec<u8> {
    [&[0; 4], unit].concat()
}

fn who(nonce: [u8; 8]) -> Vec<u8> {
    let mut request = vec![7, 0];
    request.extend_from_slice(&nonce);
    request.resize(WHO_LEN - 16, 0);
    let key = blake3::derive_key("mycelium session v2 who", &[0; 32]);
    let mac = blake3::keyed_hash(&key, &request);
    request.extend_from_slice(&mac.as_bytes()[..16]);
    request
}

fn data(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; BODY_OFFSET];
    if let (Some(head), Ok(body_len)) = (packet.first_chunk_mut(), u16::try_from(body.len())) {
        DataHeader {
            body_len,
            hop_limit: HOP_LIMIT,
            source,
            destination,
        }
        .write(head);
    }
    packet.extend_from_slice(body);
    packet
}

impl Maker {
    /// The same packets in every run.
    fn new(label: &str) -> Self {
        Self(Rng::from_seed(key_of(label)))
    }

    /// An index that is not 0.
    fn index(&mut self) -> u32 {
        u32::from_be_bytes(self.0.array()) | 1
    }

    /// An overlay address that belongs to nobody.
    fn stranger(&mut self) -> Ipv6Addr {
        let mut octets: [u8; 16] = self.0.array();
        octets[0] = 4;
        let address = Ipv6Addr::from(octets);
        debug_assert!(Subnet::containing(address).is_overlay());
        address
    }

    /// `length` bytes of which the first four are not zero.
    fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = self.index().to_be_bytes().to_vec();
        while bytes.len() < length {
            bytes.extend_from_slice(&self.0.array::<32>());
        }
        bytes.truncate(length);
        bytes
    }

    fn typed(&mut self, kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = self.noise(length);
        bytes[0] = kind;
        bytes
    }

    /// The body of a data packet with half of a message 1; its MAC is noise.
    fn unit(&mut self) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend_from_slice(&[1, 0x20, 0, 0]);
        body.extend_from_slice(&self.index().to_be_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend(self.noise(UNIT_LEN - 12));
        body
    }

    /// As [`unit`](Self::unit) with a MAC1 that is right; the first half or the second, as `n` has it. No two fit together.
    fn signed_unit(&mut self, key: &MacKey, scope: Scope, n: usize) -> Vec<u8> {
        let mut body = self.unit();
        if let Some(number) = body.get_mut(5) {
            *number |= u8::from(n.is_multiple_of(3));
        }
        let end = body.len() - 32;
        body[end..].fill(0);
        if let Some(mac) = body.get(4..).and_then(|unit| key.mac1(scope, unit)) {
            body[end..end + 16].copy_from_slice(&mac);
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use mycelium_core::wire::frame::{Kind, next_frame};

    use super::*;

    fn victim() -> PublicKey {
        SecretKey::from_bytes(key_of("victim")).public_key()
    }

    #[test]
    fn everything_is_a_packet() {
        let source = SecretKey::from_bytes(key_of("peer")).public_key().address();
        let floods = [
            garbage(victim().address()),
            spoofed(source, &victim()),
            strangers(&victim(), 2).frames(),
        ];
        for frame in floods.iter().flat_map(|flood| &flood.frames) {
            let found = next_frame(frame).unwrap().unwrap();
            assert_eq!((found.kind, found.len), (Kind::Data, frame.len()));
        }
        let update = update(&victim(), true);
        let found = next_frame(&update).unwrap().unwrap();
        assert_eq!((found.kind, found.len), (Kind::Control, update.len()));
    }

    #[test]
    fn strangers_understand_the_cookies_that_they_are_told() {
        use mycelium_core::session::cookie::{CookieJar, ReturnAddress};

        let mut strangers = strangers(&victim(), 2);
        let mut rng = Rng::from_seed([1; 32]);
        let (mut jar, key) = (CookieJar::default(), CookieKey::new(&victim(), None));
        let asking = strangers.frames().frames.remove(2);
        let source = DataHeader::parse(&asking).unwrap().source;
        let address = ReturnAddress::end_to_end(source);
        let Ok(Unit::Fragment(first)) = Unit::parse(&asking[BODY_OFFSET + 4..]) else {
            panic!("not a fragment");
        };
        let reply = jar.reply(NOW, &address, &first, &key, &mut rng).unwrap();
        let answer = data(victim().address(), source, &body_of(&reply));
        assert_eq!(strangers.take_cookies(&[answer]), 1);
        let proven = strangers.proven().frames;
        assert_eq!(proven.len(), 2);
        for frame in proven {
            let Ok(Unit::Fragment(half)) = Unit::parse(&frame[BODY_OFFSET + 4..]) else {
                panic!("not a fragment");
            };
            assert!(jar.verify(NOW, &address, &half));
        }
    }

    #[test]
    fn forged_units_get_as_far_as_the_reassembly() {
        let source = SecretKey::from_bytes(key_of("peer")).public_key().address();
        let key = MacKey::new(&victim(), None);
        let scope = Scope::EndToEnd {
            source,
            destination: victim().address(),
        };
        for turn in spoofed(source, &victim()).frames.chunks(4) {
            for frame in &turn[1..] {
                let unit = &frame[BODY_OFFSET + 4..];
                assert!(matches!(Unit::parse(unit), Ok(Unit::Fragment(_))));
                assert!(key.verify(scope, unit));
            }
        }
        for datagram in datagrams(&victim()).frames.iter().step_by(6) {
            assert_eq!(datagram[0], 4);
            assert!(matches!(Unit::parse(&datagram[1..]), Ok(Unit::Fragment(_))));
            assert!(key.verify(Scope::Link, &datagram[1..]));
        }
    }

    #[test]
    fn sources_are_fresh_and_of_the_overlay() {
        let mut frame = garbage(victim().address()).frames.remove(0);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..10_000 {
            renew_source(&mut frame, number);
            let header = DataHeader::parse(&frame).unwrap();
            let subnet = Subnet::containing(header.source);
            assert!(subnet.is_overlay() && seen.insert(subnet));
        }
    }
}

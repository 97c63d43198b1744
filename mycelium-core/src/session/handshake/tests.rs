mod against_snow;
mod recorder;
mod vectors;

use super::*;
use crate::session::transport::{HEAD_LEN, OVERHEAD, ReceiveError, SealError};

fn rng(seed: u8) -> Rng {
    Rng::from_seed([seed; 32])
}

fn alice() -> Local {
    Local::new(SecretKey::from_bytes([1; 32]))
}

fn bob() -> Local {
    Local::new(SecretKey::from_bytes([2; 32]))
}

fn mallory() -> Local {
    Local::new(SecretKey::from_bytes([3; 32]))
}

fn hello() -> Hello {
    Hello {
        index: 0x1111_1111,
        timestamp: Timestamp([4; 12]),
        has_aes: true,
    }
}

const BOBS_INDEX: u32 = 0x2222_2222;

fn arrival(context: Context, initiator: &Local) -> Arrival {
    match context {
        Context::EndToEnd => Arrival::EndToEnd {
            source: initiator.address(),
        },
        Context::Link => Arrival::Link,
    }
}

fn start(context: Context) -> (Initiator, Vec<u8>) {
    Initiator::start(context, &alice(), bob().public_key(), &hello(), &mut rng(5)).unwrap()
}

fn respond(
    context: Context,
    message: &[u8],
    has_aes: bool,
    network_key: Option<&NetworkKey>,
) -> Result<Response, HandshakeError> {
    Responder::identify(arrival(context, &alice()), &bob(), message)?
        .authenticate(hello().index)?
        .respond(BOBS_INDEX, has_aes, network_key, &mut rng(6))
}

fn session(context: Context, has_aes: bool) -> (Established, Established) {
    let (mut initiator, one) = start(context);
    let response = respond(context, &one, has_aes, None).unwrap();
    let ours = initiator
        .finish(BOBS_INDEX, &response.message, None)
        .unwrap();
    (ours, response.established)
}

fn sealed(session: &mut Established, from: &Local, to: &Local, text: &[u8]) -> Vec<u8> {
    let mut body = vec![0; OVERHEAD + text.len()];
    body[HEAD_LEN..][..text.len()].copy_from_slice(text);
    session
        .sender
        .seal_body(from.address(), to.address(), &mut body)
        .unwrap();
    body
}

#[test]
fn both_ends_get_the_same_session() {
    for context in [Context::EndToEnd, Context::Link] {
        for (has_aes, suite) in [(true, Suite::Aes256Gcm), (false, Suite::ChaCha20Poly1305)] {
            let (mut ours, mut theirs) = session(context, has_aes);
            assert_eq!((ours.suite, theirs.suite), (suite, suite));
            assert_eq!(
                (ours.local_index, ours.remote_index),
                (hello().index, BOBS_INDEX)
            );
            assert_eq!(
                (theirs.local_index, theirs.remote_index),
                (BOBS_INDEX, hello().index)
            );
            assert_eq!(&ours.remote_key, bob().public_key());
            assert_eq!(&theirs.remote_key, alice().public_key());

            let (alice, bob) = (alice(), bob());
            let mut body = sealed(&mut ours, &alice, &bob, b"here");
            let opened = theirs
                .receiver
                .open_body(alice.address(), bob.address(), &mut body);
            assert_eq!(opened.unwrap(), b"here");
            theirs.sender.release();
            let mut body = sealed(&mut theirs, &bob, &alice, b"back");
            let opened = ours
                .receiver
                .open_body(bob.address(), alice.address(), &mut body);
            assert_eq!(opened.unwrap(), b"back");
        }
    }
}

/// Message 1 made from parts, as somebody does who does not keep to the rules.
struct Forged {
    prologue: Prologue,
    responder: PublicKey,
    ephemeral: SecretKey,
    initiator: PublicKey,
    /// What it puts in for `ss`.
    static_static: SharedSecret,
    payload: Vec<u8>,
}

impl Forged {
    /// What Alice would send to Bob.
    fn genuine(context: Context) -> Self {
        let (_, kem_key) = DecapsulationKey::from_seed(Zeroizing::new([8; 64]));
        let payload = [
            &hello().index.to_be_bytes()[..],
            &hello().timestamp.0,
            &[CHACHA | AES, 0, 0, 0],
            &kem_key,
        ];
        Self {
            prologue: Prologue::new(context, alice().address(), bob().address()),
            responder: bob().public,
            ephemeral: SecretKey::from_bytes([7; 32]),
            initiator: alice().public,
            static_static: alice().secret.agree(&bob().public).unwrap(),
            payload: payload.concat(),
        }
    }

    fn message(&self) -> (Symmetric, Vec<u8>) {
        let mut state = Symmetric::start(self.prologue.bytes(), &self.responder.0);
        let mut message = self.ephemeral.public_key().0.to_vec();
        state.ephemeral(&self.ephemeral.public_key().0);
        state.agreement(&self.ephemeral.agree(&self.responder).unwrap());
        state.seal(&self.initiator.0, &mut message);
        state.agreement(&self.static_static);
        state.seal(&self.payload, &mut message);
        (state, message)
    }

    /// How far Bob goes with it if it comes from the address that the key has.
    fn received(&self, arrival: Arrival) -> Result<PublicKey, HandshakeError> {
        let (_, message) = self.message();
        let bob = bob();
        let identified = Responder::identify(arrival, &bob, &message)?;
        Ok(identified.authenticate(hello().index)?.initiator)
    }
}

fn low_order_keys() -> Vec<PublicKey> {
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ]
    .map(|key| PublicKey::from_hex(key).unwrap())
    .to_vec()
}

#[test]
fn messages_made_from_parts_are_taken_when_the_parts_are_right() {
    for context in [Context::EndToEnd, Context::Link] {
        let received = Forged::genuine(context).received(arrival(context, &alice()));
        assert_eq!(received, Ok(alice().public));
    }
}

#[test]
fn a_change_to_any_byte_of_either_message_is_found() {
    let (mut initiator, one) = start(Context::EndToEnd);
    for at in 0..one.len() {
        let mut changed = one.clone();
        changed[at] ^= 0x40;
        let refused = respond(Context::EndToEnd, &changed, true, None);
        assert!(refused.is_err(), "byte {at} of message 1");
    }
    let two = respond(Context::EndToEnd, &one, true, None)
        .unwrap()
        .message;
    for at in 0..two.len() {
        let mut changed = two.clone();
        changed[at] ^= 0x01;
        // The curve ignores the top bit of a key, but the transcript does not.
        changed[at] ^= if at == CT_LEN + 31 { 0x81 } else { 0 };
        let refused = initiator.finish(BOBS_INDEX, &changed, None);
        assert_eq!(
            refused.unwrap_err(),
            HandshakeError::Authentication,
            "byte {at} of message 2"
        );
    }
    for len in [0, 1, two.len() - 1] {
        let refused = initiator.finish(BOBS_INDEX, &two[..len], None);
        assert_eq!(refused.unwrap_err(), HandshakeError::Length);
        let refused = respond(
            Context::EndToEnd,
            &one[..len.min(one.len() - 1)],
            true,
            None,
        );
        assert_eq!(refused.unwrap_err(), HandshakeError::Length);
    }
    // After all of them the genuine answer still counts, once.
    assert!(initiator.finish(BOBS_INDEX, &two, None).is_ok());
    let again = initiator.finish(BOBS_INDEX, &two, None);
    assert_eq!(again.unwrap_err(), HandshakeError::Finished);
}

#[test]
fn only_the_one_it_was_meant_for_can_read_message_1() {
    let (_, one) = start(Context::EndToEnd);
    let mallory = mallory();
    let read = Responder::identify(arrival(Context::EndToEnd, &alice()), &mallory, &one);
    assert_eq!(read.unwrap_err(), HandshakeError::Authentication);
}

#[test]
fn a_handshake_of_one_context_is_none_of_the_other() {
    for (made, read) in [
        (Context::EndToEnd, Context::Link),
        (Context::Link, Context::EndToEnd),
    ] {
        let (_, one) = start(made);
        let refused = respond(read, &one, true, None);
        assert_eq!(refused.unwrap_err(), HandshakeError::Authentication);
    }
}

#[test]
fn nobody_else_can_answer_for_the_responder() {
    let (mut initiator, one) = start(Context::Link);
    let (other, _) = Initiator::start(
        Context::Link,
        &alice(),
        mallory().public_key(),
        &hello(),
        &mut rng(5),
    )
    .unwrap();
    assert_eq!(other.remote_key(), mallory().public_key());
    // Mallory answers a handshake that was meant for it; the answer does not fit the one with Bob.
    let mallory = mallory();
    let theirs = Initiator::start(
        Context::Link,
        &alice(),
        &mallory.public,
        &hello(),
        &mut rng(5),
    );
    let (_, to_mallory) = theirs.unwrap();
    assert_ne!(one, to_mallory);
    let answer = Responder::identify(Arrival::Link, &mallory, &to_mallory)
        .unwrap()
        .authenticate(hello().index)
        .unwrap()
        .respond(BOBS_INDEX, true, None, &mut rng(6))
        .unwrap();
    let refused = initiator.finish(BOBS_INDEX, &answer.message, None);
    assert_eq!(refused.unwrap_err(), HandshakeError::Authentication);
}

#[test]
fn without_the_network_key_there_is_no_session() {
    let keys = [
        None,
        NetworkKey::from_bytes([1; 32]),
        NetworkKey::from_bytes([2; 32]),
    ];
    for (o, ours) in keys.iter().enumerate() {
        for (t, theirs) in keys.iter().enumerate() {
            let (mut initiator, one) = start(Context::EndToEnd);
            let response = respond(Context::EndToEnd, &one, true, theirs.as_ref()).unwrap();
            let finished = initiator.finish(BOBS_INDEX, &response.message, ours.as_ref());
            assert_eq!(finished.is_ok(), o == t);
        }
    }
    assert!(NetworkKey::from_bytes([0; 32]).is_none());
}

/// Key compromise impersonation, threat-model claim 7. With Bob's stolen key anybody can begin as Alice; the session that Bob
/// then holds says nothing to them and takes nothing from them, and Bob's half does not send before something opened.
#[test]
fn whoever_stole_our_key_cannot_be_others_to_us() {
    let stolen = bob().secret;
    let forged = Forged {
        static_static: stolen.agree(alice().public_key()).unwrap(),
        ..Forged::genuine(Context::EndToEnd)
    };
    let (state, one) = forged.message();
    let mut response = respond(Context::EndToEnd, &one, true, None).unwrap();

    let mut body = vec![0; OVERHEAD];
    let (alice, bob) = (alice(), bob());
    let session = &mut response.established;
    let held = session
        .sender
        .seal_body(bob.address(), alice.address(), &mut body);
    assert_eq!(held, Err(SealError::Unconfirmed));
    assert_eq!(session.sender.take_counter(), Err(SealError::Unconfirmed));
    assert!(!session.sender.is_released());

    // The thief knows everything but the one agreement that takes Alice's secret; here is every other in its place.
    let answer = PublicKey(*response.message[CT_LEN..].first_chunk().unwrap());
    let (kem, _) = DecapsulationKey::from_seed(Zeroizing::new([8; 64]));
    let ciphertext = response.message.first_chunk().unwrap();
    let secret = kem.decapsulate(ciphertext);
    let kem_key_hash = blake3::hash(&forged.payload[20..]).into();
    let guesses = [
        stolen.agree(&answer),
        stolen.agree(&alice.public),
        forged.ephemeral.agree(&answer),
        forged.ephemeral.agree(&alice.public),
        forged.ephemeral.agree(&bob.public),
    ];
    for guess in guesses {
        let mut state = state.clone();
        state.ephemeral(&answer.0);
        state.agreement(&forged.ephemeral.agree(&answer).unwrap());
        state.agreement(&guess.unwrap());
        state.psk(&psk(&secret, &kem_key_hash, ciphertext, None));
        let sealed = &response.message[CT_LEN + KEY_LEN..];
        assert!(state.open::<PAYLOAD_2_LEN>(sealed).is_err());
        let [first, second] = &*state.split();
        for split in [first, second] {
            for direction in [0, 1] {
                let key = transport_key(split, session.suite, direction);
                let mut thief = Sender::new(session.suite, &key, BOBS_INDEX);
                thief.release();
                let mut body = vec![0; OVERHEAD];
                thief
                    .seal_body(alice.address(), bob.address(), &mut body)
                    .unwrap();
                let opened = session
                    .receiver
                    .open_body(alice.address(), bob.address(), &mut body);
                assert_eq!(opened.unwrap_err(), ReceiveError::Authentication);
            }
        }
    }
}

/// Threat-model claim 2, its second half: a replayed message 1 does make keys, fresh ones, and nothing that anybody could use.
#[test]
fn a_replayed_message_1_gives_a_session_that_stays_silent() {
    let (mut initiator, one) = start(Context::EndToEnd);
    let response = respond(Context::EndToEnd, &one, true, None).unwrap();
    let mut ours = initiator
        .finish(BOBS_INDEX, &response.message, None)
        .unwrap();
    let mut later = Responder::identify(arrival(Context::EndToEnd, &alice()), &bob(), &one)
        .unwrap()
        .authenticate(hello().index)
        .unwrap()
        .respond(BOBS_INDEX, true, None, &mut rng(9))
        .unwrap()
        .established;
    assert!(!later.sender.is_released());
    let (alice, bob) = (alice(), bob());
    let mut body = sealed(&mut ours, &alice, &bob, b"first");
    let opened = later
        .receiver
        .open_body(alice.address(), bob.address(), &mut body);
    assert_eq!(opened.unwrap_err(), ReceiveError::Authentication);
}

#[test]
fn the_key_must_own_the_address() {
    let forged = Forged {
        initiator: mallory().public,
        static_static: mallory().secret.agree(&bob().public).unwrap(),
        ..Forged::genuine(Context::EndToEnd)
    };
    let arrival = Arrival::EndToEnd {
        source: alice().address(),
    };
    assert_eq!(forged.received(arrival), Err(HandshakeError::Source));
    // Not even another address of the same /64.
    let near = Ipv6Addr::from_bits(alice().address().to_bits() ^ 1);
    let forged = Forged {
        prologue: Prologue::new(Context::EndToEnd, near, bob().address()),
        ..Forged::genuine(Context::EndToEnd)
    };
    let arrival = Arrival::EndToEnd { source: near };
    assert_eq!(forged.received(arrival), Err(HandshakeError::Source));
}

#[test]
fn a_second_encoding_of_a_key_is_refused() {
    let mut twin = alice().public;
    twin.0[31] |= 0x80;
    for context in [Context::EndToEnd, Context::Link] {
        let forged = Forged {
            prologue: Prologue::new(context, twin.address(), bob().address()),
            initiator: twin,
            ..Forged::genuine(context)
        };
        let arrival = match context {
            Context::EndToEnd => Arrival::EndToEnd {
                source: twin.address(),
            },
            Context::Link => Arrival::Link,
        };
        assert_eq!(forged.received(arrival), Err(HandshakeError::NonCanonical));
    }
    let canonical = |hex: &str| is_canonical(&PublicKey::from_hex(hex).unwrap());
    let all_ones = "ff".repeat(30);
    assert!(canonical(&format!("ec{all_ones}7f")));
    assert!(canonical(&format!("ff{all_ones}7e")));
    assert!(canonical(&format!("ff{}fe7f", "ff".repeat(29))));
    assert!(!canonical(&format!("ed{all_ones}7f")));
    assert!(!canonical(&format!("ff{all_ones}7f")));
    assert!(!canonical(&format!("00{}80", "00".repeat(30))));
}

#[test]
fn keys_of_low_order_are_refused_wherever_they_come_from() {
    let (mut initiator, one) = start(Context::Link);
    let two = respond(Context::Link, &one, true, None).unwrap().message;
    for key in low_order_keys() {
        let started = Initiator::start(Context::Link, &alice(), &key, &hello(), &mut rng(5));
        assert_eq!(started.unwrap_err(), LowOrder);

        let mut changed = one.clone();
        changed[..32].copy_from_slice(&key.0);
        let refused = respond(Context::Link, &changed, true, None);
        assert_eq!(refused.unwrap_err(), HandshakeError::LowOrder);

        let mut changed = two.clone();
        changed[CT_LEN..][..32].copy_from_slice(&key.0);
        let refused = initiator.finish(BOBS_INDEX, &changed, None);
        assert_eq!(refused.unwrap_err(), HandshakeError::LowOrder);

        let forged = Forged {
            initiator: key,
            ..Forged::genuine(Context::Link)
        };
        let expected = match is_canonical(&key) {
            true => HandshakeError::LowOrder,
            false => HandshakeError::NonCanonical,
        };
        assert_eq!(forged.received(Arrival::Link), Err(expected));
    }
}

#[test]
fn what_message_1_says_must_make_sense() {
    let changed = |at: std::ops::Range<usize>, byte: u8| {
        let mut forged = Forged::genuine(Context::Link);
        forged.payload[at].fill(byte);
        forged
    };
    let refused = changed(3..4, 0xee).received(Arrival::Link);
    assert_eq!(refused, Err(HandshakeError::Index));
    let (_, zero) = changed(0..4, 0).message();
    let bob = bob();
    let identified = Responder::identify(Arrival::Link, &bob, &zero).unwrap();
    assert_eq!(identified.remote_key(), alice().public_key());
    let refused = identified.authenticate(0);
    assert_eq!(refused.unwrap_err(), HandshakeError::Index);
    // Coefficients of 4095: not reduced.
    let refused = changed(20..23, 0xff).received(Arrival::Link);
    assert_eq!(refused, Err(HandshakeError::KemKey));
    // Reserved bytes and suites of the future are nobody's business.
    let taken = changed(17..20, 0xff).received(Arrival::Link);
    assert_eq!(taken, Ok(alice().public));
    let taken = changed(16..17, 0xfe).received(Arrival::Link);
    assert_eq!(taken, Ok(alice().public));
}

#[test]
fn what_message_2_says_must_make_sense() {
    for (claims_aes, index, header, expected) in [
        (false, BOBS_INDEX, BOBS_INDEX, None),
        (true, BOBS_INDEX, BOBS_INDEX, Some(HandshakeError::Suite)),
        (
            false,
            BOBS_INDEX,
            BOBS_INDEX + 1,
            Some(HandshakeError::Index),
        ),
        (false, 0, 0, Some(HandshakeError::Index)),
    ] {
        let hello = Hello {
            has_aes: false,
            ..hello()
        };
        let remote = bob();
        let started =
            Initiator::start(Context::Link, &alice(), &remote.public, &hello, &mut rng(5));
        let (mut initiator, one) = started.unwrap();
        let mut authenticated = Responder::identify(Arrival::Link, &remote, &one)
            .unwrap()
            .authenticate(hello.index)
            .unwrap();
        assert!(!authenticated.hello().has_aes);
        authenticated.hello.has_aes |= claims_aes;
        let response = authenticated
            .respond(index, true, None, &mut rng(6))
            .unwrap();
        let finished = initiator.finish(header, &response.message, None);
        assert_eq!(finished.err(), expected);
    }
    assert_eq!([0, 3, 255].map(Suite::from_byte), [None; 3]);
}

#[test]
fn an_attempt_never_repeats_itself() {
    let mut rng = rng(5);
    let mut start = || {
        let started = Initiator::start(Context::Link, &alice(), &bob().public, &hello(), &mut rng);
        started.unwrap().1
    };
    let (first, second) = (start(), start());
    assert_ne!(first[..32], second[..32]);
    assert_ne!(first[100..132], second[100..132]);
}

#[test]
fn times_compare_as_their_bytes() {
    let at = |millis| Timestamp::from_unix(std::time::Duration::from_millis(millis));
    assert!(at(1_999) < at(2_000));
    assert!(at(255_999) < at(256_000));
    assert_eq!(at(2_001).0, [0, 0, 0, 0, 0, 0, 0, 2, 0, 0x0f, 0x42, 0x40]);
}

#[test]
fn secrets_do_not_print() {
    let secret = || SecretKey::from_bytes([0xa7; 32]);
    let local = Local::new(secret());
    let seed = Zeroizing::new([0xa7; 64]);
    let remote = bob();
    let (initiator, one) = Initiator::start_with(
        Context::Link,
        &local,
        &remote.public,
        &hello(),
        secret(),
        seed,
    )
    .unwrap();
    let identified = Responder::identify(Arrival::Link, &remote, &one).unwrap();
    let mut printed = format!("{initiator:?} {local:?} {identified:?}");
    let authenticated = identified.authenticate(hello().index).unwrap();
    printed += &format!("{authenticated:?}");
    let network_key = NetworkKey::from_bytes([0xa7; 32]);
    let response = authenticated
        .respond_with(1, true, network_key.as_ref(), &secret(), &[0xa7; 32])
        .unwrap();
    // Message 2 is public, and long.
    printed += &format!("{:?} {:?}", response.established, response.reply_key);
    printed += &format!("{network_key:?}");
    for sign in ["167, 167", "a7a7", "A7A7", "0xa7"] {
        assert!(!printed.contains(sign), "{sign} in {printed}");
    }
    assert!(printed.len() < 1500, "{printed}");
}

use proptest::prelude::*;

use super::*;

const THEIRS: u32 = 0xaaaa_bbbb;

fn pair(suite: Suite) -> (Sender, Receiver) {
    let key = Zeroizing::new([0x5a; 32]);
    let mut sender = Sender::new(suite, &key, THEIRS);
    sender.release();
    (sender, Receiver::new(suite, &key, THEIRS))
}

fn from() -> Ipv6Addr {
    "400::1".parse().unwrap()
}

fn to() -> Ipv6Addr {
    "500::2".parse().unwrap()
}

fn body(sender: &mut Sender, text: &[u8]) -> Vec<u8> {
    let mut body = vec![0; HEAD_LEN];
    body.extend_from_slice(text);
    body.extend_from_slice(&[0; TAG_LEN]);
    sender.seal_body(from(), to(), &mut body).unwrap();
    body
}

/// Why `body`, from and to these addresses, is not accepted.
fn refusal(
    receiver: &mut Receiver,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    body: &[u8],
) -> ReceiveError {
    let mut body = body.to_vec();
    receiver
        .open_body(source, destination, &mut body)
        .unwrap_err()
}

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

#[test]
fn a_packet_arrives_once() {
    for suite in SUITES {
        let (mut sender, mut receiver) = pair(suite);
        for n in 0..3u8 {
            let sealed = body(&mut sender, &[n; 40]);
            assert_eq!(index_of(&sealed), Some(THEIRS));
            let opened = receiver
                .open_body(from(), to(), &mut sealed.clone())
                .map(|text| text.to_vec());
            assert_eq!(opened, Ok(vec![n; 40]));
            let again = receiver
                .open_body(from(), to(), &mut sealed.clone())
                .unwrap_err();
            assert_eq!(again, ReceiveError::Replay(ReplayError::Seen));
        }
        assert_eq!(
            (receiver.highest(), receiver.accepted(), sender.count()),
            (2, 3, 3)
        );
    }
}

#[test]
fn a_change_to_any_byte_or_address_is_found_and_costs_no_counter() {
    for suite in SUITES {
        let (mut sender, mut receiver) = pair(suite);
        let sealed = body(&mut sender, b"payload and some more of it");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x04;
            let refused = receiver.open_body(from(), to(), &mut changed).unwrap_err();
            let expected = match at {
                0..4 => ReceiveError::Index,
                // A counter of 2^34 and more.
                4 | 5 => ReceiveError::Exhausted,
                _ => ReceiveError::Authentication,
            };
            assert_eq!(refused, expected, "byte {at}");
        }
        for bit in 0..128 {
            let other = |address: Ipv6Addr| Ipv6Addr::from_bits(address.to_bits() ^ 1 << bit);
            for (source, destination) in [(other(from()), to()), (from(), other(to()))] {
                let refused = refusal(&mut receiver, source, destination, &sealed);
                assert_eq!(refused, ReceiveError::Authentication);
            }
        }
        // Reflected.
        let refused = refusal(&mut receiver, to(), from(), &sealed);
        assert_eq!(refused, ReceiveError::Authentication);
        for len in 0..OVERHEAD {
            let refused = refusal(&mut receiver, from(), to(), &sealed[..len]);
            assert_eq!(refused, ReceiveError::Length);
        }
        assert_eq!((receiver.highest(), receiver.accepted()), (0, 0));
        assert!(
            receiver
                .open_body(from(), to(), &mut sealed.clone())
                .is_ok()
        );
    }
}

#[test]
fn what_is_refused_before_opening_is_left_as_it_was() {
    let (mut sender, mut receiver) = pair(Suite::Aes256Gcm);
    let sealed = body(&mut sender, b"text");
    receiver
        .open_body(from(), to(), &mut sealed.clone())
        .unwrap();
    let mut again = sealed.clone();
    assert!(receiver.open_body(from(), to(), &mut again).is_err());
    assert_eq!(again, sealed);
}

#[test]
fn an_unreleased_sender_sends_nothing() {
    let mut sender = Sender::new(Suite::Aes256Gcm, &Zeroizing::new([1; 32]), 1);
    let mut room = vec![0; OVERHEAD];
    let refused = sender.seal_body(from(), to(), &mut room);
    assert_eq!(refused, Err(SealError::Unconfirmed));
    assert_eq!(room, vec![0; OVERHEAD]);
    assert_eq!(sender.take_counter(), Err(SealError::Unconfirmed));
    assert!(!sender.is_released() && !sender.is_exhausted());
    sender.release();
    assert_eq!(sender.take_counter(), Ok(0));
}

#[test]
fn a_key_wears_out() {
    let (mut sender, mut receiver) = pair(Suite::Aes256Gcm);
    sender.set_count(SOFT_LIMIT - 1);
    assert!(!sender.is_worn());
    body(&mut sender, b"");
    assert!(sender.is_worn() && !sender.is_exhausted());
    sender.set_count(SEND_LIMIT - 1);
    let mut last = body(&mut sender, b"last");
    assert!(receiver.open_body(from(), to(), &mut last).is_ok());
    assert!(sender.is_exhausted());
    let refused = sender.seal_body(from(), to(), &mut [0; 40]);
    assert_eq!(refused, Err(SealError::Exhausted));
    assert_eq!(sender.take_counter(), Err(SealError::Exhausted));

    sender.limit = u64::MAX;
    for (counter, expected) in [
        (HARD_LIMIT - 1, Ok(())),
        (HARD_LIMIT, Err(ReceiveError::Exhausted)),
        ((1 << 48) - 1, Err(ReceiveError::Exhausted)),
    ] {
        sender.set_count(counter);
        let mut sealed = body(&mut sender, b"");
        let opened = receiver.open_body(from(), to(), &mut sealed).map(|_| ());
        assert_eq!(opened, expected);
    }
}

#[test]
fn a_buffer_without_room_is_refused_before_a_counter_is_spent() {
    let (mut sender, _) = pair(Suite::Aes256Gcm);
    for len in 0..OVERHEAD {
        let refused = sender.seal_body(from(), to(), &mut vec![0; len]);
        assert_eq!(refused, Err(SealError::Length));
    }
    assert_eq!(sender.count(), 0);
}

#[test]
fn a_quote_of_ours_opens_as_often_as_it_comes() {
    let (mut sender, _) = pair(Suite::ChaCha20Poly1305);
    let sealed = body(&mut sender, b"who said this?");
    for _ in 0..2 {
        let mut quote = sealed.clone();
        let opened = sender.open_own(from(), to(), &mut quote);
        assert_eq!(opened.unwrap(), b"who said this?");
    }
    let refused = sender
        .open_own(to(), from(), &mut sealed.clone())
        .map(|_| ());
    assert_eq!(refused, Err(ReceiveError::Authentication));
    let mut cut = sealed[..sealed.len() - 1].to_vec();
    assert!(sender.open_own(from(), to(), &mut cut).is_err());
    let mut other = sealed.clone();
    other[0] ^= 1;
    let refused = sender.open_own(from(), to(), &mut other);
    assert_eq!(refused.unwrap_err(), ReceiveError::Index);
    // Nothing that we have not sealed yet is a quote.
    sender.set_count(0);
    assert!(sender.open_own(from(), to(), &mut { sealed }).is_err());
}

#[test]
fn datagrams_of_a_link_share_the_counter_and_the_window() {
    let (mut sender, mut receiver) = pair(Suite::Aes256Gcm);
    let first = body(&mut sender, b"body");
    let counter = sender.take_counter().unwrap();
    assert_eq!(counter, 1);
    let mut header = *b"the sealed data header of a link.";
    let tag = sender.seal(counter, b"aad", &mut header);
    let sealed = header;
    let refused = receiver.open_at(counter, b"add", tag, &mut sealed.clone());
    assert_eq!(refused, Err(ReceiveError::Authentication));
    assert_eq!(receiver.open_at(counter, b"aad", tag, &mut header), Ok(()));
    assert_eq!(&header, b"the sealed data header of a link.");
    let refused = receiver.open_at(counter, b"aad", tag, &mut sealed.clone());
    assert_eq!(refused, Err(ReceiveError::Replay(ReplayError::Seen)));
    assert!(receiver.open_body(from(), to(), &mut { first }).is_ok());
    assert_eq!(receiver.accepted(), 2);
}

#[test]
fn counters_are_put_together_around_a_turn() {
    let (_, mut receiver) = pair(Suite::Aes256Gcm);
    assert_eq!(receiver.reconstruct(0), 0);
    assert_eq!(
        receiver.reconstruct(u32::MAX),
        u64::from(u32::MAX),
        "never below zero"
    );
    for highest in [0, 5, (1 << 32) - 3, (1 << 32) + 7, (1 << 33) - 2] {
        receiver.window.accept(highest).unwrap();
        receiver.accepted += 1;
        let expected = highest + 1;
        for distance in [-9_000i64, -1, 0, 1, 9_000, (1 << 31) - 1, 1 - (1 << 31)] {
            let Some(counter) = expected.checked_add_signed(distance) else {
                continue;
            };
            let low = u32::try_from(counter & u64::from(u32::MAX)).unwrap();
            assert_eq!(
                receiver.reconstruct(low),
                counter,
                "{distance} from {expected}"
            );
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bodies_are_refused(
        mut body in proptest::collection::vec(any::<u8>(), 0..100),
        ours: bool,
    ) {
        let (_, mut receiver) = pair(Suite::Aes256Gcm);
        if ours && body.len() >= HEAD_LEN {
            body[..4].copy_from_slice(&THEIRS.to_be_bytes());
            body[4..8].fill(0);
        }
        prop_assert!(receiver.open_body(from(), to(), &mut body).is_err());
        prop_assert_eq!(receiver.accepted(), 0);
    }
}

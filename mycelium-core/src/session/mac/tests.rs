use super::*;

fn key(recipient: u8, network: u8) -> MacKey {
    MacKey::new(
        &PublicKey([recipient; 32]),
        NetworkKey::from_bytes([network; 32]).as_ref(),
    )
}

fn scope() -> Scope {
    Scope::EndToEnd {
        source: "400::1".parse().unwrap(),
        destination: "400::2".parse().unwrap(),
    }
}

fn unit(key: &MacKey, scope: Scope) -> Vec<u8> {
    let mut unit = vec![9; 150];
    let mac1 = key.mac1(scope, &unit).unwrap();
    let at = unit.len() - MACS_LEN;
    unit[at..][..MAC_LEN].copy_from_slice(&mac1);
    unit
}

#[test]
fn mac1_covers_everything_before_it_and_nothing_after() {
    let key = key(1, 0);
    let made = unit(&key, scope());
    for at in 0..made.len() {
        let mut changed = made.clone();
        changed[at] ^= 0x80;
        let in_mac2 = at >= made.len() - MAC_LEN;
        assert_eq!(key.verify(scope(), &changed), in_mac2, "byte {at}");
    }
    for len in 0..made.len() {
        assert!(!key.verify(scope(), &made[..len]));
    }
}

#[test]
fn mac1_is_for_one_recipient_one_network_and_one_pair_of_addresses() {
    let made = unit(&key(1, 1), scope());
    assert!(key(1, 1).verify(scope(), &made));
    for other in [key(2, 1), key(1, 2), key(1, 0)] {
        assert!(!other.verify(scope(), &made));
    }
    let Scope::EndToEnd {
        source,
        destination,
    } = scope()
    else {
        unreachable!()
    };
    let swapped = Scope::EndToEnd {
        source: destination,
        destination: source,
    };
    for other in [swapped, Scope::Link] {
        assert!(!key(1, 1).verify(other, &made));
    }
}

#[test]
fn the_reply_mac_covers_everything_before_it() {
    let key = ReplyKey::new(&[5; 32]);
    let mut made = vec![9; 150];
    let mac = key.mac(&made).unwrap();
    *made.last_chunk_mut().unwrap() = mac;
    assert!(key.verify(&made));
    assert!(!ReplyKey::new(&[6; 32]).verify(&made));
    for at in 0..made.len() {
        let mut changed = made.clone();
        changed[at] ^= 1;
        assert!(!key.verify(&changed), "byte {at}");
    }
    assert!(!key.verify(&made[..MAC_LEN - 1]));
    assert!(!key.verify(&[]));
}

use super::*;
use crate::crypto::identity::SecretKey;
use crate::session::handshake::{Arrival, Context, Hello, Initiator, Local, Responder, Timestamp};

/// What a responder has of a handshake of `peer`.
fn keys(peer: &Local, own: &Local, index: u32, rng: &mut Rng) -> Established {
    let hello = Hello {
        index,
        timestamp: Timestamp::default(),
        has_aes: true,
    };
    let (_, message) =
        Initiator::start(Context::Link, peer, own.public_key(), &hello, rng).unwrap();
    let identified = Responder::identify(Arrival::Link, own, &message).unwrap();
    let authenticated = identified.authenticate(index).unwrap();
    let mut established = authenticated
        .respond(index, true, None, rng)
        .unwrap()
        .established;
    established.sender.release();
    established
}

fn says(link: &mut Link, index: u32, own: u64) -> Fate {
    let mut bytes = Vec::new();
    Frame::Instance { own, known: 0 }.write(&mut bytes);
    let (mut stats, mut events) = (NativeStats::default(), VecDeque::new());
    link.on_frames(index, &bytes, Time::ZERO, &mut stats, &mut events)
}

#[test]
fn a_restart_costs_the_other_end_a_handshake() {
    let mut rng = Rng::from_seed([1; 32]);
    let [own, peer] = [1, 2].map(|n| Local::new(SecretKey::from_bytes([n; 32])));
    let address = SocketAddr::from(([192, 0, 2, 1], 9651));
    let mut link = Link::new(
        LinkId(1),
        *peer.public_key(),
        own.public_key(),
        address,
        false,
        1472,
        &mut rng,
        Time::ZERO,
    );
    let established = keys(&peer, &own, 1, &mut rng);
    link.add_epoch(established, Some([1; 32]), Time::ZERO);
    assert_eq!(says(&mut link, 1, 7), Fate::Keep);
    assert_eq!(says(&mut link, 1, 7), Fate::Keep);
    // Under new keys it may be somebody new.
    let established = keys(&peer, &own, 2, &mut rng);
    link.add_epoch(established, Some([2; 32]), Time::ZERO);
    assert_eq!(says(&mut link, 2, 8), Fate::Restarted { index: 2 });
    link.restart(LinkId(2), 2, Time::ZERO);
    assert_eq!(says(&mut link, 2, 8), Fate::Keep);
    // Under the same it cannot, and each time all routes would have to be told again.
    let fate = says(&mut link, 2, 9);
    assert_eq!(
        fate,
        Fate::End(DownReason::Malformed, Some(CloseCode::Malformed))
    );
}

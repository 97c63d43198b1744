mod against_snow;
mod vectors;

use super::*;
use crate::session::transport::{HEAD_LEN, OVERHEAD};

fn rng(seed: u8) -> Rng {
    Rng::from_seed([seed; 32])
}

fn alice() -> Local {
    Local::new(SecretKey::from_bytes([1; 32]))
}

fn bob() -> Local {
    Local::new(SecretKey::from_bytes([2; 32]))
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

//! Somebody who wrote down everything, and is told secrets afterwards.

use super::*;

/// What became known. Of the keys of the handshake itself: Alice's X25519 key (it gives what Bob's would), her KEM key.
#[derive(Clone, Copy)]
struct Leaked {
    identities: bool,
    ephemeral: bool,
    kem: bool,
}

struct Recording {
    first: Vec<u8>,
    second: Vec<u8>,
    body: Vec<u8>,
}

const EPHEMERAL: [u8; 32] = [5; 32];
const KEM_SEED: [u8; 64] = [6; 64];
const TEXT: &[u8] = b"not for you";

fn record() -> Recording {
    let (alice, bob) = (alice(), bob());
    let (mut initiator, first) = Initiator::start_with(
        Context::EndToEnd,
        &alice,
        bob.public_key(),
        &hello(),
        SecretKey::from_bytes(EPHEMERAL),
        Zeroizing::new(KEM_SEED),
    )
    .unwrap();
    let second = respond(Context::EndToEnd, &first, true, None)
        .unwrap()
        .message;
    let mut session = initiator.finish(BOBS_INDEX, &second, None).unwrap();
    let body = sealed(&mut session, &alice, &bob, TEXT);
    Recording {
        first,
        second,
        body,
    }
}

impl Recording {
    /// The text, if what leaked is enough for it. What did not leak is guessed.
    fn read(&self, leaked: Leaked) -> Result<Vec<u8>, HandshakeError> {
        let (alice, bob) = (alice(), bob());
        let known = |known: bool, ours: &SecretKey, theirs: &PublicKey| {
            let guess = SecretKey::from_bytes([0x77; 32]);
            agree(if known { ours } else { &guess }, theirs)
        };
        let (ephemeral, rest) = split::<KEY_LEN>(&self.first)?;
        let (sealed_key, sealed) = split::<{ KEY_LEN + TAG_LEN }>(rest)?;
        let prologue = Prologue::new(Context::EndToEnd, alice.address, bob.address);
        let mut state = Symmetric::start(prologue.bytes(), &bob.public.0);
        state.ephemeral(ephemeral);
        state.agreement(&known(
            leaked.identities,
            &bob.secret,
            &PublicKey(*ephemeral),
        )?);
        state.open::<KEY_LEN>(sealed_key)?;
        state.agreement(&known(leaked.identities, &bob.secret, &alice.public)?);
        let payload = state.open::<PAYLOAD_1_LEN>(sealed)?;
        let kem_key_hash = blake3::hash(&payload[20..]).into();

        let second: &[u8; MESSAGE_2_LEN] = self.second[..].try_into().unwrap();
        let (ciphertext, rest) = split::<CT_LEN>(second)?;
        let (ephemeral, sealed) = split::<KEY_LEN>(rest)?;
        state.ephemeral(ephemeral);
        let ephemeral = PublicKey(*ephemeral);
        let own = SecretKey::from_bytes(EPHEMERAL);
        state.agreement(&known(leaked.ephemeral, &own, &ephemeral)?);
        state.agreement(&known(leaked.identities, &alice.secret, &ephemeral)?);
        let seed = if leaked.kem { KEM_SEED } else { [0x77; 64] };
        let (kem, _) = DecapsulationKey::from_seed(Zeroizing::new(seed));
        let secret = kem.decapsulate(ciphertext);
        state.psk(&psk(&secret, &kem_key_hash, ciphertext, None));
        let payload = state.open::<PAYLOAD_2_LEN>(sealed)?;

        let suite = Suite::from_byte(payload[4]).ok_or(HandshakeError::Suite)?;
        let [to_responder, _] = &*state.split();
        let mut receiver = Receiver::new(suite, &transport_key(to_responder, suite, 0), BOBS_INDEX);
        let mut body = self.body.clone();
        let text = receiver.open_body(alice.address, bob.address, &mut body);
        Ok(text.map_err(|_| HandshakeError::Authentication)?.to_vec())
    }
}

#[test]
fn what_was_recorded_stays_secret_when_both_identity_keys_leak() {
    let recording = record();
    let leaked = Leaked {
        identities: true,
        ephemeral: false,
        kem: false,
    };
    assert_eq!(recording.read(leaked), Err(HandshakeError::Authentication));
}

#[test]
fn what_was_recorded_stays_secret_when_either_half_of_the_hybrid_breaks() {
    let recording = record();
    let x25519_is_broken = Leaked {
        identities: true,
        ephemeral: true,
        kem: false,
    };
    let kem_is_broken = Leaked {
        identities: true,
        ephemeral: false,
        kem: true,
    };
    for leaked in [x25519_is_broken, kem_is_broken] {
        assert_eq!(recording.read(leaked), Err(HandshakeError::Authentication));
    }
    // Nothing else is in the way: who has everything reads.
    let everything = Leaked {
        identities: true,
        ephemeral: true,
        kem: true,
    };
    assert_eq!(recording.read(everything).as_deref(), Ok(TEXT));
}

//! Our half against `snow`'s half, both ways round. `snow` runs the state machine, over primitives that ours does not use where
//! there is a choice.

use blake2::{Blake2s256, Digest as _};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};

use super::*;
use crate::crypto::aead::AeadKey;

struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Constant))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(Curve::default()))
    }

    fn resolve_hash(&self, _: &HashChoice) -> Option<Box<dyn Hash>> {
        Some(Box::new(Blake(Blake2s256::new())))
    }

    fn resolve_cipher(&self, _: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Some(Box::new(Ring(None)))
    }
}

struct Constant;

impl Random for Constant {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        bytes.fill(0x55);
        Ok(())
    }
}

#[derive(Default)]
struct Curve {
    secret: [u8; 32],
    public: [u8; 32],
}

impl Dh for Curve {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.public = x25519_dalek::x25519(self.secret, x25519_dalek::X25519_BASEPOINT_BYTES);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut secret = [0; 32];
        rng.try_fill_bytes(&mut secret)?;
        self.set(&secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = public[..32].try_into().unwrap();
        out[..32].copy_from_slice(&x25519_dalek::x25519(self.secret, public));
        Ok(())
    }
}

struct Blake(Blake2s256);

impl Hash for Blake {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.clone().finalize());
    }
}

struct Ring(Option<AeadKey>);

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

impl Cipher for Ring {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Some(AeadKey::new(Suite::ChaCha20Poly1305, key));
    }

    fn encrypt(&self, counter: u64, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (sealed, rest) = out.split_at_mut(plaintext.len());
        sealed.copy_from_slice(plaintext);
        let key = self.0.as_ref().unwrap();
        rest[..16].copy_from_slice(&key.seal(nonce(counter), aad, sealed));
        plaintext.len() + 16
    }

    fn decrypt(
        &self,
        counter: u64,
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let mut opened = sealed.to_vec();
        let key = self.0.as_ref().unwrap();
        let plaintext = key
            .open(nonce(counter), aad, &mut opened)
            .map_err(|_| Error::Decrypt)?;
        out[..plaintext.len()].copy_from_slice(plaintext);
        Ok(plaintext.len())
    }
}

fn other(context: Context, local: &Local, remote: Option<&PublicKey>) -> HandshakeState {
    let params: NoiseParams = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
    let prologue = Prologue::new(context, alice().address(), bob().address());
    let secret = local.secret.to_bytes();
    let builder = Builder::with_resolver(params, Box::new(Primitives))
        .prologue(prologue.bytes())
        .unwrap()
        .local_private_key(&secret[..])
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&[0x66; 32]);
    match remote {
        Some(remote) => builder
            .remote_public_key(&remote.0)
            .unwrap()
            .build_initiator(),
        None => builder.build_responder(),
    }
    .unwrap()
}

fn ends_alike(split: ([u8; 32], [u8; 32]), suite: Suite, session: &mut Established, ours: u8) {
    let split = [split.0, split.1];
    let [to_us, from_us] = [1 - ours, ours]
        .map(|direction| transport_key(&split[usize::from(direction)], suite, direction));
    let mut theirs = vec![7; 40];
    let nonce = [0; 12];
    let tag = AeadKey::new(suite, &to_us).seal(nonce, b"aad", &mut theirs);
    assert_eq!(
        session.receiver.open_at(0, b"aad", tag, &mut theirs),
        Ok(())
    );
    assert_eq!(theirs, [7; 40]);
    let mut sealed = vec![8; 40];
    let tag = session.sender.seal(0, b"aad", &mut sealed);
    let key = AeadKey::new(suite, &from_us);
    assert_eq!(key.open_separate(nonce, b"aad", tag, &mut sealed), Ok(()));
}

#[test]
fn we_initiate() {
    for context in [Context::EndToEnd, Context::Link] {
        let (mut initiator, one) = start(context);
        let mut snow = other(context, &bob(), None);
        let mut payload = vec![0; 2000];
        let len = snow.read_message(&one, &mut payload).unwrap();
        assert_eq!(len, PAYLOAD_1_LEN);
        assert_eq!(payload[..4], hello().index.to_be_bytes());
        assert_eq!(payload[16], 3);
        assert_eq!(snow.get_remote_static().unwrap(), alice().public_key().0);

        let kem_key: &[u8; EK_LEN] = payload[20..len].try_into().unwrap();
        let parsed = EncapsulationKey::parse(kem_key).unwrap();
        let (ciphertext, secret) = kem::encapsulate(&parsed, &[9; 32]);
        let psk = psk(&secret, &blake3::hash(kem_key).into(), &ciphertext, None);
        snow.set_psk(2, &psk[..]).unwrap();
        let mut two = ciphertext.to_vec();
        let mut answer = [&BOBS_INDEX.to_be_bytes()[..], &[1, 0, 0, 0]].concat();
        let mut noise = vec![0; 100];
        let len = snow.write_message(&answer, &mut noise).unwrap();
        two.extend_from_slice(&noise[..len]);
        answer.clear();

        let mut session = initiator.finish(BOBS_INDEX, &two, None).unwrap();
        assert_eq!(session.suite, Suite::Aes256Gcm);
        ends_alike(
            snow.dangerously_get_raw_split(),
            session.suite,
            &mut session,
            0,
        );
    }
}

#[test]
fn we_respond() {
    for context in [Context::EndToEnd, Context::Link] {
        let mut snow = other(context, &alice(), Some(bob().public_key()));
        let (kem, kem_key) = DecapsulationKey::from_seed(Zeroizing::new([3; 64]));
        let mut payload = hello().index.to_be_bytes().to_vec();
        payload.extend_from_slice(&hello().timestamp.0);
        payload.extend_from_slice(&[CHACHA, 0, 0, 0]);
        payload.extend_from_slice(&kem_key);
        let mut one = vec![0; 2000];
        let len = snow.write_message(&payload, &mut one).unwrap();
        assert_eq!(len, MESSAGE_1_LEN);

        let mut response = respond(context, &one[..len], true, None).unwrap();
        let two = response.message;
        let ciphertext = two[..CT_LEN].try_into().unwrap();
        let secret = kem.decapsulate(&ciphertext);
        let psk = psk(&secret, &blake3::hash(&kem_key).into(), &ciphertext, None);
        snow.set_psk(2, &psk[..]).unwrap();
        let len = snow.read_message(&two[CT_LEN..], &mut payload).unwrap();
        assert_eq!(
            payload[..len],
            [&BOBS_INDEX.to_be_bytes()[..], &[2, 0, 0, 0]].concat()
        );
        let session = &mut response.established;
        assert_eq!(session.suite, Suite::ChaCha20Poly1305);
        session.sender.release();
        ends_alike(snow.dangerously_get_raw_split(), session.suite, session, 1);
    }
}

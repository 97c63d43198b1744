//! `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (Noise revision 34), as two parties' views of one symmetric state.
//!
//! Our own, and only this pattern, because four things are needed that general implementations do not offer: to look at the
//! initiator's static key before any further agreement, to refuse all-zero agreements, injected randomness, and zeroisation.
//! The tests run it against `snow` in both directions.

use blake2::digest::{Digest as _, KeyInit as _, Mac as _};
use blake2::{Blake2s256, digest::Output};
use chacha20poly1305::aead::{AeadInOut as _, Tag};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hmac::SimpleHmac;
use zeroize::{Zeroize as _, Zeroizing};

use crate::crypto::aead::TAG_LEN;
use crate::crypto::identity::SharedSecret;

const PROTOCOL: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Bytes of a hash and of every key here.
const LEN: usize = 32;

/// Not sealed by whoever holds the other end of this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch;

/// Chaining key, transcript hash and the key that is in force.
#[derive(Clone)]
pub(super) struct Symmetric {
    chaining: [u8; LEN],
    hash: [u8; LEN],
    key: [u8; LEN],
    nonce: u64,
}

impl Symmetric {
    /// The state before message 1: `prologue` and the responder's static key, which IK presumes known, are in the transcript.
    pub(super) fn start(prologue: &[u8], responder: &[u8; LEN]) -> Self {
        let mut state = Self {
            chaining: hash(&[PROTOCOL]),
            hash: hash(&[PROTOCOL]),
            key: [0; LEN],
            nonce: 0,
        };
        state.mix_hash(prologue);
        state.mix_hash(responder);
        state
    }

    /// Bind `data` to the transcript.
    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let [chaining, key] = &*derive(&self.chaining, input);
        self.chaining = *chaining;
        self.key = *key;
        self.nonce = 0;
    }

    /// Token `e`: an ephemeral key goes by. With a PSK pattern it is mixed into the key as well.
    pub(super) fn ephemeral(&mut self, public: &[u8; LEN]) {
        self.mix_hash(public);
        self.mix_key(public);
    }

    /// Tokens `es`, `ss`, `ee`, `se`.
    pub(super) fn agreement(&mut self, secret: &SharedSecret) {
        self.mix_key(secret.as_bytes());
    }

    /// Token `psk`.
    pub(super) fn psk(&mut self, psk: &[u8; LEN]) {
        let [chaining, hash, key] = &*derive(&self.chaining, psk);
        self.chaining = *chaining;
        self.mix_hash(hash);
        self.key = *key;
        self.nonce = 0;
    }

    /// Seal `plaintext` and append it, with its tag, to `message`.
    pub(super) fn seal(&mut self, plaintext: &[u8], message: &mut Vec<u8>) {
        let start = message.len();
        message.extend_from_slice(plaintext);
        let (cipher, nonce) = self.cipher();
        let tag = cipher
            .encrypt_inout_detached(&nonce, &self.hash, (&mut message[start..]).into())
            .expect("refuses only inputs above 256 GiB");
        message.extend_from_slice(&tag);
        self.mix_hash(&message[start..]);
    }

    /// Open `sealed` (ciphertext and tag). A state that failed must not be used again.
    pub(super) fn open<const N: usize>(
        &mut self,
        sealed: &[u8],
    ) -> Result<Zeroizing<[u8; N]>, Mismatch> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Mismatch)?;
        let mut plaintext = Zeroizing::new(<[u8; N]>::try_from(ciphertext).map_err(|_| Mismatch)?);
        let (cipher, nonce) = self.cipher();
        let tag = Tag::<ChaCha20Poly1305>::from(*tag);
        cipher
            .decrypt_inout_detached(&nonce, &self.hash, plaintext[..].as_mut().into(), &tag)
            .map_err(|_| Mismatch)?;
        self.mix_hash(sealed);
        Ok(plaintext)
    }

    /// The chaining key.
    pub(super) fn chaining(&self) -> &[u8; LEN] {
        &self.chaining
    }

    /// The cipher in force with its next nonce.
    fn cipher(&mut self) -> (ChaCha20Poly1305, Nonce) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.nonce.to_le_bytes());
        self.nonce += 1;
        // A reference to the key, not a copy that nobody would erase.
        (ChaCha20Poly1305::new((&self.key).into()), nonce.into())
    }

    /// The two keys of the finished handshake: initiator to responder, responder to initiator.
    pub(super) fn split(&self) -> Zeroizing<[[u8; LEN]; 2]> {
        derive(&self.chaining, &[])
    }
}

impl Drop for Symmetric {
    fn drop(&mut self) {
        self.chaining.zeroize();
        self.hash.zeroize();
        self.key.zeroize();
    }
}

fn hash(parts: &[&[u8]]) -> [u8; LEN] {
    let mut hasher = Blake2s256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The `HKDF` of Noise with `N` outputs, at most 255.
fn derive<const N: usize>(chaining: &[u8; LEN], input: &[u8]) -> Zeroizing<[[u8; LEN]; N]> {
    let mut secret = hmac(chaining, &[input]);
    let mut outputs = Zeroizing::new([[0; LEN]; N]);
    let mut previous: &[u8] = &[];
    for (output, number) in outputs.iter_mut().zip(1u8..) {
        let mut next = hmac(&secret, &[previous, &[number]]);
        output.copy_from_slice(&next);
        next.zeroize();
        previous = output;
    }
    secret.zeroize();
    outputs
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Output<Blake2s256> {
    let mut hmac = SimpleHmac::<Blake2s256>::new_from_slice(key).expect("HMAC takes any length");
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes()
}

//! Hot path: see docs/architecture.md#hot-path. The two AEADs with cached key schedules, in place.
//!
//! Which suite is faster here is the caller's knowledge: the core asks no processor what it can do.

use std::fmt;
use std::hint::black_box;

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::identity::SharedSecret;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;

/// Which AEAD, with its number on the wire (docs/protocol.md §14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// The faster one where both ends have instructions for AES.
    Aes256Gcm = 1,
    /// The faster one, and constant-time without hardware, everywhere else.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// The suite with this number, if there is one.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Its number on the wire.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

/// A key ready for use. Building one costs the key schedule, so they are cached per pair of identities or session.
///
/// Dropping one overwrites it where it lies. What that cannot reach: copies that moves left behind on the stack, and ring's
/// own temporaries; keep a key boxed, or build it where it stays.
pub struct AeadKey {
    suite: Suite,
    key: LessSafeKey,
}

/// The ciphertext does not belong to this key, or was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct OpenError;

impl AeadKey {
    /// A key of `suite`.
    pub fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        Self {
            suite,
            key: schedule(suite, key),
        }
    }

    /// The protocol v1 key of a pair of identities: AES-256-GCM keyed by the raw agreement.
    pub fn v1(secret: &SharedSecret) -> Self {
        Self::new(Suite::Aes256Gcm, secret.as_bytes())
    }

    /// Which AEAD this is a key of.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Encrypt `in_out` in place and return the tag.
    pub fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
            .expect("ring refuses only inputs above 64 GiB");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Decrypt `in_out` (ciphertext followed by its tag) in place; the plaintext is its front part.
    ///
    /// On failure `in_out` holds nothing of use.
    pub fn open<'a>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        self.key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
            .map_err(|_| OpenError)
    }

    /// Decrypt `in_out` in place where the tag lies elsewhere.
    ///
    /// On failure `in_out` holds nothing of use.
    pub fn open_separate(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        tag: [u8; TAG_LEN],
        in_out: &mut [u8],
    ) -> Result<(), OpenError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(tag), in_out, 0..)
            .map(|_| ())
            .map_err(|_| OpenError)
    }
}

fn schedule(suite: Suite, key: &[u8; KEY_LEN]) -> LessSafeKey {
    let algorithm = match suite {
        Suite::Aes256Gcm => &AES_256_GCM,
        Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both take exactly 32 bytes"))
}

impl Drop for AeadKey {
    fn drop(&mut self) {
        // ring has no way to erase a key, but another written over it does it. Always the larger kind: the part that the smaller
        // one leaves unused may hold what lay on the stack when the key was made.
        self.key = schedule(Suite::Aes256Gcm, &[0; KEY_LEN]);
        // Without a reader the compiler may leave out a write to memory that is about to be freed.
        black_box(&self.key);
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AeadKey({:?}, ..)", self.suite)
    }
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use aes_gcm::{Aes256Gcm, Nonce as OtherNonce};
    use chacha20poly1305::ChaCha20Poly1305;
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::identity::{PublicKey, SecretKey};

    fn agree(ours: u8, theirs: u8) -> SharedSecret {
        let theirs = SecretKey::from_bytes([theirs; 32]).public_key();
        SecretKey::from_bytes([ours; 32]).agree(&theirs).unwrap()
    }

    fn other(secret: &SharedSecret) -> Aes256Gcm {
        Aes256Gcm::new_from_slice(secret.as_bytes()).unwrap()
    }

    fn from_hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits
            .chunks_exact(2)
            .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn an_independent_implementation_opens_what_we_seal(
            nonce: [u8; NONCE_LEN],
            aad in proptest::collection::vec(any::<u8>(), 0..40),
            plaintext in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            let secret = agree(1, 2);
            let mut sealed = plaintext.clone();
            let tag = AeadKey::v1(&secret).seal(nonce, &aad, &mut sealed);
            sealed.extend_from_slice(&tag);
            let payload = Payload { msg: &sealed, aad: &aad };
            let opened = other(&secret).decrypt(&OtherNonce::from(nonce), payload);
            prop_assert_eq!(opened.unwrap(), plaintext);
        }

        #[test]
        fn we_open_what_an_independent_implementation_seals(
            nonce: [u8; NONCE_LEN],
            aad in proptest::collection::vec(any::<u8>(), 0..40),
            plaintext in proptest::collection::vec(any::<u8>(), 0..1500),
            flip in any::<proptest::sample::Index>(),
        ) {
            let secret = agree(1, 2);
            let payload = Payload { msg: &plaintext, aad: &aad };
            let sealed = other(&secret).encrypt(&OtherNonce::from(nonce), payload).unwrap();
            // Both ends use one key.
            let key = AeadKey::v1(&agree(2, 1));
            let mut ours = sealed.clone();
            prop_assert_eq!(&*key.open(nonce, &aad, &mut ours).unwrap(), &plaintext[..]);
            let mut changed = sealed;
            let at = flip.index(changed.len());
            changed[at] ^= 0x10;
            prop_assert_eq!(key.open(nonce, &aad, &mut changed), Err(OpenError));
        }
    }

    #[test]
    fn the_data_packet_of_the_present_network_opens_and_seals() {
        let secret = SecretKey::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let remote =
            PublicKey::from_hex("358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254")
                .unwrap();
        let key = AeadKey::v1(&secret.agree(&remote).unwrap());
        let plaintext = from_hex("01010000 0102030405060708 8000 0000 0000000000000005 01 74");
        let sealed = from_hex(
            "f09e5847ed7238d04d4f0041ce41b5b17838be5600cc7da8159c89a23a5705e63ece0da9ba111f9e1528",
        );
        let nonce: [u8; NONCE_LEN] = from_hex("000102030405060708090a0b").try_into().unwrap();
        assert_eq!(
            key.open(nonce, &[], &mut sealed.clone()).unwrap(),
            plaintext
        );
        let mut again = plaintext;
        let tag = key.seal(nonce, &[], &mut again);
        assert_eq!([&again[..], &tag[..]].concat(), sealed);
    }

    proptest! {
        #[test]
        fn chacha_agrees_with_an_independent_implementation(
            key: [u8; KEY_LEN],
            nonce: [u8; NONCE_LEN],
            aad in proptest::collection::vec(any::<u8>(), 0..40),
            plaintext in proptest::collection::vec(any::<u8>(), 0..1500),
            flip in any::<proptest::sample::Index>(),
        ) {
            let payload = Payload { msg: &plaintext, aad: &aad };
            let other = ChaCha20Poly1305::new(&key.into());
            let sealed = other.encrypt(&nonce.into(), payload).unwrap();
            let key = AeadKey::new(Suite::ChaCha20Poly1305, &key);
            let mut ours = plaintext.clone();
            let tag = key.seal(nonce, &aad, &mut ours);
            prop_assert_eq!([&ours[..], &tag[..]].concat(), &sealed[..]);
            prop_assert!(key.open_separate(nonce, &aad, tag, &mut ours).is_ok());
            prop_assert_eq!(&ours, &plaintext);
            let mut changed = sealed;
            let at = flip.index(changed.len());
            changed[at] ^= 0x10;
            let (text, tag) = changed.split_last_chunk_mut().unwrap();
            prop_assert_eq!(key.open_separate(nonce, &aad, *tag, text), Err(OpenError));
        }
    }

    #[test]
    fn suites_have_the_numbers_of_the_protocol() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            assert_eq!(Suite::from_byte(suite.byte()), Some(suite));
            assert_eq!(AeadKey::new(suite, &[1; KEY_LEN]).suite(), suite);
        }
        assert_eq!(Suite::Aes256Gcm.byte(), 1);
    }

    /// What lies at `place` in our own memory.
    fn memory(place: usize, len: usize) -> Vec<u8> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = std::fs::File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0; len];
        let at = SeekFrom::Start(place.try_into().unwrap());
        file.seek(at).unwrap();
        file.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Four bytes in a row of a random key do not appear by chance.
    fn traces(key: &[u8; KEY_LEN], memory: &[u8]) -> usize {
        let parts = key.chunks_exact(4);
        parts
            .filter(|part| memory.windows(4).any(|window| window == *part))
            .count()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_dropped_key_leaves_nothing_where_it_was() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let secret: [u8; KEY_LEN] = *blake3::hash(&[suite.byte()]).as_bytes();
            let mut place = Box::new(Some(AeadKey::new(suite, &secret)));
            let at = std::ptr::from_ref(&*place).addr();
            let len = size_of::<Option<AeadKey>>();
            assert_ne!(traces(&secret, &memory(at, len)), 0, "{suite:?}");
            *place = None;
            assert_eq!(traces(&secret, &memory(at, len)), 0, "{suite:?}");
            assert!(place.is_none());
        }
    }

    #[test]
    fn bytes_shorter_than_a_tag_do_not_open() {
        let key = AeadKey::v1(&agree(1, 2));
        for len in 0..TAG_LEN {
            assert_eq!(
                key.open([0; NONCE_LEN], &[], &mut vec![0; len]),
                Err(OpenError)
            );
        }
    }
}

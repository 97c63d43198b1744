//! Hot path: see docs/architecture.md#hot-path. AES-256-GCM with a cached key schedule, in place.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::identity::SharedSecret;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;

/// A key ready for use. Building one costs the key schedule, so they are cached per pair of identities.
#[derive(Debug)]
pub struct AeadKey(LessSafeKey);

/// The ciphertext does not belong to this key, or was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct OpenError;

impl AeadKey {
    /// The protocol v1 key of a pair of identities: AES-256-GCM keyed by the raw agreement.
    pub fn v1(secret: &SharedSecret) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, secret.as_bytes())
            .expect("AES-256-GCM takes exactly the 32 bytes of a SharedSecret");
        Self(LessSafeKey::new(key))
    }

    /// Encrypt `in_out` in place and return the tag.
    pub fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
            .expect("ring refuses only inputs above 64 GiB");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Decrypt `in_out` (ciphertext followed by its tag) in place; the plaintext is its front part.
    pub fn open<'a>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        self.0
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_out)
            .map_err(|_| OpenError)
    }
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use aes_gcm::{Aes256Gcm, Nonce as OtherNonce};
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

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

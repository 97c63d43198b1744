//! ML-KEM-768 (FIPS 203), the half of the hybrid that a quantum computer does not break.
//!
//! The only file that knows which crate does it.

use libcrux_ml_kem::mlkem768;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an encapsulation key.
pub(super) const EK_LEN: usize = 1184;
/// Bytes of a ciphertext.
pub(super) const CT_LEN: usize = 1088;

/// What encapsulation and decapsulation agree on.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// The encapsulation key is not the encoding of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidKey;

/// The secret half, as the 64-byte seed of FIPS 203: expanded (2400 bytes) only while it is used.
pub(super) struct DecapsulationKey(Zeroizing<[u8; 64]>);

impl DecapsulationKey {
    /// The pair that belongs to 64 random bytes.
    pub(super) fn from_seed(seed: Zeroizing<[u8; 64]>) -> (Self, [u8; EK_LEN]) {
        let key = Self(seed);
        let public = key.expand().1;
        (key, public.into())
    }

    /// The pair in full. The crate erases nothing by itself: `Expanded` does.
    fn expand(&self) -> (Expanded, mlkem768::MlKem768PublicKey) {
        let (secret, public) = mlkem768::generate_key_pair(*self.0).into_parts();
        (Expanded(secret), public)
    }

    /// What the sender of `ciphertext` agreed with us on. One that was not made for us gives a secret nobody else knows
    /// (implicit rejection), so there is no error.
    pub(super) fn decapsulate(&self, ciphertext: &[u8; CT_LEN]) -> Secret {
        let (key, _) = self.expand();
        let mut secret = mlkem768::decapsulate(&key.0, &ciphertext.into());
        let ours = Zeroizing::new(secret);
        secret.zeroize();
        ours
    }
}

/// The 2400 bytes, erased when done with.
struct Expanded(mlkem768::MlKem768PrivateKey);

impl Drop for Expanded {
    fn drop(&mut self) {
        self.0[0..].zeroize();
    }
}

/// Agree with the holder of `key` by 32 random bytes.
pub(super) fn encapsulate(key: &EncapsulationKey, randomness: &[u8; 32]) -> ([u8; CT_LEN], Secret) {
    let (ciphertext, mut secret) = mlkem768::encapsulate(&key.0, *randomness);
    let ours = Zeroizing::new(secret);
    secret.zeroize();
    (ciphertext.into(), ours)
}

/// An encapsulation key whose encoding was checked (FIPS 203 §7.2).
#[derive(Clone)]
pub(super) struct EncapsulationKey(mlkem768::MlKem768PublicKey);

impl EncapsulationKey {
    /// Check the encoding: every coefficient is reduced.
    pub(super) fn parse(bytes: &[u8; EK_LEN]) -> Result<Self, InvalidKey> {
        let key = bytes.into();
        if mlkem768::validate_public_key(&key) {
            Ok(Self(key))
        } else {
            Err(InvalidKey)
        }
    }

    /// Its encoding.
    pub(super) fn bytes(&self) -> &[u8; EK_LEN] {
        self.0.as_slice()
    }
}

#[cfg(test)]
mod tests;

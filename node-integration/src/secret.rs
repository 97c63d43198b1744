//! Keys and seeds as people, SDKs and state files write them: hexadecimal or base64 text, told apart by length.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use mycelium_core::crypto::identity::SecretKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What is wrong with the text of a key or seed. Never quotes it: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Neither form has this length.
    #[error("the {what} has {found} characters: {bytes} bytes are {hex} hexadecimal digits or {base64} characters of base64", hex = bytes * 2, base64 = bytes.div_ceil(3) * 4)]
    Length {
        /// Of what.
        what: &'static str,
        /// Bytes that it should have.
        bytes: usize,
        /// Characters of the text.
        found: usize,
    },
    /// The length of one of the forms, but other characters.
    #[error("the {what} is neither hexadecimal digits nor base64")]
    Characters {
        /// Of what.
        what: &'static str,
    },
    /// Raw bytes of another length.
    #[error("the {what} has {found} bytes instead of {bytes}")]
    RawLength {
        /// Of what.
        what: &'static str,
        /// Bytes that it should have.
        bytes: usize,
        /// Bytes that it has.
        found: usize,
    },
    /// A key of zeros.
    #[error("a key of zeros only is no secret")]
    ZeroKey,
    /// A seed of zeros or ones.
    #[error("the seed {0} is reserved: choose another than 000000000000 and ffffffffffff")]
    ReservedSeed(&'static str),
}

/// `N` bytes from hexadecimal digits of either case or from base64, padded or not.
fn decode<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], TextError> {
    let mut bytes = [0; N];
    if text.len() == 2 * N {
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
                return Err(TextError::Characters { what });
            };
            *byte = u8::try_from(high << 4 | low).expect("two hexadecimal digits are a byte");
        }
        return Ok(bytes);
    }
    let unpadded = (8 * N).div_ceil(6);
    let engine = match text.len() {
        length if length == N.div_ceil(3) * 4 => STANDARD,
        length if length == unpadded => STANDARD_NO_PAD,
        found => {
            return Err(TextError::Length {
                what,
                bytes: N,
                found: text.chars().count().max(found.min(1)),
            });
        }
    };
    let decoded = engine.decode(text).map(Zeroizing::new);
    match decoded {
        Ok(decoded) if decoded.len() == N => {
            bytes.copy_from_slice(&decoded);
            Ok(bytes)
        }
        _ => Err(TextError::Characters { what }),
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The X25519 secret of a user network. Wiped when dropped; does not print; is written as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkKey([u8; 32]);

impl NetworkKey {
    /// From the 32 bytes of a key file.
    ///
    /// # Errors
    /// [`TextError::RawLength`], [`TextError::ZeroKey`].
    pub fn from_raw(bytes: &[u8]) -> Result<Self, TextError> {
        let key = bytes.try_into().map_err(|_| TextError::RawLength {
            what: "key",
            bytes: 32,
            found: bytes.len(),
        })?;
        Self::checked(key)
    }

    /// From 64 hexadecimal digits or base64.
    ///
    /// # Errors
    /// [`TextError::Length`], [`TextError::Characters`], [`TextError::ZeroKey`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        Self::checked(decode(text.trim(), "key")?)
    }

    /// What a Zero-OS node makes of its Ed25519 seed: the first half of its SHA-512, clamped.
    ///
    /// # Errors
    /// [`TextError::ZeroKey`].
    pub fn from_ed25519_seed(seed: &[u8; 32]) -> Result<Self, TextError> {
        if *seed == [0; 32] {
            return Err(TextError::ZeroKey);
        }
        let mut hash = Sha512::digest(seed);
        let mut key = [0; 32];
        key.copy_from_slice(&hash[..32]);
        hash.as_mut_slice().zeroize();
        key[0] &= 0xf8;
        key[31] = key[31] & 0x7f | 0x40;
        Self::checked(key)
    }

    /// Whether both give the same public key, which is told without making it: of some bits X25519 makes nothing.
    pub fn is_same_identity(&self, other: &Self) -> bool {
        let used = |key: &Self| {
            let mut bytes = Zeroizing::new(key.0);
            bytes[0] &= 0xf8;
            bytes[31] &= 0x7f;
            bytes[31] |= 0x40;
            bytes
        };
        used(self) == used(other)
    }

    /// The bytes of a key file.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As the node uses it.
    pub fn secret(&self) -> SecretKey {
        SecretKey::from_bytes(self.0)
    }

    fn checked(mut key: [u8; 32]) -> Result<Self, TextError> {
        if key == [0; 32] {
            return Err(TextError::ZeroKey);
        }
        let checked = Self(key);
        key.zeroize();
        Ok(checked)
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

impl TryFrom<String> for NetworkKey {
    type Error = TextError;

    fn try_from(mut text: String) -> Result<Self, TextError> {
        let key = Self::parse(&text);
        text.zeroize();
        key
    }
}

impl From<NetworkKey> for String {
    fn from(key: NetworkKey) -> Self {
        hex(&key.0)
    }
}

/// The six bytes that a workload's address ends in (rule R2). Neither all zeros nor all ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed([u8; 6]);

impl Seed {
    /// From bytes.
    ///
    /// # Errors
    /// [`TextError::ReservedSeed`].
    pub fn new(bytes: [u8; 6]) -> Result<Self, TextError> {
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err(TextError::ReservedSeed("000000000000")),
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Err(TextError::ReservedSeed("ffffffffffff")),
            bytes => Ok(Self(bytes)),
        }
    }

    /// From 12 hexadecimal digits or base64.
    ///
    /// # Errors
    /// [`TextError`], except for keys.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        Self::new(decode(text.trim(), "seed")?)
    }

    /// The seed of whatever is called `name`: stable, and different for different names but for 2⁻⁴⁸.
    pub fn of_name(name: &str) -> Self {
        let hash = Sha512::digest(name.as_bytes());
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&hash[..6]);
        // The two reserved ones have a neighbour that is not.
        Self::new(bytes).unwrap_or(Self([0, 0, 0, 0, 0, 1]))
    }

    /// The bytes.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed({self})")
    }
}

impl std::str::FromStr for Seed {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Seed {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        Self::parse(&text)
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        seed.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn counting() -> [u8; 32] {
        std::array::from_fn(|index| u8::try_from(index).unwrap())
    }

    #[test]
    fn a_key_is_raw_hexadecimal_or_base64() {
        let raw = NetworkKey::from_raw(&counting()).unwrap();
        let digits = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for text in [
            digits,
            &digits.to_uppercase(),
            base64,
            base64.trim_end_matches('='),
        ] {
            assert_eq!(NetworkKey::parse(text).unwrap(), raw, "{text}");
        }
        assert_eq!(String::from(raw.clone()), digits);
        assert_eq!(
            raw.secret().public_key().to_string(),
            "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
        );
        assert_eq!(
            raw.secret().public_key().address(),
            "430:9364:d8d8:84a9:dd60:de78:c767:d361"
                .parse::<Ipv6Addr>()
                .unwrap()
        );
    }

    #[test]
    fn an_ed25519_node_key_becomes_its_x25519_key() {
        let key = NetworkKey::from_ed25519_seed(&counting()).unwrap();
        assert_eq!(
            String::from(key.clone()),
            "3894eea49c580aef816935762be049559d6d1440dede12e6a125f1841fff8e6f"
        );
        assert_eq!(
            key.secret().public_key().address(),
            "4a4:459a:71c1:3cb0:717:5626:f0c8:d354"
                .parse::<Ipv6Addr>()
                .unwrap()
        );
    }

    #[test]
    fn bad_keys_are_refused_with_one_clear_message() {
        let message = |text: &str| NetworkKey::parse(text).unwrap_err().to_string();
        assert_eq!(
            message(&"ab".repeat(31)),
            "the key has 62 characters: 32 bytes are 64 hexadecimal digits or 44 characters of base64"
        );
        assert_eq!(
            message(&"zz".repeat(32)),
            "the key is neither hexadecimal digits nor base64"
        );
        assert_eq!(
            message(&"00".repeat(32)),
            "a key of zeros only is no secret"
        );
        assert_eq!(
            NetworkKey::from_raw(&[1; 31]).unwrap_err().to_string(),
            "the key has 31 bytes instead of 32"
        );
        assert!(message("").contains("0 characters"));
        let key = NetworkKey::from_raw(&[7; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "NetworkKey(..)");
    }

    #[test]
    fn a_seed_is_hexadecimal_or_base64() {
        let seed = Seed::parse("bJcR406E").unwrap();
        assert_eq!(seed.to_string(), "6c9711e34e84");
        assert_eq!(Seed::parse("6C9711E34E84").unwrap(), seed);
    }

    #[test]
    fn reserved_and_malformed_seeds_are_refused() {
        for (text, message) in [
            ("000000000000", "the seed 000000000000 is reserved"),
            ("ffffffffffff", "the seed ffffffffffff is reserved"),
            ("////////", "the seed ffffffffffff is reserved"),
            ("0011223344", "the seed has 10 characters"),
            ("00112233445566", "the seed has 14 characters"),
            (
                "00112233445g",
                "the seed is neither hexadecimal digits nor base64",
            ),
        ] {
            let error = Seed::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_has_one_seed() {
        assert_eq!(Seed::of_name("web"), Seed::of_name("web"));
        assert_ne!(Seed::of_name("web"), Seed::of_name("web2"));
    }
}

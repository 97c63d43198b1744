//! Public keys as 64 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// An X25519 public key. Reads either case, prints lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// The text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// Too short, too long, or no hexadecimal digits.
    #[error("a key is 64 hexadecimal digits")]
    Malformed,
    /// A secret of zeros is everybody's.
    #[error("a secret key of zeros only is no secret")]
    Zero,
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        bytes_from_hex(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

pub(crate) fn bytes_from_hex(text: &str) -> Result<[u8; 32], ParseKeyError> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return Err(ParseKeyError::Malformed);
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        let value =
            high.ok_or(ParseKeyError::Malformed)? << 4 | low.ok_or(ParseKeyError::Malformed)?;
        *byte = u8::try_from(value).map_err(|_| ParseKeyError::Malformed)?;
    }
    Ok(bytes)
}

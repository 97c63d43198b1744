//! The first four bytes of the plaintext of a data packet: what the rest is (wire spec §6.2).

/// Bytes of the header: version, type and two reserved bytes, sent as zero and not looked at.
pub const HEADER_LEN: usize = 4;
/// The only version.
pub const VERSION: u8 = 1;

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserDataType {
    /// An IPv6 packet between two hosts.
    Packet,
    /// A fragment of a message.
    Message,
    /// A router's notice that it could not deliver a packet.
    OutOfBandIcmp,
}

/// Plaintext that no rule covers. Upstream drops it in silence, and so do we.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserDataError {
    /// Shorter than the header.
    #[error("user data cut short")]
    Truncated,
    /// Another version.
    #[error("unknown user data version {0}")]
    Version(u8),
    /// Another type.
    #[error("unknown user data type {0}")]
    Type(u8),
}

impl UserDataType {
    /// The same, and that its sender speaks session v2.
    pub const fn header_with_hint(self) -> [u8; HEADER_LEN] {
        let [version, kind, _, _] = self.header();
        [version, kind, SPEAKS_V2[0], SPEAKS_V2[1]]
    }

    /// The header of user data of this type.
    pub const fn header(self) -> [u8; HEADER_LEN] {
        let kind = match self {
            Self::Packet => 0,
            Self::Message => 1,
            Self::OutOfBandIcmp => 2,
        };
        [VERSION, kind, 0, 0]
    }
}

/// What the two reserved bytes say of a sender that speaks session v2 (docs/protocol.md §14): those on the way cannot hide it,
/// as they can hide what a route says.
pub const SPEAKS_V2: [u8; 2] = [2, 1];

/// Whether `plaintext` starts with a header that says so.
pub fn has_hint(plaintext: &[u8]) -> bool {
    plaintext.get(2..HEADER_LEN) == Some(&SPEAKS_V2)
}

/// Tell the type, and where the payload starts: `plaintext[HEADER_LEN..]`.
pub fn parse(plaintext: &mut [u8]) -> Result<(UserDataType, &mut [u8]), UserDataError> {
    let Some((&mut [version, kind, _, _], payload)) = plaintext.split_first_chunk_mut() else {
        return Err(UserDataError::Truncated);
    };
    if version != VERSION {
        return Err(UserDataError::Version(version));
    }
    let kind = match kind {
        0 => UserDataType::Packet,
        1 => UserDataType::Message,
        2 => UserDataType::OutOfBandIcmp,
        other => return Err(UserDataError::Type(other)),
    };
    Ok((kind, payload))
}

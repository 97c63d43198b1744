//! The 4-byte packet header and where a packet ends on a byte stream (wire spec §4.1–4.3).
//!
//! Every judgement needs the header only, so a hostile peer can neither make us buffer more than [`MAX_LEN`] bytes nor make
//! us wait for bytes that cannot follow.

use crate::wire::data;

/// Bytes of the header that starts every packet.
pub const HEADER_LEN: usize = 4;
/// The only packet version.
pub const VERSION: u8 = 1;
/// Longest body of a control packet that we accept. Upstream's longest is 60 bytes; one TLV of any kind needs at most 257.
pub const MAX_CONTROL_BODY_LEN: usize = 1024;
/// Shortest body of a control packet: the type and the length of its TLV.
pub const MIN_CONTROL_BODY_LEN: usize = 2;
/// Longest packet of either kind: a data packet with a full body.
pub const MAX_LEN: usize = data::BODY_OFFSET + data::MAX_BODY_LEN;

const CONTROL_HEADER_LEN: usize = 4;
const BABEL_MAGIC: u8 = 42;
const BABEL_VERSION: u8 = 3;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A routed data packet, see [`data`].
    Data,
    /// A Babel packet.
    Control,
}

impl Kind {
    /// The header of a packet of this kind, as upstream sends it.
    pub const fn header(self) -> [u8; HEADER_LEN] {
        match self {
            Self::Data => [VERSION, 0, 0, 0],
            Self::Control => [VERSION, 1, 0, 0],
        }
    }
}

/// One packet at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// Its whole length, packet header included; at most [`MAX_LEN`].
    pub len: usize,
    /// Bytes 2 and 3 of the header, which upstream sends as zero and ignores (wire spec §4.5 row 3).
    pub reserved: [u8; 2],
}

/// Bytes that cannot start a packet. There is no way to find the next one: the link must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Byte 0 is not [`VERSION`].
    #[error("unknown packet version {0}")]
    Version(u8),
    /// Byte 1 is neither data nor control.
    #[error("unknown packet type {0}")]
    Kind(u8),
    /// Byte 4 of a control packet is not Babel's magic number.
    #[error("unknown control magic {0}")]
    Magic(u8),
    /// Byte 5 of a control packet is not Babel's version 3.
    #[error("unknown Babel version {0}")]
    BabelVersion(u8),
    /// A control body shorter than [`MIN_CONTROL_BODY_LEN`] or longer than [`MAX_CONTROL_BODY_LEN`].
    #[error("control body of {0} bytes")]
    ControlLength(u16),
}

/// The packet at the front of `buf`, complete or not; `None` while its header is not.
///
/// An illegal byte is reported as soon as it is there.
pub fn peek(buf: &[u8]) -> Result<Option<Frame>, FrameError> {
    match buf.first() {
        None => return Ok(None),
        Some(&VERSION) => {}
        Some(&version) => return Err(FrameError::Version(version)),
    }
    let kind = match buf.get(1) {
        None => return Ok(None),
        Some(0) => Kind::Data,
        Some(1) => Kind::Control,
        Some(&kind) => return Err(FrameError::Kind(kind)),
    };
    let Some(&[_, _, high, low, b0, b1, b2, b3]) = buf.first_chunk() else {
        if kind == Kind::Control {
            check_babel(buf.get(4), buf.get(5))?;
        }
        return Ok(None);
    };
    let len = match kind {
        Kind::Data => data::BODY_OFFSET + usize::from(u16::from_be_bytes([b1, b2])),
        Kind::Control => {
            check_babel(Some(&b0), Some(&b1))?;
            let body = u16::from_be_bytes([b2, b3]);
            if !(MIN_CONTROL_BODY_LEN..=MAX_CONTROL_BODY_LEN).contains(&usize::from(body)) {
                return Err(FrameError::ControlLength(body));
            }
            HEADER_LEN + CONTROL_HEADER_LEN + usize::from(body)
        }
    };
    Ok(Some(Frame {
        kind,
        len,
        reserved: [high, low],
    }))
}

/// The complete packet at the front of `buf` (`buf[..frame.len]`); `None` while bytes of it are missing.
pub fn next_frame(buf: &[u8]) -> Result<Option<Frame>, FrameError> {
    Ok(peek(buf)?.filter(|frame| frame.len <= buf.len()))
}

/// Judge the two bytes, as far as they are there.
fn check_babel(magic: Option<&u8>, version: Option<&u8>) -> Result<(), FrameError> {
    match (magic, version) {
        (Some(&magic), _) if magic != BABEL_MAGIC => Err(FrameError::Magic(magic)),
        (_, Some(&version)) if version != BABEL_VERSION => Err(FrameError::BabelVersion(version)),
        _ => Ok(()),
    }
}

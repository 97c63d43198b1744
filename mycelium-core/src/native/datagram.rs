//! Hot path: see docs/architecture.md#hot-path. The bytes of sealed datagrams (docs/protocol.md §15).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | type |
//! | 1 | 4 | receiver's index |
//! | 5 | 4 | low half of the counter |
//! | 9 | 16 | tag |
//! | 25 | n | data: sealed hop limit, source, destination (33), then the body as it is; others: sealed to the end |
//!
//! The 33 bytes lie where the same 33 bytes of a mycelium data frame lie if 18 bytes precede it, so nothing moves.

use super::io::{BodyKind, DataClass};
use crate::crypto::aead::TAG_LEN;
use crate::session::transport::{ReceiveError, Receiver, SealError, Sender};
use crate::wire::data::{BODY_OFFSET, MAX_BODY_LEN};
use crate::wire::frame::Kind;

/// A fragment of a handshake, see `session::fragment`.
pub(super) const HANDSHAKE: u8 = 0x04;
/// Data whose body is a session v2 transport body.
pub(super) const DATA_SESSION: u8 = 0x05;
/// Sealed frames, see [`frame`](super::frame).
pub(super) const CONTROL: u8 = 0x06;
/// A question for a key, or its answer, see [`who`](super::who).
pub(super) const WHO: u8 = 0x07;
/// First half of a data frame.
pub(super) const HALF_FIRST: u8 = 0x08;
/// Second half of a data frame.
pub(super) const HALF_SECOND: u8 = 0x09;
/// Data with any other body.
pub(super) const DATA_OTHER: u8 = 0x0a;

/// Like [`DATA_SESSION`], of a sparse flow.
pub(super) const SPARSE_SESSION: u8 = 0x0b;
/// Like [`DATA_OTHER`], of a sparse flow.
pub(super) const SPARSE_OTHER: u8 = 0x0c;
/// Like [`HALF_FIRST`], of a sparse flow.
pub(super) const SPARSE_FIRST: u8 = 0x0d;
/// Like [`HALF_SECOND`], of a sparse flow.
pub(super) const SPARSE_SECOND: u8 = 0x0e;

/// Bytes of type, index and counter: what every AEAD of a link authenticates.
pub(super) const HEADER_LEN: usize = 9;
/// Where sealed bytes begin.
pub(super) const SEALED_AT: usize = HEADER_LEN + TAG_LEN;
/// Bytes of the sealed data header.
pub(super) const DATA_HEADER_LEN: usize = 33;
/// Where the body of data begins.
pub(super) const DATA_BODY_AT: usize = SEALED_AT + DATA_HEADER_LEN;
/// Bytes by which data is longer than the mycelium data frame it carries.
pub(super) const DATA_OVERHEAD: usize = DATA_BODY_AT - BODY_OFFSET;
/// Where the frame begins in the buffer of its datagram.
const FRAME_AT: usize = DATA_OVERHEAD;
/// Bytes of a half besides its chunk.
pub(super) const HALF_OVERHEAD: usize = SEALED_AT + 4;

/// Header and length of the body: what data authenticates before the body's own part.
const AAD_LEN: usize = HEADER_LEN + 2;

/// The clear start of a sealed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) index: u32,
    /// The low half of the counter.
    pub(super) counter: u32,
}

impl Header {
    pub(super) fn parse(datagram: &[u8]) -> Option<Self> {
        let &[kind, i0, i1, i2, i3, c0, c1, c2, c3] = datagram.first_chunk::<HEADER_LEN>()?;
        Some(Self {
            kind,
            index: u32::from_be_bytes([i0, i1, i2, i3]),
            counter: u32::from_be_bytes([c0, c1, c2, c3]),
        })
    }

    fn bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [self.kind; HEADER_LEN];
        bytes[1..5].copy_from_slice(&self.index.to_be_bytes());
        bytes[5..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

/// Seal everything after [`SEALED_AT`] of `datagram`, and fill in what precedes it.
pub(super) fn seal(sender: &mut Sender, kind: u8, datagram: &mut [u8]) -> Result<(), SealError> {
    let Some((clear, sealed)) = datagram.split_at_mut_checked(SEALED_AT) else {
        return Err(SealError::Length);
    };
    let counter = sender.take_counter()?;
    let header = header(sender, kind, counter);
    let tag = sender.seal(counter, &header, sealed);
    clear[..HEADER_LEN].copy_from_slice(&header);
    clear[HEADER_LEN..].copy_from_slice(&tag);
    Ok(())
}

/// Open what [`seal`] sealed; gives its counter. The plaintext begins at [`SEALED_AT`].
pub(super) fn open(
    receiver: &mut Receiver,
    header: Header,
    datagram: &mut [u8],
) -> Result<u64, ReceiveError> {
    let Some((clear, sealed)) = datagram.split_at_mut_checked(SEALED_AT) else {
        return Err(ReceiveError::Length);
    };
    let (aad, tag) = clear.split_at(HEADER_LEN);
    let tag = <[u8; TAG_LEN]>::try_from(tag).map_err(|_| ReceiveError::Length)?;
    let counter = receiver.reconstruct(header.counter);
    receiver.open_at(counter, aad, tag, sealed)?;
    Ok(counter)
}

/// Whether `buffer` is headroom and one mycelium data frame.
pub(super) fn holds_data_frame(buffer: &[u8]) -> bool {
    let Some(header) = buffer
        .get(FRAME_AT..)
        .and_then(<[u8]>::first_chunk::<BODY_OFFSET>)
    else {
        return false;
    };
    let len = usize::from(u16::from_be_bytes([header[5], header[6]]));
    header[..2] == Kind::Data.header()[..2] && buffer.len() == DATA_BODY_AT + len
}

/// Make the data frame behind the headroom of `buffer` a datagram. The caller has checked [`holds_data_frame`].
pub(super) fn seal_data(
    sender: &mut Sender,
    mut class: DataClass,
    buffer: &mut [u8],
) -> Result<(), SealError> {
    let body_len = body_len(buffer).ok_or(SealError::Length)?;
    // A body too short to end in a tag is no session body, whatever the caller thinks.
    if usize::from(body_len) < TAG_LEN {
        class.body = BodyKind::Other;
    }
    let counter = sender.take_counter()?;
    let header = header(sender, class.datagram_type(), counter);
    let mut inner = [0; DATA_HEADER_LEN];
    inner.copy_from_slice(&buffer[SEALED_AT..DATA_BODY_AT]);
    let tag = match class.body {
        BodyKind::Session => {
            let aad = session_aad(header, body_len, buffer);
            sender.seal(counter, &aad, &mut inner)
        }
        BodyKind::Other => sender.seal(counter, other_aad(header, body_len, buffer), &mut inner),
    };
    buffer[..HEADER_LEN].copy_from_slice(&header);
    buffer[HEADER_LEN..SEALED_AT].copy_from_slice(&tag);
    buffer[SEALED_AT..DATA_BODY_AT].copy_from_slice(&inner);
    Ok(())
}

/// Open a datagram of [`seal_data`] in place: its counter, and [`DATA_HEADROOM`](super::DATA_HEADROOM) bytes into it now
/// begins a mycelium data frame. After a failure the bytes are of no use.
pub(super) fn open_data(
    receiver: &mut Receiver,
    header: Header,
    datagram: &mut [u8],
) -> Result<u64, ReceiveError> {
    let body_len = body_len(datagram).ok_or(ReceiveError::Length)?;
    let session_body = matches!(header.kind, DATA_SESSION | SPARSE_SESSION);
    if session_body && usize::from(body_len) < TAG_LEN {
        return Err(ReceiveError::Length);
    }
    let counter = receiver.reconstruct(header.counter);
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(&datagram[HEADER_LEN..SEALED_AT]);
    let mut inner = [0; DATA_HEADER_LEN];
    inner.copy_from_slice(&datagram[SEALED_AT..DATA_BODY_AT]);
    let header = header.bytes();
    if session_body {
        let aad = session_aad(header, body_len, datagram);
        receiver.open_at(counter, &aad, tag, &mut inner)?;
    } else {
        let aad = other_aad(header, body_len, datagram);
        receiver.open_at(counter, aad, tag, &mut inner)?;
    }
    write_frame_header(datagram, &inner, body_len);
    Ok(counter)
}

/// Write the 40 bytes before the body that begins at [`DATA_BODY_AT`].
pub(super) fn write_frame_header(buffer: &mut [u8], inner: &[u8; DATA_HEADER_LEN], body_len: u16) {
    let frame = &mut buffer[FRAME_AT..DATA_BODY_AT];
    frame[..4].copy_from_slice(&Kind::Data.header());
    frame[4] = 0;
    frame[5..7].copy_from_slice(&body_len.to_be_bytes());
    frame[7..].copy_from_slice(inner);
}

fn header(sender: &Sender, kind: u8, counter: u64) -> [u8; HEADER_LEN] {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    let counter = counter as u32;
    Header {
        kind,
        index: sender.index(),
        counter,
    }
    .bytes()
}

fn body_len(datagram: &[u8]) -> Option<u16> {
    const { assert!(MAX_BODY_LEN == u16::MAX as usize) };
    datagram
        .len()
        .checked_sub(DATA_BODY_AT)
        .and_then(|len| u16::try_from(len).ok())
}

/// What is authenticated with a body that ends in a tag of its own; the body has at least [`TAG_LEN`] bytes.
fn session_aad(
    header: [u8; HEADER_LEN],
    body_len: u16,
    datagram: &[u8],
) -> [u8; AAD_LEN + TAG_LEN] {
    let mut aad = [0; AAD_LEN + TAG_LEN];
    aad[..HEADER_LEN].copy_from_slice(&header);
    aad[HEADER_LEN..AAD_LEN].copy_from_slice(&body_len.to_be_bytes());
    aad[AAD_LEN..].copy_from_slice(&datagram[datagram.len() - TAG_LEN..]);
    aad
}

/// What is authenticated with any other body: written right before it, over bytes that the caller has a copy of.
fn other_aad(header: [u8; HEADER_LEN], body_len: u16, datagram: &mut [u8]) -> &[u8] {
    const AT: usize = DATA_BODY_AT - AAD_LEN;
    datagram[AT..AT + HEADER_LEN].copy_from_slice(&header);
    datagram[AT + HEADER_LEN..DATA_BODY_AT].copy_from_slice(&body_len.to_be_bytes());
    &datagram[AT..]
}

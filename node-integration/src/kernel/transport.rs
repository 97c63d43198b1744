//! A netlink socket that asks one thing at a time and waits for the answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr};
use socket2::SockRef;

/// The kernel answers within the call that asks; nobody waits this long unless it never will.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Room for the answers to one request: a dump of a thousand interfaces arrives in pieces, but acknowledgements of a
/// transaction all at once.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Between looks whether news are still to come.
const NEWS_WAIT: Duration = Duration::from_millis(5);
/// `RTNLGRP_LINK` and `RTM_DELLINK`.
const LINK_NEWS: u32 = 1;
const LINK_GONE: u16 = 17;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags of an error message: the request is not quoted beyond its header; attributes follow.
const CAPPED: u16 = 0x100;
const HAS_ATTRIBUTES: u16 = 0x200;
const ERROR_TEXT: u16 = 1;

/// One socket.
pub(crate) struct Transport {
    socket: Socket,
    sequence: u32,
}

/// One message of an answer.
pub(crate) struct Reply<'a> {
    pub(crate) kind: u16,
    pub(crate) body: &'a [u8],
}

impl Transport {
    /// Open one in the namespace of this thread.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let reference = SockRef::from(&socket);
        reference.set_read_timeout(Some(LONGEST_WAIT))?;
        reference.set_recv_buffer_size(RECEIVE_BUFFER)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The next sequence number.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Ask rtnetlink to do something.
    pub(crate) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.route(message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| ())
    }

    /// Ask rtnetlink for one thing, or with [`NLM_F_DUMP`] for all.
    pub(crate) fn query(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        // Without ACK an answer to a question for one thing would have no end.
        let ack = if flags & NLM_F_DUMP == NLM_F_DUMP {
            0
        } else {
            NLM_F_ACK
        };
        self.route(message, NLM_F_REQUEST | ack | flags, |message| {
            found.push(message);
        })?;
        Ok(found)
    }

    /// Ask rtnetlink for all there is of something; one at a time goes to `each`.
    pub(crate) fn list(
        &mut self,
        message: RouteNetlinkMessage,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.route(message, NLM_F_REQUEST | NLM_F_DUMP, each)
    }

    fn route(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let sequence = self.next_sequence();
        let bytes = bytes(message, flags, sequence);
        self.exchange(&bytes, sequence..=sequence, |reply, whole| {
            if reply.kind > DONE
                && let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(whole)
                && let NetlinkPayload::InnerMessage(message) = message.payload
            {
                each(message);
            }
        })
    }

    /// Be told of interfaces from here on: see [`Transport::departed`].
    pub(crate) fn hear_of_links(&mut self) -> io::Result<()> {
        self.socket.add_membership(LINK_NEWS)?;
        SockRef::from(&self.socket).set_read_timeout(Some(NEWS_WAIT))
    }

    /// Wait a little for news, and say which interfaces have left the namespace by it. News may be lost.
    pub(crate) fn departed(&mut self) -> io::Result<Vec<u32>> {
        let datagram = match self.socket.recv_from_full() {
            Ok((datagram, _)) => datagram,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) || errno(&error) == Some(nix::errno::Errno::ENOBUFS) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut rest = datagram.as_slice();
        let mut gone = Vec::new();
        while let Some(message) = Message::first(rest) {
            rest = rest.get(message.aligned..).unwrap_or_default();
            // With another family, one has only left its bridge.
            if message.kind == LINK_GONE && message.body.first() == Some(&0) {
                let index = message
                    .body
                    .get(4..8)
                    .and_then(|bytes| bytes.try_into().ok());
                gone.extend(index.map(u32::from_ne_bytes));
            }
        }
        Ok(gone)
    }

    /// Send requests with these sequence numbers and take what comes, until the last is acknowledged or its dump is at
    /// its end. `each` gets every message that is none of these, and the same with its header.
    ///
    /// # Errors
    /// The first refusal, with the kernel's words where it has any.
    pub(crate) fn exchange(
        &mut self,
        requests: &[u8],
        sequences: std::ops::RangeInclusive<u32>,
        mut each: impl FnMut(Reply<'_>, &[u8]),
    ) -> io::Result<()> {
        self.socket.send_to(requests, &SocketAddr::new(0, 0), 0)?;
        let mut refusal = None;
        loop {
            let datagram = match self.socket.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            };
            let mut rest = datagram.as_slice();
            while let Some(message) = Message::first(rest) {
                rest = rest.get(message.aligned..).unwrap_or_default();
                if !sequences.contains(&message.sequence) {
                    continue;
                }
                let is_last = message.sequence == *sequences.end();
                match message.kind {
                    ERROR => match message.error() {
                        None if is_last => return refusal.map_or(Ok(()), Err),
                        None => {}
                        Some(error) => {
                            let is_whole = message.sequence == *sequences.start();
                            refusal = refusal.or(Some(error));
                            // The first request of a transaction stands for all of it.
                            if is_last || is_whole {
                                return refusal.map_or(Ok(()), Err);
                            }
                        }
                    },
                    DONE if is_last => return refusal.map_or(Ok(()), Err),
                    kind => each(
                        Reply {
                            kind,
                            body: message.body,
                        },
                        message.whole,
                    ),
                }
            }
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A request as it is sent.
pub(super) fn bytes(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    request.header.sequence_number = sequence;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
    whole: &'a [u8],
    aligned: usize,
}

impl<'a> Message<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let half = |at: usize| -> Option<u16> {
            Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
        };
        let length = usize::try_from(word(0)?).ok()?;
        let whole = bytes.get(..length)?;
        Some(Self {
            kind: half(4)?,
            flags: half(6)?,
            sequence: word(8)?,
            body: whole.get(HEADER..)?,
            whole,
            aligned: length.next_multiple_of(4),
        })
    }

    /// What an error message says; `None`: that all is well.
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        if code == 0 {
            return None;
        }
        let error = io::Error::from_raw_os_error(-code);
        match self.error_text() {
            Some(text) => Some(io::Error::new(error.kind(), Explained { text, error })),
            None => Some(error),
        }
    }

    fn error_text(&self) -> Option<String> {
        if self.flags & HAS_ATTRIBUTES == 0 || self.flags & CAPPED == 0 {
            return None;
        }
        super::nft::wire::attributes(self.body.get(4 + HEADER..)?)
            .find(|(kind, _)| *kind == ERROR_TEXT)
            .map(|(_, text)| {
                String::from_utf8_lossy(text)
                    .trim_end_matches('\0')
                    .to_owned()
            })
    }
}

/// A refusal with the kernel's words.
#[derive(Debug, thiserror::Error)]
#[error("{error}: {text}")]
struct Explained {
    text: String,
    error: io::Error,
}

/// The system's number behind an error of a [`Transport`].
pub(crate) fn errno(error: &io::Error) -> Option<nix::errno::Errno> {
    let raw = error.raw_os_error().or_else(|| {
        error
            .get_ref()?
            .downcast_ref::<Explained>()?
            .error
            .raw_os_error()
    });
    raw.map(nix::errno::Errno::from_raw)
}

//! What the endpoint tells its driver.

use std::net::SocketAddr;

use super::link_id::LinkId;
use crate::crypto::identity::PublicKey;
use crate::time::Duration;

/// Something that happened to a link. Events are in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both directions work from here on, and the other end has proved its key.
    Up {
        /// Which link: the id that `dial` gave, or a fresh one where the other end dialled or restarted.
        link: LinkId,
        /// Who is at the other end.
        remote_key: PublicKey,
        /// Where it is.
        address: SocketAddr,
        /// The first round trip, where already measured.
        rtt: Option<Duration>,
        /// Whether a `dial` of ours made it.
        dialled: bool,
    },
    /// The link, or the attempt to have one, is over. Its id is never used again.
    Down {
        /// Which.
        link: LinkId,
        /// Why.
        reason: DownReason,
    },
    /// A complete control packet of the other end, in order, exactly once; 4-byte packet header included.
    Control {
        /// From which link.
        link: LinkId,
        /// The packet. Its framing was checked.
        packet: Vec<u8>,
    },
    /// The other end says that it sees us at this address. Told when it changes.
    Observed {
        /// Which link.
        link: LinkId,
        /// Our own address as seen from there.
        address: SocketAddr,
    },
    /// The link moved to another address, or other sizes fit through it.
    PathChanged {
        /// Which link.
        link: LinkId,
        /// Where the other end is now.
        address: SocketAddr,
        /// The longest mycelium data frame (40-byte header included) that goes in one datagram.
        max_frame: usize,
    },
    /// Somebody at this address sends under keys that we do not have: perhaps we have started anew and it does not know yet.
    /// Anybody can make this happen, at most ten times a second: dial only if the address is that of a configured peer.
    Stray {
        /// Where the datagram came from.
        address: SocketAddr,
    },
    /// A round trip was measured.
    Rtt {
        /// Which link.
        link: LinkId,
        /// The figures with this sample.
        rtt: Rtt,
    },
}

/// Round trips of a link, as its echoes show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtt {
    /// The last sample.
    pub latest: Duration,
    /// Smoothed as in RFC 6298.
    pub smoothed: Duration,
    /// The smallest on this path.
    pub minimum: Duration,
}

/// Why a link is gone or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DownReason {
    /// Nobody answered the dial.
    #[error("no answer")]
    Unanswered,
    /// The host at the dialled address says that nothing listens there.
    #[error("refused")]
    Refused,
    /// The dialled address is our own node.
    #[error("connected to ourselves")]
    Ourselves,
    /// There is a link to this node already; it stays.
    #[error("already linked as {0}")]
    Duplicate(LinkId),
    /// As many links, or dials, as the configuration allows exist already.
    #[error("too many links")]
    Full,
    /// The other end no longer answers.
    #[error("no answer to our probes")]
    Silent,
    /// Its host reported the port closed, and probes confirmed it.
    #[error("process at the other end is gone")]
    Unreachable,
    /// The node at the other end has started anew; an `Up` of the new link follows.
    #[error("the other end restarted")]
    Restarted,
    /// The other end closed the link, with this code of [`CloseCode`](super::CloseCode).
    #[error("closed by the other end (code {0})")]
    ClosedByPeer(u8),
    /// We closed it.
    #[error("closed by us")]
    Closed,
    /// More control packets waited than the bound allows.
    #[error("control lane is full")]
    ControlOverflow,
    /// It sent sealed bytes that cannot be.
    #[error("protocol violation")]
    Malformed,
    /// Its keys reached their end of life and could not be replaced.
    #[error("keys expired")]
    KeysExpired,
}

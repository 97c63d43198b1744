//! What a user may want to know of sessions.

use crate::addr::Subnet;
use crate::crypto::aead::Suite;
use crate::crypto::identity::PublicKey;
use crate::io::IdentityId;
use crate::time::Duration;

/// How packets to a remote identity go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// On a session.
    V2,
    /// They wait for one.
    Waiting,
    /// As in the present network, without forward secrecy.
    V1,
    /// None have gone lately.
    Idle,
}

/// Counts of one remote identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Packets sent on sessions.
    pub sent: u64,
    /// Packets received on sessions.
    pub received: u64,
    /// Handshakes finished, in either role.
    pub handshakes: u64,
    /// Packets that were received before, or too late to tell.
    pub drop_replay: u64,
    /// Packets that did not open.
    pub drop_authentication: u64,
    /// v1 packets from a remote that is known to speak v2, or while v2 is required.
    pub drop_v1: u64,
    /// Opened, but not what any rule covers.
    pub drop_malformed: u64,
}

/// One local and one remote identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Ours.
    pub identity: IdentityId,
    /// Theirs.
    pub subnet: Subnet,
    /// The key of theirs.
    pub key: PublicKey,
    /// How packets go.
    pub protocol: Protocol,
    /// With which AEAD; all suites have hybrid keys.
    pub suite: Option<Suite>,
    /// How old the keys are.
    pub age: Option<Duration>,
    /// We made the latest keys.
    pub initiated: bool,
    /// v1, or another key, is refused.
    pub pinned: bool,
    /// Largest packet, bytes on the wire, behind relays; `None`: not limited.
    pub path_size: Option<u16>,
    /// Counts.
    pub counters: SessionCounters,
}

/// Counts of all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Handshakes begun.
    pub initiated: u64,
    /// Handshakes of others answered.
    pub answered: u64,
    /// Sessions confirmed, in either role.
    pub established: u64,
    /// Remote identities taken for v1 nodes because they answered no handshake.
    pub v1_verdicts: u64,
    /// Cookies told to others.
    pub cookies_sent: u64,
    /// Cookies told to us.
    pub cookies_received: u64,
    /// Handshakes not begun or not answered because a budget was spent.
    pub over_budget: u64,
    /// Handshake units for another address of ours, or that answer nothing, and bodies that begin as one and are none.
    pub drop_unit: u64,
    /// Handshake units whose MAC is wrong.
    pub drop_mac1: u64,
    /// Complete messages that did not authenticate.
    pub drop_handshake: u64,
    /// v1 packets refused.
    pub drop_v1: u64,
    /// Routes or handshakes with another key than the pinned one.
    pub conflicts: u64,
    /// Remote identities whose route hides that they speak v2.
    pub hints_stripped: u64,
    /// Packets of v2 speakers that fit no session.
    pub strays: u64,
    /// Remote keys with which no agreement is possible.
    pub low_order: u64,
    /// Remote identities for which the table had no room; whoever speaks v2 gets nothing then, never v1.
    pub table_full: u64,
    /// Sessions of remotes for whose pin there was no room.
    pub unpinned: u64,
    /// Half-open sessions now.
    pub half_open: u64,
    /// Pins now.
    pub pins: u64,
    /// Pins that found no room.
    pub pins_refused: u64,
    /// Halves of packets whose other half did not come.
    pub halves_dropped: u64,
    /// Handshake fragments that were forged.
    pub reassembly_forged: u64,
}

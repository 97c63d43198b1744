//! Settings of sessions. Every number says what it bounds (docs/protocol.md §14).

use crate::time::Duration;

use super::mac::NetworkKey;

/// What a node does towards those that have not shown session v2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Protocol v1 only, as a node of the present network. For comparison.
    #[default]
    Off,
    /// v2 with those that speak it, v1 with those that do not. Once confirmed, never back.
    Prefer,
    /// v2 or nothing.
    Require,
}

/// Settings of the sessions of a data plane.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// See [`Policy`]. A network key makes it `Require`.
    pub policy: Policy,
    /// The secret of a closed network.
    pub network_key: Option<NetworkKey>,
    /// Whether this machine has instructions for AES.
    pub has_aes: bool,
    /// What the wall clock shows, since 1970, when the node's own clock shows zero.
    pub unix_epoch: Duration,
    /// Age of keys at which their initiator makes new ones; the responder does a quarter later.
    pub rekey_after: Duration,
    /// Remote identities of which anything is known, sessions or not: idle ones without a session go first.
    pub remotes: usize,
    /// Sessions that wait for the initiator's proof.
    pub half_open: usize,
    /// Handshakes of senders that have not proved their address, a second, by the link they come over.
    pub unproven_per_link: u32,
    /// The same for senders that returned a cookie.
    pub proven_per_link: u32,
    /// Handshakes a second that we answer, all in all.
    pub handshakes: u32,
    /// Pins of those our hosts turned to.
    pub own_pins: usize,
    /// Pins of those that turned to us.
    pub their_pins: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            network_key: None,
            has_aes: false,
            unix_epoch: Duration::ZERO,
            rekey_after: Duration::from_secs(120),
            remotes: 32_768,
            half_open: 4096,
            unproven_per_link: 50,
            proven_per_link: 200,
            handshakes: 1000,
            own_pins: 65_536,
            their_pins: 16_384,
        }
    }
}

impl SessionConfig {
    /// The policy that holds.
    pub fn effective_policy(&self) -> Policy {
        match self.network_key {
            Some(_) => Policy::Require,
            None => self.policy,
        }
    }
}

/// Nothing is sent under keys older than this; they still open for [`RECEIVE_FOR`], since clocks started at different times.
pub(crate) const SEND_FOR: Duration = Duration::from_secs(170);
/// Keys are destroyed at this age.
pub(crate) const RECEIVE_FOR: Duration = Duration::from_secs(190);
/// Sessions kept per remote identity: the one in use and those whose packets may still be under way.
pub(crate) const SESSIONS_PER_REMOTE: usize = 4;
/// Half-open sessions per remote identity; the third and fourth need a cookie.
pub(crate) const HALF_OPEN_PER_REMOTE: usize = 4;
/// How long an initiator has to prove itself, and message 2 to arrive.
pub(crate) const HANDSHAKE_LIFETIME: Duration = Duration::from_secs(5);
/// The second message 1 follows after this.
pub(crate) const RETRY: Duration = Duration::from_millis(400);
/// Without an answer for so long, one that only says it speaks v2 is taken for a v1 node.
pub(crate) const V1_VERDICT: Duration = Duration::from_millis(800);
/// How long that verdict holds, at first; doubles up to `V1_LONGEST`.
pub(crate) const V1_FOR: Duration = Duration::from_secs(600);
/// See `V1_FOR`.
pub(crate) const V1_LONGEST: Duration = Duration::from_secs(3600);
/// Sent but heard nothing for so long: a new handshake beside the session.
pub(crate) const UNHEARD: Duration = Duration::from_secs(2);
/// Heard but sent nothing for so long: an empty packet, so that the other end knows.
pub(crate) const OWED: Duration = Duration::from_secs(1);
/// The longest pause between handshakes that nobody answers.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

//! Counters of an endpoint.

/// What became of datagrams, since the endpoint was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NativeStats {
    /// Handshake fragments, questions and answers whose MAC is wrong, or that are not what they say.
    pub invalid: u64,
    /// Sealed datagrams for no session that we know.
    pub unknown_index: u64,
    /// Sealed datagrams that did not open.
    pub unauthentic: u64,
    /// Sealed datagrams that were here before, or are too old to tell.
    pub replayed: u64,
    /// Sealed frames that are shorter than their type says, or acknowledge what was never sent.
    pub malformed: u64,
    /// Control packets that were not taken because too many wait here already; they come again.
    pub control_held: u64,
    /// Moves that were undone because the old address answered: copies of datagrams sent from elsewhere.
    pub moves_undone: u64,
    /// Handshake fragments answered with a cookie.
    pub cookies: u64,
    /// Messages 1 dropped because a budget was spent.
    pub over_budget: u64,
    /// Handshakes that failed after the MAC: not for us, not from whom they say, or from ourselves.
    pub refused: u64,
    /// Handshakes of others that were answered.
    pub answered: u64,
    /// Answered handshakes that were confirmed.
    pub confirmed: u64,
    /// Answered handshakes that nobody confirmed in time, or that made room for others.
    pub abandoned: u64,
    /// Handshake datagrams not sent because too many waited.
    pub outbox_full: u64,
    /// Questions for our key that were answered.
    pub who_answered: u64,
}

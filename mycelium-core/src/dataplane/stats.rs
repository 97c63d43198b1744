//! What the data plane did: one counter per verdict. Plain numbers, copied into snapshots.

/// Defines the counters once, with their names for exporters.
macro_rules! counters {
    ($(#[$outer:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: u64,)* }

        impl $name {
            /// Every counter with its name, in the order of declaration.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Counters since the start. Every packet that enters adds one to `host_packets` or `peer_packets` and ends in exactly one
    /// of the verdicts (`sent`, `forwarded`, `delivered_*`, `drop_*`, `notices_delivered`); a parked one ends there later.
    pub struct DataPlaneStats {
        /// Packets from host interfaces.
        pub host_packets,
        /// Their bytes.
        pub host_bytes,
        /// Data packets from peers.
        pub peer_packets,
        /// Their bytes, headers included.
        pub peer_bytes,

        /// Packets of a local host, sealed and sent to a peer.
        pub sent,
        /// Packets of others, passed on.
        pub forwarded,
        /// Packets from the network, opened and delivered to a host.
        pub delivered_remote,
        /// Packets between two identities of this node.
        pub delivered_local,
        /// Out-of-band notices of routers, turned into ICMPv6 for a host.
        pub notices_delivered,

        /// Handshake units for one of our identities.
        pub handshakes_received,
        /// Packets of sessions that carry nothing for a host: signs of life, probes, halves whose other half is missing.
        pub session_control,

        /// From a host: not an IPv6 packet, or cut short.
        pub drop_host_malformed,
        /// From a host whose identity the forwarding table does not have (yet, or any more).
        pub drop_unknown_identity,
        /// From a host: source outside the identity's /64.
        pub drop_source_policy,
        /// From a host: multicast, link-local, or without a source; silent, hosts send these all the time.
        pub drop_not_routable,
        /// From a host: destination outside `400::/7`.
        pub drop_not_overlay,
        /// From a host: destination in the identity's own /64, which the host itself would have.
        pub drop_address_unreachable,
        /// From a host: longer than the MTU.
        pub drop_too_big,
        /// Hop limit used up, from a host or from a peer.
        pub drop_hop_limit,
        /// The owner of the destination, or of the source, has a key of low order.
        pub drop_low_order_key,
        /// The budget for new key agreements is spent.
        pub drop_agreement_budget,
        /// The link's data lane is full, or the link is gone.
        pub drop_peer_full,
        /// The identity has no host interface, or it is full.
        pub drop_host_full,

        /// From a peer: not a data packet, or cut short.
        pub drop_peer_malformed,
        /// From a peer: source or destination outside `400::/7`.
        pub drop_foreign_address,
        /// From a peer, to us, allegedly from one of our own identities.
        pub drop_own_source,
        /// The route leads back to the peer that sent it.
        pub drop_return_to_sender,
        /// Body too short to be sealed.
        pub drop_body_too_short,
        /// Body that does not open with the key of its source.
        pub drop_authentication,
        /// Body of a session that was received before, too late, or does not open.
        pub drop_session,
        /// A v1 body from somebody who speaks v2, or while v2 is required.
        pub drop_v1_refused,
        /// From a host: no session with the destination came about, or it is used up.
        pub drop_no_session,
        /// From a host: the route names another key than the one that is pinned.
        pub drop_key_conflict,
        /// Opened: another version of the user data header, or cut short.
        pub drop_user_data_version,
        /// Opened: a type that no rule covers.
        pub drop_user_data_type,
        /// Opened: a fragment of a message, which this node does not handle.
        pub drop_message,
        /// Opened: not an IPv6 packet.
        pub drop_inner_malformed,
        /// Opened: inner source outside the /64 that the key authenticates.
        pub drop_inner_source,
        /// Opened: inner destination outside the identity's /64.
        pub drop_inner_destination,
        /// Opened: a notice that is malformed, without a quote, about a packet we cannot have sent, or one too many.
        pub drop_notice,

        /// Packets parked until a route arrives.
        pub parked,
        /// Parked packets that went on because it did.
        pub released,
        /// Parked packets of hosts and of others that no route was found for.
        pub drop_no_route,
        /// Packets from an unknown source that stayed unknown.
        pub drop_unknown_source,
        /// Parked packets, the oldest of their subnet, that made room for newer ones.
        pub drop_parked_subnet_full,
        /// Parked packets, the oldest of all, that made room for newer ones.
        pub drop_parked_full,
        /// Not parked: the peer, or the identity, already has its share of what waits.
        pub drop_parked_share,
        /// Requests for a route handed to the control plane.
        pub routes_requested,
        /// Requests that it had no room for; repeated later.
        pub routes_request_refused,

        /// Packets that went in two halves because the path is narrow.
        pub sent_in_halves,
        /// TCP super-packets that went as one.
        pub sent_whole,
        /// Handshake units sent.
        pub handshakes_sent,
        /// ICMPv6 errors delivered to local hosts.
        pub host_errors,
        /// ICMPv6 errors that the rate limit, or a full interface, suppressed.
        pub host_errors_suppressed,
        /// Out-of-band notices sent to remote sources.
        pub notices_sent,
        /// Notices not sent: rate limit, no route or key for the source, or a body too large to quote.
        pub notices_suppressed,
        /// TCP handshakes whose segment size was lowered.
        pub mss_clamped,
    }
}

//! ICMPv6 errors: to local hosts, and out of band to remote sources, whose packets a router cannot read (wire spec §6.5).
//!
//! A notice is sealed between the reporting node and the source. It quotes the sealed body of the packet it is about, which
//! only the source and the destination can open: that the source can is the proof that the reporter saw the packet.

use std::net::Ipv6Addr;

use rand_chacha::rand_core::Rng;

use crate::addr::Subnet;
use crate::crypto::aead::NONCE_LEN;
use crate::fib::Lookup;
use crate::io::IdentityId;
use crate::wire::data::{BODY_OFFSET, DEFAULT_HOP_LIMIT, DataHeader, V1_OVERHEAD, split_v1_body};
use crate::wire::icmpv6::{self, IcmpError};
use crate::wire::ipv6::{self, Ipv6Packet};
use crate::wire::user_data::{self, UserDataType};

use crate::session::stub::{Kind, Stub};
use crate::session::transport;

use super::keys::Payer;
use super::{DataPlane, Ports};

const ADDRESS_LEN: usize = 16;
/// Payload of a notice before its quote: original destination, IPv6 header, ICMPv6 header.
const NOTICE_HEADER_LEN: usize = ADDRESS_LEN + ipv6::HEADER_LEN + icmpv6::HEADER_LEN;

impl DataPlane {
    /// Tell a local host that its packet failed. `packet` was checked to be IPv6.
    #[cold]
    pub(super) fn host_error(
        &mut self,
        identity: IdentityId,
        error: IcmpError,
        packet: &[u8],
        ports: &mut impl Ports,
    ) {
        let Ok(view) = Ipv6Packet::parse(packet) else {
            return;
        };
        if icmpv6::must_not_answer(&view) {
            return;
        }
        let Some(local) = self.identities.get_mut(identity) else {
            return;
        };
        if !local.errors.take(self.now) {
            self.stats.host_errors_suppressed += 1;
            return;
        }
        let Some(slot) = ports.host_slot(identity, icmpv6::error_len(packet.len())) else {
            self.stats.host_errors_suppressed += 1;
            return;
        };
        icmpv6::write_error(
            slot,
            error,
            local.address,
            view.source(),
            DEFAULT_HOP_LIMIT,
            packet,
        );
        ports.commit_host(identity);
        self.stats.host_errors += 1;
    }

    /// Tell the remote source of `frame`, a whole data packet of somebody else, that it went no further.
    #[cold]
    pub(super) fn notify_source(&mut self, error: IcmpError, frame: &[u8], ports: &mut impl Ports) {
        if self.try_notify(error, frame, ports).is_some() {
            self.stats.notices_sent += 1;
        } else {
            self.stats.notices_suppressed += 1;
        }
    }

    /// `None` if no notice was sent. No route is asked for: the source may be made up (wire spec §8, S18).
    fn try_notify(&mut self, error: IcmpError, frame: &[u8], ports: &mut impl Ports) -> Option<()> {
        let offender = DataHeader::parse(frame).ok()?;
        let quote = frame.get(BODY_OFFSET..offender.packet_len())?;
        // Upstream omits a longer quote, and then makes nothing of the notice.
        if quote.len() > icmpv6::MAX_QUOTE_LEN {
            return None;
        }
        let node = self.identities.get(IdentityId::NODE)?;
        let subnet = Subnet::containing(offender.source);
        let Lookup::Remote(entry) = self.fib.fib().lookup(subnet) else {
            return None;
        };
        if !self.notices.take(self.now) {
            return None;
        }
        let reporter = node.origin.subnet.network_address();
        let payload_len = ADDRESS_LEN + icmpv6::error_len(quote.len());
        // Never a handshake for a notice: a spoofed source would make every router begin one.
        if let Some(slot) = self.sessions.live((IdentityId::NODE, subnet), self.now) {
            let mut report = vec![0; payload_len];
            let (original, message) = report.split_at_mut(ADDRESS_LEN);
            original.copy_from_slice(&offender.destination.octets());
            let (source, hop_limit) = (offender.source, DEFAULT_HOP_LIMIT);
            icmpv6::write_error(message, error, reporter, source, hop_limit, quote);
            return self
                .seal_report(slot, offender.source, &report, ports)
                .then_some(());
        }
        if self.sessions.refuses_v1(subnet) {
            return None;
        }
        let key = self
            .keys
            .get(
                IdentityId::NODE,
                &node.origin.secret,
                subnet,
                &entry.public_key,
                Payer::Peer,
                self.now,
            )
            .ok()?;
        let header = DataHeader {
            body_len: u16::try_from(payload_len + V1_OVERHEAD).ok()?,
            hop_limit: DEFAULT_HOP_LIMIT - 1,
            source: reporter,
            destination: offender.source,
        };
        let slot = ports.peer_slot(entry.next_hop, header.packet_len())?;
        let (head, body) = slot.split_first_chunk_mut::<BODY_OFFSET>()?;
        header.write(head);
        let (sealed, trailer) = body.split_at_mut(user_data::HEADER_LEN + payload_len);
        let (kind, payload) = sealed.split_at_mut(user_data::HEADER_LEN);
        kind.copy_from_slice(&UserDataType::OutOfBandIcmp.header());
        let (original, message) = payload.split_at_mut(ADDRESS_LEN);
        original.copy_from_slice(&offender.destination.octets());
        icmpv6::write_error(
            message,
            error,
            reporter,
            offender.source,
            DEFAULT_HOP_LIMIT,
            quote,
        );
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        let tag = key.key.seal(nonce, &[], sealed);
        let (tag_field, nonce_field) = trailer.split_at_mut(tag.len());
        tag_field.copy_from_slice(&tag);
        nonce_field.copy_from_slice(&nonce);
        key.mark_used();
        entry.mark_used();
        ports.commit_peer(entry.next_hop);
        Some(())
    }

    /// Make an ICMPv6 error for the host out of a router's notice, if it proves that it is about a packet of this host.
    #[cold]
    pub(super) fn deliver_notice(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        notice: &mut [u8],
        ports: &mut impl Ports,
    ) {
        if self
            .try_deliver_notice(identity, header, notice, ports)
            .is_some()
        {
            self.stats.notices_delivered += 1;
        } else {
            self.stats.drop_notice += 1;
        }
    }

    fn try_deliver_notice(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        notice: &mut [u8],
        ports: &mut impl Ports,
    ) -> Option<()> {
        if notice.len() > NOTICE_HEADER_LEN + icmpv6::MAX_QUOTE_LEN {
            return None;
        }
        let (head, quote) = notice.split_first_chunk_mut::<NOTICE_HEADER_LEN>()?;
        let (original, rest) = head.split_first_chunk::<ADDRESS_LEN>()?;
        let original = Ipv6Addr::from(*original);
        let (ip, icmp) = rest.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let error = IcmpError::parse(icmp.first_chunk()?)?;
        // What routers of the overlay say. Nobody's word makes packets smaller: what a notice can quote is shorter than what
        // every path has to carry (1280 bytes, RFC 8200 §5).
        if !matches!(error, IcmpError::NoRoute | IcmpError::HopLimitExceeded) {
            return None;
        }
        if ip[0] >> 4 != 6 || ip[6] != ipv6::ICMPV6 {
            return None;
        }

        let remote = Subnet::containing(original);
        if let Some(index) = transport::index_of(quote)
            && !self.sessions.is_off()
            && self.sessions.sender_of((identity, remote), index).is_some()
        {
            return self.deliver_quote(identity, header, original, error, index, quote, ports);
        }
        if self.sessions.refuses_v1(remote) {
            return None;
        }
        let local = self.identities.get_mut(identity)?;
        let own_subnet = local.origin.subnet;
        let Lookup::Remote(entry) = self.fib.fib().lookup(remote) else {
            return None;
        };
        let key = self
            .keys
            .get(
                identity,
                &local.origin.secret,
                remote,
                &entry.public_key,
                Payer::Peer,
                self.now,
            )
            .ok()?;
        let (sealed, nonce) = split_v1_body(quote)?;
        let plaintext = key.key.open(nonce, &[], sealed).ok()?;
        key.mark_used();
        let (UserDataType::Packet, packet) = user_data::parse(plaintext).ok()? else {
            return None;
        };
        let view = Ipv6Packet::parse(packet).ok()?;
        // Sealed with the same key in the other direction, it would be a packet to us.
        if !own_subnet.contains(view.source())
            || !remote.contains(view.destination())
            || icmpv6::must_not_answer(&view)
        {
            return None;
        }
        if !local.notices.take(self.now) {
            return None;
        }
        let packet = &packet[..view.len()];
        let slot = ports.host_slot(identity, icmpv6::error_len(packet.len()))?;
        let hop_limit = (header.hop_limit - 1).max(1);
        icmpv6::write_error(slot, error, header.source, view.source(), hop_limit, packet);
        ports.commit_host(identity);
        Some(())
    }

    /// A notice that quotes a body of a session of ours: that it opens with our own sending key proves that it was sent.
    fn deliver_quote(
        &mut self,
        identity: IdentityId,
        header: &DataHeader,
        destination: Ipv6Addr,
        error: IcmpError,
        index: u32,
        quote: &mut [u8],
        ports: &mut impl Ports,
    ) -> Option<()> {
        if !self.quotes.take(self.now) {
            return None;
        }
        let source = header.destination;
        let pair = (identity, Subnet::containing(destination));
        let session = self.sessions.sender_of(pair, index)?;
        let plaintext = session.sender.open_own(source, destination, quote).ok()?;
        let (stub, payload) = Stub::split(plaintext)?;
        let (stub, payload) = match stub.kind {
            // What is quoted of a checksum tells nobody anything.
            Kind::Packet | Kind::Partial => (stub, payload),
            // The front of a packet is as good as any quote; its second half says nothing.
            Kind::FirstHalf => Stub::split_front(payload)?,
            Kind::Message
            | Kind::Report
            | Kind::Empty
            | Kind::SecondHalf
            | Kind::Probe
            | Kind::Answer
            | Kind::Whole => return None,
        };
        let mut packet = vec![0; ipv6::HEADER_LEN + payload.len()];
        if !stub.restore(&mut packet, DEFAULT_HOP_LIMIT, source, destination) {
            return None;
        }
        packet[ipv6::HEADER_LEN..].copy_from_slice(payload);
        let full: [u8; 2] = packet.get(4..6)?.try_into().ok()?;
        // Looked at as if it ended where the quote does.
        let quoted = u16::try_from(payload.len()).ok()?;
        packet.get_mut(4..6)?.copy_from_slice(&quoted.to_be_bytes());
        if icmpv6::must_not_answer(&Ipv6Packet::parse(&packet).ok()?) {
            return None;
        }
        packet.get_mut(4..6)?.copy_from_slice(&full);
        let local = self.identities.get_mut(identity)?;
        if !local.notices.take(self.now) {
            return None;
        }
        let slot = ports.host_slot(identity, icmpv6::error_len(packet.len()))?;
        let hop_limit = header.hop_limit.saturating_sub(1).max(1);
        icmpv6::write_error(slot, error, header.source, source, hop_limit, &packet);
        ports.commit_host(identity);
        Some(())
    }
}

//! Where packets go: buffers that the caller owns.

use crate::addr::Subnet;
use crate::io::{IdentityId, PeerId};

use super::whole::Segmentation;

/// The outside of the data plane: the daemon's worker, the simulator, a test.
///
/// A slot has exactly the length that was asked for, with arbitrary content. The data plane writes all of it, then commits.
pub trait Ports {
    /// Space for one complete packet of `len` bytes on the data lane of `peer`; `None`: full or gone (dropped, counted).
    /// Uncommitted space is discarded by the next call.
    fn peer_slot(&mut self, peer: PeerId, len: usize) -> Option<&mut [u8]>;

    /// Send what was written to the last `peer_slot`.
    fn commit_peer(&mut self, peer: PeerId);

    /// The same, where the body is that of a session: a native link need not protect it once more.
    fn commit_peer_session(&mut self, peer: PeerId) {
        self.commit_peer(peer);
    }

    /// Whether `peer` is behind a stream, which carries packets of any length and in order.
    fn carries_whole(&self, peer: PeerId) -> bool {
        let _ = peer;
        false
    }

    /// As `host_slot`, for a TCP super-packet; `None` also where the interface takes none.
    fn host_slot_whole(&mut self, identity: IdentityId, len: usize) -> Option<&mut [u8]> {
        let _ = (identity, len);
        None
    }

    /// Deliver what was written to the last `host_slot_whole`, to be cut like this; its checksum is that of the pseudo-header.
    fn commit_host_whole(&mut self, identity: IdentityId, segmentation: Segmentation) {
        let _ = (identity, segmentation);
    }

    /// Whether the packet that is being handled is of a sparse flow ([`DataClass`](crate::native::DataClass)).
    fn is_sparse(&self) -> bool {
        false
    }

    /// What is handled from here on is, or is not.
    fn set_sparse(&mut self, sparse: bool) {
        let _ = sparse;
    }

    /// Space for one IPv6 packet towards the host interface of an identity; `None`: no TUN or full.
    fn host_slot(&mut self, identity: IdentityId, len: usize) -> Option<&mut [u8]>;

    /// Deliver what was written to the last `host_slot`.
    fn commit_host(&mut self, identity: IdentityId);

    /// Deliver what was written to the last `host_slot`: TCP or UDP whose checksum is that of the pseudo-header
    /// ([`checksum`](crate::wire::checksum)), which the host completes if it wants to.
    fn commit_host_partial(&mut self, identity: IdentityId);

    /// Tell the control plane that `subnet` is needed; `false`: its queue is full.
    fn route_needed(&mut self, subnet: Subnet, from: Option<PeerId>) -> bool;
}

//! Where packets go: buffers that the caller owns.

use crate::addr::Subnet;
use crate::io::{IdentityId, PeerId};

/// The outside of the data plane: the daemon's worker, the simulator, a test.
///
/// A slot has exactly the length that was asked for, with arbitrary content. The data plane writes all of it, then commits.
pub trait Ports {
    /// Space for one complete packet of `len` bytes on the data lane of `peer`; `None`: full or gone (dropped, counted).
    /// Uncommitted space is discarded by the next call.
    fn peer_slot(&mut self, peer: PeerId, len: usize) -> Option<&mut [u8]>;

    /// Send what was written to the last `peer_slot`.
    fn commit_peer(&mut self, peer: PeerId);

    /// Space for one IPv6 packet towards the host interface of an identity; `None`: no TUN or full.
    fn host_slot(&mut self, identity: IdentityId, len: usize) -> Option<&mut [u8]>;

    /// Deliver what was written to the last `host_slot`.
    fn commit_host(&mut self, identity: IdentityId);

    /// Tell the control plane that `subnet` is needed; `false`: its queue is full.
    fn route_needed(&mut self, subnet: Subnet, from: Option<PeerId>) -> bool;
}

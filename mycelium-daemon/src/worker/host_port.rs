//! The sending half of a host interface.

use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::rc::Rc;

use mycelium_core::io::IdentityId;
use tokio::task::AbortHandle;
use tun_rs::AsyncDevice;

/// One host interface of the data worker.
pub(crate) struct HostPort {
    pub(crate) identity: IdentityId,
    pub(crate) device: Rc<AsyncDevice>,
    pub(crate) task: Option<AbortHandle>,
    /// Whether it takes UDP super-packets.
    pub(crate) joins_udp: bool,
    /// Packets the kernel did not take.
    pub(crate) refused: u64,
}

impl HostPort {
    pub(crate) fn new(identity: IdentityId, device: Rc<AsyncDevice>) -> Self {
        Self {
            identity,
            joins_udp: device.udp_gso(),
            device,
            task: None,
            refused: 0,
        }
    }

    /// Write one packet or super-packet behind its offload header. A TUN takes it at once or not at all: what it refuses is
    /// dropped and counted.
    pub(crate) fn write(&mut self, pieces: &[IoSlice<'_>]) {
        if let Err(error) = rustix::io::writev(self.device.as_fd(), pieces) {
            self.refused += 1;
            let error = io::Error::from(error);
            if error.kind() != io::ErrorKind::WouldBlock {
                tracing::debug!(identity = self.identity.0, %error, "the interface refused a packet");
            }
        }
    }
}

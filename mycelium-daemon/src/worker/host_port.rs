//! The sending half of a host interface: a batch of packets that leaves in as few writes as possible.

use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;

use mycelium_core::dataplane::Segmentation;
use mycelium_core::io::IdentityId;
use tokio::task::AbortHandle;
use tun_rs::{AsyncDevice, GROTable, VIRTIO_NET_HDR_LEN};

use super::offload;

/// Packets in one batch; what a full socket read brings.
const BATCH: usize = 128;
/// Room for neighbouring TCP segments to be joined in the first one's buffer. Untouched memory costs nothing.
const BUFFER_CAPACITY: usize = VIRTIO_NET_HDR_LEN + 65535;

/// One host interface of the data worker.
pub(crate) struct HostPort {
    pub(crate) identity: IdentityId,
    pub(crate) device: Rc<AsyncDevice>,
    pub(crate) touched: bool,
    pub(crate) task: Option<AbortHandle>,
    /// Packets, each behind space for its offload header; `committed` of them are complete.
    batch: Vec<Vec<u8>>,
    committed: usize,
    /// Packets the kernel did not take.
    pub(crate) refused: u64,
}

/// What all host interfaces of a worker share, since only one is written at a time.
#[derive(Default)]
pub(crate) struct HostBuffers {
    free: Vec<Vec<u8>>,
    coalescing: GROTable,
}

impl HostBuffers {
    /// Give memory back.
    pub(crate) fn shrink(&mut self) {
        self.free = Vec::new();
    }
}

impl HostPort {
    pub(crate) fn new(identity: IdentityId, device: Rc<AsyncDevice>) -> Self {
        Self {
            identity,
            device,
            touched: false,
            task: None,
            batch: Vec::new(),
            committed: 0,
            refused: 0,
        }
    }

    /// Space for one packet. A full batch is written first.
    pub(crate) fn slot(&mut self, len: usize, buffers: &mut HostBuffers) -> &mut [u8] {
        if self.committed == BATCH {
            self.flush(buffers);
        }
        if self.batch.len() == self.committed {
            let buffer = buffers.free.pop();
            self.batch
                .push(buffer.unwrap_or_else(|| Vec::with_capacity(BUFFER_CAPACITY)));
        }
        let buffer = &mut self.batch[self.committed];
        buffer.resize(VIRTIO_NET_HDR_LEN + len, 0);
        &mut buffer[VIRTIO_NET_HDR_LEN..]
    }

    pub(crate) fn commit(&mut self) {
        debug_assert!(self.committed < self.batch.len(), "commit follows slot");
        self.committed += 1;
    }

    /// Write the packet in the last slot on its own, behind those committed before it: the kernel cuts it.
    pub(crate) fn send_whole(&mut self, segmentation: Segmentation, buffers: &mut HostBuffers) {
        let Some(mut packet) = self.batch.get_mut(self.committed).map(std::mem::take) else {
            return;
        };
        self.batch.truncate(self.committed);
        self.flush(buffers);
        let sent = offload::write(&mut packet, segmentation)
            .and_then(|()| Ok(rustix::io::write(self.device.as_fd(), &packet)?));
        if let Err(error) = sent {
            self.refused += 1;
            if error.kind() != io::ErrorKind::WouldBlock {
                tracing::debug!(identity = self.identity.0, %error, "the interface refused a packet");
            }
        }
        buffers.free.push(packet);
    }

    /// Write the batch. A TUN takes packets at once or not at all: what it refuses is dropped and counted.
    pub(crate) fn flush(&mut self, buffers: &mut HostBuffers) {
        if self.committed > 0 {
            let packets = &mut self.batch[..self.committed];
            // The synchronous call of the device behind: its descriptor does not block.
            let device: &tun_rs::DeviceImpl = &self.device;
            let result = device.send_multiple(&mut buffers.coalescing, packets, VIRTIO_NET_HDR_LEN);
            if let Err(error) = result {
                self.refused += 1;
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(identity = self.identity.0, %error, "the interface refused packets");
                }
            }
            self.committed = 0;
        }
        // The first one goes on top: it is where segments are joined, so that few buffers grow to their full size.
        buffers.free.extend(self.batch.drain(..).rev());
    }
}

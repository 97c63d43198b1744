//! From the wire to the TUN.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use tun_rs::{SyncDevice, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::LARGEST;
use super::headers::{Run, transport, unfinished_checksum};
use super::socket::OffloadSocket;

/// Receives packets and writes them.
pub(super) struct Inbound {
    tun: Arc<SyncDevice>,
    socket: OffloadSocket,
    /// Whether UDP packets of one flow go into the TUN together too.
    joins_udp: bool,
}

impl Inbound {
    pub(super) fn new(tun: Arc<SyncDevice>, socket: OffloadSocket, joins_udp: bool) -> Self {
        Self {
            tun,
            socket,
            joins_udp,
        }
    }

    /// Until an error that ends the socket.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; LARGEST];
        loop {
            let (length, size) = self.socket.receive(&mut buffer)?;
            let mut rest = &mut buffer[..length];
            while !rest.is_empty() {
                let taken = self.write_first(rest, size)?;
                rest = &mut rest[taken..];
            }
        }
    }

    /// Write the first packet and those that continue it; how many bytes that were. Packets of `size` bytes each, the
    /// last one perhaps shorter.
    fn write_first(&self, bytes: &mut [u8], size: usize) -> io::Result<usize> {
        let (first, others) = bytes.split_at_mut(size.min(bytes.len()));
        let Some(mut run) = Run::start(first, self.joins_udp) else {
            let header = match transport(first) {
                Some(protocol) => unfinished_checksum(first, protocol),
                None => VirtioNetHdr::default(),
            };
            self.write(header, &[IoSlice::new(first)])?;
            return Ok(first.len());
        };
        let more: Vec<&[u8]> = others
            .chunks(size)
            .take_while(|packet| run.append(first, packet))
            .collect();
        let header = run.finish(first);
        let taken = first.len() + more.iter().map(|packet| packet.len()).sum::<usize>();
        let mut slices = Vec::with_capacity(more.len() + 1);
        slices.push(IoSlice::new(first));
        slices.extend(
            more.iter()
                .map(|packet| IoSlice::new(&packet[run.headers..])),
        );
        self.write(header, &slices)?;
        Ok(taken)
    }

    /// What the TUN refuses, being down or out of room, is lost as on a network.
    fn write(&self, header: VirtioNetHdr, packet: &[IoSlice<'_>]) -> io::Result<()> {
        let mut front = [0; VIRTIO_NET_HDR_LEN];
        header.encode(&mut front)?;
        let mut slices = Vec::with_capacity(packet.len() + 1);
        slices.push(IoSlice::new(&front));
        slices.extend_from_slice(packet);
        match self.tun.send_vectored(&slices) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

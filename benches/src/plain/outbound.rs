//! From the TUN to the wire.

use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::Arc;

use tun_rs::{SyncDevice, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::headers::{GSO_TCP, IPV6, TCP, UDP_LEN, cut, tcp_headers, transport, u16_of};
use super::socket::{OffloadSocket, wait_readable};
use super::{HEADERS, LARGEST, MTU, SEGMENT, SLOTS};

/// Datagrams in one `sendmsg` that every kernel with `UDP_SEGMENT` takes.
const MOST: usize = 64;
/// Payload of a UDP datagram over IPv4.
const LARGEST_SEND: usize = 65_507;

/// Reads packets and sends them.
pub(super) struct Outbound {
    tun: Arc<SyncDevice>,
    socket: OffloadSocket,
    /// Datagrams of [`MTU`] bytes that a super-packet of full segments is read into; what is longer follows behind.
    slots: Vec<u8>,
    /// Single packets of one length, until there is no more to read.
    batch: Vec<u8>,
    length: usize,
    linear: Vec<u8>,
}

impl Outbound {
    pub(super) fn new(tun: Arc<SyncDevice>, socket: OffloadSocket) -> Self {
        Self {
            tun,
            socket,
            slots: vec![0; SLOTS * MTU + LARGEST],
            batch: Vec::with_capacity(LARGEST),
            length: 0,
            linear: Vec::with_capacity(2 * LARGEST),
        }
    }

    /// Until an error that ends the TUN.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut front = [0; VIRTIO_NET_HDR_LEN];
        loop {
            match self.read(&mut front) {
                Ok(length) => {
                    let Ok(header) = VirtioNetHdr::decode(&front) else {
                        continue;
                    };
                    self.packet(header, length)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.flush()?;
                    wait_readable(&*self.tun)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Length of the packet read.
    fn read(&mut self, front: &mut [u8]) -> io::Result<usize> {
        let (slots, rest) = self.slots.split_at_mut(SLOTS * MTU);
        let (first, others) = slots.split_at_mut(MTU);
        let mut slices = Vec::with_capacity(SLOTS + 2);
        slices.push(IoSliceMut::new(front));
        slices.push(IoSliceMut::new(first));
        slices.extend(
            others
                .chunks_mut(MTU)
                .map(|slot| IoSliceMut::new(&mut slot[HEADERS..])),
        );
        slices.push(IoSliceMut::new(rest));
        let read = self.tun.recv_vectored(&mut slices)?;
        Ok(read.saturating_sub(VIRTIO_NET_HDR_LEN))
    }

    fn packet(&mut self, header: VirtioNetHdr, length: usize) -> io::Result<()> {
        if header.gso_type == 0 {
            return match length <= MTU {
                true => self.single(length),
                false => Ok(()),
            };
        }
        self.flush()?;
        let Some(protocol) = transport(&self.slots[..length.min(MTU)]) else {
            return Ok(());
        };
        let fits = header.gso_type == GSO_TCP
            && usize::from(header.gso_size) == SEGMENT
            && tcp_headers(&self.slots) == HEADERS
            && length <= HEADERS + SLOTS * SEGMENT;
        if fits {
            self.in_place(length - HEADERS)
        } else {
            self.in_pieces(protocol, usize::from(header.gso_size), length)
        }
    }

    fn single(&mut self, length: usize) -> io::Result<()> {
        let full =
            self.batch.len() >= MOST * self.length || self.batch.len() + length > LARGEST_SEND;
        if !self.batch.is_empty() && (length > self.length || full) {
            self.flush()?;
        }
        if self.batch.is_empty() {
            self.length = length;
        }
        self.batch.extend_from_slice(&self.slots[..length]);
        match length < self.length {
            // Only the last datagram may be shorter.
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let sent = send(&self.socket, &self.batch, self.length);
        self.batch.clear();
        sent
    }

    /// The payload is where it belongs; headers go in front of each segment.
    fn in_place(&mut self, payload: usize) -> io::Result<()> {
        let mut template = [0; HEADERS];
        template.copy_from_slice(&self.slots[..HEADERS]);
        let last = payload.div_ceil(SEGMENT).max(1) - 1;
        for index in 0..=last {
            let offset = index * SEGMENT;
            let slot = &mut self.slots[index * MTU..][..HEADERS];
            slot.copy_from_slice(&template);
            cut(
                slot,
                TCP,
                index,
                SEGMENT.min(payload - offset),
                offset,
                index == last,
            );
        }
        send(
            &self.socket,
            &self.slots[..payload + (last + 1) * HEADERS],
            MTU,
        )
    }

    /// Headers or segments of another length, or UDP: by way of a copy.
    fn in_pieces(&mut self, protocol: u8, segment: usize, length: usize) -> io::Result<()> {
        let mut whole = Vec::with_capacity(length);
        let first = length.min(MTU);
        whole.extend_from_slice(&self.slots[..first]);
        let mut left = length - first;
        for slot in self.slots[MTU..SLOTS * MTU].chunks(MTU) {
            let part = left.min(SEGMENT);
            whole.extend_from_slice(&slot[HEADERS..HEADERS + part]);
            left -= part;
        }
        whole.extend_from_slice(&self.slots[SLOTS * MTU..][..left]);
        let headers = match protocol {
            TCP => tcp_headers(&whole),
            _ => IPV6 + UDP_LEN,
        };
        if segment == 0 || whole.len() <= headers || headers + segment > MTU {
            return Ok(());
        }
        let payload = whole.len() - headers;
        let last = payload.div_ceil(segment) - 1;
        self.linear.clear();
        for index in 0..=last {
            let offset = index * segment;
            let part = segment.min(payload - offset);
            let at = self.linear.len();
            self.linear.extend_from_slice(&whole[..headers]);
            self.linear
                .extend_from_slice(&whole[headers + offset..][..part]);
            cut(
                &mut self.linear[at..at + headers],
                protocol,
                index,
                part,
                offset,
                index == last,
            );
        }
        send(&self.socket, &self.linear, headers + segment)
    }
}

/// In as few calls as the kernel takes.
fn send(socket: &OffloadSocket, bytes: &[u8], segment: usize) -> io::Result<()> {
    let most = (LARGEST_SEND / segment).min(MOST) * segment;
    for part in bytes.chunks(most) {
        socket.send(part, u16_of(segment))?;
    }
    Ok(())
}

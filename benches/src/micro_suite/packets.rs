//! A packet's way through the data plane: out, in and past.

use std::hint::black_box;

use mycelium_core::io::IdentityId;

use super::case::Case;
use super::station::{Station, Version, pair};

/// Calls of each case: enough that a table that grows does not show.
const CALLS: u32 = 256;
const SUPER_CALLS: u32 = 16;
/// Payload of a TCP segment in a packet of 1400 bytes, with the time stamp option.
const SEGMENT: u16 = 1328;
const TCP_HEADERS: usize = 72;
/// Segments in a super-packet.
const SEGMENTS: usize = 46;
const FROM_PEER: usize = 0;
const FROM_HOST: usize = 1;

pub(super) fn cases() -> Vec<Case> {
    use Version::{V1, V2};
    vec![
        outbound("outbound/v1/100", V1, 100),
        outbound("outbound/v1/1400", V1, 1400),
        outbound("outbound/v2/100", V2, 100),
        outbound("outbound/v2/1400", V2, 1400),
        outbound_tcp("outbound/v2/1400/partial", CALLS, 1, false),
        outbound_tcp("outbound/v2/super", SUPER_CALLS, SEGMENTS, false),
        outbound_tcp("outbound/v2/super/whole", SUPER_CALLS, SEGMENTS, true),
        inbound("inbound/v1/100", V1, 100),
        inbound("inbound/v1/1400", V1, 1400),
        inbound("inbound/v2/100", V2, 100),
        inbound("inbound/v2/1400", V2, 1400),
        whole("inbound/v2/super/whole", FROM_HOST, |b| b),
        forward("forward/v1/100", V1, 100),
        forward("forward/v1/1400", V1, 1400),
        forward("forward/v2/100", V2, 100),
        forward("forward/v2/1400", V2, 1400),
        whole("forward/v2/super/whole", FROM_PEER, |_| relay(V2)),
    ]
}

fn outbound(name: &'static str, version: Version, len: usize) -> Case {
    Case::new(name, CALLS, move || {
        let [mut a, b] = pair(version);
        let mut packet = crate::packet(a.address, b.address, len);
        move || {
            a.host(black_box(&mut packet));
            assert_eq!(a.take_out()[FROM_PEER], 1, "{:?}", a.plane.stats());
        }
    })
}

/// Frames that A has sealed for B, as many as there will be calls.
fn sealed(a: &mut Station, calls: u32, mut send: impl FnMut(&mut Station)) -> Vec<Vec<u8>> {
    a.ports.keeps = true;
    (0..calls).for_each(|_| send(a));
    std::mem::take(&mut a.ports.frames)
}

fn inbound(name: &'static str, version: Version, len: usize) -> Case {
    Case::new(name, CALLS, move || {
        let [mut a, b] = pair(version);
        let packet = crate::packet(a.address, b.address, len);
        let frames = sealed(&mut a, CALLS, |a| a.host(&mut packet.clone()));
        receiving(b, frames, FROM_HOST)
    })
}

fn forward(name: &'static str, version: Version, len: usize) -> Case {
    Case::new(name, CALLS, move || {
        let [mut a, b] = pair(version);
        let packet = crate::packet(a.address, b.address, len);
        let frames = sealed(&mut a, CALLS, |a| a.host(&mut packet.clone()));
        receiving(relay(version), frames, FROM_PEER)
    })
}

fn relay(version: Version) -> Station {
    Station::new(&crate::secret(3), crate::secret(2).public_key(), version)
}

/// Give `station` the frames, one a call; each leaves on the side `out`.
fn receiving(mut station: Station, frames: Vec<Vec<u8>>, out: usize) -> impl FnMut() + 'static {
    let mut frames = frames.into_iter();
    move || {
        let mut frame = frames.next().expect("one for each call");
        station.peer(black_box(&mut frame));
        assert_eq!(station.take_out()[out], 1, "{:?}", station.plane.stats());
    }
}

/// A TCP packet of a TUN with that many full segments, its checksum left to others.
fn tcp(a: &Station, b: &Station, segments: usize) -> Vec<u8> {
    let len = TCP_HEADERS + segments * usize::from(SEGMENT);
    let mut packet = crate::packet(a.address, b.address, len);
    packet[6] = 6;
    // Offset of the data in words, and ACK.
    packet[40 + 12] = 8 << 4;
    packet[40 + 13] = 0x10;
    packet
}

fn send_tcp(a: &mut Station, packet: &[u8]) {
    let segment = (packet.len() > TCP_HEADERS + usize::from(SEGMENT)).then_some(SEGMENT);
    let taken = a
        .plane
        .from_host_partial(IdentityId::NODE, packet, segment, &mut a.ports);
    assert!(taken, "{:?}", a.plane.stats());
}

fn outbound_tcp(name: &'static str, calls: u32, segments: usize, is_stream: bool) -> Case {
    Case::new(name, calls, move || {
        let [mut a, b] = pair(Version::V2);
        a.ports.is_stream = is_stream;
        let packet = tcp(&a, &b, segments);
        let frames = if is_stream { 1 } else { segments };
        move || {
            send_tcp(&mut a, black_box(&packet));
            assert_eq!(a.take_out()[FROM_PEER] as usize, frames);
        }
    })
}

/// A super-packet that was sealed as one, at `station` of A and B.
fn whole(
    name: &'static str,
    out: usize,
    station: impl FnOnce(Station) -> Station + 'static,
) -> Case {
    Case::new(name, SUPER_CALLS, move || {
        let [mut a, b] = pair(Version::V2);
        a.ports.is_stream = true;
        let packet = tcp(&a, &b, SEGMENTS);
        let frames = sealed(&mut a, SUPER_CALLS, |a| send_tcp(a, &packet));
        let mut station = station(b);
        station.ports.is_stream = true;
        receiving(station, frames, out)
    })
}

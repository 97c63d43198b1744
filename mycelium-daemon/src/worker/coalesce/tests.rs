use etherparse::PacketBuilder;

use super::*;

const HOST: IdentityId = IdentityId::NODE;
/// Sequence numbers begin again on the way.
const START: u32 = u32::MAX - 5000;

fn tcp(port: u16, sequence: u32, data: usize, push: bool) -> Vec<u8> {
    let payload: Vec<u8> = (0..data)
        .map(|at| u8::try_from((at + sequence as usize) % 251).unwrap())
        .collect();
    let mut builder = PacketBuilder::ipv6([4; 16], [5; 16], 60)
        .tcp(port, 80, sequence, 1000)
        .ack(77)
        .options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
        .unwrap();
    if push {
        builder = builder.psh();
    }
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &payload).unwrap();
    bytes
}

fn udp(port: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv6([4; 16], [5; 16], 60)
        .udp(port, 80)
        .write(&mut bytes, data)
        .unwrap();
    bytes
}

fn put(coalescer: &mut Coalescer, packet: &[u8], is_partial: bool) {
    coalescer
        .slot(packet.len())
        .unwrap()
        .copy_from_slice(packet);
    coalescer.commit(HOST, is_partial, true);
}

/// What is written, one entry a write.
fn drained(coalescer: &mut Coalescer) -> Vec<Vec<u8>> {
    let mut written = Vec::new();
    coalescer.drain(|host, pieces| {
        assert_eq!(host, HOST);
        written.push(pieces.iter().flat_map(|piece| piece.to_vec()).collect());
    });
    assert!(coalescer.is_empty());
    written
}

/// In how many writes `packets` leave; the host makes the same packets of them, in this order.
fn writes(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> usize {
    for packet in packets {
        put(coalescer, packet, false);
    }
    let written = drained(coalescer);
    let longest = VIRTIO_NET_HDR_LEN + 65_535;
    assert!(written.iter().all(|w| w.len() <= longest));
    let got: Vec<_> = written.iter().flat_map(|w| cut(w)).collect();
    assert_eq!(got, packets);
    written.len()
}

/// What the host makes of one write: the packets, with complete checksums.
fn cut(written: &[u8]) -> Vec<Vec<u8>> {
    let mut written = written.to_vec();
    match offload::read(&mut written).unwrap() {
        offload::Offloaded::Packet(packet) => vec![packet.to_vec()],
        offload::Offloaded::Partial(header, None, packet) => {
            offload::complete(&header, packet).unwrap();
            vec![packet.to_vec()]
        }
        offload::Offloaded::Partial(header, Some(_), packet) => {
            let mut packets = vec![vec![0; 1500]; 128];
            let mut lengths = vec![0; 128];
            let count = offload::cut(header, packet, &mut packets, &mut lengths).unwrap();
            packets
                .into_iter()
                .zip(lengths)
                .take(count)
                .map(|(packet, len)| packet[..len].to_vec())
                .collect()
        }
        other @ offload::Offloaded::Special(..) => panic!("{other:?}"),
    }
}

#[test]
fn segments_of_a_flow_become_one_packet_that_is_cut_into_them_again() {
    let mut coalescer = Coalescer::default();
    for partial in [false, true] {
        let mut packets: Vec<_> = (0..40)
            .map(|n| tcp(7, START.wrapping_add(n * 1000), 1000, n == 11))
            .collect();
        packets.push(tcp(7, START.wrapping_add(40_000), 300, true));
        for packet in &packets {
            let mut packet = packet.clone();
            if partial {
                assert!(checksum::set_partial(&mut packet));
            }
            put(&mut coalescer, &packet, partial);
        }
        let written = drained(&mut coalescer);
        assert_eq!(written.len(), 1);
        let got = cut(&written[0]);
        // PSH in the middle does not end a run; it moves to the end.
        packets[11] = tcp(7, START.wrapping_add(11_000), 1000, false);
        assert_eq!(got, packets);
    }
}

#[test]
fn flows_are_joined_each_for_itself_and_keep_their_order() {
    let mut coalescer = Coalescer::default();
    let mut sent = Vec::new();
    for n in 0..10_u32 {
        for port in 1..=5 {
            sent.push(tcp(port, n * 500, 500, false));
        }
        sent.push(udp(9, &[u8::try_from(n).unwrap(); 100]));
    }
    for packet in &sent {
        put(&mut coalescer, packet, false);
    }
    let written = drained(&mut coalescer);
    assert_eq!(written.len(), 6);
    let got: Vec<_> = written.iter().flat_map(|w| cut(w)).collect();
    for port in [1, 2, 3, 4, 5, 9_u16] {
        let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let port = port.to_be_bytes();
            all.iter().filter(|p| p[40..42] == port).cloned().collect()
        };
        assert_eq!(of(&got), of(&sent), "{port}");
    }
}

#[test]
fn what_does_not_continue_a_run_begins_another() {
    let first = tcp(7, 0, 1000, false);
    let wrong = |at: usize| {
        let mut packet = tcp(7, 1000, 1000, false);
        packet[at] ^= 1;
        // The checksum is right again, so that only the difference tells.
        let mut fixed = packet.clone();
        assert!(checksum::set_partial(&mut fixed));
        checksum::complete(&mut fixed, 40, 16).unwrap();
        fixed
    };
    let mut others = vec![
        tcp(7, 1001, 1000, false),
        tcp(7, 999, 1000, false),
        tcp(7, 1000, 1001, false),
    ];
    // Flow label, hop limit, acknowledgement, flags, window, options.
    others.extend([3, 7, 51, 53, 55, 65].map(wrong));
    let mut bad_checksum = tcp(7, 1000, 1000, false);
    bad_checksum[200] ^= 1;
    others.push(bad_checksum);
    for other in others {
        let mut coalescer = Coalescer::default();
        put(&mut coalescer, &first, false);
        put(&mut coalescer, &other, false);
        let written = drained(&mut coalescer);
        let got: Vec<_> = written
            .iter()
            .map(|w| w[VIRTIO_NET_HDR_LEN..].to_vec())
            .collect();
        assert_eq!(got, [first.clone(), other]);
    }
}

#[test]
fn a_wrong_checksum_at_the_front_stays_wrong() {
    let mut coalescer = Coalescer::default();
    let mut first = tcp(7, 0, 1000, false);
    first[100] ^= 1;
    put(&mut coalescer, &first, false);
    put(&mut coalescer, &tcp(7, 1000, 1000, false), false);
    let written = drained(&mut coalescer);
    assert_eq!(written.len(), 2);
    assert_eq!(written[0][VIRTIO_NET_HDR_LEN..], first);
}

#[test]
fn nothing_follows_a_shorter_segment() {
    let mut coalescer = Coalescer::default();
    let packets = [
        tcp(7, 0, 1000, false),
        tcp(7, 1000, 400, false),
        tcp(7, 1400, 400, false),
        tcp(7, 1800, 400, false),
    ];
    assert_eq!(writes(&mut coalescer, &packets), 2);
}

#[test]
fn datagrams_are_joined_where_the_host_takes_it_and_never_become_longer_than_the_first() {
    let mut coalescer = Coalescer::default();
    let packets = [udp(7, &[1; 100]), udp(7, &[2; 100]), udp(7, &[3; 120])];
    assert_eq!(writes(&mut coalescer, &packets), 2);
    for packet in &packets {
        let len = packet.len();
        coalescer.slot(len).unwrap().copy_from_slice(packet);
        coalescer.commit(HOST, false, false);
    }
    assert_eq!(drained(&mut coalescer).len(), 3);
}

#[test]
fn a_run_ends_before_it_is_too_long_for_one_packet() {
    let mut coalescer = Coalescer::default();
    let packets: Vec<_> = (0..130).map(|n| tcp(7, n * 1300, 1300, false)).collect();
    assert_eq!(writes(&mut coalescer, &packets), 3);
    let tiny: Vec<_> = (0..200_u8).map(|n| udp(7, &[n; 20])).collect();
    assert_eq!(writes(&mut coalescer, &tiny), 4);
}

#[test]
fn a_full_batch_says_so_and_bytes_that_are_no_packets_pass_untouched() {
    let mut coalescer = Coalescer::default();
    let mut count = 0;
    while coalescer.slot(1000).is_some() {
        coalescer.commit(HOST, false, true);
        count += 1;
    }
    assert_eq!(count, CAPACITY / (1000 + VIRTIO_NET_HDR_LEN));
    assert_eq!(drained(&mut coalescer).len(), count);
    for len in [0, 1, 39, 40, 43, 47] {
        let packet = &udp(7, &[1; 100])[..len];
        put(&mut coalescer, packet, false);
        put(&mut coalescer, packet, false);
    }
    let written = drained(&mut coalescer);
    assert_eq!(written.len(), 12);
    coalescer.shrink();
    assert_eq!(coalescer.bytes.capacity(), 0);
}

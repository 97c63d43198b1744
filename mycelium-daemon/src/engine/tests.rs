use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Instant;

use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::router_id::RouterId;
use mycelium_core::wire::babel::{Hello, Prefix, Tlv, Update};
use mycelium_core::wire::data::{BODY_OFFSET, DataHeader};
use mycelium_core::wire::frame::{self, Kind};
use node_integration::Namespace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::link::quic::QuicEndpoint;
use crate::link::reset::ResetSecret;
use crate::link::{Transport, tcp};

const PATIENCE: Duration = Duration::from_secs(10);

/// A deterministic key per name; tests of one process never meet those of another.
fn secret(name: u8) -> SecretKey {
    SecretKey::from_bytes([name; 32])
}

fn subnet(name: u8) -> Subnet {
    Subnet::containing(secret(name).public_key().address())
}

fn start(name: u8, host: Option<HostInterface>) -> (Engine, EngineHandle) {
    let config = EngineConfig {
        host,
        ..EngineConfig::default()
    };
    Engine::start(secret(name), config).unwrap()
}

/// Wait until the snapshot satisfies `condition`.
async fn until(engine: &EngineHandle, what: &str, condition: impl Fn(&EngineSnapshot) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let snapshot = engine.snapshot().await;
        if condition(&snapshot) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not in time: {what}: {snapshot:#?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn has_route(snapshot: &EngineSnapshot, subnet: Subnet) -> bool {
    snapshot
        .control
        .selected
        .iter()
        .any(|route| route.subnet == subnet)
}

async fn link_over_tcp(a: &EngineHandle, b: &EngineHandle) -> (AttachedLink, AttachedLink) {
    let listener = tcp::listen(0, None).unwrap();
    let remote = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let (dialled, accepted) = tokio::join!(tcp::dial(remote, None), tcp::accept(&listener));
    (
        a.attach_link(dialled.unwrap()),
        b.attach_link(accepted.unwrap()),
    )
}

fn quic_endpoint() -> QuicEndpoint {
    QuicEndpoint::bind(0, None, &ResetSecret::of(&secret(0))).unwrap()
}

/// The endpoints must outlive the links.
async fn link_over_quic(
    a: &EngineHandle,
    b: &EngineHandle,
) -> (AttachedLink, AttachedLink, [QuicEndpoint; 2]) {
    let endpoints = [quic_endpoint(), quic_endpoint()];
    let remote = SocketAddr::from(([127, 0, 0, 1], endpoints[1].local_port().unwrap()));
    let dial = async { a.attach_link(endpoints[0].dial(remote).await.unwrap()) };
    let accept = async {
        let incoming = endpoints[1].accept().await.unwrap();
        b.attach_link(endpoints[1].complete(incoming).await.unwrap())
    };
    let (dialled, accepted) = tokio::join!(dial, accept);
    (dialled, accepted, endpoints)
}

/// A node that the test plays itself, over TCP.
struct PlayedPeer {
    stream: tokio::net::TcpStream,
    key: PublicKey,
    link: AttachedLink,
}

impl PlayedPeer {
    async fn connect(engine: &EngineHandle, name: u8) -> Self {
        let listener = tcp::listen(0, None).unwrap();
        let remote = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (stream, accepted) = tokio::join!(
            tokio::net::TcpStream::connect(remote),
            tcp::accept(&listener)
        );
        Self {
            stream: stream.unwrap(),
            key: secret(name).public_key(),
            link: engine.attach_link(accepted.unwrap()),
        }
    }

    async fn announce(&mut self) {
        let update = announcement(self.key);
        self.stream.write_all(&update).await.unwrap();
    }

    /// The next packet of this kind.
    async fn receive(&mut self, kind: Kind) -> Vec<u8> {
        let next = async {
            loop {
                let mut packet = vec![0; frame::HEADER_LEN + 4];
                self.stream.read_exact(&mut packet).await.unwrap();
                let frame = frame::peek(&packet).unwrap().unwrap();
                packet.resize(frame.len, 0);
                self.stream.read_exact(&mut packet[8..]).await.unwrap();
                if frame.kind == kind {
                    return packet;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .expect("a packet in time")
    }
}

fn announcement(key: PublicKey) -> Vec<u8> {
    let prefix = Prefix::new(key.address(), 64).unwrap();
    let update = Update {
        interval: 30_000,
        seqno: 1,
        metric: 0,
        prefix,
        router_id: RouterId::new(key, [0; 2], [7; 6]),
    };
    Tlv::Update(update).to_packet()
}

/// A data packet from `source` to `destination` with an opaque body.
fn data_packet(source: PublicKey, destination: PublicKey, body: &[u8]) -> Vec<u8> {
    let header = DataHeader {
        body_len: u16::try_from(body.len()).unwrap(),
        hop_limit: 17,
        source: source.address(),
        destination: destination.address(),
    };
    let mut packet = vec![0; BODY_OFFSET];
    header.write(packet.first_chunk_mut().unwrap());
    packet.extend_from_slice(body);
    packet
}

#[tokio::test]
async fn two_engines_learn_each_other_over_tcp() {
    let ((_a, a), (_b, b)) = (start(1, None), start(2, None));
    let (link, _other) = link_over_tcp(&a, &b).await;
    until(&a, "b's route at a", |snapshot| {
        has_route(snapshot, subnet(2))
    })
    .await;
    until(&b, "a's route at b", |snapshot| {
        has_route(snapshot, subnet(1))
    })
    .await;
    let snapshot = a.snapshot().await;
    assert_eq!(snapshot.control.peers[0].peer, link.peer);
    assert_eq!(
        snapshot.control.peers[0].public_key,
        Some(secret(2).public_key())
    );
    assert!(link.stats.tx_bytes.get() > 0 && link.stats.rx_bytes.get() > 0);
}

#[tokio::test]
async fn two_engines_learn_each_other_over_quic() {
    let ((_a, a), (_b, b)) = (start(3, None), start(4, None));
    let (link, _other, _endpoints) = link_over_quic(&a, &b).await;
    until(&a, "b's route at a", |snapshot| {
        has_route(snapshot, subnet(4))
    })
    .await;
    until(&b, "a's route at b", |snapshot| {
        has_route(snapshot, subnet(3))
    })
    .await;
    assert!(link.stats.tx_bytes.get() > 0 && link.stats.rx_bytes.get() > 0);
}

#[tokio::test]
async fn a_relay_forwards_data_between_its_links() {
    let (_engine, relay) = start(5, None);
    let mut left = PlayedPeer::connect(&relay, 6).await;
    let mut right = PlayedPeer::connect(&relay, 7).await;
    left.announce().await;
    right.announce().await;
    until(&relay, "both routes", |s| {
        has_route(s, subnet(6)) && has_route(s, subnet(7))
    })
    .await;
    let sent = data_packet(left.key, right.key, &[42; 1400]);
    left.stream.write_all(&sent).await.unwrap();
    let received = right.receive(Kind::Data).await;
    let mut expected = sent;
    expected[7] -= 1;
    assert_eq!(received, expected);
    assert_eq!(right.link.stats.tx_packets.get(), 1);
}

#[tokio::test]
async fn a_relay_carries_any_size_over_quic() {
    let ((_a, a), (_b, b)) = (start(8, None), start(9, None));
    let (link, _other, _endpoints) = link_over_quic(&a, &b).await;
    let mut left = PlayedPeer::connect(&a, 10).await;
    let mut right = PlayedPeer::connect(&b, 11).await;
    left.announce().await;
    right.announce().await;
    for engine in [&a, &b] {
        until(engine, "both routes", |s| {
            has_route(s, subnet(10)) && has_route(s, subnet(11))
        })
        .await;
    }
    // Through datagrams, at the limit, and on the stream.
    for len in [0, 100, 1000, 1200, 1394, 1395, 1432, 1500, 9000, 65535] {
        let sent = data_packet(left.key, right.key, &vec![42; len]);
        left.stream.write_all(&sent).await.unwrap();
        let received = right.receive(Kind::Data).await;
        assert_eq!(
            (received.len(), received[7]),
            (sent.len(), 15),
            "body of {len}"
        );
    }
    assert_eq!(link.stats.tx_packets.get(), 10);
}

#[tokio::test]
async fn an_upstream_like_datagram_mix_is_understood() {
    // Control in datagrams and data on the stream are legal; rubbish in a datagram costs only itself.
    let (_engine, engine) = start(12, None);
    let endpoints = [quic_endpoint(), quic_endpoint()];
    let remote = SocketAddr::from(([127, 0, 0, 1], endpoints[1].local_port().unwrap()));
    let key = secret(13).public_key();
    let dial = async {
        let mut link = endpoints[0].dial(remote).await.unwrap();
        let Transport::Quic {
            connection, send, ..
        } = &mut link.transport
        else {
            unreachable!("dialled with QUIC");
        };
        let hello = Hello {
            seqno: 1,
            interval: 2000,
        };
        send.write_all(&Tlv::Hello(hello).to_packet())
            .await
            .unwrap();
        for rubbish in [&[][..], &[1], &[9; 100], &[1, 0, 0, 0, 0, 255, 255]] {
            connection.send_datagram(rubbish.to_vec().into()).unwrap();
        }
        connection.send_datagram(announcement(key).into()).unwrap();
        link
    };
    let accept = async {
        let incoming = endpoints[1].accept().await.unwrap();
        engine.attach_link(endpoints[1].complete(incoming).await.unwrap())
    };
    let (_dialled, mut link) = tokio::join!(dial, accept);
    until(&engine, "the announced route", |s| has_route(s, subnet(13))).await;
    assert_eq!(link.stats.bad_datagrams.get(), 4);
    assert!(link.closed.try_recv().is_err());
}

#[tokio::test]
async fn hostile_bytes_close_only_their_link() {
    let (_engine, engine) = start(14, None);
    let mut honest = PlayedPeer::connect(&engine, 15).await;
    honest.announce().await;
    until(&engine, "the honest peer", |s| has_route(s, subnet(15))).await;
    let short_update = [1, 1, 0, 0, 42, 3, 0, 2, 8, 0];
    for bytes in [
        &[0; 5][..],
        &[1, 7, 0, 0, 0],
        &[1, 1, 0, 0, 42, 9, 0, 4, 0, 0, 0, 0],
        &[1, 1, 0, 0, 42, 3, 255, 255],
        &[1, 1, 0, 0, 42, 3, 0, 0],
        &short_update,
    ] {
        let mut hostile = PlayedPeer::connect(&engine, 16).await;
        hostile.stream.write_all(bytes).await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, &mut hostile.link.closed).await;
        let reason = closed
            .unwrap_or_else(|_| panic!("{bytes:?} is accepted"))
            .unwrap();
        assert!(!reason.reason.is_empty());
    }
    until(&engine, "only the honest peer", |s| {
        s.control.peers.len() == 1 && s.control.counters.malformed == 1 && s.worker.bad_streams == 5
    })
    .await;
    assert!(honest.link.closed.try_recv().is_err());
}

#[tokio::test]
async fn a_vanished_peer_is_noticed_at_once() {
    let (_engine, engine) = start(17, None);
    let mut peer = PlayedPeer::connect(&engine, 18).await;
    peer.announce().await;
    until(&engine, "the peer", |s| has_route(s, subnet(18))).await;
    let before = Instant::now();
    drop(peer.stream);
    (&mut peer.link.closed).await.unwrap();
    eprintln!("noticed after {:?}", before.elapsed());
    until(&engine, "no peer", |s| {
        s.control.peers.is_empty() && !has_route(s, subnet(18))
    })
    .await;
}

#[tokio::test]
async fn closing_a_link_tells_both_ends() {
    let ((_a, a), (_b, b)) = (start(19, None), start(20, None));
    let (ours, theirs) = link_over_tcp(&a, &b).await;
    until(&a, "b's route", |s| has_route(s, subnet(20))).await;
    a.close_link(ours.peer);
    assert_eq!(ours.closed.await.unwrap().reason, "closed by us");
    theirs.closed.await.unwrap();
    let (ours, theirs, _endpoints) = link_over_quic(&a, &b).await;
    until(&a, "b's route", |s| has_route(s, subnet(20))).await;
    a.close_link(ours.peer);
    assert_eq!(ours.closed.await.unwrap().reason, "closed by us");
    theirs.closed.await.unwrap();
}

#[tokio::test]
async fn leaving_retracts_our_routes_and_hangs_up() {
    let (engine, handle) = start(21, None);
    let mut peer = PlayedPeer::connect(&handle, 22).await;
    peer.announce().await;
    until(&handle, "the peer", |s| has_route(s, subnet(22))).await;
    let before = Instant::now();
    let shutdown = handle.shutdown();
    let listen = async {
        let mut bytes = Vec::new();
        peer.stream.read_to_end(&mut bytes).await.unwrap();
        drop(peer.stream);
        bytes
    };
    let ((), bytes) = tokio::join!(shutdown, listen);
    let retraction = bytes
        .windows(2)
        .rposition(|window| window == [0xff, 0xff])
        .expect("an Update with infinite metric");
    assert!(retraction > 0);
    assert!(before.elapsed() < SHUTDOWN_LIMIT, "{:?}", before.elapsed());
    engine.join();
}

#[tokio::test]
async fn a_peer_that_floods_control_is_slowed_down_and_others_are_not() {
    let (_engine, engine) = start(23, None);
    let mut flood = PlayedPeer::connect(&engine, 24).await;
    let (mut source, mut sink) = flood.stream.into_split();
    let drain = tokio::spawn(async move {
        let mut bytes = vec![0; 64 << 10];
        while source.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    });
    let flooding = tokio::spawn(async move {
        let hello = Hello {
            seqno: 1,
            interval: 2000,
        };
        let hellos = Tlv::Hello(hello).to_packet().repeat(1000);
        while sink.write_all(&hellos).await.is_ok() {}
    });
    let mut honest = PlayedPeer::connect(&engine, 25).await;
    honest.announce().await;
    let before = Instant::now();
    until(&engine, "the honest peer", |s| has_route(s, subnet(25))).await;
    eprintln!("heard among the flood after {:?}", before.elapsed());
    flooding.abort();
    drain.abort();
    let _ = flood.link.closed.try_recv();
}

/// It may be an honest relay: what it says in too short a time is taken later, and nothing of it is lost.
#[tokio::test]
async fn a_peer_that_passes_a_flood_of_updates_on_is_slowed_down_and_kept() {
    const IDENTITIES: u32 = 25_000;
    let (_engine, engine) = start(46, None);
    let mut relay = PlayedPeer::connect(&engine, 47).await;
    let (mut source, mut sink) = relay.stream.into_split();
    let drain = tokio::spawn(async move {
        let mut bytes = vec![0; 64 << 10];
        while source.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    });
    let allowed = NodeConfig::default().updates;
    let before = Instant::now();
    let flooding = tokio::spawn(async move {
        for number in 1..=IDENTITIES {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            let update = announcement(PublicKey(key));
            sink.write_all(&update).await.unwrap();
        }
        sink
    });
    let mut honest = PlayedPeer::connect(&engine, 48).await;
    honest.announce().await;
    until(&engine, "the honest peer", |s| has_route(s, subnet(48))).await;
    assert!(before.elapsed() < Duration::from_secs(1));
    let all = IDENTITIES as usize + 1;
    until(&engine, "everything", |s| s.control.selected.len() == all).await;
    let at_least = (IDENTITIES - allowed.burst) / allowed.per_second;
    let took = before.elapsed();
    eprintln!("{IDENTITIES} identities in {took:?}");
    assert!(took >= Duration::from_secs(at_least.into()), "{took:?}");
    assert!(relay.link.closed.try_recv().is_err());
    let _sink = flooding.await.unwrap();
    drain.abort();
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_up_nobody() {
    let (_engine, relay) = start(26, None);
    let mut source = PlayedPeer::connect(&relay, 27).await;
    let mut deaf = PlayedPeer::connect(&relay, 28).await;
    let mut sink = PlayedPeer::connect(&relay, 29).await;
    for peer in [&mut source, &mut deaf, &mut sink] {
        peer.announce().await;
    }
    until(&relay, "all routes", |s| {
        [27, 28, 29].iter().all(|&name| has_route(s, subnet(name)))
    })
    .await;
    // More than socket buffers and outbox together hold.
    let flood = data_packet(source.key, deaf.key, &[1; 1400]).repeat(100);
    for _ in 0..300 {
        source.stream.write_all(&flood).await.unwrap();
    }
    source
        .stream
        .write_all(&data_packet(source.key, sink.key, &[2; 100]))
        .await
        .unwrap();
    let received = sink.receive(Kind::Data).await;
    assert_eq!(received[BODY_OFFSET..], [2; 100]);
    let stats = &deaf.link.stats;
    assert!(stats.dropped_full.get() > 0, "{stats:?}");
    assert!(stats.tx_bytes.get() < 42_000_000, "{stats:?}");
    // It is not forgotten either: what it reads now is whole packets.
    for _ in 0..100 {
        deaf.receive(Kind::Data).await;
    }
}

/// Two engines with interfaces in namespaces of their own; `None` where that is not allowed.
fn hosts(names: [u8; 2]) -> Option<[(Namespace, (Engine, EngineHandle)); 2]> {
    let host = |name: u8| {
        let namespace = Namespace::create()
            .inspect_err(|error| eprintln!("skipped: no network namespace: {error}"))
            .ok()?;
        let address = secret(name).public_key().address();
        let interface = HostInterface::create("overlay", Some(&namespace.path()), address).unwrap();
        Some((namespace, start(name, Some(interface))))
    };
    Some([host(names[0])?, host(names[1])?])
}

fn address(name: u8) -> Ipv6Addr {
    secret(name).public_key().address()
}

/// Send a datagram from one namespace to the other and back; how long it took.
fn round_trip((from, from_name): (&Namespace, u8), (to, to_name): (&Namespace, u8)) -> Duration {
    let bind = |name| move || UdpSocket::bind((address(name), 0)).unwrap();
    let near = from.run(bind(from_name)).unwrap();
    let far = to.run(bind(to_name)).unwrap();
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let started = Instant::now();
    near.send_to(b"are you there?", far.local_addr().unwrap())
        .unwrap();
    let mut bytes = [0; 64];
    let (len, sender) = far.recv_from(&mut bytes).unwrap();
    assert_eq!(sender, near.local_addr().unwrap());
    far.send_to(&bytes[..len], sender).unwrap();
    let (len, _) = near.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"are you there?");
    started.elapsed()
}

/// Move `megabytes` over TCP; the rate in Gb/s. What arrives must be what was sent.
fn transfer((from, _): (&Namespace, u8), (to, to_name): (&Namespace, u8), megabytes: usize) -> f64 {
    let listener = to
        .run(|| TcpListener::bind((address(to_name), 0)).unwrap())
        .unwrap();
    let remote = listener.local_addr().unwrap();
    let mut sender = from.run(|| TcpStream::connect(remote).unwrap()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let pattern: Vec<u8> = (0..1_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let expected = pattern.clone();
    let started = Instant::now();
    let sending = thread::spawn(move || {
        for _ in 0..megabytes {
            sender.write_all(&pattern).unwrap();
        }
    });
    let mut bytes = vec![0; expected.len()];
    for _ in 0..megabytes {
        receiver.read_exact(&mut bytes).unwrap();
        assert!(bytes == expected, "the stream is damaged");
    }
    let elapsed = started.elapsed();
    sending.join().unwrap();
    assert_eq!(receiver.read(&mut bytes).unwrap(), 0);
    megabytes as f64 * 8.0 / 1000.0 / elapsed.as_secs_f64()
}

#[tokio::test]
async fn hosts_exchange_traffic_over_tcp() {
    let Some([(left, (_a, a)), (right, (_b, b))]) = hosts([30, 31]) else {
        return;
    };
    let _links = link_over_tcp(&a, &b).await;
    let first = round_trip((&left, 30), (&right, 31));
    let second = round_trip((&left, 30), (&right, 31));
    let rate = transfer((&left, 30), (&right, 31), 200);
    let back = transfer((&right, 31), (&left, 30), 200);
    eprintln!("round trip {first:?}, then {second:?}; {rate:.2} and {back:.2} Gb/s");
}

#[tokio::test]
async fn hosts_exchange_traffic_over_quic() {
    let Some([(left, (_a, a)), (right, (_b, b))]) = hosts([32, 33]) else {
        return;
    };
    let (dialled, _accepted, endpoints) = link_over_quic(&a, &b).await;
    // The endpoints are driven by this runtime, so the blocking part is elsewhere.
    let traffic = tokio::task::spawn_blocking(move || {
        let first = round_trip((&left, 32), (&right, 33));
        let second = round_trip((&left, 32), (&right, 33));
        let rate = transfer((&left, 32), (&right, 33), 50);
        let back = transfer((&right, 33), (&left, 32), 50);
        eprintln!("round trip {first:?}, then {second:?}; {rate:.2} and {back:.2} Gb/s");
    });
    traffic.await.unwrap();
    eprintln!("{:?}", dialled.stats);
    drop(endpoints);
}

#[tokio::test]
async fn identities_come_and_go_with_their_interfaces() {
    let Some([(left, (_a, a)), (right, (_b, b))]) = hosts([34, 35]) else {
        return;
    };
    let _links = link_over_tcp(&a, &b).await;
    let third = Namespace::create().unwrap();
    let interface = || HostInterface::create("extra", Some(&third.path()), address(36)).unwrap();
    let id = a.add_identity(secret(36), Some(interface())).await.unwrap();
    round_trip((&right, 35), (&third, 36));
    round_trip((&left, 34), (&third, 36));
    assert!(matches!(
        a.add_identity(secret(36), None).await,
        Err(EngineError::DuplicateIdentity(_))
    ));
    a.remove_identity(id).await.unwrap();
    until(&b, "the retraction", |s| !has_route(s, subnet(36))).await;
    // The name is free again, and so is the identity.
    a.add_identity(secret(36), Some(interface())).await.unwrap();
    round_trip((&right, 35), (&third, 36));
    assert!(matches!(
        a.remove_identity(IdentityId::NODE).await,
        Err(EngineError::NodeIdentity)
    ));
}

#[tokio::test]
async fn snapshots_are_shared_by_their_readers() {
    let (_engine, engine) = start(40, None);
    let first = engine.snapshot().await;
    assert_eq!(first.control.identities.len(), 1);
    let again = engine.snapshot().await;
    assert!(again.taken.since(first.taken) <= Duration::from_millis(500));
}

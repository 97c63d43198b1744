use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::native::DownReason;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::dialer::QuicState;
use super::*;
use crate::link::native::{NativeDialer, established};
use crate::link::quic::QuicEndpoint;
use crate::link::reset::ResetSecret;
use crate::link::tcp;
use crate::worker::WorkerCommand;

/// Holds links open until told otherwise.
#[derive(Clone, Default)]
struct FakeLinks(Arc<FakeState>);

#[derive(Default)]
struct FakeState {
    next: AtomicU32,
    changes: Mutex<Vec<Change>>,
    open: Mutex<BTreeMap<PeerId, (Established, oneshot::Sender<LinkClosed>)>>,
}

impl FakeLinks {
    fn open(&self) -> usize {
        self.0.open.lock().unwrap().len()
    }

    fn end_all(&self, reason: &str) {
        let open = std::mem::take(&mut *self.0.open.lock().unwrap());
        for (_, (_, closed)) in open {
            let _ = closed.send(LinkClosed {
                reason: reason.to_owned(),
            });
        }
    }
}

impl Links for FakeLinks {
    fn attach(&self, link: Established) -> Attached {
        let peer = PeerId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let (sender, closed) = oneshot::channel();
        self.0.open.lock().unwrap().insert(peer, (link, sender));
        Attached {
            peer,
            stats: Arc::default(),
            closed,
        }
    }

    fn close(&self, peer: PeerId) {
        if let Some((_, closed)) = self.0.open.lock().unwrap().remove(&peer) {
            let _ = closed.send(LinkClosed {
                reason: "closed by us".to_owned(),
            });
        }
    }

    fn network_changed(&self, change: &Change) {
        self.0.changes.lock().unwrap().push(change.clone());
    }
}

fn start(peers: Vec<Endpoint>) -> (FakeLinks, PeerHandle) {
    let links = FakeLinks::default();
    let (sender, quic) = watch::channel(QuicState::Disabled);
    let (manager, handle) = Manager::new(links.clone(), Dialer::new(None, quic), peers);
    tokio::spawn(async move {
        manager.run().await;
        drop(sender);
    });
    (links, handle)
}

async fn listener() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::address(Scheme::Tcp, listener.local_addr().unwrap());
    (listener, endpoint)
}

async fn until(handle: &PeerHandle, what: &str, condition: impl Fn(&Peers) -> bool) -> Peers {
    let wait = async {
        loop {
            let peers = handle.list().await;
            if condition(&peers) {
                return peers;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    match timeout(Duration::from_secs(5), wait).await {
        Ok(peers) => peers,
        Err(_) => panic!("not {what}: {:?}", handle.list().await),
    }
}

fn alive(peers: &Peers) -> bool {
    peers
        .peers
        .iter()
        .all(|peer| peer.connection == Connection::Alive)
}

#[tokio::test]
async fn a_configured_peer_is_dialled_and_redialled() {
    let (listener, endpoint) = listener().await;
    let (links, handle) = start(vec![endpoint.clone()]);
    let _first = listener.accept().await.unwrap();
    let peers = until(&handle, "alive", alive).await;
    assert_eq!(peers.peers[0].endpoint, endpoint);
    links.end_all("end of stream");
    let again = timeout(Duration::from_secs(1), listener.accept()).await;
    again.expect("redialled at once").unwrap();
    until(&handle, "alive again", alive).await;
}

#[tokio::test]
async fn a_refused_peer_is_reached_soon_after_it_starts() {
    let (socket, endpoint) = listener().await;
    let address = socket.local_addr().unwrap();
    drop(socket);
    let (_links, handle) = start(vec![endpoint]);
    let peers = until(&handle, "refused", |peers| {
        peers.peers[0].last_error.is_some()
    })
    .await;
    assert!(
        peers.peers[0]
            .last_error
            .as_deref()
            .unwrap()
            .contains("refused")
    );
    let listener = TcpListener::bind(address).await.unwrap();
    timeout(Duration::from_millis(500), listener.accept())
        .await
        .expect("tried again within half a second")
        .unwrap();
    let peers = until(&handle, "alive", alive).await;
    assert_eq!(peers.peers[0].last_error, None);
}

#[tokio::test]
async fn a_peer_that_hangs_up_at_once_is_not_dialled_ever_faster() {
    let (listener, endpoint) = listener().await;
    let (links, handle) = start(vec![endpoint]);
    let mut dialled = 0;
    let count = async {
        loop {
            drop(listener.accept().await.unwrap());
            until(&handle, "alive", alive).await;
            links.end_all("end of stream");
            dialled += 1;
        }
    };
    assert!(timeout(Duration::from_secs(1), count).await.is_err());
    // 5 + 10 + 20 + 40 + 80 + 100 ms and then 100 ms and more.
    assert!((7..=15).contains(&dialled), "{dialled} times in a second");
}

#[tokio::test]
async fn adding_and_removing_is_exact() {
    let (_listener, endpoint) = listener().await;
    let (links, handle) = start(Vec::new());
    handle.add(endpoint.clone()).await.unwrap();
    assert_eq!(handle.add(endpoint.clone()).await, Err(AddError::Exists));
    until(&handle, "alive", |peers| {
        peers.peers.len() == 1 && alive(peers)
    })
    .await;
    handle.remove(endpoint.clone()).await.unwrap();
    assert_eq!(handle.remove(endpoint).await, Err(RemoveError::Unknown));
    assert_eq!(links.open(), 0);
    assert!(handle.list().await.peers.is_empty());
}

#[tokio::test]
async fn an_inbound_link_from_a_configured_address_leaves_the_configured_peer_alone() {
    let (listener, endpoint) = listener().await;
    let (links, handle) = start(vec![endpoint.clone()]);
    until(&handle, "alive", alive).await;
    let (client, server) = tokio::join!(
        tokio::net::TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let _client = client.unwrap();
    // As QUIC does it: the inbound link comes from the very address that is configured.
    let link = Established {
        transport: Transport::Tcp(server.unwrap().0),
        local: None,
        remote: listener.local_addr().unwrap(),
        info: mycelium_core::io::LinkInfo {
            static_cost: 15,
            setup_rtt: None,
        },
    };
    handle.send(Request::Inbound(Box::new(link))).await;
    let peers = until(&handle, "two entries", |peers| peers.peers.len() == 2).await;
    assert_eq!(peers.peers[0].origin, Origin::Configured);
    assert_eq!(peers.peers[1].origin, Origin::Inbound);
    assert!(alive(&peers));
    links.end_all("end of stream");
    let peers = until(&handle, "back", |peers| {
        peers.peers.len() == 1 && alive(peers)
    })
    .await;
    assert_eq!(
        (&peers.peers[0].endpoint, peers.peers[0].origin),
        (&endpoint, Origin::Configured)
    );
}

#[tokio::test]
async fn inbound_links_of_one_source_are_bounded() {
    let (links, handle) = start(Vec::new());
    let listener = tcp::listen(0, None).unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    for _ in 0..MAX_INBOUND_PER_SOURCE + 10 {
        let to = SocketAddr::from(([127, 0, 0, 1], address.port()));
        let (client, link) =
            tokio::join!(tokio::net::TcpStream::connect(to), tcp::accept(&listener));
        clients.push(client.unwrap());
        handle.send(Request::Inbound(Box::new(link.unwrap()))).await;
    }
    let peers = handle.list().await;
    assert_eq!(peers.peers.len(), MAX_INBOUND_PER_SOURCE);
    assert_eq!(peers.counters.refused_inbound, 10);
    links.end_all("end of stream");
    until(&handle, "empty", |peers| peers.peers.is_empty()).await;
}

#[tokio::test]
async fn an_endpoint_that_is_ourselves_is_not_dialled_again_soon() {
    let (listener, endpoint) = listener().await;
    let (links, handle) = start(vec![endpoint]);
    let _first = listener.accept().await.unwrap();
    until(&handle, "alive", alive).await;
    links.end_all(&CloseReason::Ourselves.to_string());
    let peers = until(&handle, "dead", |peers| !alive(peers)).await;
    assert_eq!(
        peers.peers[0].last_error.as_deref(),
        Some("connected to ourselves")
    );
    assert!(
        timeout(Duration::from_millis(300), listener.accept())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_changed_network_redials_at_once_and_ends_links_of_vanished_addresses() {
    let (listener, endpoint) = listener().await;
    let (_links, handle) = start(vec![endpoint]);
    let _first = listener.accept().await.unwrap();
    until(&handle, "alive", alive).await;
    let change = Change {
        vanished: vec![IpAddr::from([127, 0, 0, 1])],
        ..Change::default()
    };
    handle.send(Request::Network(change)).await;
    timeout(Duration::from_secs(1), listener.accept())
        .await
        .expect("dialled anew")
        .unwrap();
    until(&handle, "alive again", alive).await;
}

#[tokio::test]
async fn a_native_link_outlives_the_address_that_it_was_made_from() {
    let (links, handle) = start(Vec::new());
    let local = IpAddr::from([192, 0, 2, 2]);
    let remote = SocketAddr::from(([192, 0, 2, 1], 9651));
    let key = PublicKey([7; 32]);
    let (inbound, _released) = established(LinkId(7), key, remote, Some(local), None);
    handle.send(Request::Inbound(Box::new(inbound))).await;
    until(&handle, "alive", |peers| peers.peers.len() == 1).await;
    let change = Change {
        vanished: vec![local],
        paths: true,
        ..Change::default()
    };
    handle.send(Request::Network(change.clone())).await;
    assert_eq!(handle.list().await.peers.len(), 1);
    assert_eq!(links.open(), 1);
    assert_eq!(*links.0.changes.lock().unwrap(), [change]);
}

#[tokio::test]
async fn reconfiguring_keeps_what_stays_and_what_was_added_by_hand() {
    let (_first, first) = listener().await;
    let (_second, second) = listener().await;
    let (_third, third) = listener().await;
    let (links, handle) = start(vec![first.clone(), second.clone()]);
    handle.add(third.clone()).await.unwrap();
    until(&handle, "alive", alive).await;
    let before = links.0.next.load(Ordering::Relaxed);
    handle.configure(vec![second.clone()]).await;
    let peers = handle.list().await;
    let endpoints: Vec<_> = peers
        .peers
        .iter()
        .map(|peer| peer.endpoint.clone())
        .collect();
    assert!(
        !endpoints.contains(&first) && endpoints.contains(&second) && endpoints.contains(&third)
    );
    assert_eq!(links.0.next.load(Ordering::Relaxed), before);
    assert_eq!(links.open(), 2);
}

#[tokio::test]
async fn discovered_peers_are_bounded() {
    let (_links, handle) = start(Vec::new());
    for port in 0..1000 {
        // Nobody is there, nor on the way: documentation addresses.
        let address = SocketAddr::from(([192, 0, 2, 1], 1000 + port));
        handle.send(Request::Discovered(address)).await;
    }
    let peers = handle.list().await;
    assert_eq!(peers.peers.len(), MAX_DISCOVERED);
    assert_eq!(
        peers.counters.refused_discovered,
        1000 - MAX_DISCOVERED as u64
    );
}

#[test]
fn a_peer_whose_udp_is_blocked_is_tried_ever_more_slowly() {
    let waits: Vec<_> = (1..=9).map(|n| moved_retry(n).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[tokio::test]
async fn attempts_to_move_a_peer_to_udp_are_made_and_not_shown() {
    let (listener, endpoint) = listener().await;
    let (_links, handle) = start(vec![endpoint.clone()]);
    let _first = listener.accept().await.unwrap();
    let peers = until(&handle, "alive", alive).await;
    let peer = peers.peers[0].link.as_ref().unwrap().peer;
    for _ in 0..3 {
        handle.send(Request::SpeaksNative(peer, 4242)).await;
    }
    let peers = until(&handle, "tried", |peers| {
        peers.counters.attempts_finished == 2
    })
    .await;
    assert_eq!(peers.peers.len(), 1);
    assert_eq!(peers.peers[0].endpoint, endpoint);
    // Of a link that is none of ours nobody believes anything.
    handle.send(Request::SpeaksNative(PeerId(99), 4243)).await;
    assert_eq!(handle.list().await.counters.attempts_started, 2);
}

#[tokio::test]
async fn where_both_dialled_the_link_that_came_about_is_the_configured_peers() {
    let native = LinkId(7);
    let remote = SocketAddr::from(([192, 0, 2, 1], 9651));
    let key = PublicKey([7; 32]);
    let secret = ResetSecret::of(&SecretKey::from_bytes([7; 32]));
    let quic = Arc::new(QuicEndpoint::bind(0, None, &secret).unwrap());
    let (_sender, quic) = watch::channel(QuicState::Ready(quic));
    let (worker, mut commands) = mpsc::channel(1);
    let dialer = Dialer::new(None, quic).with_native(NativeDialer::new(worker));
    let links = FakeLinks::default();
    let configured = Endpoint::address(Scheme::Udp, remote);
    let (manager, handle) = Manager::new(links.clone(), dialer, vec![configured.clone()]);
    tokio::spawn(manager.run());
    let Some(WorkerCommand::DialNative {
        remote: to, reply, ..
    }) = commands.recv().await
    else {
        unreachable!("a native link is dialled");
    };
    assert_eq!(to, remote);
    let (inbound, _released) = established(native, key, remote, None, None);
    handle.send(Request::Inbound(Box::new(inbound))).await;
    let duplicate = DownReason::Duplicate(native);
    reply.send(Err(duplicate.into())).unwrap();
    let peers = until(&handle, "taken over", |peers| {
        peers.peers.len() == 1 && alive(peers)
    })
    .await;
    assert_eq!(peers.peers[0].endpoint, configured);
    assert_eq!(peers.peers[0].origin, Origin::Configured);
    // Its end is that of the configured peer, which is dialled again.
    links.end_all("gone");
    assert!(matches!(
        commands.recv().await,
        Some(WorkerCommand::DialNative { .. })
    ));
}

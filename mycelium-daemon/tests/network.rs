//! What happens below the node: neighbours on the local network, interfaces, addresses and routes that come and go.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod process;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mycelium_api::{ConnectionState, PeerStats, PeerType, Protocol};
use node_integration::{link, named, sysctl};
use process::{Place, Process, path};

/// A change of the network is followed by a link within this.
const SOON: Duration = Duration::from_secs(1);
/// Beacons are sent once a minute: neighbours that link within this heard of each other because one of them, or the interface,
/// was new. On a quiet machine it takes two seconds at most, one of them the kernel's, which notices the carrier of a new
/// interface late and gives it no link-local address before, and one the courtesy of the larger key.
const LONG_BEFORE_THE_NEXT_BEACON: Duration = Duration::from_secs(10);
const SOON_AFTER_CARRIER: Duration = Duration::from_secs(2);

fn after_carrier() -> Duration {
    match std::env::var("MYCELIUM_TEST_STRICT").as_deref() {
        Ok("1") => SOON_AFTER_CARRIER,
        _ => LONG_BEFORE_THE_NEXT_BEACON,
    }
}

fn two_places() -> Option<(Place, Place)> {
    let places = (Place::new()?, Place::new()?);
    for place in [&places.0, &places.1] {
        // Link-local addresses are usable at once.
        sysctl::set(&place.namespace, "ipv6/conf/default/accept_dad", "0").unwrap();
    }
    Some(places)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Join both by interface `name` with `network`.1 and `network`.2.
fn cable(a: &Place, b: &Place, name: &str, network: &str) {
    link::veth(&a.namespace, name, &b.namespace, name).unwrap();
    for (place, host) in [(a, 1), (b, 2)] {
        link::add_address(&place.namespace, name, ip(&format!("{network}.{host}")), 24).unwrap();
        link::up(&place.namespace, name).unwrap();
    }
}

fn start(place: &Place, arguments: &[&str]) -> Process {
    place.start(&[&["--no-tun", "--log-format", "plain"], arguments].concat())
}

fn alive(place: &Place) -> Option<Vec<PeerStats>> {
    let peers = place.ask(|client| client.peers().ok())?;
    let all = !peers.is_empty()
        && peers
            .iter()
            .all(|peer| peer.connection_state == ConnectionState::Alive);
    all.then_some(peers)
}

/// `condition` comes true soon.
fn within<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within_limit(what, SOON, condition)
}

fn within_limit<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let value = process::until(what, condition);
    let elapsed = started.elapsed();
    eprintln!("{what}: {elapsed:?}");
    assert!(elapsed <= limit, "{what} took {elapsed:?}");
    value
}

#[test]
fn neighbours_find_each_other_and_keep_one_link() {
    let Some((a, b)) = two_places() else { return };
    cable(&a, &b, "lan", "10.1.0");
    let _a = start(&a, &[]);
    a.until("A", |client| client.status().ok());
    let _b = start(&b, &[]);
    b.until("B", |client| client.status().ok());
    // One stream; beside it the native link that the two move to, whenever that comes.
    let streams = |place: &Place| {
        let mut peers = place.ask(|client| client.peers()).unwrap();
        peers.retain(|peer| peer.endpoint.proto != Protocol::Udp);
        peers
    };
    let is_alive = |peer: &PeerStats| peer.connection_state == ConnectionState::Alive;
    // The one with the larger key waits a second for the other, which hears of it at once.
    let (at_a, at_b) = within_limit("link", after_carrier(), || {
        let both = (streams(&a), streams(&b));
        let linked = |peers: &[PeerStats]| !peers.is_empty() && peers.iter().all(is_alive);
        (linked(&both.0) && linked(&both.1)).then_some(both)
    });
    std::thread::sleep(Duration::from_millis(1500));
    let lists = [at_a, at_b, streams(&a), streams(&b)];
    assert_eq!(lists.each_ref().map(Vec::len), [1; 4], "{lists:?}");
    assert!(lists.iter().flatten().all(is_alive), "{lists:?}");
    let [at_a, at_b, ..] = lists;
    let kinds = [at_a[0].peer_type, at_b[0].peer_type];
    assert!(kinds.contains(&PeerType::LinkLocalDiscovery) && kinds.contains(&PeerType::Inbound));
}

#[test]
fn discovery_keeps_to_its_interfaces() {
    let Some((a, b)) = two_places() else { return };
    cable(&a, &b, "lan", "10.1.0");
    let _a = start(&a, &["--peer-discovery-interface", "other"]);
    a.until("A", |client| client.status().ok());
    let _b = start(&b, &[]);
    b.until("B", |client| client.status().ok());
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(a.ask(|client| client.peers()).unwrap(), []);
    assert_eq!(b.ask(|client| client.peers()).unwrap(), []);
}

#[test]
fn a_new_interface_brings_neighbours_at_once() {
    let Some((a, b)) = two_places() else { return };
    let _a = start(&a, &[]);
    let _b = start(&b, &[]);
    for place in [&a, &b] {
        place.until("node", |client| client.status().ok());
    }
    cable(&a, &b, "lan", "10.1.0");
    within_limit("link over the new interface", after_carrier(), || {
        Some((alive(&a)?, alive(&b)?))
    });
}

#[test]
fn an_interface_that_comes_up_is_dialled_over_at_once() {
    let Some((a, b)) = two_places() else { return };
    cable(&a, &b, "wan", "10.1.0");
    link::down(&a.namespace, "wan").unwrap();
    let peers = [
        "--disable-peer-discovery",
        "--peers",
        "tcp://10.1.0.2:9651",
        "quic://10.1.0.2:9651",
    ];
    let _a = start(&a, &peers);
    let _b = start(&b, &["--disable-peer-discovery"]);
    b.until("B", |client| client.status().ok());
    // Long enough for the back-off to grow.
    std::thread::sleep(Duration::from_secs(2));
    assert!(alive(&a).is_none());
    link::up(&a.namespace, "wan").unwrap();
    within("link after the interface came up", || alive(&a));
}

#[test]
fn a_link_whose_address_vanishes_moves_to_another() {
    let Some((a, b)) = two_places() else { return };
    cable(&a, &b, "wan", "10.1.0");
    let second = ip("10.1.0.9");
    sysctl::set(&a.namespace, "ipv4/conf/wan/promote_secondaries", "1").unwrap();
    link::add_address(&a.namespace, "wan", second, 24).unwrap();
    let _b = start(&b, &["--disable-peer-discovery"]);
    let _a = start(
        &a,
        &["--disable-peer-discovery", "--peers", "tcp://10.1.0.2:9651"],
    );
    let local = |place: &Place| alive(place)?[0].details.local_address.clone();
    let before = a.until("link", |_| local(&a));
    assert!(before.starts_with("10.1.0.1:"), "{before}");
    link::remove_address(&a.namespace, "wan", ip("10.1.0.1"), 24).unwrap();
    within("link from the other address", || {
        local(&a).filter(|local| local.starts_with("10.1.0.9:"))
    });
}

#[test]
fn a_new_default_route_is_followed() {
    let Some((a, b)) = two_places() else { return };
    cable(&a, &b, "wifi", "10.1.0");
    cable(&a, &b, "wire", "10.2.0");
    link::add_address(&b.namespace, "lo", ip("192.0.2.1"), 32).unwrap();
    let everywhere = ip("0.0.0.0");
    link::add_route(&a.namespace, everywhere, 0, Some(ip("10.1.0.2")), "wifi").unwrap();
    let _b = start(&b, &["--disable-peer-discovery"]);
    let _a = start(
        &a,
        &[
            "--disable-peer-discovery",
            "--peers",
            "tcp://192.0.2.1:9651",
        ],
    );
    let local = |place: &Place| alive(place)?[0].details.local_address.clone();
    let before = a.until("link", |_| local(&a));
    assert!(before.starts_with("10.1.0.1:"), "{before}");
    link::remove_route(&a.namespace, everywhere, 0, Some(ip("10.1.0.2")), "wifi").unwrap();
    link::add_route(&a.namespace, everywhere, 0, Some(ip("10.2.0.2")), "wire").unwrap();
    within("link over the new default route", || {
        local(&a).filter(|local| local.starts_with("10.2.0.1:"))
    });
}

#[test]
fn whoever_starts_first_the_link_comes_soon() {
    let Some((a, b)) = two_places() else { return };
    cable(&a, &b, "wan", "10.1.0");
    let _a = start(
        &a,
        &["--disable-peer-discovery", "--peers", "tcp://10.1.0.2:9651"],
    );
    a.until("A", |client| client.status().ok());
    std::thread::sleep(Duration::from_secs(2));
    let mut b_node = start(&b, &["--disable-peer-discovery"]);
    within("link to a node that starts late", || alive(&a));
    for _ in 0..3 {
        b_node.signal(rustix::process::Signal::TERM);
        assert_eq!(b_node.wait().code(), Some(0));
        b_node = start(&b, &["--disable-peer-discovery"]);
        within("link to a node that restarts", || alive(&a));
    }
}

#[test]
fn what_happens_to_the_interface_is_shown_and_repaired() {
    let Some(place) = Place::new() else { return };
    let _node = place.start(&["--tun-name", "ours", "--disable-peer-discovery"]);
    let address = place.until("node", |client| client.status().ok()).address;
    let ip = |arguments: &[&str]| {
        let mut command = std::process::Command::new("ip");
        command.args(arguments);
        let status = place.namespace.spawn(&mut command).unwrap().wait().unwrap();
        assert!(status.success(), "ip {arguments:?}: {status}");
    };
    // Bound only while the interface has it.
    let has_address = || {
        let bound = place
            .namespace
            .run(|| std::net::UdpSocket::bind((address, 0)).is_ok());
        bound.unwrap().then_some(())
    };
    let healthy = || place.warnings().is_empty().then_some(());
    let warned = |code: &str| place.warnings().contains(&code.to_owned()).then_some(());
    // The guard looks at most once a second.
    let limit = Duration::from_millis(2500);
    within_limit("address", limit, has_address);

    ip(&["addr", "del", &format!("{address}/7"), "dev", "ours"]);
    within_limit("address given back", limit, has_address);
    ip(&["link", "set", "ours", "down"]);
    within_limit("down is shown", limit, || warned("tun-down"));
    ip(&["addr", "flush", "dev", "ours"]);
    ip(&["link", "set", "ours", "up"]);
    within_limit("usable after up", limit, || healthy().and(has_address()));
    ip(&["link", "set", "ours", "down"]);
    ip(&["link", "set", "ours", "name", "theirs"]);
    ip(&["link", "set", "theirs", "up"]);
    within_limit("another name is shown", limit, || warned("tun-renamed"));
    ip(&["link", "del", "theirs"]);
    within_limit("made anew", limit, || healthy().and(has_address()));
    // Its name is taken at once: it cannot be made.
    ip(&["link", "set", "ours", "down"]);
    ip(&["link", "set", "ours", "name", "theirs"]);
    link::veth(&place.namespace, "ours", &place.namespace, "other").unwrap();
    ip(&["link", "del", "theirs"]);
    within_limit("gone is shown", limit, || warned("tun-gone"));
    assert!(place.ask(|client| client.status()).unwrap().tun.is_none());
    ip(&["link", "del", "ours"]);
    within_limit("made anew later", Duration::from_secs(6), || {
        healthy().and(has_address())
    });
}

#[test]
fn dialling_ourselves_is_noticed_over_either_transport() {
    let Some(place) = Place::new() else { return };
    let own = [
        "tcp://127.0.0.1:9651",
        "tcp://[::1]:9651",
        "quic://127.0.0.1:9651",
        "quic://127.0.0.2:9651",
        "quic://[::1]:9651",
    ];
    let arguments = [&["--disable-peer-discovery", "--peers"], &own[..]].concat();
    let node = start(&place, &arguments);
    within_limit("all noticed", Duration::from_secs(3), || {
        let warnings = place.warnings();
        let noticed = warnings.iter().filter(|code| *code == "peer-is-ourselves");
        (noticed.count() == own.len()).then_some(())
    });
    std::thread::sleep(Duration::from_millis(1500));
    let log = node.stdout();
    let connected = log.lines().filter(|line| line.contains("msg=connected "));
    assert_eq!(connected.count(), own.len(), "{log}");
}

#[test]
fn a_copied_key_is_shown_while_its_other_holder_is_linked() {
    let Some((a, b)) = two_places() else { return };
    cable(&a, &b, "wan", "10.1.0");
    let start_with_key = |place: &Place, peers: &[&str]| {
        let key = place.file("key", [7; 32]);
        let key = ["--disable-peer-discovery", "--key-file", path(&key)];
        start(place, &[&key, peers].concat())
    };
    let _a = start_with_key(&a, &["--peers", "tcp://10.1.0.2:9651"]);
    let mut b_node = start_with_key(&b, &[]);
    let is_shown = |place: &Place| {
        let warnings = place.warnings();
        warnings.contains(&"duplicate-identity".to_owned())
    };
    within_limit("shown", Duration::from_secs(3), || {
        (is_shown(&a) && is_shown(&b)).then_some(())
    });
    b_node.signal(rustix::process::Signal::TERM);
    b_node.wait();
    within("over", || (!is_shown(&a)).then_some(()));
}

#[test]
fn packets_longer_than_ours_may_be_are_answered_whoever_raised_the_interface() {
    let Some(place) = Place::new() else { return };
    let _node = place.start(&["--tun-name", "ours", "--disable-peer-discovery"]);
    let address = place.until("node", |client| client.status().ok()).address;
    link::set_mtu(&place.namespace, "ours", 9000).unwrap();
    let path_mtu = |destination: &str, length: usize| {
        let ask = || {
            let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
            socket.connect((ip(destination), 9)).unwrap();
            let before = rustix::net::sockopt::ipv6_mtu(&socket).unwrap();
            assert_eq!(before, 9000);
            socket.send(&vec![0; length]).unwrap();
            process::until("Packet Too Big", || {
                (rustix::net::sockopt::ipv6_mtu(&socket).unwrap() < before).then_some(())
            });
            rustix::net::sockopt::ipv6_mtu(&socket).unwrap()
        };
        place.namespace.run(ask).unwrap()
    };
    for (destination, length) in [("400::1", 1400), ("400::2", 1460), ("400::3", 8000)] {
        assert_eq!(path_mtu(destination, length), 1400, "{length}");
    }
}

#[test]
fn an_identity_starts_when_its_namespace_comes_and_follows_it() {
    let Some(place) = Place::new() else { return };
    let name = format!("mycelium-test-{}", std::process::id());
    let config = place.file(
        "identities.toml",
        format!("[[identities]]\nname = \"web\"\nkey_file = \"web.bin\"\ntun_name = \"web0\"\nnetns = \"{name}\"\n"),
    );
    let _node = place.start(&["-c", path(&config), "--no-tun", "--disable-peer-discovery"]);
    process::until("warning", || {
        (place.warnings() == ["identity-not-started"]).then_some(())
    });
    let limit = Duration::from_millis(2500);
    let has_interface = |namespace: &node_integration::Namespace| {
        let names = link::names(namespace).unwrap();
        (names.contains(&"web0".to_owned()) && place.warnings().is_empty()).then_some(())
    };
    let first = named::create(&name).unwrap();
    within_limit("interface", limit, || has_interface(&first));
    named::delete(&name).unwrap();
    within_limit("loss is shown", limit, || {
        (place.warnings() == ["identity-netns-gone"]).then_some(())
    });
    let second = named::create(&name).unwrap();
    within_limit("interface made anew", limit, || has_interface(&second));
    named::delete(&name).unwrap();
}

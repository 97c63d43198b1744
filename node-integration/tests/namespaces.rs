//! Namespaces, interfaces, addresses and routes in the kernel. They need CAP_SYS_ADMIN; without it each says so.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use node_integration::{Error, Namespace, link, named, sysctl, userns};

/// A namespace with its loopback up, or `None` with a word about why not.
fn namespace() -> Option<Namespace> {
    match Namespace::create() {
        Ok(namespace) => {
            link::up(&namespace, link::LOOPBACK).unwrap();
            Some(namespace)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            eprintln!("cannot run: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Send a line from one namespace to an address in another.
fn converse(from: &Namespace, to: &Namespace, at: IpAddr) {
    let listener = to.run(|| TcpListener::bind((at, 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    // The kernel gives up after it asked for a neighbour three times, and a new port of a bridge may lose as many.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut sender = loop {
        match from.run(|| TcpStream::connect((at, port))).unwrap() {
            Ok(sender) => break sender,
            Err(error)
                if error.kind() == ErrorKind::HostUnreachable && Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    };
    let (mut receiver, _) = listener.accept().unwrap();
    sender.write_all(b"hello").unwrap();
    let mut text = [0; 5];
    receiver.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[test]
fn a_veth_pair_joins_two_namespaces() {
    let (Some(left), Some(right)) = (namespace(), namespace()) else {
        return;
    };
    // The same name on both sides, which only works when the peer is born in its namespace.
    link::veth(&left, "eth0", &right, "eth0").unwrap();
    for (namespace, v4, v6) in [
        (&left, "10.0.0.1", "fd00::1"),
        (&right, "10.0.0.2", "fd00::2"),
    ] {
        link::add_address(namespace, "eth0", address(v4), 24).unwrap();
        link::add_address(namespace, "eth0", address(v6), 64).unwrap();
        link::up(namespace, "eth0").unwrap();
    }
    for namespace in [&left, &right] {
        link::wait_until_usable(namespace, "eth0", Duration::from_secs(3)).unwrap();
        link::wait_until_usable(namespace, "lo", Duration::ZERO).unwrap();
    }
    converse(&left, &right, address("10.0.0.2"));
    converse(&left, &right, address("fd00::2"));
    let found = link::addresses(&left, "eth0").unwrap();
    assert!(found.contains(&(address("10.0.0.1"), 24)), "{found:?}");
    assert!(found.contains(&(address("fd00::1"), 64)), "{found:?}");

    link::veth(&left, "eth1", &right, "eth1").unwrap();
    link::up(&left, "eth1").unwrap();
    let waited = link::wait_until_usable(&left, "eth1", Duration::from_millis(1));
    assert_eq!(
        waited.unwrap_err().kind(),
        ErrorKind::TimedOut,
        "its peer is down"
    );
    link::delete(&left, "eth1").unwrap();

    link::remove_address(&left, "eth0", address("10.0.0.1"), 24).unwrap();
    assert!(
        !link::addresses(&left, "eth0")
            .unwrap()
            .contains(&(address("10.0.0.1"), 24))
    );
    link::delete(&left, "eth0").unwrap();
    assert_eq!(link::names(&right).unwrap(), ["lo"], "both ends go");
}

#[test]
fn a_bridge_joins_three_namespaces_and_routes_lead_through_a_router() {
    let Some(switch) = namespace() else { return };
    link::bridge(&switch, "br0").unwrap();
    let hosts: Vec<Namespace> = (0..3).map(|_| namespace().unwrap()).collect();
    for (number, host) in hosts.iter().enumerate() {
        let port = format!("port{number}");
        link::veth(&switch, &port, host, "eth0").unwrap();
        link::attach(&switch, "br0", &port).unwrap();
        link::up(&switch, &port).unwrap();
        link::up(host, "eth0").unwrap();
    }
    let [left, router, right] = hosts.as_slice() else {
        unreachable!()
    };
    link::add_address(left, "eth0", address("fd01::1"), 64).unwrap();
    link::add_address(router, "eth0", address("fd01::2"), 64).unwrap();
    link::add_address(router, "eth0", address("fd02::2"), 64).unwrap();
    link::add_address(right, "eth0", address("fd02::1"), 64).unwrap();
    converse(left, router, address("fd01::2"));

    sysctl::forwarding(router, true).unwrap();
    link::add_route(
        left,
        address("fd02::"),
        64,
        Some(address("fd01::2")),
        "eth0",
    )
    .unwrap();
    link::add_route(
        right,
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        0,
        Some(address("fd02::2")),
        "eth0",
    )
    .unwrap();
    converse(left, right, address("fd02::1"));

    link::remove_route(
        left,
        address("fd02::"),
        64,
        Some(address("fd01::2")),
        "eth0",
    )
    .unwrap();
    let lost = left
        .run(|| UdpSocket::bind("[::]:0")?.connect("[fd02::1]:9"))
        .unwrap()
        .unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::NetworkUnreachable);

    link::detach(&switch, "port0").unwrap();
    link::set_mtu(&switch, "port0", 1280).unwrap();
    link::down(&switch, "port0").unwrap();
    link::rename(&switch, "port0", "spare").unwrap();
    let elsewhere = namespace().unwrap();
    link::move_to(&switch, "spare", &elsewhere).unwrap();
    assert!(link::index(&elsewhere, "spare").unwrap().is_some());
    assert!(link::index(&switch, "spare").unwrap().is_none());
}

#[test]
fn mistakes_are_named() {
    let Some(one) = namespace() else { return };
    assert!(matches!(
        link::up(&one, "eth7"),
        Err(Error::NoSuchInterface { .. })
    ));
    assert!(matches!(
        link::bridge(&one, "far-too-long-name"),
        Err(Error::BadName { .. })
    ));
    link::bridge(&one, "br0").unwrap();
    assert!(matches!(
        link::bridge(&one, "br0"),
        Err(Error::Exists { .. })
    ));
    assert!(matches!(
        sysctl::set(&one, "ipv6/nothing", "1"),
        Err(Error::NoSuchSetting { .. })
    ));
    assert!(matches!(
        sysctl::get(&one, "../kernel/hostname"),
        Err(Error::BadName { .. })
    ));
    assert!(matches!(
        named::open("no-such-name-here"),
        Err(Error::NoSuchNamespace { .. })
    ));
    assert!(matches!(
        named::path("../escape"),
        Err(Error::BadName { .. })
    ));
    assert!(
        Namespace::open("/proc/self/ns/mnt").is_err(),
        "a mount namespace is no network namespace"
    );
    assert!(Namespace::open("/proc/self/status").is_err());
}

#[test]
fn settings_belong_to_one_namespace() {
    let (Some(one), Some(other)) = (namespace(), namespace()) else {
        return;
    };
    sysctl::disable_ipv6(&one, true).unwrap();
    assert_eq!(
        sysctl::get(&one, "ipv6/conf/all/disable_ipv6").unwrap(),
        "1"
    );
    assert_eq!(
        sysctl::get(&other, "ipv6/conf/all/disable_ipv6").unwrap(),
        "0"
    );
}

#[test]
fn a_child_starts_inside_and_the_path_leads_there() {
    let Some(one) = namespace() else { return };
    let shown = |program: &mut Command| {
        let output = one
            .spawn(program.stdout(Stdio::piped()))
            .unwrap()
            .wait_with_output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let inside = shown(Command::new("readlink").arg("/proc/self/ns/net"));
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert!(inside.starts_with("net:["));
    assert_ne!(
        inside.trim(),
        here.to_str().unwrap(),
        "the caller has not moved"
    );
    let again = Namespace::open(one.path()).unwrap();
    link::bridge(&again, "br0").unwrap();
    assert!(link::index(&one, "br0").unwrap().is_some());
}

#[test]
fn a_panic_inside_is_the_callers() {
    let Some(one) = namespace() else { return };
    let outcome = std::panic::catch_unwind(|| one.run(|| panic!("inside")));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"inside"));
}

#[test]
fn names_come_and_go() {
    if namespace().is_none() {
        return;
    }
    // In mounts of this thread's own, so that the machine's /run stays as it is.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    userns::make_mounts_private().unwrap();
    mount(
        Some("run"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let name = format!("node-integration-test-{}", std::process::id());
    let created = named::create(&name).unwrap();
    link::bridge(&created, "br0").unwrap();
    drop(created);
    assert!(matches!(named::create(&name), Err(Error::Exists { .. })));
    assert!(named::list().unwrap().contains(&name));
    assert!(
        link::index(&named::open(&name).unwrap(), "br0")
            .unwrap()
            .is_some(),
        "the name keeps it alive"
    );
    named::delete(&name).unwrap();
    assert!(matches!(
        named::delete(&name),
        Err(Error::NoSuchNamespace { .. })
    ));
    assert!(!named::list().unwrap().contains(&name));
}

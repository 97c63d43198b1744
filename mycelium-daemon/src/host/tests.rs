use std::time::{Duration, Instant};

use node_integration::Namespace;

use super::*;

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x400, 1, 2, 3, 4, 5, 6, 7);

/// A fresh network namespace; `None`, with a note, where that is not allowed.
fn namespace() -> Option<Namespace> {
    Namespace::create()
        .inspect_err(|error| eprintln!("skipped: no network namespace: {error}"))
        .ok()
}

#[test]
fn an_interface_is_created_fast_and_usable_at_once() {
    let Some(namespace) = namespace() else {
        return;
    };
    namespace
        .run(|| {
            let started = Instant::now();
            let host = HostInterface::create("ours", None, ADDRESS).unwrap();
            let took = started.elapsed();
            assert_eq!(host.name(), "ours");
            // Bound and not tentative: a tentative address cannot be bound.
            std::net::UdpSocket::bind((ADDRESS, 0)).unwrap();
            let mtu = host.device.mtu().unwrap();
            assert_eq!(mtu, MTU);
            assert!(took < Duration::from_millis(200), "creation took {took:?}");
            eprintln!("created in {took:?}");
        })
        .unwrap();
}

#[test]
fn a_taken_name_says_so() {
    let Some(namespace) = namespace() else {
        return;
    };
    namespace
        .run(|| {
            let _first = HostInterface::create("ours", None, ADDRESS).unwrap();
            for name in ["ours", "lo"] {
                let error = HostInterface::create(name, None, ADDRESS).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{name}: {error}");
                assert!(error.to_string().contains("exists already"), "{error}");
            }
        })
        .unwrap();
}

#[test]
fn a_bad_name_says_so() {
    for name in ["", "a/b", "sixteen-bytes-xx", "white space", ".."] {
        let error = HostInterface::create(name, None, ADDRESS).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
}

#[test]
fn a_missing_namespace_says_so() {
    let path = Path::new("/nonexistent/namespace");
    let error = HostInterface::create("ours", Some(path), ADDRESS).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(
        error.to_string().contains("/nonexistent/namespace"),
        "{error}"
    );
}

#[test]
fn an_interface_can_live_in_another_namespace() {
    let Some(namespace) = namespace() else {
        return;
    };
    let _host = HostInterface::create("ours", Some(&namespace.path()), ADDRESS).unwrap();
    assert!(std::net::UdpSocket::bind((ADDRESS, 0)).is_err());
    namespace
        .run(|| std::net::UdpSocket::bind((ADDRESS, 0)).map(drop))
        .unwrap()
        .unwrap();
}

#[test]
fn what_is_no_namespace_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [fifo.as_path(), Path::new("/dev/zero"), directory.path()] {
        let error = HostInterface::create("ours", Some(path), ADDRESS).unwrap_err();
        assert!(error.to_string().contains("cannot enter"), "{error}");
    }
}

#[test]
fn a_closed_device_is_named_with_its_mode() {
    let error: io::Error = HostError::DeviceClosed {
        name: "ours".to_owned(),
        mode: 0o600,
        owner: 0,
    }
    .into();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(
        error.to_string().contains("/dev/net/tun has mode 0600"),
        "{error}"
    );
}

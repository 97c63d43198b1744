//! What a person can do wrong at the start: one clear line, the exit code of mycelium 0.7.10, and no failure where it
//! does not fail, only a warning in `status`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod process;

use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;

use process::{Place, path};

#[test]
fn a_bad_peer_is_named() {
    let Some(place) = Place::new() else { return };
    for (peer, reason) in [
        ("192.0.2.1:9651", "missing leading protocol"),
        ("sctp://192.0.2.1:9651", "unsupported protocol"),
        ("tls://192.0.2.1:9651", "not supported yet"),
        ("tcp://192.0.2.1", "has no port"),
        ("tcp://[451::1]:9651", "inside 400::/7"),
    ] {
        place
            .start(&["--peers", peer])
            .fails(2, &["--peers", peer, reason]);
        let config = place.file("bad.toml", format!("peers = [\"{peer}\"]"));
        place
            .start(&["-c", path(&config)])
            .fails(1, &["bad.toml", "peers", peer, reason]);
    }
}

#[test]
fn a_flag_without_its_feature_is_named() {
    let Some(place) = Place::new() else { return };
    place
        .start(&["--enable-dns"])
        .fails(2, &["--enable-dns", "yet"]);
    place
        .start(&["--update-workers", "255"])
        .fails(2, &["--update-workers", "254"]);
}

#[test]
fn a_bad_configuration_names_file_key_and_remedy() {
    let Some(place) = Place::new() else { return };
    place
        .start(&["-c", "missing.toml"])
        .fails(1, &["missing.toml", "there is no"]);
    let config = place.file("a.toml", "tcp_listen_port = 123456");
    place
        .start(&["-c", path(&config)])
        .fails(1, &["a.toml", "tcp_listen_port = 123456", "0 to 65535"]);
    let config = place.file("b.toml", "no_tun = true\npeers = [\n");
    place.start(&["-c", path(&config)]).fails(1, &["b.toml:"]);
    place
        .start_with(&["--no-tun"], ("RUST_LOG", "a=b=c"))
        .fails(1, &["RUST_LOG", "a=b=c"]);
}

#[test]
fn an_unknown_key_is_a_warning() {
    let Some(place) = Place::new() else { return };
    let config = place.file(
        "a.toml",
        "no_tun = true\ntpc_listen_port = 1\nenable_dns = true",
    );
    let mut node = place.start(&["-c", path(&config)]);
    let warnings = place.warnings();
    assert!(
        warnings.contains(&"config-key-unknown".to_owned()),
        "{warnings:?}"
    );
    assert!(
        warnings.contains(&"config-key-not-supported".to_owned()),
        "{warnings:?}"
    );
    assert!(node.is_running());
}

#[test]
fn a_short_or_unreadable_key_is_named() {
    let Some(place) = Place::new() else { return };
    let short = place.file("short.bin", [1; 31]);
    place
        .start(&["-k", path(&short), "--no-tun"])
        .fails(1, &["short.bin", "31 bytes"]);
    let key = place.file("closed.bin", [1; 32]);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    place
        .start_as_nobody(&["-k", path(&key), "--no-tun"])
        .fails(1, &["closed.bin", "cannot read", "ermission denied"]);
    place
        .start(&["-k", "/nonexistent/key.bin", "--no-tun"])
        .fails(1, &["/nonexistent/key.bin", "cannot write"]);
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    let Some(place) = Place::new() else { return };
    let key = place.file("open.bin", [1; 32]);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let _node = place.start(&["-k", path(&key), "--no-tun"]);
    assert_eq!(place.warnings(), ["key-file-exposed"]);
}

#[test]
fn a_created_key_is_private_and_no_warning() {
    let Some(place) = Place::new() else { return };
    let _node = place.start(&["--no-tun"]);
    assert!(place.warnings().is_empty());
    let key = place.directory.path().join("data/mycelium/priv_key.bin");
    let metadata = std::fs::metadata(key).unwrap();
    assert_eq!(
        (metadata.len(), metadata.permissions().mode() & 0o7777),
        (32, 0o600)
    );
}

#[test]
fn a_busy_tcp_port_is_a_warning_until_it_is_free() {
    let Some(place) = Place::new() else { return };
    let owner = place
        .namespace
        .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 9651)).unwrap())
        .unwrap();
    let _node = place.start(&["--no-tun"]);
    assert_eq!(place.warnings(), ["tcp-port-unusable"]);
    drop(owner);
    place.until("listener", |client| {
        let status = client.status().ok()?;
        status.health.warnings.is_empty().then_some(())
    });
}

#[test]
fn a_busy_quic_port_is_fatal() {
    let Some(place) = Place::new() else { return };
    let _owner = place
        .namespace
        .run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 9651)).unwrap())
        .unwrap();
    place
        .start(&["--no-tun"])
        .fails(1, &["UDP port 9651", "--quic-listen-port"]);
    let mut without = place.start(&["--no-tun", "--disable-quic"]);
    assert!(place.warnings().is_empty());
    assert!(without.is_running());
}

#[test]
fn a_busy_api_address_is_a_warning() {
    let Some(place) = Place::new() else { return };
    let _owner = place
        .namespace
        .run(|| TcpListener::bind("127.0.0.1:8989").unwrap())
        .unwrap();
    let mut node = place.start(&["--no-tun"]);
    process::until("warning", || {
        node.stdout().contains("--api-addr").then_some(())
    });
    assert!(node.is_running());
}

#[test]
fn a_busy_discovery_port_is_a_warning() {
    let Some(place) = Place::new() else { return };
    let _owner = place
        .namespace
        .run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 9650)).unwrap())
        .unwrap();
    let _node = place.start(&["--no-tun"]);
    place.until("warning", |client| {
        let warnings = client.status().ok()?.health.warnings;
        (warnings.len() == 1 && warnings[0].code == "discovery-unusable").then_some(())
    });
}

#[test]
fn a_taken_interface_name_is_named() {
    let Some(place) = Place::new() else { return };
    let _first = place.start(&[]);
    place.until("first node", |client| client.status().ok());
    place
        .start(&[
            "-t",
            "1",
            "-q",
            "1",
            "--api-addr",
            "127.0.0.1:1",
            "-k",
            "other.bin",
        ])
        .fails(1, &["mycelium exists already", "--tun-name"]);
    place
        .start(&["--tun-name", "a name that is too long"])
        .fails(1, &["a name that is too long", "interface name"]);
}

#[test]
fn missing_privilege_is_named() {
    let Some(place) = Place::new() else { return };
    let key = place.file("key.bin", [1; 32]);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    place
        .start_as_nobody(&["-k", path(&key)])
        .fails(1, &["no permission", "CAP_NET_ADMIN", "--no-tun"]);
    // Which of the two is missing depends on the machine.
    let mode = std::fs::metadata("/dev/net/tun")
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o006 != 0o006 {
        let mode = format!("/dev/net/tun has mode {mode:04o}");
        place
            .start_as_nobody(&["-k", path(&key)])
            .fails(1, &[&mode]);
    }
}

#[test]
fn a_missing_privilege_for_the_mark_is_not_blamed_on_a_port() {
    let Some(place) = Place::new() else { return };
    let key = place.file("key.bin", [1; 32]);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let key = path(&key);
    place
        .start_as_nobody(&["-k", key, "--no-tun", "--firewall-mark", "7"])
        .fails(1, &["firewall mark 7", "CAP_NET_ADMIN"]);
    place
        .start_as_nobody(&["-k", key, "--no-tun", "--quic-listen-port", "443"])
        .fails(1, &["UDP port 443", "CAP_NET_BIND_SERVICE", "above 1023"]);
}

#[test]
fn a_peer_that_is_ourselves_is_a_warning() {
    let Some(place) = Place::new() else { return };
    let _node = place.start(&["--no-tun", "--peers", "tcp://127.0.0.1:9651"]);
    place.until("warning", |client| {
        let warnings = client.status().ok()?.health.warnings;
        warnings
            .iter()
            .any(|warning| warning.code == "peer-is-ourselves")
            .then_some(())
    });
}

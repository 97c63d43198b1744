//! What a user sees of sessions: the API, the warnings, pins that outlive a restart, and files that are wrong.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod process;

use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mycelium_api::{Session, SessionProtocol};
use node_integration::{link, sysctl};
use process::{Place, Process, path, until};

const DISCOVERY_OFF: &str = "--disable-peer-discovery";

/// Two places with a cable, .1 and .2.
fn two_places() -> Option<(Place, Place)> {
    let (a, b) = (Place::new()?, Place::new()?);
    for place in [&a, &b] {
        sysctl::set(&place.namespace, "ipv6/conf/default/accept_dad", "0").unwrap();
    }
    link::veth(&a.namespace, "wire", &b.namespace, "wire").unwrap();
    for (place, address) in [(&a, "10.9.0.1"), (&b, "10.9.0.2")] {
        let address: IpAddr = address.parse().unwrap();
        link::add_address(&place.namespace, "wire", address, 24).unwrap();
        link::up(&place.namespace, "wire").unwrap();
    }
    Some((a, b))
}

/// Send to the other node until there is one session, and it is as wanted.
fn session_when(
    from: &Place,
    to: &Place,
    what: &str,
    wanted: impl Fn(&Session) -> bool,
) -> Session {
    let address = |place: &Place| place.until("node", |client| client.status().ok()).address;
    let (source, destination) = (address(from), address(to));
    until(what, || {
        let send = || {
            let socket = UdpSocket::bind((source, 0))?;
            socket.send_to(b"hello", (destination, 9))
        };
        // In vain while there is no interface or route.
        let _ = from.namespace.run(send).unwrap();
        let mut sessions = from.ask(|client| client.sessions().ok())?;
        let session = sessions.pop()?;
        (sessions.is_empty() && session.address == destination && wanted(&session))
            .then_some(session)
    })
}

fn warnings(place: &Place) -> Vec<String> {
    place.warnings()
}

#[test]
fn a_session_is_shown_and_its_pin_outlives_the_process() {
    let Some((a, b)) = two_places() else { return };
    let state = a.directory.path().join("state");
    let arguments = [
        DISCOVERY_OFF,
        "--state-dir",
        path(&state),
        "--peers",
        "tcp://10.9.0.2:9651",
    ];
    let start_b = || -> Process { b.start(&[DISCOVERY_OFF]) };
    let _b = start_b();
    let mut node = a.start(&arguments);
    let session = session_when(&a, &b, "session", |session| {
        session.protocol == SessionProtocol::V2 && session.pinned && session.tx_packets > 0
    });
    assert!(session.hybrid && session.suite.is_some() && session.age.is_some());
    assert_eq!((session.identity, session.rekeys), (0, 0));
    let counts = a.ask(|client| client.status()).unwrap().sessions.unwrap();
    assert_eq!((counts.v2, counts.v1, counts.pins), (1, 0, 1));
    assert!(warnings(&a).is_empty(), "{:?}", warnings(&a));

    // On leaving, what there is is kept.
    node.signal(rustix::process::Signal::TERM);
    assert!(node.wait().success());
    let file = state.join("pins");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));
    node = a.start(&arguments);
    let pins = |place: &Place| {
        let status = place.until("status", |client| client.status().ok());
        status.sessions.unwrap().pins
    };
    assert_eq!(pins(&a), 1);

    // Its owner went back: that must be said, and is kept too.
    let address = session.address;
    a.ask(|client| client.forget_session(address)).unwrap();
    assert_eq!(pins(&a), 0);
    let again = a.ask(|client| client.forget_session(address)).unwrap_err();
    assert!(again.to_string().contains("not held to"), "{again}");
    let foreign = "2001:db8::1".parse().unwrap();
    let refused = a.ask(|client| client.forget_session(foreign)).unwrap_err();
    assert!(
        refused.to_string().contains("no overlay address"),
        "{refused}"
    );
    drop(node);

    std::fs::write(&file, "mycelium pins 1\nnonsense\n").unwrap();
    let _node = a.start(&arguments);
    assert!(warnings(&a).contains(&"pins-not-read".to_owned()));
    assert_eq!(pins(&a), 0);
}

#[test]
fn traffic_without_sessions_is_a_warning() {
    let Some((a, b)) = two_places() else { return };
    let _b = b.start(&[DISCOVERY_OFF, "--session-policy", "off"]);
    let _a = a.start(&[DISCOVERY_OFF, "--peers", "tcp://10.9.0.2:9651"]);
    let session = session_when(&a, &b, "v1", |session| {
        session.protocol == SessionProtocol::V1
    });
    assert!(!session.pinned && !session.hybrid && session.suite.is_none());
    assert_eq!(warnings(&a), ["session-v1-traffic"]);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_a_warning() {
    let Some(place) = Place::new() else { return };
    let file = place.file("not-a-directory", "x");
    let state = file.join("state");
    let _node = place.start(&["--no-tun", DISCOVERY_OFF, "--state-dir", path(&state)]);
    until("warning", || {
        warnings(&place)
            .contains(&"pins-not-kept".to_owned())
            .then_some(())
    });
}

#[test]
fn a_wrong_session_key_is_one_line() {
    let Some(place) = Place::new() else { return };
    let short = place.file("short.key", "0123");
    place
        .start(&["--no-tun", "--session-key-file", path(&short)])
        .fails(1, &["short.key", "32 raw bytes or 64 hexadecimal digits"]);
    place
        .start(&["--no-tun", "--session-key-file", "none.key"])
        .fails(1, &["none.key", "cannot read"]);
    place
        .start(&["--session-policy", "sometimes"])
        .fails(2, &["sometimes", "prefer", "require"]);
    let config = place.file("bad.toml", "session_policy = \"never\"");
    place
        .start(&["-c", path(&config)])
        .fails(1, &["session_policy", "prefer or require"]);
    let open = place.file("open.key", [7; 32]);
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    let _node = place.start(&["--no-tun", DISCOVERY_OFF, "--session-key-file", path(&open)]);
    assert_eq!(warnings(&place), ["key-file-exposed"]);
}

//! Signals and the service manager.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod process;

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use process::{Place, path, until};
use rustix::process::Signal;

fn peers(place: &Place) -> Vec<String> {
    place.until("peers", |client| {
        let peers = client.peers().ok()?;
        Some(peers.iter().map(|peer| peer.endpoint.to_string()).collect())
    })
}

#[test]
fn term_and_int_leave_cleanly() {
    let Some(place) = Place::new() else { return };
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = place.start(&[]);
        place.until("node", |client| client.status().ok());
        node.signal(signal);
        assert_eq!(node.wait().code(), Some(0));
        assert_eq!(node.stderr(), "");
    }
}

#[test]
fn hup_follows_the_file_and_never_kills() {
    let Some(place) = Place::new() else { return };
    let key = |byte| [byte; 32];
    place.file("one.bin", key(1));
    place.file("two.bin", key(2));
    let head = "no_tun = true\ntcp_listen_port = 9651\n";
    let identity = |name: &str, file: &str| {
        format!("[[identities]]\nname = \"{name}\"\nkey_file = \"{file}\"\n")
    };
    let config = place.file(
        "mycelium.toml",
        format!(
            "{head}peers = [\"tcp://127.0.0.1:1\", \"tcp://127.0.0.1:2\"]\n{}",
            identity("one", "one.bin")
        ),
    );
    let mut node = place.start(&["-c", path(&config)]);
    assert_eq!(peers(&place), ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]);
    let names = |place: &Place| -> Vec<String> {
        let identities = place.ask(|client| client.identities()).unwrap();
        identities
            .into_iter()
            .filter_map(|identity| identity.name)
            .collect()
    };
    until("identity", || (names(&place) == ["one"]).then_some(()));
    place
        .ask(|client| client.add_peer("tcp://127.0.0.1:9"))
        .unwrap();

    place.file(
        "mycelium.toml",
        format!(
            "{head}peers = [\"tcp://127.0.0.1:2\", \"tcp://127.0.0.1:3\"]\n{}",
            identity("two", "two.bin")
        ),
    );
    node.signal(Signal::HUP);
    let wanted = [
        "tcp://127.0.0.1:2",
        "tcp://127.0.0.1:3",
        "tcp://127.0.0.1:9",
    ];
    until("new peers", || (peers(&place) == wanted).then_some(()));
    until("new identity", || (names(&place) == ["two"]).then_some(()));

    place.file("mycelium.toml", "peers = [");
    node.signal(Signal::HUP);
    until("warning", || {
        place
            .warnings()
            .contains(&"config-unreadable".to_owned())
            .then_some(())
    });
    assert_eq!(peers(&place), wanted);

    place.file("mycelium.toml", "no_tun = true\ntcp_listen_port = 9652\npeers = [\"tcp://127.0.0.1:2\"]\nlog_level = \"error\"");
    node.signal(Signal::HUP);
    until("warning", || {
        place
            .warnings()
            .contains(&"restart-needed".to_owned())
            .then_some(())
    });
    until("fewer peers", || (peers(&place).len() == 2).then_some(()));
    assert!(!place.warnings().contains(&"config-unreadable".to_owned()));
    assert!(node.is_running());
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code(), Some(0));
}

#[test]
fn usr1_writes_the_state_to_the_log() {
    let Some(place) = Place::new() else { return };
    let mut node = place.start(&[
        "--no-tun",
        "--log-format",
        "plain",
        "--peers",
        "tcp://127.0.0.1:1",
    ]);
    place.until("node", |client| client.status().ok());
    node.signal(Signal::USR1);
    until("dump", || {
        node.stdout().contains("msg=\"data plane\"").then_some(())
    });
    let log = node.stdout();
    for line in [
        "msg=identity id=0",
        "msg=peer endpoint=tcp://127.0.0.1:1",
        "msg=\"control plane\"",
    ] {
        assert!(log.contains(line), "{line} is not in\n{log}");
    }
    assert!(node.is_running());
}

#[test]
fn the_service_manager_is_told() {
    let Some(place) = Place::new() else { return };
    let socket_path = place.directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket_path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let next = || {
        let mut buffer = [0; 512];
        let len = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let mut node = place.start_with(&["--no-tun"], ("NOTIFY_SOCKET", path(&socket_path)));
    assert!(next().starts_with("READY=1\n"));
    node.signal(Signal::HUP);
    assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(next().starts_with("READY=1\n"));
    node.signal(Signal::TERM);
    assert_eq!(next(), "STOPPING=1");
    assert_eq!(node.wait().code(), Some(0));
}

#[test]
fn the_watchdog_is_fed() {
    let Some(place) = Place::new() else { return };
    let socket_path = place.directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket_path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let _node = place.start_watched(
        &["--no-tun"],
        path(&socket_path),
        Duration::from_millis(200),
    );
    let mut fed = 0;
    let mut buffer = [0; 512];
    while fed < 5 {
        let len = manager.recv(&mut buffer).unwrap();
        fed += u32::from(&buffer[..len] == b"WATCHDOG=1");
    }
}

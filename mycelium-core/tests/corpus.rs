//! Replays the committed corpora of the fuzz targets, with the checks of those targets, on the stable toolchain.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

#[path = "../../fuzz/checks/babel.rs"]
mod babel;
#[path = "../../fuzz/checks/beacon.rs"]
mod beacon;
#[path = "../../fuzz/checks/dataplane.rs"]
mod dataplane;
#[path = "../../fuzz/checks/frame.rs"]
mod frame;
#[path = "../../fuzz/checks/ip.rs"]
mod ip;
#[path = "../../fuzz/checks/native.rs"]
mod native;
#[path = "../../fuzz/checks/session_handshake.rs"]
mod session_handshake;
#[path = "../../fuzz/checks/session_transport.rs"]
mod session_transport;

fn replay(target: &str, check: fn(&[u8])) {
    let directory = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| check(&bytes)).is_err() {
            panic!("{} fails", path.display());
        }
        files += 1;
    }
    assert!(files > 0, "no corpus in {directory}");
}

#[test]
fn the_corpus_of_beacons_passes() {
    replay("beacon", beacon::check);
}

#[test]
fn the_corpus_of_control_packets_passes() {
    replay("babel", babel::check);
}

#[test]
fn the_corpus_of_data_planes_passes() {
    replay("dataplane", dataplane::check);
}

#[test]
fn the_corpus_of_streams_passes() {
    replay("frame", frame::check);
}

#[test]
fn the_corpus_of_ip_packets_passes() {
    replay("ip", ip::check);
}

#[test]
fn the_corpus_of_session_handshakes_passes() {
    replay("session_handshake", session_handshake::check);
}

#[test]
fn the_corpus_of_session_packets_passes() {
    replay("session_transport", session_transport::check);
}

#[test]
fn the_corpus_of_native_links_passes() {
    replay("native", native::check);
}

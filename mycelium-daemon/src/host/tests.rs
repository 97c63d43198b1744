use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x400, 1, 2, 3, 4, 5, 6, 7);

/// Run `f` on a thread inside a fresh network namespace; `None`, with a note, where that is not allowed.
fn in_namespace<T: Send>(f: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => Some(f()),
            Err(error) => {
                eprintln!("skipped: no network namespace: {error}");
                None
            }
        });
        thread.join().unwrap()
    })
}

#[test]
fn an_interface_is_created_fast_and_usable_at_once() {
    in_namespace(|| {
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
    });
}

#[test]
fn a_taken_name_says_so() {
    in_namespace(|| {
        let _first = HostInterface::create("ours", None, ADDRESS).unwrap();
        for name in ["ours", "lo"] {
            let error = HostInterface::create(name, None, ADDRESS).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{name}: {error}");
            assert!(error.to_string().contains("exists already"), "{error}");
        }
    });
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
    let (send_path, path) = std::sync::mpsc::channel::<Option<PathBuf>>();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        in_namespace(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero();
            let _ = send_path.send(Some(PathBuf::from(format!("/proc/self/task/{tid}/ns/net"))));
            let _ = wait.recv();
            std::net::UdpSocket::bind((ADDRESS, 0)).unwrap();
        });
    });
    if let Ok(Some(path)) = path.recv() {
        let _host = HostInterface::create("ours", Some(&path), ADDRESS).unwrap();
        assert!(std::net::UdpSocket::bind((ADDRESS, 0)).is_err());
        done.send(()).unwrap();
        other.join().unwrap();
    }
}

//! What tests of hosts share.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "not every test needs all of it")]

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use node_integration::directory::Directory;
use node_integration::reconcile::{NoNode, Reconciler};
use node_integration::secret::NetworkKey;
use node_integration::{Namespace, link, named, userns};
use tempfile::TempDir;

/// A host of its own for one test, with a directory and notes.
#[derive(Debug)]
pub(crate) struct Host {
    /// Where its files are.
    pub(crate) scratch: TempDir,
}

impl Host {
    /// Its descriptions.
    pub(crate) fn directory(&self) -> Directory {
        Directory::new(self.scratch.path().join("net.d"))
    }

    /// What makes them so.
    pub(crate) fn open(&self) -> Reconciler {
        Reconciler::open(&self.scratch.path().join("notes")).unwrap()
    }

    /// Make them so; how many steps that took.
    pub(crate) fn reconcile(&self) -> usize {
        let reports = self
            .open()
            .reconcile(&self.directory(), &mut NoNode, false)
            .unwrap();
        reports
            .iter()
            .map(|report| {
                assert!(
                    report.error.is_none(),
                    "{}: {}",
                    report.entry,
                    report.error.as_ref().unwrap()
                );
                report.steps.len()
            })
            .sum()
    }
}

/// Run a test in network and mount namespaces of its own, if that is possible here.
pub(crate) fn on_a_host(test: impl FnOnce(&Host) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let kinds = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        if let Err(errno) = unshare(kinds) {
            eprintln!("cannot run: {errno}");
            return;
        }
        userns::make_mounts_private().unwrap();
        std::fs::create_dir_all(named::DIRECTORY).unwrap();
        userns::cover_with_memory(Path::new(named::DIRECTORY)).unwrap();
        test(&Host {
            scratch: tempfile::tempdir().unwrap(),
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A key.
pub(crate) fn key(byte: u8) -> NetworkKey {
    NetworkKey::from_raw(&[byte; 32]).unwrap()
}

/// Everything of this namespace that tests could leave behind.
pub(crate) fn state() -> BTreeSet<String> {
    let current = Namespace::current().unwrap();
    let mut state: BTreeSet<String> = link::names(&current).unwrap().into_iter().collect();
    state.extend(named::list().unwrap());
    state
}

/// Check that everything is as it was `before`: the kernel takes its time with the cables of namespaces that have gone.
pub(crate) fn settles(before: &BTreeSet<String>, context: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while state() != *before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(state(), *before, "{context}");
}

/// Whether one ping is answered.
pub(crate) fn ping(from: &Namespace, to: Ipv6Addr) -> bool {
    let mut ping = Command::new("ping");
    ping.args(["-6", "-n", "-c", "1", "-W", "1", &to.to_string()]);
    from.run(|| ping.output().unwrap().status.success())
        .unwrap()
}

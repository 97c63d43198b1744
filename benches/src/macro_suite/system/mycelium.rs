//! Nodes of this project and of mycelium 0.7.10, which take the same command line.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use netns_tests::daemon::{PORT, key_of, upstream_binary};
use netns_tests::lab::{Host, Port};

use super::{Overlay, System};
use crate::macro_suite::options::Options;
use crate::macro_suite::process::Daemon;
use crate::macro_suite::testbed::Testbed;

/// A binary at each end, and how they are linked.
#[derive(Debug)]
pub(super) struct Mycelium {
    name: &'static str,
    /// Of A and of every other node.
    binaries: [Option<PathBuf>; 2],
    scheme: &'static str,
    /// Further arguments of nodes of this project.
    extra: &'static [&'static str],
}

/// Every combination that is of interest.
pub(super) fn variants(options: &Options) -> Vec<Mycelium> {
    let ours = options.ours.clone().or_else(beside_this_program);
    let other = options.other.clone();
    let upstream = options.upstream.clone().or_else(upstream_binary);
    let pure = |name, binary: &Option<PathBuf>, scheme, extra| Mycelium {
        name,
        binaries: [binary.clone(), binary.clone()],
        scheme,
        extra,
    };
    // Without a UDP socket a link cannot become a native one.
    const TCP_ONLY: &[&str] = &["--disable-quic"];
    const V1: &[&str] = &["--session-policy", "off"];
    const V1_TCP: &[&str] = &["--session-policy", "off", "--disable-quic"];
    vec![
        pure("ours", &ours, "udp", &[]),
        pure("other", &other, "udp", &[]),
        pure("ours-tcp", &ours, "tcp", TCP_ONLY),
        pure("ours-v1-tcp", &ours, "tcp", V1_TCP),
        pure("ours-v1-quic", &ours, "quic", V1),
        pure("upstream-tcp", &upstream, "tcp", &[]),
        pure("upstream-quic", &upstream, "quic", &[]),
        Mycelium {
            name: "mixed-tcp",
            binaries: [ours.clone(), upstream.clone()],
            scheme: "tcp",
            extra: TCP_ONLY,
        },
    ]
}

fn beside_this_program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    Some(own.with_file_name("mycelium"))
}

impl Mycelium {
    fn node(
        &self,
        host: &Arc<Host>,
        scratch: &Path,
        peers: &[&Port],
        tun: bool,
    ) -> anyhow::Result<(Daemon, PublicKey)> {
        let role = host.name();
        let which = usize::from(role != "a");
        let binary = self.binaries[which].as_ref().context("no binary")?;
        let seed = key_of(role);
        let key_file = scratch.join(format!("{role}.key"));
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&key_file)?
            .write_all(&seed)?;
        let mut command = Command::new(binary);
        command.arg("--key-file").arg(&key_file).args([
            "--log-format",
            "plain",
            "--disable-peer-discovery",
        ]);
        // In a mixed pair they are for A alone.
        if which == 0 || self.binaries[0] == self.binaries[1] {
            command.args(self.extra);
        }
        if tun {
            command.args(["--tun-name", "overlay"]);
        } else {
            command.arg("--no-tun");
        }
        if !peers.is_empty() {
            command.arg("--peers");
        }
        for peer in peers {
            command.arg(format!("{}://{}:{PORT}", self.scheme, peer.v4()));
        }
        Ok((
            Daemon::start(host, role, scratch, &mut command)?,
            SecretKey::from_bytes(seed).public_key(),
        ))
    }
}

impl System for Mycelium {
    fn name(&self) -> &str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        self.binaries.iter().find_map(|binary| match binary {
            None => Some("no binary given".to_owned()),
            Some(path) if !path.is_file() => Some(format!("{} does not exist", path.display())),
            Some(_) => None,
        })
    }

    fn start(&self, testbed: &Testbed, scratch: &Path) -> anyhow::Result<Overlay> {
        let mut daemons = Vec::new();
        let mut b_peers = Vec::new();
        if let Some(r) = &testbed.r {
            daemons.push(self.node(r, scratch, &[], false)?.0);
            b_peers.push(&testbed.last().left);
        }
        let mut more = Vec::new();
        let mut a_peers = vec![&testbed.first.right];
        for (leaf, wire) in &testbed.more {
            let (daemon, key) = self.node(leaf, scratch, &[], true)?;
            daemons.push(daemon);
            more.push(key.address());
            a_peers.push(&wire.right);
        }
        let (b, b_key) = self.node(&testbed.b, scratch, &b_peers, true)?;
        let (a, a_key) = self.node(&testbed.a, scratch, &a_peers, true)?;
        daemons.extend([b, a]);
        Ok(Overlay {
            daemons,
            a: a_key.address(),
            b: b_key.address(),
            more,
            takes_routes: true,
        })
    }
}

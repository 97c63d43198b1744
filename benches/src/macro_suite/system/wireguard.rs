//! wireguard-go as Debian packages it. Through a relay it is a chain of two tunnels, joined by the relay's kernel.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use netns_tests::lab::Host;
use node_integration::{link, sysctl};

use super::{Overlay, System, address};
use crate::macro_suite::process::{Daemon, find_program, run_tool};
use crate::macro_suite::testbed::{Testbed, wait_for_interface};

const PORT: u16 = 51_820;
/// Number of the first address of a star's other leaves.
const FIRST_LEAF: u16 = 10;
/// What `wg-quick` would set.
const MTU: u32 = 1420;

/// The userspace implementation.
#[derive(Debug)]
pub(super) struct WireGuard;

/// One interface under way; its name is the host's, since all control sockets share a directory.
struct Interface {
    host: Arc<Host>,
    name: String,
    public_key: String,
    private_key: std::path::PathBuf,
}

/// Whom an interface exchanges packets with.
struct Peer<'a> {
    public_key: &'a str,
    endpoint: SocketAddr,
    allowed: String,
}

impl Interface {
    fn start(host: &Arc<Host>, scratch: &Path) -> anyhow::Result<(Self, Daemon)> {
        let name = format!("wg-{}", host.name());
        let mut command = Command::new("wireguard-go");
        // It advises to use the kernel's own, at length.
        command
            .args(["-f", &name])
            .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
        let daemon = Daemon::start(host, host.name(), scratch, &mut command)?;
        wait_for_interface(host, &name)?;
        let private_key = scratch.join(format!("{name}.key"));
        let secret = run_tool(host, "wg", &["genkey"], scratch)?;
        std::fs::write(&private_key, secret)?;
        let path = private_key.to_string_lossy();
        netns_tests::wait::until(
            "the control socket",
            std::time::Duration::from_secs(5),
            || {
                let set = [
                    "set",
                    &name,
                    "listen-port",
                    &PORT.to_string(),
                    "private-key",
                    &path,
                ];
                run_tool(host, "wg", &set, scratch).map(Some)
            },
        )?;
        let public_key = run_tool(host, "wg", &["show", &name, "public-key"], scratch)?;
        Ok((
            Self {
                host: Arc::clone(host),
                public_key: public_key.trim().to_owned(),
                name,
                private_key,
            },
            daemon,
        ))
    }

    fn configure(&self, n: u16, peers: &[Peer<'_>], scratch: &Path) -> anyhow::Result<()> {
        for peer in peers {
            let endpoint = peer.endpoint.to_string();
            let set = [
                "set",
                &self.name,
                "peer",
                peer.public_key,
                "endpoint",
                &endpoint,
                "allowed-ips",
                &peer.allowed,
            ];
            run_tool(&self.host, "wg", &set, scratch)?;
        }
        let namespace = self.host.namespace();
        link::set_mtu(namespace, &self.name, MTU)?;
        link::add_address(namespace, &self.name, IpAddr::V6(address(n)), 64)?;
        link::up(namespace, &self.name)?;
        std::fs::remove_file(&self.private_key)?;
        Ok(())
    }
}

impl System for WireGuard {
    fn name(&self) -> &str {
        "wireguard-go"
    }

    fn missing(&self) -> Option<String> {
        ["wireguard-go", "wg"]
            .into_iter()
            .find(|program| find_program(program).is_none())
            .map(|program| format!("{program} is not installed"))
    }

    fn start(&self, testbed: &Testbed, scratch: &Path) -> anyhow::Result<Overlay> {
        let (a, daemon_a) = Interface::start(&testbed.a, scratch)?;
        let (b, daemon_b) = Interface::start(&testbed.b, scratch)?;
        let mut daemons = vec![daemon_b, daemon_a];
        let one = |n| format!("{}/128", address(n));
        let all = || format!("{}/64", address(0));
        let [first_left, first_right] = Testbed::underlay(&testbed.first, PORT);
        let [last_left, last_right] = Testbed::underlay(testbed.last(), PORT);
        let mut beyond = [b.public_key.clone(), a.public_key.clone()];
        if let Some(host) = &testbed.r {
            let (r, daemon_r) = Interface::start(host, scratch)?;
            daemons.insert(0, daemon_r);
            sysctl::forwarding(host.namespace(), true)?;
            beyond = [r.public_key.clone(), r.public_key.clone()];
            let peers = [
                Peer {
                    public_key: &a.public_key,
                    endpoint: first_left,
                    allowed: one(1),
                },
                Peer {
                    public_key: &b.public_key,
                    endpoint: last_right,
                    allowed: one(2),
                },
            ];
            r.configure(3, &peers, scratch)?;
        }
        let [beyond_a, beyond_b] = &beyond;
        let others = if testbed.more.is_empty() {
            all()
        } else {
            one(2)
        };
        let mut leaves = Vec::new();
        for ((leaf, wire), n) in testbed.more.iter().zip(FIRST_LEAF..) {
            let (interface, daemon) = Interface::start(leaf, scratch)?;
            daemons.insert(0, daemon);
            let [left, right] = Testbed::underlay(wire, PORT);
            let peer = Peer {
                public_key: &a.public_key,
                endpoint: left,
                allowed: one(1),
            };
            interface.configure(n, &[peer], scratch)?;
            leaves.push((interface, right, n));
        }
        let mut peers = vec![Peer {
            public_key: beyond_a,
            endpoint: first_right,
            allowed: others,
        }];
        peers.extend(leaves.iter().map(|(leaf, endpoint, n)| Peer {
            public_key: &leaf.public_key,
            endpoint: *endpoint,
            allowed: one(*n),
        }));
        a.configure(1, &peers, scratch)?;
        b.configure(
            2,
            &[Peer {
                public_key: beyond_b,
                endpoint: last_left,
                allowed: all(),
            }],
            scratch,
        )?;
        Ok(Overlay {
            daemons,
            a: address(1),
            b: address(2),
            more: leaves.iter().map(|(_, _, n)| address(*n)).collect(),
            takes_routes: false,
        })
    }
}

//! yggdrasil as Debian packages it, linked over TCP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use netns_tests::lab::Host;
use serde_json::{Value, json};

use super::{Overlay, System};
use crate::macro_suite::process::{Daemon, find_program, run_tool};
use crate::macro_suite::testbed::Testbed;

const PORT: u16 = 9000;

/// The node.
#[derive(Debug)]
pub(super) struct Yggdrasil;

fn node(
    host: &Arc<Host>,
    listen: &[SocketAddr],
    peers: &[SocketAddr],
    interface: &str,
    scratch: &Path,
) -> anyhow::Result<(Daemon, std::net::Ipv6Addr)> {
    let program = program()?;
    let program = program.to_string_lossy();
    let generated = run_tool(host, &program, &["-genconf", "-json"], scratch)?;
    let mut settings: Value =
        serde_json::from_str(&generated).context("yggdrasil -genconf -json")?;
    let uris = |addresses: &[SocketAddr]| -> Vec<String> {
        addresses
            .iter()
            .map(|address| format!("tcp://{address}"))
            .collect()
    };
    settings["Listen"] = json!(uris(listen));
    settings["Peers"] = json!(uris(peers));
    settings["MulticastInterfaces"] = json!([]);
    settings["AdminListen"] = json!("none");
    settings["IfName"] = json!(interface);
    let file = scratch.join(format!("{}.conf", host.name()));
    std::fs::write(&file, settings.to_string())?;
    let path = file.to_string_lossy();
    let address = run_tool(
        host,
        &program,
        &["-useconffile", &path, "-address"],
        scratch,
    )?;
    let mut command = Command::new(&*program);
    command.args(["-useconffile", &path]);
    let daemon = Daemon::start(host, host.name(), scratch, &mut command)?;
    Ok((
        daemon,
        address.trim().parse().context("yggdrasil -address")?,
    ))
}

fn program() -> anyhow::Result<PathBuf> {
    find_program("yggdrasil").context("yggdrasil is not installed")
}

impl System for Yggdrasil {
    fn name(&self) -> &str {
        "yggdrasil"
    }

    fn missing(&self) -> Option<String> {
        program().err().map(|error| error.to_string())
    }

    fn start(&self, testbed: &Testbed, scratch: &Path) -> anyhow::Result<Overlay> {
        let [_, first_right] = Testbed::underlay(&testbed.first, PORT);
        let [last_left, last_right] = Testbed::underlay(testbed.last(), PORT);
        let mut daemons = Vec::new();
        let mut b_peers = Vec::new();
        if let Some(r) = &testbed.r {
            daemons.push(node(r, &[first_right, last_left], &[], "none", scratch)?.0);
            b_peers.push(last_left);
        }
        let (daemon_b, b) = node(&testbed.b, &[last_right], &b_peers, "overlay", scratch)?;
        let mut a_peers = vec![first_right];
        let mut more = Vec::new();
        for (leaf, wire) in &testbed.more {
            let [_, right] = Testbed::underlay(wire, PORT);
            let (daemon, address) = node(leaf, &[right], &[], "overlay", scratch)?;
            daemons.push(daemon);
            more.push(address);
            a_peers.push(right);
        }
        let (daemon_a, a) = node(&testbed.a, &[], &a_peers, "overlay", scratch)?;
        daemons.extend([daemon_b, daemon_a]);
        Ok(Overlay {
            daemons,
            a,
            b,
            more,
            takes_routes: false,
        })
    }
}

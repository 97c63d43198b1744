//! The plaintext forwarder of this crate.

use std::path::Path;
use std::process::Command;

use super::{Overlay, System, address};
use crate::macro_suite::options::Topology;
use crate::macro_suite::process::{Daemon, run_tool};
use crate::macro_suite::testbed::{Testbed, wait_for_interface};
use crate::plain::GSO_MAX_SIZE;

const PORT: u16 = 7000;
const TUN: &str = "overlay";

/// With or without joining UDP packets before the TUN.
#[derive(Debug)]
pub(super) struct Plain {
    name: &'static str,
    joins_udp: bool,
}

impl Plain {
    pub(super) fn new(name: &'static str, joins_udp: bool) -> Self {
        Self { name, joins_udp }
    }

    fn end(&self, testbed: &Testbed, is_b: bool, scratch: &Path) -> anyhow::Result<Daemon> {
        let wire = if is_b { testbed.last() } else { &testbed.first };
        let host = if is_b { &testbed.b } else { &testbed.a };
        let [left, right] = Testbed::underlay(wire, PORT);
        let (local, remote) = if is_b { (right, left) } else { (left, right) };
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["forward", "--tun", TUN])
            .args(["--address", &address(1 + u16::from(is_b)).to_string()])
            .args(["--local", &local.to_string()])
            .args(["--remote", &remote.to_string()]);
        if self.joins_udp {
            command.arg("--join-udp");
        }
        let daemon = Daemon::start(host, host.name(), scratch, &mut command)?;
        wait_for_interface(host, TUN)?;
        let size = GSO_MAX_SIZE.to_string();
        run_tool(
            host,
            "ip",
            &["link", "set", "dev", TUN, "gso_max_size", &size],
            scratch,
        )?;
        Ok(daemon)
    }
}

impl System for Plain {
    fn name(&self) -> &str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        crate::macro_suite::process::find_program("ip")
            .is_none()
            .then(|| "iproute2 is not installed".to_owned())
    }

    fn unfit(&self, topology: Topology) -> Option<String> {
        (topology == Topology::Star).then(|| "a forwarder has one other end".to_owned())
    }

    fn start(&self, testbed: &Testbed, scratch: &Path) -> anyhow::Result<Overlay> {
        let mut daemons = Vec::new();
        if let (Some(r), Some(second)) = (&testbed.r, &testbed.second) {
            let [a, to_a] = Testbed::underlay(&testbed.first, PORT);
            let [to_b, b] = Testbed::underlay(second, PORT);
            let mut command = Command::new("/proc/self/exe");
            command
                .arg("relay")
                .args(["--left-local", &to_a.to_string()])
                .args(["--left-remote", &a.to_string()])
                .args(["--right-local", &to_b.to_string()])
                .args(["--right-remote", &b.to_string()]);
            daemons.push(Daemon::start(r, r.name(), scratch, &mut command)?);
        }
        daemons.push(self.end(testbed, true, scratch)?);
        daemons.push(self.end(testbed, false, scratch)?);
        Ok(Overlay {
            daemons,
            a: address(1),
            b: address(2),
            more: Vec::new(),
            takes_routes: false,
        })
    }
}

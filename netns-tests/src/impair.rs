//! Faults below the overlay: silence, lost carriers, random loss. A crash is [`crate::daemon::Node::kill`].
//!
//! Silence and lost carriers are made with links alone, so they work wherever namespaces do. The rest takes
//! nftables; tests that want it say so when it is missing.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::lab::{Host, Switch};

/// The medium stops carrying anything, but every carrier stays up: what a switch that hangs looks like.
pub fn silence(medium: &Switch) -> anyhow::Result<()> {
    medium.set_forwarding(false)
}

/// The medium carries again.
pub fn restore(medium: &Switch) -> anyhow::Result<()> {
    medium.set_forwarding(true)
}

/// Pull the cable of the `port`-th host of a medium: its interface loses the carrier.
pub fn pull_cable(medium: &Switch, port: usize) -> anyhow::Result<()> {
    medium.set_carrier(port, false)
}

/// Why packets cannot be filtered; `None` when they can.
pub fn firewall_missing() -> Option<String> {
    let found = Command::new("nft")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    (!found).then(|| "the nft program (package nftables) is not installed".to_owned())
}

/// Give `rules` to nftables in the namespace of `host`, all of them at once or none.
pub fn firewall(host: &Host, rules: &str) -> anyhow::Result<()> {
    let mut child = host.spawn(Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()))?;
    let mut input = child.stdin.take().context("nft's input is piped")?;
    input.write_all(rules.as_bytes())?;
    drop(input);
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status}: {rules}");
    Ok(())
}

/// Drop each packet that arrives at `interface` of `host` with a chance of `percent` in a hundred.
pub fn lose(host: &Host, interface: &str, percent: u8) -> anyhow::Result<()> {
    let rules = format!(
        "table inet impair {{ chain arriving {{ type filter hook prerouting priority raw; \
         iifname \"{interface}\" numgen random mod 100 < {percent} drop; }}; }}"
    );
    firewall(host, &rules)
}

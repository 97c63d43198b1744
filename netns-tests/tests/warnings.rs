//! What breaks a user network is a warning of the node that carries it, as long as it lasts.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use netns_tests::attach::{Networks, own_names};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::Lab;
use netns_tests::wait;
use node_integration::{named, sysctl};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    run(vec![case("forwarding_off", forwarding_off)])
}

fn forwarding_off(scratch: &Scratch) -> anyhow::Result<()> {
    own_names()?;
    let host = Lab::new().host("a")?;
    let networks = Networks::new(scratch, &host);
    let options = NodeOptions::new(Ours, "a").arguments(networks.arguments());
    let node = Node::start(scratch, &host, options)?;
    networks.create("web", "")?;
    let hint = || -> anyhow::Result<Option<String>> {
        let status = node.get("/admin/status")?;
        let warnings = status["health"]["warnings"].as_array().context("a list")?;
        let warning = warnings
            .iter()
            .find(|warning| warning["code"] == "forwarding-off");
        Ok(warning.map(|warning| warning["hint"].to_string()))
    };
    ensure!(hint()?.is_none(), "{:?}", hint()?);
    let router = named::open("my-web")?;
    sysctl::set(&router, "ipv6/conf/gateway/forwarding", "0")?;
    let said = wait::until("the node warns", PATIENCE, hint)?;
    ensure!(
        said.contains("ip netns exec my-web sysctl -w net.ipv6.conf.gateway.forwarding=1"),
        "{said}"
    );
    let checked = networks.try_run("net check")?;
    let printed = String::from_utf8(checked.stdout)?;
    ensure!(
        !checked.status.success() && printed.contains("my-web"),
        "{printed}"
    );
    sysctl::set(&router, "ipv6/conf/gateway/forwarding", "1")?;
    wait::until("the warning is gone", PATIENCE, || {
        Ok(hint()?.is_none().then_some(()))
    })
}

//! Virtual machines on the overlay: a real kernel behind a tap.

use std::net::{IpAddr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::SecretKey;
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, key_of};
use netns_tests::figures::{bulk_bytes, report};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::lab::{Host, Lab};
use netns_tests::topology::{Relay, Relayed, Underlay};
use netns_tests::vm::{self, Vm, VmOptions};
use netns_tests::wait;
use node_integration::secret::Seed;
use node_integration::{addressing, link, sysctl};

const PATIENCE: Duration = Duration::from_secs(15);
const BULK: u64 = 50_000_000;
const TAP: &str = "tap0";
const BRIDGE: &str = "bridge0";
const MAC: &str = "52:54:00:12:34:56";

fn main() -> ExitCode {
    run(vec![
        case("address_set_by_hand", by_hand).unless(vm::missing()),
    ])
}

/// A user network, put together by hand: a namespace with the TUN of an identity and a bridge for machines.
struct Segment {
    host: Arc<Host>,
    subnet: Subnet,
}

impl Segment {
    fn new(name: &str, node: &Node) -> anyhow::Result<Self> {
        let host = Lab::new().host(name)?;
        let secret = key_of(name);
        let subnet = SecretKey::from_bytes(secret).public_key().subnet();
        let gateway = addressing::gateway(subnet);
        let namespace = host.namespace();
        sysctl::forwarding(namespace, true)?;
        link::bridge(namespace, BRIDGE)?;
        link::up(namespace, BRIDGE)?;
        link::add_address(namespace, BRIDGE, IpAddr::V6(gateway), 64)?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = serde_json::json!({
            "secretKey": secret,
            "name": name,
            "tunName": "overlay0",
            "netns": namespace.path().display().to_string(),
        });
        let (status, body) = node.request("POST", "/admin/identities", Some(&request))?;
        ensure!((200..300).contains(&status), "an identity: {status} {body}");
        Ok(Self { host, subnet })
    }

    /// Boot a machine with a card on the bridge.
    fn boot(&self, scratch: &Scratch, options: &VmOptions) -> anyhow::Result<Vm> {
        let mut vm = Vm::start(scratch, &self.host, &options.clone().card(TAP, MAC))?;
        let namespace = self.host.namespace();
        wait::until("the emulator makes its tap", PATIENCE, || {
            Ok(link::index(namespace, TAP)?)
        })?;
        link::attach(namespace, BRIDGE, TAP)?;
        link::up(namespace, TAP)?;
        vm.wait_until_ready()?;
        Ok(vm)
    }
}

/// A–R–B, with a segment at A.
fn relayed(scratch: &Scratch) -> anyhow::Result<(Relayed, Segment)> {
    let net = Relay::lay_out()?.start(scratch, Underlay::Tcp4, [Ours; 3])?;
    net.connected(PATIENCE)?;
    let segment = Segment::new("segment", &net.a)?;
    Ok((net, segment))
}

/// The machine reaches the other end of the relay, and is reached from there.
fn traffic(net: &Relayed, vm: &mut Vm, address: Ipv6Addr, label: &str) -> anyhow::Result<()> {
    let remote = net.b.address();
    vm.eventually(&format!("ping -6 -c 1 -W 1 {remote}"), PATIENCE)?;
    vm.run(&format!("ping -6 -c 5 -i 0.2 -W 2 {remote}"), PATIENCE)?;
    let both = vm::exchange(net.b.host(), remote, vm, address, bulk_bytes(BULK))?;
    report(
        &format!(
            "virtual machine, {label}, {} MB in and out across a relay, Mb/s",
            both.into.bytes / 1_000_000
        ),
        format_args!("{:.0} {:.0}", both.into.megabits(), both.out.megabits()),
    );
    Ok(())
}

/// Nothing tells the machine its address; its own MTU of 1500 is corrected by path MTU discovery.
fn by_hand(scratch: &Scratch) -> anyhow::Result<()> {
    let (net, segment) = relayed(scratch)?;
    let mut vm = segment.boot(scratch, &VmOptions::new("vm"))?;
    let address = addressing::of_seed(segment.subnet, Seed::parse("001122334455")?);
    vm.run(
        &format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad && ip link set eth0 up && ip -6 address add {address}/64 dev eth0 && ip -6 route add 400::/7 via {}",
            addressing::gateway(segment.subnet)
        ),
        PATIENCE,
    )?;
    traffic(&net, &mut vm, address, "address set by hand")
}

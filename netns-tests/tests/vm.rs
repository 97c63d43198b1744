//! Virtual machines on the overlay: a real kernel behind a tap that `mycelium attach tap` made, with the arguments that it
//! printed.

use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use netns_tests::attach::{Networks, own_names};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::{Node, NodeOptions};
use netns_tests::figures::{bulk_bytes, report};
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::topology::{Relay, Underlay, reachable};
use netns_tests::vm::{self, Vm, VmOptions};
use node_integration::guest::Mac;
use node_integration::{addressing, link};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(15);
const BULK: u64 = 50_000_000;
const SEED: &str = "--seed 001122334455";
/// What machines may be sent: pings, and TCP where they listen.
const ALLOW: &str = "--allow icmp --allow tcp/5001";
const NAME_SERVER: &str = "2001:db8::53";

fn main() -> ExitCode {
    let cases = vec![
        case("address_by_router_advertisement", by_advertisement),
        case("address_by_dhcp", by_dhcp),
        case("address_by_disk", by_disk),
    ];
    run(cases
        .into_iter()
        .map(|case| case.unless(vm::missing()))
        .collect())
}

/// A–R–B: user networks at both ends, and nodes that carry them.
struct World {
    a: Networks,
    b: Networks,
    _node_a: Node,
    node_b: Node,
    _relay: Node,
    _layout: Relay,
}

impl World {
    fn start(scratch: &Scratch) -> anyhow::Result<Self> {
        own_names()?;
        let layout = Relay::lay_out()?;
        let a = Networks::new(scratch, &layout.a);
        let b = Networks::new(scratch, &layout.b);
        let relay = Node::start(scratch, &layout.r, layout.options_r(Ours))?;
        let start = |networks: &Networks, options: NodeOptions| {
            let options = options.arguments(networks.arguments());
            Node::start(scratch, networks.host(), options)
        };
        let node_b = start(&b, layout.options_b(Ours, Underlay::Tcp4))?;
        let node_a = start(&a, layout.options_a(Ours, Underlay::Tcp4))?;
        reachable(&layout.a, &node_b, PATIENCE)?;
        Ok(Self {
            a,
            b,
            _node_a: node_a,
            node_b,
            _relay: relay,
            _layout: layout,
        })
    }
}

/// A tap, as `attach` has described it.
struct Tap<'a> {
    networks: &'a Networks,
    answer: Value,
}

impl<'a> Tap<'a> {
    fn attach(networks: &'a Networks, network: &str, name: &str) -> anyhow::Result<Self> {
        let attached = networks.attach(&format!("tap {network} {name} {SEED} {ALLOW}"))?;
        Ok(Self {
            networks,
            answer: attached.answer,
        })
    }

    fn text(&self, field: &str) -> anyhow::Result<&str> {
        self.answer[field]
            .as_str()
            .with_context(|| format!("no {field} in {}", self.answer))
    }

    fn mac(&self) -> anyhow::Result<Mac> {
        Ok(self.text("mac")?.parse()?)
    }

    /// The address of the seed.
    fn address(&self) -> anyhow::Result<Ipv6Addr> {
        Ok(self.text("address")?.parse()?)
    }

    /// The address that follows from the MAC.
    fn automatic(&self) -> anyhow::Result<Ipv6Addr> {
        let subnet = mycelium_core::addr::Subnet::containing(self.address()?);
        Ok(addressing::of_mac(subnet, self.mac()?))
    }

    fn gateway(&self) -> anyhow::Result<Ipv6Addr> {
        Ok(self.text("gateway")?.parse()?)
    }

    /// The machine, switched on with the arguments that `attach` printed. It is not ready yet.
    fn start(&self, scratch: &Scratch, options: VmOptions) -> anyhow::Result<Vm> {
        let arguments = self.answer["qemu"].as_array().context("arguments")?;
        let arguments: Option<Vec<&str>> = arguments.iter().map(Value::as_str).collect();
        let options = options.device(arguments.context("texts")?);
        Vm::start(scratch, self.networks.host(), &options)
    }

    fn boot(&self, scratch: &Scratch, options: VmOptions) -> anyhow::Result<Vm> {
        let mut vm = self.start(scratch, options)?;
        vm.wait_until_ready()?;
        report(
            "virtual machine, from power on to a shell",
            format_args!("{:.1?}", vm.boot_time()),
        );
        Ok(vm)
    }
}

/// The machine reaches the other end of the relay, and is reached from there.
fn traffic(world: &World, vm: &mut Vm, address: Ipv6Addr, label: &str) -> anyhow::Result<()> {
    let remote = world.node_b.address();
    vm.eventually(&format!("ping -6 -c 1 -W 1 {remote}"), PATIENCE)?;
    vm.run(&format!("ping -6 -c 5 -i 0.2 -W 2 {remote}"), PATIENCE)?;
    let both = vm::exchange(world.node_b.host(), remote, vm, address, bulk_bytes(BULK))?;
    report(
        &format!(
            "virtual machine, {label}, {} MB in and out across a relay, Mb/s",
            both.into.bytes / 1_000_000
        ),
        format_args!("{:.0} {:.0}", both.into.megabits(), both.out.megabits()),
    );
    Ok(())
}

/// Wait until the machine has an address that has passed duplicate address detection.
fn has_address(vm: &mut Vm, address: Ipv6Addr, prefix_len: u8) -> anyhow::Result<()> {
    vm.eventually(
        &format!(
            "ip -6 address show dev eth0 | grep ' {address}/{prefix_len} ' | grep -v tentative"
        ),
        PATIENCE,
    )?;
    Ok(())
}

/// Advertisements are all that the machines get; one at either end of the relay, and they reach each other.
fn by_advertisement(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    world.a.create("red", "")?;
    world.b.create("green", "")?;
    let here = Tap::attach(&world.a, "red", "vm1")?;
    let there = Tap::attach(&world.b, "green", "vm1")?;
    let mut vm = here.start(scratch, VmOptions::new("vm"))?;
    let mut other = there.start(scratch, VmOptions::new("other"))?;
    for (vm, tap) in [(&mut vm, &here), (&mut other, &there)] {
        vm.wait_until_ready()?;
        // Linux takes route options only where it is told to.
        vm.run(
            "echo 7 >/proc/sys/net/ipv6/conf/eth0/accept_ra_rt_info_max_plen && ip link set eth0 up",
            PATIENCE,
        )?;
        has_address(vm, tap.automatic()?, 64)?;
        vm.run(
            "[ $(cat /proc/sys/net/ipv6/conf/eth0/mtu) = 1400 ]",
            PATIENCE,
        )?;
        let routes = vm.run("ip -6 route", PATIENCE)?;
        ensure!(routes.contains("400::/7 via fe80::1 dev eth0"), "{routes}");
        ensure!(!routes.contains("default"), "{routes}");
    }
    traffic(&world, &mut vm, here.automatic()?, "address by RA")?;
    let target = there.automatic()?;
    vm.eventually(&format!("ping -6 -c 1 -W 1 {target}"), PATIENCE)?;
    vm.run(&format!("ping -6 -c 5 -i 0.2 -W 2 {target}"), PATIENCE)?;
    let bytes = bulk_bytes(BULK).min(5_000_000);
    vm::between(&mut vm, &mut other, target, bytes)?;
    vm::between(&mut other, &mut vm, here.automatic()?, bytes)
}

/// A real client gets the address of the seed; advertisements tell it to ask, and where everything goes. The tap
/// outlives the machine.
fn by_dhcp(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    let options = format!("--dhcp --default-route --dns {NAME_SERVER}");
    world.a.create("red", &options)?;
    let tap = Tap::attach(&world.a, "red", "vm1")?;
    let index = link::index(world.a.host().namespace(), tap.text("interface")?)?;
    let address = tap.address()?;
    let mut vm = tap.boot(scratch, VmOptions::new("vm").dhcp_client()?)?;
    let client = asks(&mut vm, &tap)?;
    let said = vm.run("cat /tmp/dhcp-BOUND6", PATIENCE)?;
    ensure!(
        said.contains(&format!("new_dhcp6_name_servers={NAME_SERVER}")),
        "{said}"
    );
    let routes = vm.eventually("ip -6 route | grep 'default via fe80::1'", PATIENCE)?;
    ensure!(routes.contains("dev eth0"), "{routes}");
    let addresses = vm.run("ip -6 address show dev eth0 scope global", PATIENCE)?;
    let automatic = tap.automatic()?.to_string();
    ensure!(!addresses.contains(&automatic), "{addresses}");
    traffic(&world, &mut vm, address, "address by DHCPv6")?;

    // Given back and asked for again, it is the same.
    vm.run(&format!("{client} -r eth0"), PATIENCE)?;
    let addresses = vm.run("ip -6 address show dev eth0 scope global", PATIENCE)?;
    ensure!(!addresses.contains(&address.to_string()), "{addresses}");
    vm.run(&format!("{client} eth0"), PATIENCE)?;
    has_address(&mut vm, address, 128)?;

    drop(vm);
    let mut vm = tap.boot(scratch, VmOptions::new("vm").dhcp_client()?)?;
    asks(&mut vm, &tap)?;
    let remote = world.node_b.address();
    vm.eventually(&format!("ping -6 -c 1 -W 1 {remote}"), PATIENCE)?;
    let again = link::index(world.a.host().namespace(), tap.text("interface")?)?;
    ensure!(
        again == index,
        "the tap is another one: {index:?}, {again:?}"
    );
    Ok(())
}

/// Run the client until it has the address; the command without the interface.
fn asks(vm: &mut Vm, tap: &Tap<'_>) -> anyhow::Result<&'static str> {
    const CLIENT: &str = "dhclient -6 -1 -sf /dhcp-script -lf /tmp/leases -pf /tmp/pid";
    vm.run("ip link set eth0 up", PATIENCE)?;
    has_address(vm, addressing::link_local(tap.mac()?), 64)?;
    vm.run(&format!("{CLIENT} eth0"), PATIENCE)?;
    has_address(vm, tap.address()?, 128)?;
    Ok(CLIENT)
}

/// What a guest without cloud-init makes of the disk: the address and the routes of its card.
const CONFIGURE: &str = r#"#!/bin/busybox sh
export PATH=/bin
disk=$(findfs LABEL=cidata) && mount -t vfat -o ro $disk /mnt || exit 1
ip link set eth0 up
awk -F'"' -v card=$(cat /sys/class/net/eth0/address) '
  /^      macaddress:/ { mine = $2 == card }
  /^    [a-z]/ { part = $1 }
  mine && part ~ /addresses/ && /^      - / { print "ip -6 address add " $2 " dev eth0" }
  mine && / to: / { to = $2 }
  mine && / via: / { print "ip -6 route add " to " via " $2 " dev eth0" }
' /mnt/network-config >/tmp/configure || exit 1
sh -e /tmp/configure
"#;

/// Nobody advertises anything: address and route are on the disk. The card's MTU of 1500 is corrected by path MTU
/// discovery.
fn by_disk(scratch: &Scratch) -> anyhow::Result<()> {
    let world = World::start(scratch)?;
    world
        .a
        .create("red", &format!("--no-announcements --dns {NAME_SERVER}"))?;
    let image = scratch.path().join("cidata.img");
    let keys = scratch.path().join("keys");
    std::fs::write(&keys, "ssh-ed25519 AAAA \"somebody\"\n")?;
    let name = format!(
        "vm1 --cidata {} --ssh-keys {}",
        image.display(),
        keys.display()
    );
    let tap = Tap::attach(&world.a, "red", &name)?;
    let (address, gateway) = (tap.address()?, tap.gateway()?);
    let read = vm::cloud_init(scratch, &image)?;
    let expected = serde_json::json!({
        "instance": "red-vm1",
        "hostname": "vm1",
        "user": {
            "disable_root": false,
            "users": [{"name": "root", "ssh_authorized_keys": ["ssh-ed25519 AAAA \"somebody\""]}],
        },
        "mac": tap.text("mac")?,
        "subnets": [{
            "type": "static",
            "address": address.to_string(),
            "prefix": 64,
            "routes": [{"network": "400::", "prefix": 7, "gateway": gateway.to_string()}],
            "dns_nameservers": [NAME_SERVER],
        }],
    });
    ensure!(read == expected, "cloud-init read {read}");

    let options = VmOptions::new("vm")
        .disk(&image)
        .file("configure", CONFIGURE);
    let mut vm = tap.boot(scratch, options)?;
    vm.run("/configure", PATIENCE)?;
    has_address(&mut vm, address, 64)?;
    traffic(&world, &mut vm, address, "address from a cidata disk")
}

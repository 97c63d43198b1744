//! Virtual machines on the overlay: a real kernel behind a tap.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
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
use node_integration::guest::Mac;
use node_integration::guest::advert::{Addressing, Advertised, Reach};
use node_integration::guest::cidata::{self, Content, Interface};
use node_integration::guest::responder::{self, Responder};
use node_integration::secret::Seed;
use node_integration::{addressing, link, sysctl};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(15);
const BULK: u64 = 50_000_000;
const TAP: &str = "tap0";
const BRIDGE: &str = "bridge0";
const MAC: &str = "52:54:00:12:34:56";
const SEED: &str = "001122334455";

fn main() -> ExitCode {
    let cases = vec![
        case("address_set_by_hand", by_hand),
        case("address_by_router_advertisement", by_advertisement),
        case("address_by_dhcp", by_dhcp),
        case("address_by_disk", by_disk),
    ];
    run(cases
        .into_iter()
        .map(|case| case.unless(vm::missing()))
        .collect())
}

/// A user network, put together by hand: a namespace with the TUN of an identity and a bridge for machines.
struct Segment {
    host: Arc<Host>,
    subnet: Subnet,
    // Before the runtime that carries it.
    responder: Option<Responder>,
    _runtime: Runtime,
}

impl Segment {
    fn new(name: &str, node: &Node, told: Option<(Addressing, Reach)>) -> anyhow::Result<Self> {
        let host = Lab::new().host(name)?;
        let secret = key_of(name);
        let subnet = SecretKey::from_bytes(secret).public_key().subnet();
        let gateway = addressing::gateway(subnet);
        let namespace = host.namespace();
        sysctl::forwarding(namespace, true)?;
        link::bridge(namespace, BRIDGE)?;
        link::up(namespace, BRIDGE)?;
        link::add_address(namespace, BRIDGE, IpAddr::V6(gateway), 64)?;
        link::add_address(namespace, BRIDGE, IpAddr::V6(responder::GATEWAY), 64)?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = serde_json::json!({
            "secretKey": secret,
            "name": name,
            "tunName": "overlay0",
            "netns": namespace.path().display().to_string(),
        });
        let (status, body) = node.request("POST", "/admin/identities", Some(&request))?;
        ensure!((200..300).contains(&status), "an identity: {status} {body}");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let responder = match told {
            None => None,
            Some((addressing, reach)) => {
                let _guard = runtime.enter();
                let segment = told_to_guests(subnet, addressing, reach)?;
                Some(Responder::start(&namespace.path(), BRIDGE, segment)?)
            }
        };
        Ok(Self {
            host,
            subnet,
            responder,
            _runtime: runtime,
        })
    }

    /// Start a machine with a card on the bridge. It is not ready yet.
    fn start(&self, scratch: &Scratch, options: &VmOptions) -> anyhow::Result<Vm> {
        let vm = Vm::start(scratch, &self.host, &options.clone().card(TAP, MAC))?;
        let namespace = self.host.namespace();
        wait::until("the emulator makes its tap", PATIENCE, || {
            Ok(link::index(namespace, TAP)?)
        })?;
        link::attach(namespace, BRIDGE, TAP)?;
        link::up(namespace, TAP)?;
        Ok(vm)
    }

    fn boot(&self, scratch: &Scratch, options: &VmOptions) -> anyhow::Result<Vm> {
        let mut vm = self.start(scratch, options)?;
        vm.wait_until_ready()?;
        report(
            "virtual machine, from power on to a shell",
            format_args!("{:.1?}", vm.boot_time()),
        );
        Ok(vm)
    }

    fn seed_address(&self) -> anyhow::Result<Ipv6Addr> {
        Ok(addressing::of_seed(self.subnet, Seed::parse(SEED)?))
    }

    fn automatic_address(&self) -> anyhow::Result<Ipv6Addr> {
        Ok(addressing::of_mac(self.subnet, MAC.parse()?))
    }
}

fn told_to_guests(
    subnet: Subnet,
    addressing: Addressing,
    reach: Reach,
) -> anyhow::Result<responder::Segment> {
    let mac: Mac = MAC.parse()?;
    Ok(responder::Segment {
        advertised: Advertised {
            prefix: subnet.network_address(),
            on_link: false,
            addressing,
            reach,
            mtu: 1400,
            name_servers: vec![addressing::gateway(subnet)],
            router: None,
        },
        leases: BTreeMap::from([(mac, addressing::of_seed(subnet, Seed::parse(SEED)?))]),
    })
}

/// A–R–B, with a segment at A.
fn relayed(
    scratch: &Scratch,
    told: Option<(Addressing, Reach)>,
) -> anyhow::Result<(Relayed, Segment)> {
    let net = Relay::lay_out()?.start(scratch, Underlay::Tcp4, [Ours; 3])?;
    net.connected(PATIENCE)?;
    let segment = Segment::new("segment", &net.a, told)?;
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

/// Nothing tells the machine its address; its own MTU of 1500 is corrected by path MTU discovery.
fn by_hand(scratch: &Scratch) -> anyhow::Result<()> {
    let (net, segment) = relayed(scratch, None)?;
    let mut vm = segment.boot(scratch, &VmOptions::new("vm"))?;
    let address = segment.seed_address()?;
    vm.run(
        &format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad && ip link set eth0 up && ip -6 address add {address}/64 dev eth0 && ip -6 route add 400::/7 via {}",
            addressing::gateway(segment.subnet)
        ),
        PATIENCE,
    )?;
    traffic(&net, &mut vm, address, "address set by hand")
}

/// Advertisements are all that the machines get; one at either end of the relay, and they reach each other.
fn by_advertisement(scratch: &Scratch) -> anyhow::Result<()> {
    let told = Some((Addressing::Automatic, Reach::Overlay));
    let (net, here) = relayed(scratch, told)?;
    let there = Segment::new("elsewhere", &net.b, told)?;
    let mut vm = here.start(scratch, &VmOptions::new("vm"))?;
    let mut other = there.start(scratch, &VmOptions::new("other"))?;
    for (vm, segment) in [(&mut vm, &here), (&mut other, &there)] {
        vm.wait_until_ready()?;
        // Linux takes route options only where it is told to.
        vm.run(
            "echo 7 >/proc/sys/net/ipv6/conf/eth0/accept_ra_rt_info_max_plen && ip link set eth0 up",
            PATIENCE,
        )?;
        has_address(vm, segment.automatic_address()?, 64)?;
        vm.run(
            "[ $(cat /proc/sys/net/ipv6/conf/eth0/mtu) = 1400 ]",
            PATIENCE,
        )?;
        let routes = vm.run("ip -6 route", PATIENCE)?;
        ensure!(routes.contains("400::/7 via fe80::1 dev eth0"), "{routes}");
        ensure!(!routes.contains("default"), "{routes}");
    }
    traffic(&net, &mut vm, here.automatic_address()?, "address by RA")?;
    let target = there.automatic_address()?;
    vm.eventually(&format!("ping -6 -c 1 -W 1 {target}"), PATIENCE)?;
    vm.run(&format!("ping -6 -c 5 -i 0.2 -W 2 {target}"), PATIENCE)?;
    vm::between(&mut vm, &mut other, target, bulk_bytes(BULK).min(5_000_000))
}

/// A real client gets the address of the seed; advertisements tell it to ask, and where everything goes.
fn by_dhcp(scratch: &Scratch) -> anyhow::Result<()> {
    let (net, segment) = relayed(scratch, Some((Addressing::Dhcp, Reach::Everything)))?;
    let mut vm = segment.boot(scratch, &VmOptions::new("vm").dhcp_client()?)?;
    let address = segment.seed_address()?;
    vm.run("ip link set eth0 up", PATIENCE)?;
    has_address(&mut vm, addressing::link_local(MAC.parse()?), 64)?;
    let client = "dhclient -6 -1 -sf /dhcp-script -lf /tmp/leases -pf /tmp/pid";
    vm.run(&format!("{client} eth0"), PATIENCE)?;
    has_address(&mut vm, address, 128)?;
    let said = vm.run("cat /tmp/dhcp-BOUND6", PATIENCE)?;
    let server = addressing::gateway(segment.subnet);
    ensure!(
        said.contains(&format!("new_dhcp6_name_servers={server}")),
        "{said}"
    );
    let routes = vm.eventually("ip -6 route | grep 'default via fe80::1'", PATIENCE)?;
    ensure!(routes.contains("dev eth0"), "{routes}");
    let addresses = vm.run("ip -6 address show dev eth0 scope global", PATIENCE)?;
    let automatic = segment.automatic_address()?.to_string();
    ensure!(!addresses.contains(&automatic), "{addresses}");
    traffic(&net, &mut vm, address, "address by DHCPv6")?;

    // Given back and asked for again, it is the same.
    vm.run(&format!("{client} -r eth0"), PATIENCE)?;
    let addresses = vm.run("ip -6 address show dev eth0 scope global", PATIENCE)?;
    ensure!(!addresses.contains(&address.to_string()), "{addresses}");
    vm.run(&format!("{client} eth0"), PATIENCE)?;
    has_address(&mut vm, address, 128)?;
    let counters = segment
        .responder
        .as_ref()
        .context("a responder")?
        .counters();
    ensure!(
        counters.dhcp.refused == 0 && counters.dhcp.ignored == 0 && counters.unsent == 0,
        "{counters:?}"
    );
    Ok(())
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

/// Nobody advertises anything: address and route are on the disk.
fn by_disk(scratch: &Scratch) -> anyhow::Result<()> {
    let (net, segment) = relayed(scratch, None)?;
    let address = segment.seed_address()?;
    let gateway = addressing::gateway(segment.subnet);
    let content = Content {
        hostname: "vm1".to_owned(),
        instance_id: "26-1234-vm1".to_owned(),
        ssh_keys: vec!["ssh-ed25519 AAAA \"somebody\"".to_owned()],
        name_servers: vec![IpAddr::V6(gateway)],
        interfaces: vec![Interface {
            mac: MAC.parse()?,
            addresses: vec![(IpAddr::V6(address), 64)],
            routes: vec![("400::".parse()?, 7, IpAddr::V6(gateway))],
            gateway4: None,
            gateway6: None,
        }],
        ..Content::default()
    };
    let image = scratch.path().join("cidata.img");
    std::fs::write(&image, cidata::image(&content)?)?;
    let read = vm::cloud_init(scratch, &image)?;
    let expected = serde_json::json!({
        "instance": "26-1234-vm1",
        "hostname": "vm1",
        "user": {
            "disable_root": false,
            "users": [{"name": "root", "ssh_authorized_keys": ["ssh-ed25519 AAAA \"somebody\""]}],
        },
        "mac": MAC,
        "subnets": [{
            "type": "static",
            "address": address.to_string(),
            "prefix": 64,
            "routes": [{"network": "400::", "prefix": 7, "gateway": gateway.to_string()}],
            "dns_nameservers": [gateway.to_string()],
        }],
    });
    ensure!(read == expected, "cloud-init read {read}");

    let options = VmOptions::new("vm")
        .disk(&image)
        .file("configure", CONFIGURE);
    let mut vm = segment.boot(scratch, &options)?;
    vm.run("/configure", PATIENCE)?;
    has_address(&mut vm, address, 64)?;
    traffic(&net, &mut vm, address, "address from a cidata disk")
}

//! Hosts, wires and switches: network namespaces joined by veth pairs and bridges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use node_integration::{Namespace, link};

use crate::wait;

/// Numbers the underlay networks of one test.
#[derive(Debug, Default)]
pub struct Lab {
    networks: AtomicU16,
}

/// A host: a namespace with a loopback interface and whatever is plugged in.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    interfaces: AtomicU16,
}

/// The end of a wire at a host, with its underlay addresses.
#[derive(Clone, Debug)]
pub struct Port {
    host: Arc<Host>,
    interface: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// Two hosts joined directly.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The end at the first host.
    pub left: Port,
    /// The end at the second host.
    pub right: Port,
}

/// Hosts joined by a bridge that stands in a namespace of its own, where faults are made: the hosts see no more of
/// them than of faults in a real switch.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
    ports: Vec<Port>,
}

/// The bridge of a [`Switch`]; its ports are named "port0", "port1" and so on.
const BRIDGE: &str = "bridge";

/// How long the kernel may take to notice a wire; on an idle machine it takes a millisecond.
const PLUGGED_IN: Duration = Duration::from_secs(5);

impl Lab {
    /// An empty lab.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host with nothing but a loopback interface.
    pub fn host(&self, name: &str) -> anyhow::Result<Arc<Host>> {
        let namespace = Namespace::create().context("network namespace")?;
        link::up(&namespace, link::LOOPBACK)?;
        Ok(Arc::new(Host {
            name: name.to_owned(),
            namespace,
            interfaces: AtomicU16::new(0),
        }))
    }

    /// A namespace that somebody else made, as a host.
    pub fn adopt(&self, name: &str, namespace: Namespace) -> Arc<Host> {
        Arc::new(Host {
            name: name.to_owned(),
            namespace,
            interfaces: AtomicU16::new(0),
        })
    }

    /// Join two hosts by a wire with an IPv4 and an IPv6 network of its own.
    pub fn wire(&self, left: &Arc<Host>, right: &Arc<Host>) -> anyhow::Result<Wire> {
        let network = self.network();
        let (near, far) = (left.free_name(), right.free_name());
        link::veth(&left.namespace, &near, &right.namespace, &far)?;
        let wire = Wire {
            left: Port::configure(left, near, network, 1)?,
            right: Port::configure(right, far, network, 2)?,
        };
        // A node started before that would lose its first SYN, and with it a second.
        for port in [&wire.left, &wire.right] {
            link::wait_until_usable(&port.host.namespace, &port.interface, PLUGGED_IN)?;
        }
        Ok(wire)
    }

    /// Join hosts by a switch with an IPv4 and an IPv6 network of its own.
    pub fn switch(&self, hosts: &[&Arc<Host>]) -> anyhow::Result<Switch> {
        let network = self.network();
        let namespace = Namespace::create().context("network namespace")?;
        link::bridge(&namespace, BRIDGE)?;
        let mut ports = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let (near, far) = (format!("port{index}"), host.free_name());
            link::veth(&namespace, &near, &host.namespace, &far)?;
            link::attach(&namespace, BRIDGE, &near)?;
            link::up(&namespace, &near)?;
            let last = u8::try_from(index + 1).context("at most 255 hosts on a switch")?;
            let port = Port::configure(host, far, network, last)?;
            link::wait_until_usable(&namespace, &near, PLUGGED_IN)?;
            link::wait_until_usable(&host.namespace, &port.interface, PLUGGED_IN)?;
            ports.push(port);
        }
        Ok(Switch { namespace, ports })
    }

    fn network(&self) -> u16 {
        self.networks.fetch_add(1, Ordering::Relaxed)
    }
}

impl Host {
    /// What tests call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Run `f` on a thread inside the host's namespace. Sockets made there stay there.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.namespace
            .run(f)
            .with_context(|| format!("cannot enter the namespace of {}", self.name))
    }

    /// Start a process inside the host's namespace.
    pub fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        Ok(self.namespace.spawn(command)?)
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn free_name(&self) -> String {
        format!("eth{}", self.interfaces.fetch_add(1, Ordering::Relaxed))
    }
}

impl Port {
    fn configure(
        host: &Arc<Host>,
        interface: String,
        network: u16,
        last: u8,
    ) -> anyhow::Result<Self> {
        let [high, low] = network.to_be_bytes();
        let v4 = Ipv4Addr::new(10, high, low, last);
        let v6 = Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, last.into());
        link::add_address(&host.namespace, &interface, IpAddr::V4(v4), 24)?;
        link::add_address(&host.namespace, &interface, IpAddr::V6(v6), 64)?;
        link::up(&host.namespace, &interface)?;
        Ok(Self {
            host: Arc::clone(host),
            interface,
            v4,
            v6,
        })
    }

    /// The host it belongs to.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its underlay IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its underlay IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// The interface's number in its namespace.
    pub fn index(&self) -> anyhow::Result<u32> {
        link::index(&self.host.namespace, &self.interface)?
            .with_context(|| format!("no interface {}", self.interface))
    }

    /// Wait until the interface has a link-local address that can be used: routers and their hosts ask for each other's
    /// addresses from it.
    pub fn wait_for_link_local(&self, limit: Duration) -> anyhow::Result<()> {
        wait::until("a link-local address", limit, || {
            Ok(self.has_link_local()?.then_some(()))
        })
    }

    /// Whether the interface has a link-local address that has passed duplicate address detection.
    fn has_link_local(&self) -> anyhow::Result<bool> {
        // Address, index, prefix length, scope (20: link), flags (bits 6 and 3: tentative, failed), name.
        let table = self
            .host
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))??;
        Ok(table.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let flags = fields
                .get(4)
                .and_then(|flags| u8::from_str_radix(flags, 16).ok());
            fields.get(3) == Some(&"20")
                && fields.get(5) == Some(&self.interface.as_str())
                && flags.is_some_and(|flags| flags & 0x48 == 0)
        }))
    }
}

impl Switch {
    /// The `index`-th host's end.
    pub fn port(&self, index: usize) -> anyhow::Result<&Port> {
        self.ports
            .get(index)
            .with_context(|| format!("a switch without a port {index}"))
    }

    /// Wait until every host has a usable link-local address, as LAN discovery needs.
    pub fn wait_for_link_local(&self, limit: Duration) -> anyhow::Result<()> {
        for port in &self.ports {
            port.wait_for_link_local(limit)?;
        }
        Ok(())
    }

    /// Whether anything is carried. Carriers stay up.
    pub fn set_forwarding(&self, on: bool) -> anyhow::Result<()> {
        self.set_state(BRIDGE, on)
    }

    /// Give the `index`-th host a carrier, or take it away.
    pub fn set_carrier(&self, index: usize, on: bool) -> anyhow::Result<()> {
        self.set_state(&format!("port{index}"), on)
    }

    fn set_state(&self, interface: &str, up: bool) -> anyhow::Result<()> {
        if up {
            link::up(&self.namespace, interface)?;
        } else {
            link::down(&self.namespace, interface)?;
        }
        Ok(())
    }
}

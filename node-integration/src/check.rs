//! What commonly breaks user networks, as the kernel and the directory show it; nothing is changed. Each finding says what
//! to do.

mod overlay_route;

use std::collections::BTreeMap;
use std::io;

use futures_util::StreamExt as _;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use serde::Serialize;

use crate::desired::{Attachment, MAX_ATTACHMENTS, Network};
use crate::directory::{Directory, DirectoryError};
use crate::kernel::route;
use crate::kernel::transport::Transport;
use crate::netlink::query;
use crate::object::{OVERLAY_MTU, SEGMENT_MTU, namespace_of};
use crate::{Error, Namespace, Result, named, sysctl};

/// Another route to the overlay than ours.
pub const OVERLAY_ROUTE: &str = "overlay-route";
/// An interface whose MTU is not what it was made with.
pub const MTU: &str = "mtu-mismatch";
/// A router that does not forward.
pub const FORWARDING: &str = "forwarding-off";
/// A key, id, seed or MAC that two have.
pub const DUPLICATE: &str = "duplicate";
/// IPv6 is switched off.
pub const IPV6: &str = "ipv6-disabled";
/// The kernel has refused to remember a neighbour.
pub const NEIGHBOURS: &str = "neighbour-table-full";
/// A bridge is about to refuse ports.
pub const PORTS: &str = "bridge-full";

/// `BR_MAX_PORTS` of the kernel, less the one that it never gives.
const MAX_PORTS: usize = 1023;

/// A namespace, and how messages and commands name it.
struct Site<'a> {
    namespace: &'a Namespace,
    name: String,
    /// What comes before a command there.
    prefix: String,
}

impl<'a> Site<'a> {
    fn host(namespace: &'a Namespace) -> Self {
        Self {
            namespace,
            name: "the host".to_owned(),
            prefix: String::new(),
        }
    }

    /// `netns` is a name below `/run/netns`, or a path.
    fn inside(namespace: &'a Namespace, netns: &str) -> Self {
        Self {
            namespace,
            name: format!("namespace {netns}"),
            prefix: if netns.contains('/') {
                format!("nsenter --net={netns} ")
            } else {
                format!("ip netns exec {netns} ")
            },
        }
    }

    fn sysctl(&self, setting: &str, value: &str) -> String {
        format!("{}sysctl -w {setting}={value}", self.prefix)
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing, for programs.
    pub code: &'static str,
    /// Whose: a network, a workload as `NETWORK/NAME`, `host`.
    pub subject: String,
    /// One sentence.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// The host, its networks, and what is inside the namespaces of their workloads.
///
/// # Errors
/// When the directory or the kernel cannot be read at all.
pub fn everything(directory: &Directory) -> std::result::Result<Vec<Finding>, CheckError> {
    let mut findings = Findings(host()?);
    let (networks, bad) = directory.networks()?;
    for (name, error) in bad {
        findings.duplicate(name.as_str(), &error);
    }
    for network in &networks {
        findings.0.extend(self::network(network)?);
        let (attachments, bad) = directory.attachments(network)?;
        for (name, error) in bad {
            findings.duplicate(&format!("{}/{name}", network.name), &error);
        }
        for attachment in &attachments {
            findings.workload(network, attachment)?;
        }
    }
    Ok(findings.0)
}

/// The namespace of this thread, as that of a node.
///
/// # Errors
/// When the kernel cannot be read at all.
pub fn host() -> std::result::Result<Vec<Finding>, CheckError> {
    let here = Namespace::current().map_err(CheckError::Namespace)?;
    let mut findings = Findings::default();
    findings.host(&Site::host(&here))?;
    Ok(findings.0)
}

/// A network's bridge and router, without its workloads. One that is not made is the business of `net plan`.
///
/// # Errors
/// When the kernel cannot be read at all.
pub fn network(network: &Network) -> std::result::Result<Vec<Finding>, CheckError> {
    let here = Namespace::current().map_err(CheckError::Namespace)?;
    let host = Site::host(&here);
    let mut findings = Findings::default();
    findings.segment(network, &host)?;
    if let Ok(inside) = named::open(&network.names.namespace) {
        let router = Site::inside(&inside, &network.names.namespace);
        findings.router(network, &host, &router)?;
    }
    Ok(findings.0)
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The descriptions.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] Error),
    /// Our own namespace.
    #[error("open the network namespace: {0}")]
    Namespace(io::Error),
}

impl Finding {
    /// What tells it from others of its code.
    pub fn about(&self) -> String {
        format!("{}: {}", self.subject, self.hint)
    }
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, code: &'static str, subject: &str, text: String, hint: impl Into<String>) {
        self.0.push(Finding {
            code,
            subject: subject.to_owned(),
            text,
            hint: hint.into(),
        });
    }

    fn duplicate(&mut self, subject: &str, error: &DirectoryError) {
        if let DirectoryError::Duplicate(text) = error {
            self.add(
                DUPLICATE,
                subject,
                text.clone(),
                "until then the second of them is left as it is",
            );
        }
    }

    fn host(&mut self, host: &Site<'_>) -> Result<()> {
        const SUBJECT: &str = "host";
        self.ipv6(SUBJECT, host, "all");
        let routes = overlay_route::read(host.namespace)?;
        // Which interface is the node's nobody here knows; but there is one node to a namespace.
        let whole = overlay_route::whole(&routes);
        if let [first, other, ..] = whole.as_slice() {
            self.add(
                OVERLAY_ROUTE,
                SUBJECT,
                format!("400::/7 is routed to {first} and to {other}: packets take one of them"),
                "stop one of the two nodes or VPNs, or give one a namespace or a routing table of its own",
            );
        }
        let parts = routes.iter().filter(|route| route.is_part());
        for route in parts.filter(|route| !whole.contains(&route.interface)) {
            self.add(
                OVERLAY_ROUTE,
                SUBJECT,
                format!("the host has {route}: that part of the overlay is out of reach"),
                format!("ip -6 route del {}", route.destination()),
            );
        }
        let fulls = neighbour_table_fulls(host.namespace)?;
        if fulls > 0 {
            self.add(
                NEIGHBOURS,
                SUBJECT,
                format!("the kernel's table of IPv6 neighbours was full {fulls} times since it started; all namespaces share it"),
                "on the host: sysctl -w net.ipv6.neigh.default.gc_thresh3=16384 net.ipv6.neigh.default.gc_thresh2=8192",
            );
        }
        Ok(())
    }

    /// Whether IPv6 is on at `interface`, or with `all` in the namespace.
    fn ipv6(&mut self, subject: &str, site: &Site<'_>, interface: &str) -> bool {
        let setting = format!("net.ipv6.conf.{interface}.disable_ipv6");
        let key = format!("ipv6/conf/{interface}/disable_ipv6");
        let (text, hint) = match sysctl::get(site.namespace, &key) {
            Ok(value) if value == "0" => return true,
            Ok(_) => (
                format!("{} has IPv6 disabled: {setting} is 1", site.name),
                format!("{}, then `mycelium net apply`", site.sysctl(&setting, "0")),
            ),
            Err(Error::NoSuchSetting { .. }) if interface == "all" => (
                "this kernel has no IPv6".to_owned(),
                "start it without ipv6.disable=1, or load the module ipv6".to_owned(),
            ),
            // What is not there is the plan's business.
            Err(_) => return true,
        };
        self.add(IPV6, subject, text, hint);
        false
    }

    fn mtu(&mut self, subject: &str, site: &Site<'_>, links: &Links, name: &str, wanted: u32) {
        if let Some(link) = links.get(name)
            && link.mtu != wanted
        {
            self.add(
                MTU,
                subject,
                format!(
                    "{name} of {} has an MTU of {} instead of {wanted}: large packets are lost",
                    site.name, link.mtu
                ),
                format!("{}ip link set dev {name} mtu {wanted}", site.prefix),
            );
        }
    }

    fn forwarding(&mut self, subject: &str, site: &Site<'_>, key: &str) {
        let is_off = sysctl::get(site.namespace, key).is_ok_and(|value| value == "0");
        if is_off {
            let setting = format!("net.{}", key.replace('/', "."));
            self.add(
                FORWARDING,
                subject,
                format!("{} forwards nothing: {setting} is 0", site.name),
                site.sysctl(&setting, "1"),
            );
        }
    }

    fn overlay_routes(&mut self, subject: &str, site: &Site<'_>, ours: &str) -> Result<()> {
        for route in overlay_route::read(site.namespace)? {
            if route.interface != ours {
                self.add(
                    OVERLAY_ROUTE,
                    subject,
                    format!("{} has {route} beside ours through {ours}: packets take one of them", site.name),
                    "stop what made it there, such as a second node, or let it use another namespace",
                );
            }
        }
        Ok(())
    }

    /// The bridge of a network and its cable to the router, in the host's namespace.
    fn segment(&mut self, network: &Network, host: &Site<'_>) -> Result<()> {
        let subject = network.name.as_str();
        let names = &network.names;
        let (links, ports) = segment(host.namespace, &names.bridge, &names.uplink)?;
        for name in [&names.bridge, &names.uplink] {
            self.mtu(subject, host, &links, name, SEGMENT_MTU);
        }
        // The cable and as many attachments as there may be are fine.
        if ports > MAX_ATTACHMENTS + 1 {
            self.add(
                PORTS,
                subject,
                format!(
                    "bridge {} has {ports} ports and can have {MAX_PORTS}: some are not ours",
                    names.bridge
                ),
                format!(
                    "take foreign interfaces off it: bridge link show | grep {}",
                    names.bridge
                ),
            );
        }
        Ok(())
    }

    /// The namespace that routes between a network's guests and the overlay.
    fn router(&mut self, network: &Network, host: &Site<'_>, router: &Site<'_>) -> Result<()> {
        let subject = network.name.as_str();
        let (tun, gateway) = (&network.names.tun, &network.names.gateway);
        let links = links(router.namespace)?;
        self.mtu(subject, router, &links, tun, OVERLAY_MTU);
        self.mtu(subject, router, &links, gateway, SEGMENT_MTU);
        let interfaces = ["all", tun, gateway];
        // Where it is off as a whole, it is off at each.
        let _ = interfaces
            .iter()
            .all(|name| self.ipv6(subject, router, name));
        for name in interfaces {
            self.forwarding(subject, router, &format!("ipv6/conf/{name}/forwarding"));
        }
        if network.spec.masquerade.is_some() {
            for site in [host, router] {
                self.forwarding(subject, site, "ipv4/ip_forward");
            }
        }
        self.overlay_routes(subject, router, tun)
    }

    /// The inside of a workload, where it is a namespace.
    fn workload(&mut self, network: &Network, attachment: &Attachment) -> Result<()> {
        let Some(netns) = namespace_of(network, attachment) else {
            return Ok(());
        };
        let opened = if netns.contains('/') {
            Namespace::open(&netns)
        } else {
            named::path(&netns)
                .map_err(io::Error::from)
                .and_then(Namespace::open)
        };
        // A workload that has ended is no trouble of its network's.
        let Ok(inside) = opened else {
            return Ok(());
        };
        let site = Site::inside(&inside, &netns);
        let subject = format!("{}/{}", network.name, attachment.name);
        let interface = &attachment.interface;
        self.mtu(&subject, &site, &links(&inside)?, interface, OVERLAY_MTU);
        if self.ipv6(&subject, &site, "all") {
            self.ipv6(&subject, &site, interface);
        }
        self.overlay_routes(&subject, &site, interface)
    }
}

/// What is looked at of an interface.
struct Link {
    mtu: u32,
}

/// By name.
type Links = BTreeMap<String, Link>;

/// A network's bridge and its cable, and how many ports the bridge has. Not a list of all interfaces of the host, which
/// would cost each network what all of them do: see [`crate::survey`].
fn segment(namespace: &Namespace, bridge: &str, uplink: &str) -> Result<(Links, usize)> {
    let look = || -> io::Result<_> {
        let mut route = Transport::open(NETLINK_ROUTE)?;
        let mut links = Links::new();
        let mut ports = 0;
        for name in [bridge, uplink] {
            if let Some(found) = route::find(&mut route, name)? {
                links.insert(name.to_owned(), Link { mtu: found.mtu });
                if name == bridge {
                    ports = route::ports(&mut route, found.index)?;
                }
            }
        }
        Ok((links, ports))
    };
    let looked = namespace.run(look).and_then(|looked| looked);
    looked.map_err(|error| Error::from_io(format!("look at {bridge} and {uplink}"), error))
}

/// All interfaces of a namespace that has few.
fn links(namespace: &Namespace) -> Result<Links> {
    query(namespace, "list interfaces", async |handle| {
        let mut links = BTreeMap::new();
        let mut found = std::pin::pin!(handle.link().get().execute());
        while let Some(message) = found.next().await {
            let message = message?;
            let mut name = None;
            let mut link = Link { mtu: 0 };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text),
                    LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                    _ => {}
                }
            }
            links.extend(name.map(|name| (name, link)));
        }
        Ok(links)
    })
}

/// How often the kernel had no room for an IPv6 neighbour since it started; permanent ones, which are ours, do not count.
fn neighbour_table_fulls(namespace: &Namespace) -> Result<u64> {
    query(
        namespace,
        "read the neighbour tables",
        async |mut handle| {
            let mut table = NeighbourTableMessage::default();
            table.header.family = AddressFamily::Inet6;
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbourTable(table));
            request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let mut answers = handle.request(request)?;
            let mut fulls = 0;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbourTable(table)) =
                    answer.payload
                {
                    for attribute in table.attributes {
                        if let NeighbourTableAttribute::Stats(stats) = attribute {
                            fulls += stats.table_fulls;
                        }
                    }
                }
            }
            Ok(fulls)
        },
    )
}

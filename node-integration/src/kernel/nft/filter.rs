//! The rules: what each of our filters lets pass, in which order, and what it counts.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::expression::{ARP, ESTABLISHED, Expressions, INVALID, IPV4, IPV6, RELATED, jump};
use super::wire::{Attributes, Batch, Family, Verb};
use super::{COUNTER, TABLE, digest};
use crate::desired::Traffic;
use crate::object::{Ingress, NetworkFilter, PortFilter};

/// The chain of a port.
pub(super) const PORT: &str = "port";
/// The chain of the routed hop.
pub(super) const FORWARD: &str = "forward";
const INPUT: &str = "input";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";
/// Which chain has the rules of a destination.
const WORKLOADS: &str = "workloads";
/// What the host masquerades.
pub(super) const MASQUERADED: &str = "masqueraded";

/// Neighbour discovery of one guest, packets a second: a Linux guest sends a handful at start and one every half minute.
const DISCOVERY_RATE: u64 = 50;
const DISCOVERY_BURST: u32 = 100;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Multicast listener reports of both versions, which may come before there is an address.
const LISTENER_REPORTS: [u8; 3] = [131, 132, 143];
const DHCP_SERVER: u16 = 547;

const HOOK_INGRESS: u32 = 0;
const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
const FILTER_PRIORITY: i32 = 0;
const SOURCE_NAT_PRIORITY: i32 = 100;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;

/// `NFT_SET_MAP`, and the data type of verdicts.
const MAP: u32 = 8;
const VERDICTS: u32 = 0xffff_ff00;

/// Types of keys as `nft` numbers them, which shows them so, and their bytes.
const IPV4_ADDRESS: (u32, u32) = (7, 4);
const IPV6_ADDRESS: (u32, u32) = (8, 16);

/// What a port's filter counts.
const PORT_COUNTERS: [&str; 6] = ["mac", "source", "router", "discovery", "rate", "other"];

/// A transaction under way, and the table that it is about.
struct Rules<'a> {
    batch: &'a mut Batch,
    family: Family,
    table: &'a str,
}

impl Rules<'_> {
    fn table(&mut self) {
        let table = Attributes::new().text(1, self.table).word(2, 0);
        self.batch.make(Verb::NewTable, self.family, &table);
    }

    /// With all that is in it.
    fn remove_table(&mut self) {
        let table = Attributes::new().text(1, self.table);
        self.batch.remove(Verb::DelTable, self.family, &table);
    }

    fn chain(&mut self, name: &str, digest: u64) {
        let chain = Attributes::new()
            .text(1, self.table)
            .text(3, name)
            .long(12, digest);
        self.batch.make(Verb::NewChain, self.family, &chain);
    }

    fn base_chain(
        &mut self,
        name: &str,
        kind: &str,
        (hook, priority, device): (u32, i32, Option<&str>),
        policy: u32,
        digest: u64,
    ) {
        let mut place = Attributes::new()
            .word(1, hook)
            .bytes(2, &priority.to_be_bytes());
        if let Some(device) = device {
            place = place.text(3, device);
        }
        let chain = Attributes::new()
            .text(1, self.table)
            .text(3, name)
            .nest(4, &place)
            .word(5, policy)
            .text(7, kind)
            .long(12, digest);
        self.batch.make(Verb::NewChain, self.family, &chain);
    }

    /// Take all rules from a chain that is there by now.
    fn flush(&mut self, chain: &str) {
        let rules = Attributes::new().text(1, self.table).text(2, chain);
        self.batch.remove(Verb::DelRule, self.family, &rules);
    }

    fn remove_chain(&mut self, name: &str) {
        let chain = Attributes::new().text(1, self.table).text(3, name);
        self.batch.remove(Verb::DelChain, self.family, &chain);
    }

    fn counter(&mut self, name: &str) {
        let nothing = Attributes::new().long(1, 0).long(2, 0);
        let counter = Attributes::new()
            .text(1, self.table)
            .text(2, name)
            .word(3, COUNTER)
            .nest(4, &nothing);
        self.batch.make(Verb::NewObject, self.family, &counter);
    }

    fn remove_counter(&mut self, name: &str) {
        let counter = Attributes::new()
            .text(1, self.table)
            .text(2, name)
            .word(3, COUNTER);
        self.batch.remove(Verb::DelObject, self.family, &counter);
    }

    fn rule(&mut self, chain: &str, expressions: &Expressions) {
        let rule = Attributes::new()
            .text(1, self.table)
            .text(2, chain)
            .nest(4, expressions.attributes());
        self.batch.make(Verb::NewRule, self.family, &rule);
    }

    fn set(&mut self, name: &str, (key_type, key_length): (u32, u32), is_map: bool) {
        let mut set = Attributes::new()
            .text(1, self.table)
            .text(2, name)
            .word(3, if is_map { MAP } else { 0 })
            .word(4, key_type)
            .word(5, key_length);
        if is_map {
            set = set.word(6, VERDICTS);
        }
        // Its number within the transaction; there is one set in each.
        let set = set.word(10, 1);
        self.batch.make(Verb::NewSet, self.family, &set);
    }

    fn element(&mut self, verb: Verb, set: &str, key: &[u8], data: Option<&Attributes>) {
        let mut element = Attributes::new().nest(1, &Attributes::new().bytes(1, key));
        if let Some(data) = data {
            element = element.nest(2, data);
        }
        let elements = Attributes::new()
            .text(1, self.table)
            .text(2, set)
            .nest(3, &Attributes::new().nest(1, &element));
        match verb {
            Verb::DelElements => self.batch.remove(verb, self.family, &elements),
            _ => self.batch.make(verb, self.family, &elements),
        }
    }
}

/// The name of a workload's counter at the routed hop.
fn counter_name(port: &str, what: &str) -> String {
    format!("{port} {what}")
}

/// The table of a port.
pub(super) fn port_table(link: &str) -> String {
    format!("{TABLE}.{link}")
}

/// The port that a table is of.
pub(super) fn port_of(table: &str) -> Option<&str> {
    table.strip_prefix(TABLE)?.strip_prefix('.')
}

/// The first hop of what a workload sends, before the bridge sees it: no state, no look-up.
///
/// Its table is its own: a transaction checks all chains of the tables that it touches, so in a table of all ports one
/// more would cost the more, the more there are (measured: 3.2 instead of 0.9 ms beside a thousand). It takes the place of
/// one that is there.
pub(super) fn port(batch: &mut Batch, filter: &PortFilter, is_there: bool) {
    let table = port_table(&filter.link);
    let mut rules = Rules {
        batch,
        family: Family::Netdev,
        table: &table,
    };
    let chain = PORT;
    if is_there {
        rules.remove_table();
    }
    rules.table();
    for what in PORT_COUNTERS {
        rules.counter(what);
    }
    let place = (HOOK_INGRESS, FILTER_PRIORITY, Some(filter.link.as_str()));
    rules.base_chain(chain, "filter", place, ACCEPT, digest(filter));
    let rule = Expressions::new;
    let dropped = |expressions: Expressions, what: &str| expressions.count(what).drop();
    rules.rule(chain, &dropped(rule().not_source_mac(filter.mac), "mac"));
    if let Some(rate) = filter.packets_per_second {
        rules.rule(
            chain,
            &dropped(rule().above(rate.into(), rate.max(5)), "rate"),
        );
    }
    if let Some(ipv4) = filter.ipv4 {
        let arp = rule().ether_type(ARP).arp_sender(filter.mac, ipv4);
        rules.rule(chain, &arp.accept());
        rules.rule(chain, &rule().ether_type(IPV4).source4(ipv4).accept());
        rules.rule(chain, &dropped(rule().ether_type(IPV4), "source"));
        rules.rule(chain, &dropped(rule().ether_type(ARP), "source"));
    }
    rules.rule(chain, &dropped(rule().not_ether_type(IPV6), "other"));
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        rules.rule(chain, &dropped(rule().icmpv6(kind, kind), "router"));
    }
    rules.rule(chain, &dropped(rule().udp_from(DHCP_SERVER), "router"));
    if !filter.asks_for_router {
        let solicitation = rule().icmpv6(ROUTER_SOLICITATION, ROUTER_SOLICITATION);
        rules.rule(chain, &solicitation.drop());
    }
    let discovery = rule().icmpv6(ROUTER_SOLICITATION, NEIGHBOUR_ADVERTISEMENT);
    rules.rule(
        chain,
        &dropped(
            discovery.above(DISCOVERY_RATE, DISCOVERY_BURST),
            "discovery",
        ),
    );
    for source in &filter.sources {
        rules.rule(chain, &rule().source6(*source).accept());
    }
    // Before it has an address, a guest asks whether somebody else has it. Nobody can; but the gateway, which answers
    // for all guests, would answer for this one too, and the guest would give the address up.
    let nobody = || rule().source6(Ipv6Addr::UNSPECIFIED);
    let probe = nobody().icmpv6(NEIGHBOUR_SOLICITATION, NEIGHBOUR_SOLICITATION);
    rules.rule(chain, &probe.drop());
    let first_solicitation = nobody().icmpv6(ROUTER_SOLICITATION, ROUTER_SOLICITATION);
    rules.rule(chain, &first_solicitation.accept());
    for kind in LISTENER_REPORTS {
        rules.rule(chain, &nobody().icmpv6(kind, kind).accept());
    }
    rules.rule(chain, &dropped(rule(), "source"));
}

pub(super) fn remove_port(batch: &mut Batch, filter: &PortFilter) {
    let table = port_table(&filter.link);
    let mut rules = Rules {
        batch,
        family: Family::Netdev,
        table: &table,
    };
    rules.remove_table();
}

/// The routed hop: what was asked for comes back, ICMPv6 errors always do, and else nobody comes in.
pub(super) fn network(batch: &mut Batch, filter: &NetworkFilter, is_there: bool) {
    let mut rules = Rules {
        batch,
        family: Family::Inet,
        table: TABLE,
    };
    let digest = digest(filter);
    let rule = Expressions::new;
    let (tun, gateway) = (filter.tun.as_str(), filter.gateway.as_str());
    rules.table();
    for counter in ["invalid", "refused", "input"] {
        rules.counter(counter);
    }
    rules.set(WORKLOADS, IPV6_ADDRESS, true);
    let place = |hook| (hook, FILTER_PRIORITY, None);
    rules.base_chain(FORWARD, "filter", place(HOOK_FORWARD), DROP, digest);
    rules.base_chain(INPUT, "filter", place(HOOK_INPUT), DROP, digest);
    rules.base_chain(OUTPUT, "filter", place(HOOK_OUTPUT), ACCEPT, digest);
    if is_there {
        for chain in [FORWARD, INPUT, OUTPUT] {
            rules.flush(chain);
        }
    }
    // Packet Too Big above all, also for connections that are not known here.
    rules.rule(FORWARD, &rule().icmpv6(1, 4).accept());
    let known = rule().state(ESTABLISHED | RELATED);
    rules.rule(FORWARD, &known.accept());
    let invalid = rule().state(INVALID).count("invalid");
    rules.rule(FORWARD, &invalid.drop());
    rules.rule(FORWARD, &rule().by_destination6(WORKLOADS));
    let out = || rule().arriving_at(gateway);
    rules.rule(FORWARD, &out().leaving_by(tun).accept());
    if let Some(wan) = &filter.wan {
        rules.rule(FORWARD, &out().leaving_by(wan).over_ipv4().accept());
    }
    rules.rule(FORWARD, &rule().count("refused").drop());

    rules.rule(INPUT, &rule().arriving_at("lo").accept());
    rules.rule(INPUT, &rule().any_icmpv6().accept());
    rules.rule(INPUT, &rule().any_icmp().accept());
    rules.rule(INPUT, &rule().state(ESTABLISHED | RELATED).accept());
    let dhcp = out().udp(DHCP_SERVER, DHCP_SERVER);
    rules.rule(INPUT, &dhcp.accept());
    rules.rule(INPUT, &rule().count("input").drop());

    // Two guests of a network reach each other through here and nowhere else, whatever the kernel would tell them.
    rules.rule(OUTPUT, &rule().icmpv6(REDIRECT, REDIRECT).drop());

    if let Some(wan) = &filter.wan {
        let place = (HOOK_POSTROUTING, SOURCE_NAT_PRIORITY, None);
        rules.base_chain(POSTROUTING, "nat", place, ACCEPT, digest);
        rules.flush(POSTROUTING);
        let out = rule().over_ipv4().leaving_by(wan);
        rules.rule(POSTROUTING, &out.masquerade());
    }
}

/// A workload's own chain, where the routed hop sends what is for it.
pub(super) fn ingress(batch: &mut Batch, ingress: &Ingress, is_there: bool) {
    let mut rules = Rules {
        batch,
        family: Family::Inet,
        table: TABLE,
    };
    let chain = ingress.port.as_str();
    let refused = counter_name(chain, "refused");
    rules.counter(&refused);
    rules.chain(chain, digest(ingress));
    if is_there {
        rules.flush(chain);
    }
    for allow in &ingress.allow {
        let who = match allow.from {
            Some((address, length)) => Expressions::new().source6_prefix(address, length),
            None => Expressions::new(),
        };
        let what = match allow.traffic {
            Traffic::All => who,
            Traffic::Icmp => who.any_icmpv6(),
            Traffic::Tcp(first, last) => who.tcp(first, last),
            Traffic::Udp(first, last) => who.udp(first, last),
        };
        rules.rule(chain, &what.accept());
    }
    rules.rule(chain, &Expressions::new().count(&refused).drop());
    for address in &ingress.addresses {
        let data = jump(chain);
        rules.element(Verb::NewElements, WORKLOADS, &address.octets(), Some(&data));
    }
}

pub(super) fn remove_ingress(batch: &mut Batch, ingress: &Ingress) {
    let mut rules = Rules {
        batch,
        family: Family::Inet,
        table: TABLE,
    };
    for address in &ingress.addresses {
        rules.element(Verb::DelElements, WORKLOADS, &address.octets(), None);
    }
    rules.flush(&ingress.port);
    rules.remove_chain(&ingress.port);
    rules.remove_counter(&counter_name(&ingress.port, "refused"));
}

/// The host's half of masquerade. The table stays when the last network goes: it does nothing then.
pub(super) fn host_masquerade(batch: &mut Batch, source: Ipv4Addr) {
    let mut rules = Rules {
        batch,
        family: Family::Ipv4,
        table: TABLE,
    };
    rules.table();
    rules.set(MASQUERADED, IPV4_ADDRESS, false);
    let place = (HOOK_POSTROUTING, SOURCE_NAT_PRIORITY, None);
    rules.base_chain(POSTROUTING, "nat", place, ACCEPT, 0);
    rules.flush(POSTROUTING);
    let rule = Expressions::new().source4_in(MASQUERADED);
    rules.rule(POSTROUTING, &rule.masquerade());
    rules.element(Verb::NewElements, MASQUERADED, &source.octets(), None);
}

pub(super) fn remove_host_masquerade(batch: &mut Batch, source: Ipv4Addr) {
    let mut rules = Rules {
        batch,
        family: Family::Ipv4,
        table: TABLE,
    };
    rules.element(Verb::DelElements, MASQUERADED, &source.octets(), None);
}

//! Filters in the kernel's packet path, by nf_tables messages of our own (docs/adr/0015).
//!
//! Everything is in tables called `mycelium`: `netdev` and `ip` in the host's namespace, `inet` in a network's. Changes
//! are transactions: what is there is replaced in one step, and no packet sees half of it.

mod expression;
mod filter;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use wire::{Attributes, Batch, Family, Verb};

use super::transport::{Transport, errno};
use crate::Namespace;
use crate::object::{Ingress, NetworkFilter, PortFilter};

/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
const TABLE: &str = "mycelium";

/// Packets and bytes that a rule has met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the Ethernet or IP header on.
    pub bytes: u64,
}

/// nf_tables of one namespace.
pub(crate) struct Nftables {
    transport: Transport,
}

impl Nftables {
    pub(crate) fn open(namespace: Option<&Namespace>) -> io::Result<Self> {
        Ok(Self {
            transport: Transport::open(namespace, NETLINK_NETFILTER)?,
        })
    }

    /// Carry out what `fill` puts into a transaction.
    fn transact(&mut self, fill: impl FnOnce(&mut Batch)) -> io::Result<()> {
        let mut batch = Batch::new(self.transport.next_sequence());
        fill(&mut batch);
        let Some((bytes, sequences)) = batch.finish() else {
            return Ok(());
        };
        let last = *sequences.end();
        let outcome = self.transport.exchange(&bytes, sequences, |_, _| ());
        while self.transport.next_sequence() <= last {}
        outcome
    }

    pub(crate) fn make_port_filter(&mut self, filter: &PortFilter) -> io::Result<()> {
        self.transact(|batch| filter::port(batch, filter))
    }

    pub(crate) fn remove_port_filter(&mut self, filter: &PortFilter) -> io::Result<()> {
        absent_is_fine(self.transact(|batch| filter::remove_port(batch, filter)))
    }

    pub(crate) fn make_network_filter(&mut self, filter: &NetworkFilter) -> io::Result<()> {
        self.transact(|batch| filter::network(batch, filter))
    }

    pub(crate) fn remove_network_filter(&mut self) -> io::Result<()> {
        let table = Attributes::new().text(1, TABLE);
        absent_is_fine(self.transact(|batch| batch.remove(Verb::DelTable, Family::Inet, &table)))
    }

    pub(crate) fn make_ingress(&mut self, ingress: &Ingress) -> io::Result<()> {
        self.transact(|batch| filter::ingress(batch, ingress))
    }

    pub(crate) fn remove_ingress(&mut self, ingress: &Ingress) -> io::Result<()> {
        absent_is_fine(self.transact(|batch| filter::remove_ingress(batch, ingress)))
    }

    pub(crate) fn make_masquerade(&mut self, source: std::net::Ipv4Addr) -> io::Result<()> {
        self.transact(|batch| filter::host_masquerade(batch, source))
    }

    pub(crate) fn remove_masquerade(&mut self, source: std::net::Ipv4Addr) -> io::Result<()> {
        absent_is_fine(self.transact(|batch| filter::remove_host_masquerade(batch, source)))
    }

    /// Whether an address is among those that the host masquerades.
    pub(crate) fn masquerades(&mut self, source: std::net::Ipv4Addr) -> io::Result<bool> {
        let mut found = false;
        let question = Attributes::new()
            .text(1, TABLE)
            .text(2, filter::MASQUERADED);
        let outcome = self.dump(Verb::GetElements, Family::Ipv4, &question, |body| {
            let elements = wire::attribute(body, 3).unwrap_or_default();
            found |= wire::attributes(elements).any(|(_, element)| {
                wire::attribute(element, 1)
                    .and_then(|key| wire::attribute(key, 1))
                    .is_some_and(|key| key == source.octets())
            });
        });
        absent_is_fine(outcome)?;
        Ok(found)
    }

    /// The counters of the table, by name.
    pub(crate) fn counters(&mut self, family: Family) -> io::Result<BTreeMap<String, Counted>> {
        let mut found = BTreeMap::new();
        let question = Attributes::new().text(1, TABLE).word(3, COUNTER);
        let outcome = self.dump(Verb::GetObject, family, &question, |body| {
            let number = |data: &[u8], kind| wire::attribute(data, kind).and_then(wire::long);
            let name = wire::attribute(body, 2).map(wire::text);
            if let (Some(name), Some(data)) = (name, wire::attribute(body, 4)) {
                let counted = Counted {
                    bytes: number(data, 1).unwrap_or_default(),
                    packets: number(data, 2).unwrap_or_default(),
                };
                found.insert(name, counted);
            }
        });
        absent_is_fine(outcome)?;
        Ok(found)
    }

    /// Whether one chain is there, and with which digest.
    pub(crate) fn chain(&mut self, family: Family, name: &str) -> io::Result<Option<u64>> {
        let sequence = self.transport.next_sequence();
        let attributes = Attributes::new().text(1, TABLE).text(3, name);
        let question = wire::question(sequence, Verb::GetChain, family, false, &attributes);
        let mut digest = None;
        let outcome = self
            .transport
            .exchange(&question, sequence..=sequence, |reply, _| {
                let found = wire::attribute(wire::body(reply.body), 12).and_then(wire::long);
                digest = Some(found.unwrap_or_default());
            });
        absent_is_fine(outcome)?;
        Ok(digest)
    }

    fn dump(
        &mut self,
        verb: Verb,
        family: Family,
        attributes: &Attributes,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let sequence = self.transport.next_sequence();
        let question = wire::question(sequence, verb, family, true, attributes);
        self.transport
            .exchange(&question, sequence..=sequence, |reply, _| {
                each(wire::body(reply.body));
            })
    }
}

/// The digest that a port's filter is made with, and its chain.
pub(crate) fn port_chain(filter: &PortFilter) -> (&str, u64) {
    (&filter.link, digest(filter))
}

/// The chain that stands for a network's filter.
pub(crate) fn network_chain(filter: &NetworkFilter) -> (&'static str, u64) {
    (filter::FORWARD, digest(filter))
}

/// The chain of a workload's rules.
pub(crate) fn ingress_chain(ingress: &Ingress) -> (&str, u64) {
    (&ingress.port, digest(ingress))
}

/// Of the rules that follow from a description: a change of this program that changes them changes the version.
fn digest(description: &impl serde::Serialize) -> u64 {
    use sha2::Digest as _;
    const VERSION: u8 = 1;
    let text = serde_json::to_vec(description).expect("objects always serialise");
    let hash = sha2::Sha256::new()
        .chain_update([VERSION])
        .chain_update(text)
        .finalize();
    u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"))
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| match errno(&error) {
        Some(Errno::ENOENT | Errno::ENODEV) => Ok(()),
        _ => Err(error),
    })
}

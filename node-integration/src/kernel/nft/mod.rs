//! Filters in the kernel's packet path, by nf_tables messages of our own (docs/adr/0015).
//!
//! Everything is in tables called `mycelium`: `ip` in the host's namespace, `inet` in a network's; and in one called
//! `mycelium.PORT` of `netdev` for each port of the host's. Changes are transactions: what is there is replaced in one step, and no packet sees half of it.

mod expression;
mod filter;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use wire::{Attributes, Batch, Family, Verb};

use super::transport::{Transport, errno};
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
    has_removed: bool,
}

impl AsFd for Nftables {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl Nftables {
    /// That of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            transport: Transport::open(NETLINK_NETFILTER)?,
            has_removed: false,
        })
    }

    /// Whether the kernel still has to free what a transaction has removed: see [`super::departure`].
    pub(crate) fn has_removed(&self) -> bool {
        self.has_removed
    }

    /// Carry out what `fill` puts into a transaction.
    fn transact(&mut self, fill: impl FnOnce(&mut Batch)) -> io::Result<()> {
        let mut batch = Batch::new(self.transport.next_sequence());
        fill(&mut batch);
        let removes = batch.removes();
        let Some((bytes, sequences)) = batch.finish() else {
            return Ok(());
        };
        let last = *sequences.end();
        let outcome = self.transport.exchange(&bytes, sequences, |_, _| ());
        self.has_removed |= removes;
        while self.transport.next_sequence() <= last {}
        outcome
    }

    /// Make it, in place of one that is there.
    pub(crate) fn make_port_filter(&mut self, filter: &PortFilter) -> io::Result<()> {
        // Newer kernels keep the chain of an interface that was deleted.
        let is_there = self.chain(&Chain::of_port(filter))?.is_some();
        self.transact(|batch| filter::port(batch, filter, is_there))
    }

    pub(crate) fn remove_port_filter(&mut self, filter: &PortFilter) -> io::Result<()> {
        absent_is_fine(self.transact(|batch| filter::remove_port(batch, filter)))
    }

    pub(crate) fn make_network_filter(&mut self, filter: &NetworkFilter) -> io::Result<()> {
        let is_there = self.chain(&Chain::of_network(filter))?.is_some();
        self.transact(|batch| filter::network(batch, filter, is_there))
    }

    pub(crate) fn remove_network_filter(&mut self) -> io::Result<()> {
        let table = Attributes::new().text(1, TABLE);
        absent_is_fine(self.transact(|batch| batch.remove(Verb::DelTable, Family::Inet, &table)))
    }

    pub(crate) fn make_ingress(&mut self, ingress: &Ingress) -> io::Result<()> {
        let is_there = self.chain(&Chain::of_ingress(ingress))?.is_some();
        self.transact(|batch| filter::ingress(batch, ingress, is_there))
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

    /// The counters of the routed hop, by name.
    pub(crate) fn counters(&mut self) -> io::Result<BTreeMap<String, Counted>> {
        let mut found = BTreeMap::new();
        let question = Attributes::new().text(1, TABLE).word(3, COUNTER);
        self.each_counter(Family::Inet, &question, |_, name, counted| {
            found.insert(name, counted);
        })?;
        Ok(found)
    }

    /// The counters of all ports, by `PORT WHAT`.
    pub(crate) fn port_counters(&mut self) -> io::Result<BTreeMap<String, Counted>> {
        let mut found = BTreeMap::new();
        let question = Attributes::new().word(3, COUNTER);
        self.each_counter(Family::Netdev, &question, |table, what, counted| {
            if let Some(port) = filter::port_of(&table) {
                found.insert(format!("{port} {what}"), counted);
            }
        })?;
        Ok(found)
    }

    /// `each` gets table, name and value.
    fn each_counter(
        &mut self,
        family: Family,
        question: &Attributes,
        mut each: impl FnMut(String, String, Counted),
    ) -> io::Result<()> {
        let outcome = self.dump(Verb::GetObject, family, question, |body| {
            let number = |data: &[u8], kind| wire::attribute(data, kind).and_then(wire::long);
            let word = |kind| wire::attribute(body, kind).map(wire::text);
            if let (Some(table), Some(name), Some(data)) =
                (word(1), word(2), wire::attribute(body, 4))
            {
                let counted = Counted {
                    bytes: number(data, 1).unwrap_or_default(),
                    packets: number(data, 2).unwrap_or_default(),
                };
                each(table, name, counted);
            }
        });
        absent_is_fine(outcome)
    }

    /// Whether one chain is there, and with which digest.
    pub(crate) fn chain(&mut self, chain: &Chain) -> io::Result<Option<u64>> {
        let sequence = self.transport.next_sequence();
        let attributes = Attributes::new().text(1, &chain.table).text(3, &chain.name);
        let question = wire::question(sequence, Verb::GetChain, chain.family, false, &attributes);
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

/// The chain that stands for an object, and what the object is made with.
pub(crate) struct Chain {
    family: Family,
    table: String,
    name: String,
    pub(crate) digest: u64,
}

impl Chain {
    pub(crate) fn of_port(filter: &PortFilter) -> Self {
        Self {
            family: Family::Netdev,
            table: filter::port_table(&filter.link),
            name: filter::PORT.to_owned(),
            digest: digest(filter),
        }
    }

    pub(crate) fn of_network(filter: &NetworkFilter) -> Self {
        Self {
            family: Family::Inet,
            table: TABLE.to_owned(),
            name: filter::FORWARD.to_owned(),
            digest: digest(filter),
        }
    }

    pub(crate) fn of_ingress(ingress: &Ingress) -> Self {
        Self {
            family: Family::Inet,
            table: TABLE.to_owned(),
            name: ingress.port.clone(),
            digest: digest(ingress),
        }
    }
}

/// Of the rules that follow from a description: a change of this program that changes them changes the version.
fn digest(description: &impl serde::Serialize) -> u64 {
    use sha2::Digest as _;
    const VERSION: u8 = 2;
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

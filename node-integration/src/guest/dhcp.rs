//! DHCPv6 (RFC 8415): the server's half, for guests whose addresses are decided before they ask.
//!
//! Who a guest is follows from its link-local address, which the port that it is attached to lets it use for its own
//! MAC only; the DUID counts where that address says nothing. A guest that nobody knows is not answered. There is no
//! pool: an address belongs to its guest whether or not it was asked for, so no message changes any state but the
//! guest's own allowance of answers.

mod message;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use mycelium_core::addr::Subnet;

use self::message::{Association, Kind, Message, Reply};
use super::Mac;
use crate::addressing;

#[cfg(test)]
mod tests;

/// Where servers listen.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The server's UDP port.
pub const SERVER_PORT: u16 = 547;
/// The client's UDP port, where answers go.
pub const CLIENT_PORT: u16 = 546;
/// No message of a client on the link is larger; what is, is cut and refused.
pub const LARGEST: usize = 1500;

/// Seconds. The same as those of advertised prefixes, see [`advert`](super::advert).
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
/// RFC 8415 §21.4: 0.5 and 0.8 of the preferred lifetime.
const RENEW: u32 = 7_200;
const REBIND: u32 = 11_520;

/// Answers that a guest may have at once, and how long it waits for one more after that. A client that starts sends
/// two or three messages, one that has trouble one every few seconds.
const BURST: u32 = 16;
const REFILL: Duration = Duration::from_millis(250);

/// RFC 8415 §21.13.
const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NOT_ON_LINK: u16 = 4;
const NO_PREFIXES: u16 = 6;

/// What the guests of a segment are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The network's /64.
    pub subnet: Subnet,
    /// The address of each guest.
    pub leases: BTreeMap<Mac, Ipv6Addr>,
    /// Name servers.
    pub name_servers: Vec<Ipv6Addr>,
}

/// Serves one network on one segment.
#[derive(Debug)]
pub struct Server {
    duid: [u8; 18],
    served: Served,
    /// Guests that have spent part of their allowance: never more than there are leases.
    allowances: BTreeMap<Mac, Allowance>,
    counters: Counters,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages answered.
    pub answered: u64,
    /// Messages of strangers, or beyond a guest's allowance.
    pub ignored: u64,
    /// Messages that no client may send.
    pub refused: u64,
}

/// Why a message is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither its link-local address nor its DUID belong to a guest.
    #[error("no guest has this address and DUID")]
    Stranger,
    /// It asks more often than any client needs to.
    #[error("too many messages")]
    TooMany,
    /// Cut off, or an option says that it is longer than what holds it.
    #[error("malformed")]
    Malformed,
    /// A message for a relay, or of a server.
    #[error("message type {0}")]
    Kind(u8),
    /// RFC 8415 §16 says which messages name client and server.
    #[error("names the wrong server, or none, or no client")]
    Parties,
    /// A question without addresses, or with some where there can be none.
    #[error("nothing to confirm")]
    Empty,
}

impl Server {
    /// Serve what `served` says.
    pub fn new(served: Served) -> Self {
        Self {
            duid: duid(served.subnet),
            served,
            allowances: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Serve something else from now on.
    pub fn replace(&mut self, served: Served) {
        self.duid = duid(served.subnet);
        self.allowances
            .retain(|mac, _| served.leases.contains_key(mac));
        self.served = served;
    }

    /// A message arrived from port [`CLIENT_PORT`] of `source`: the answer, to be sent back there.
    ///
    /// # Errors
    /// Why there is none.
    pub fn handle(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        packet: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let answer = self.answer(now, source, packet);
        match answer {
            Ok(_) => self.counters.answered += 1,
            Err(Refusal::Stranger | Refusal::TooMany) => self.counters.ignored += 1,
            Err(_) => self.counters.refused += 1,
        }
        answer
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn answer(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        packet: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let message = Message::parse(packet)?;
        self.check_parties(&message)?;
        let (mac, lease) = self
            .guest(source, message.client)
            .ok_or(Refusal::Stranger)?;
        if !self.allow(mac, now) {
            return Err(Refusal::TooMany);
        }
        self.reply(&message, lease)
    }

    /// RFC 8415 §16: which messages name the client, and which this server.
    fn check_parties(&self, message: &Message<'_>) -> Result<(), Refusal> {
        let for_us = message.server.map(|server| server == self.duid.as_slice());
        let proper = match message.kind {
            Kind::Solicit | Kind::Confirm | Kind::Rebind => {
                message.client.is_some() && for_us.is_none()
            }
            Kind::Request | Kind::Renew | Kind::Release | Kind::Decline => {
                message.client.is_some() && for_us == Some(true)
            }
            Kind::InformationRequest => for_us != Some(false) && message.associations.is_empty(),
        };
        if proper {
            Ok(())
        } else {
            Err(Refusal::Parties)
        }
    }

    fn guest(&self, source: Ipv6Addr, client: Option<&[u8]>) -> Option<(Mac, Ipv6Addr)> {
        let mac = addressing::mac_of_link_local(source).or_else(|| mac_of_duid(client?))?;
        self.served.leases.get(&mac).map(|&address| (mac, address))
    }

    fn allow(&mut self, mac: Mac, now: Instant) -> bool {
        let allowance = self.allowances.entry(mac).or_insert(Allowance {
            left: BURST,
            since: now,
        });
        let refills =
            now.saturating_duration_since(allowance.since).as_millis() / REFILL.as_millis();
        if refills > 0 {
            let refills = u32::try_from(refills).unwrap_or(u32::MAX);
            allowance.left = allowance.left.saturating_add(refills).min(BURST);
            allowance.since = now;
        }
        match allowance.left.checked_sub(1) {
            Some(left) => {
                allowance.left = left;
                true
            }
            None => false,
        }
    }

    /// RFC 8415 §18.3.
    fn reply(&self, message: &Message<'_>, lease: Ipv6Addr) -> Result<Vec<u8>, Refusal> {
        let advertise = message.kind == Kind::Solicit && !message.rapid_commit;
        let mut reply = Reply::new(advertise, message, &self.duid);
        match message.kind {
            Kind::Solicit | Kind::Request | Kind::Renew | Kind::Rebind => {
                if advertise {
                    reply.preference();
                } else if message.kind == Kind::Solicit {
                    reply.rapid_commit();
                }
                self.assign(&mut reply, message, lease);
            }
            Kind::Confirm => {
                let mut asked = message.addresses().peekable();
                asked.peek().ok_or(Refusal::Empty)?;
                let on_link = asked.all(|address| self.served.subnet.contains(address));
                reply.status(if on_link { SUCCESS } else { NOT_ON_LINK });
            }
            Kind::Release | Kind::Decline => reply.status(SUCCESS),
            Kind::InformationRequest => {}
        }
        reply.name_servers(&self.served.name_servers);
        Ok(reply.finish())
    }

    /// The guest's address in its first association, the reason why there is none in all others.
    fn assign(&self, reply: &mut Reply, message: &Message<'_>, lease: Ipv6Addr) {
        let mut assigned = false;
        for association in &message.associations {
            match association {
                Association::Addresses { id, asked } if !assigned => {
                    assigned = true;
                    // What the client believes to have beside it ends now (§18.3.4).
                    let wrong = if message.kind == Kind::Solicit {
                        &[]
                    } else {
                        asked.as_slice()
                    };
                    let gone = wrong.iter().copied().filter(|&address| address != lease);
                    let lifetimes = std::iter::once((lease, PREFERRED, VALID))
                        .chain(gone.map(|address| (address, 0, 0)));
                    reply.association(*id, RENEW, REBIND, lifetimes);
                }
                Association::Addresses { id, .. } => reply.no_addresses(*id, NO_ADDRESSES),
                Association::Temporary { id } => reply.no_temporary(*id, NO_ADDRESSES),
                Association::Prefixes { id } => reply.no_prefixes(*id, NO_PREFIXES),
            }
        }
    }
}

/// A DUID-UUID (RFC 6355) that stays the same wherever the network's server runs: the UUID (version 3) of its /64.
fn duid(subnet: Subnet) -> [u8; 18] {
    let hash = Md5::new()
        .chain_update(b"mycelium DHCPv6 server")
        .chain_update(subnet.octets())
        .finalize();
    let mut duid = [0; 18];
    duid[1] = 4;
    duid[2..].copy_from_slice(&hash);
    duid[8] = duid[8] & 0x0f | 0x30;
    duid[10] = duid[10] & 0x3f | 0x80;
    duid
}

/// The MAC in a DUID-LLT or DUID-LL of an Ethernet card (RFC 8415 §11.2, §11.4).
fn mac_of_duid(duid: &[u8]) -> Option<Mac> {
    match *duid {
        [0, 1, 0, 1, _, _, _, _, a, b, c, d, e, f] | [0, 3, 0, 1, a, b, c, d, e, f] => {
            Some(Mac::new([a, b, c, d, e, f]))
        }
        _ => None,
    }
}

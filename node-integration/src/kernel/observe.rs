//! What is there of an object.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::link::InfoKind;

use super::nft::Chain;
use super::route::{self, Found, KnownRoute};
use super::{Kernel, Site};
use crate::link::LOOPBACK;
use crate::object::{Link, LinkKind, Object, Place};
use crate::plan::State;
use crate::{named, sysctl};

/// What is asked for as a whole, and then looked up: addresses, and routes of more than one address, have no question for
/// exactly one.
pub(super) struct Snapshot {
    addresses: BTreeSet<(u32, IpAddr, u8)>,
    routes: BTreeSet<KnownRoute>,
}

impl Site {
    fn snapshot(&mut self) -> io::Result<&Snapshot> {
        let taken = match self.snapshot.take() {
            Some(taken) => taken,
            None => Snapshot {
                addresses: route::addresses(&mut self.route)?.into_iter().collect(),
                routes: route::routes(&mut self.route)?.into_iter().collect(),
            },
        };
        Ok(self.snapshot.insert(taken))
    }
}

pub(super) fn observe(kernel: &mut Kernel, object: &Object) -> io::Result<State> {
    if let Object::Namespace { name, mark } = object {
        return observe_namespace(kernel, name, mark);
    }
    let place = match object {
        Object::Link(link) => &link.place,
        Object::Up { place, .. }
        | Object::Setting { place, .. }
        | Object::Address { place, .. }
        | Object::Route { place, .. }
        | Object::Neighbour { place, .. }
        | Object::Proxy { place, .. }
        | Object::Station { place, .. } => place,
        Object::PortFilter(filter) => &filter.place,
        Object::NetworkFilter(filter) => &filter.place,
        Object::Ingress(ingress) => &ingress.place,
        Object::HostMasquerade { .. } => &Place::Host,
        Object::Namespace { .. } | Object::Identity { .. } => return Ok(State::Same),
    };
    if !super::exists(place) {
        kernel.leave(place);
        return Ok(State::Absent);
    }
    if let Object::Link(link) = object {
        return observe_link(kernel, link);
    }
    let site = kernel.site(place)?;
    let present = |is_there| if is_there { State::Same } else { State::Absent };
    match object {
        Object::Up { link, .. } => Ok(present(find(site, link)?.is_some_and(|found| found.is_up))),
        Object::Setting { key, value, .. } => {
            let path = sysctl::path(key)?;
            match site.within(|| std::fs::read_to_string(path)) {
                Ok(text) if text.trim_end() == value => Ok(State::Same),
                Ok(_) => Ok(State::Different),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::Absent),
                Err(error) => Err(error),
            }
        }
        Object::Address {
            link,
            address,
            prefix_len,
            ..
        } => {
            let Some(found) = find(site, link)? else {
                return Ok(State::Absent);
            };
            let known = &site.snapshot()?.addresses;
            if known.contains(&(found.index, *address, *prefix_len)) {
                return Ok(State::Same);
            }
            let with_another_length = known
                .range((found.index, *address, 0)..=(found.index, *address, u8::MAX))
                .next();
            Ok(with_another_length.map_or(State::Absent, |_| State::Unfit))
        }
        Object::Route {
            link,
            destination,
            prefix_len,
            gateway,
            mtu,
            ..
        } => {
            let link = match link {
                None => None,
                Some(link) => match find(site, link)? {
                    None => return Ok(State::Absent),
                    Some(found) => Some(found.index),
                },
            };
            let wanted = KnownRoute {
                destination: *destination,
                prefix_len: *prefix_len,
                link,
                gateway: *gateway,
                mtu: *mtu,
            };
            if *prefix_len == route::host_length(*destination) {
                return Ok(match route::host_route(&mut site.route, *destination)? {
                    None => State::Absent,
                    Some(known) if known == wanted => State::Same,
                    Some(_) => State::Different,
                });
            }
            let known = &site.snapshot()?.routes;
            let is_for_the_same = |route: &&KnownRoute| {
                (route.destination, route.prefix_len) == (*destination, *prefix_len)
            };
            Ok(match known.iter().find(is_for_the_same) {
                _ if known.contains(&wanted) => State::Same,
                Some(_) => State::Different,
                None => State::Absent,
            })
        }
        Object::Neighbour {
            link, address, mac, ..
        } => {
            let index = match site.index(link) {
                Ok(index) => index,
                Err(error) if super::is_absence(&error) => return Ok(State::Absent),
                Err(error) => return Err(error),
            };
            Ok(
                match route::neighbour_mac(&mut site.route, index, *address)? {
                    // One that the kernel has found out itself is nobody's.
                    None | Some((_, false)) => State::Absent,
                    Some((known, true)) if known == Some(*mac) => State::Same,
                    Some(_) => State::Different,
                },
            )
        }
        Object::Proxy { link, address, .. } => {
            let Some(found) = find(site, link)? else {
                return Ok(State::Absent);
            };
            route::has_proxy(&mut site.route, found.index, *address).map(present)
        }
        Object::Station { link, mac, .. } => {
            let Some(found) = find(site, link)? else {
                return Ok(State::Absent);
            };
            // Its bridge may have been deleted by somebody, and knows nothing then.
            match found.controller {
                Some(_) => route::has_station(&mut site.route, found.index, *mac).map(present),
                None => Ok(State::Absent),
            }
        }
        Object::PortFilter(filter) => observe_chain(site, &Chain::of_port(filter)),
        Object::NetworkFilter(filter) => observe_chain(site, &Chain::of_network(filter)),
        Object::Ingress(ingress) => observe_chain(site, &Chain::of_ingress(ingress)),
        Object::HostMasquerade { source, .. } => site.nftables.masquerades(*source).map(present),
        Object::Namespace { .. } | Object::Link(_) | Object::Identity { .. } => Ok(State::Same),
    }
}

fn observe_chain(site: &mut Site, chain: &Chain) -> io::Result<State> {
    Ok(match site.nftables.chain(chain)? {
        None => State::Absent,
        Some(found) if found == chain.digest => State::Same,
        Some(_) => State::Different,
    })
}

fn find(site: &mut Site, link: &str) -> io::Result<Option<Found>> {
    route::find(&mut site.route, link)
}

fn observe_namespace(kernel: &mut Kernel, name: &str, mark: &str) -> io::Result<State> {
    let path = named::path(name)?;
    let place = Place::Named(name.to_owned());
    if !super::exists(&place) {
        kernel.leave(&place);
        // The file that a namespace would have been mounted on.
        let is_left_over = std::fs::metadata(path).is_ok_and(|file| file.len() == 0);
        return Ok(if is_left_over {
            State::Unfit
        } else {
            State::Absent
        });
    }
    let site = kernel.site(&place)?;
    let found = find(site, LOOPBACK)?.and_then(|loopback| loopback.mark);
    Ok(match found {
        Some(found) if found == mark => State::Same,
        Some(_) => State::Strange,
        None => State::Unmarked,
    })
}

fn observe_link(kernel: &mut Kernel, link: &Link) -> io::Result<State> {
    let site = kernel.site(&link.place)?;
    let Some(found) = find(site, &link.name)? else {
        return Ok(State::Absent);
    };
    let is_kind = match (&link.kind, &found.kind) {
        (LinkKind::Bridge, Some(InfoKind::Bridge)) | (LinkKind::Veth(_), Some(InfoKind::Veth)) => {
            true
        }
        (LinkKind::Tun, Some(InfoKind::Tun)) => found.mac.is_none(),
        (LinkKind::Tap { .. }, Some(InfoKind::Tun)) => found.mac.is_some(),
        _ => false,
    };
    match &found.mark {
        // What we had begun would be of the kind.
        None if is_kind => return Ok(State::Unmarked),
        Some(mark) if *mark == link.mark => {}
        _ => return Ok(State::Strange),
    }
    // Both ends of a cable go together, so if the name is there, it is the other end.
    let is_whole = match &link.kind {
        LinkKind::Veth(peer) => {
            super::exists(&peer.place) && find(kernel.site(&peer.place)?, &peer.name)?.is_some()
        }
        _ => true,
    };
    if !(is_kind && is_whole) {
        return Ok(State::Unfit);
    }
    let site = kernel.site(&link.place)?;
    let bridge = match &link.port {
        None => None,
        Some(port) => find(site, &port.bridge)?.map(|bridge| bridge.index),
    };
    let is_right = found.mtu == link.mtu
        && (link.mac.is_none() || link.mac == found.mac)
        && (link.port.is_none() || bridge.is_some() && bridge == found.controller)
        && link.port.as_ref().is_none_or(|port| {
            (port.is_guest, port.hears_all) == (found.is_isolated, found.hears_all)
        });
    Ok(if is_right {
        State::Same
    } else {
        State::Different
    })
}

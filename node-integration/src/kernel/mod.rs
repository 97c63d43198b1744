//! The kernel as the planner sees it: objects that are observed, made, mended and removed.
//!
//! One [`Kernel`] has at most two sockets in each namespace, opened when they are first needed.

mod departure;
mod nft;
mod observe;
pub(crate) mod route;
pub(crate) mod transport;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use departure::Departures;
pub use nft::Counted;
use nft::Nftables;
use transport::{Transport, errno};

use crate::link::LOOPBACK;
use crate::object::{Link, LinkKind, Object, Place};
use crate::plan::{State, Step};
use crate::{Error, Namespace, Result, named, sysctl};

/// Namespaces in conversation at a time. Each has three descriptors, of which a process has a thousand.
const MOST_SITES: usize = 64;

/// The kernel's workers have an address in use after a fraction of a millisecond, on a busy machine some.
const SETTLING: Duration = Duration::from_millis(100);

/// Sockets of one namespace.
struct Site {
    /// `None`: that of the process.
    namespace: Option<Namespace>,
    route: Transport,
    nftables: Nftables,
    /// Numbers of interfaces.
    indexes: BTreeMap<String, u32>,
    snapshot: Option<observe::Snapshot>,
}

impl Site {
    fn open(place: &Place) -> io::Result<Self> {
        let namespace = match place {
            Place::Host => None,
            Place::Named(name) => Some(Namespace::open(named::path(name)?)?),
            Place::Path(path) => Some(Namespace::open(path)?),
        };
        let (route, nftables) = match &namespace {
            None => sockets()?,
            Some(namespace) => namespace.visit(sockets)??,
        };
        Ok(Self::new(namespace, route, nftables))
    }

    fn new(namespace: Option<Namespace>, route: Transport, nftables: Nftables) -> Self {
        Self {
            namespace,
            route,
            nftables,
            indexes: BTreeMap::new(),
            snapshot: None,
        }
    }

    /// The number of an interface that must be there.
    fn index(&mut self, link: &str) -> io::Result<u32> {
        if let Some(index) = self.indexes.get(link) {
            return Ok(*index);
        }
        let index = route::require_index(&mut self.route, link)?;
        self.indexes.insert(link.to_owned(), index);
        Ok(index)
    }

    fn optional_index(&mut self, link: Option<&String>) -> io::Result<Option<u32>> {
        link.map(|link| self.index(link)).transpose()
    }

    fn forget(&mut self) {
        self.indexes.clear();
        self.snapshot = None;
    }

    /// Run `f` with this namespace as the thread's.
    fn within<T: Send>(&self, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.namespace {
            None => f(),
            Some(namespace) => namespace.visit(f)?,
        }
    }
}

/// The conversations in the namespace of this thread.
fn sockets() -> io::Result<(Transport, Nftables)> {
    Ok((Transport::open(NETLINK_ROUTE)?, Nftables::open()?))
}

/// Open conversations with the kernel. Not for use by several threads at once.
#[derive(Default)]
pub struct Kernel {
    sites: BTreeMap<Place, Site>,
    departures: Departures,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.sites.keys()).finish()
    }
}

impl Kernel {
    /// Without any conversation yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Without any conversation yet. Nobody else who takes this lock sees an interface that is about to go.
    pub(crate) fn locking(lock: File) -> Self {
        Self {
            sites: BTreeMap::new(),
            departures: Departures::locking(lock),
        }
    }

    /// Something will be removed soon.
    pub(crate) fn expect_departures(&mut self) {
        self.departures.prepare();
    }

    fn site(&mut self, place: &Place) -> io::Result<&mut Site> {
        if !self.sites.contains_key(place) {
            if self.sites.len() >= MOST_SITES {
                let places: Vec<Place> = self.sites.keys().cloned().collect();
                for place in places.iter().filter(|place| **place != Place::Host) {
                    self.leave(place);
                }
            }
            self.sites.insert(place.clone(), Site::open(place)?);
        }
        Ok(self.sites.get_mut(place).expect("it was put there"))
    }

    /// End the conversation with a namespace.
    fn leave(&mut self, place: &Place) {
        if let Some(site) = self.sites.remove(place) {
            self.departures.hang_up([site.nftables]);
        }
    }

    /// Carry out a step. Identities are not the kernel's: such steps do nothing.
    ///
    /// # Errors
    /// [`Error`], with what was tried and the kernel's words.
    pub fn execute(&mut self, step: &Step) -> Result<()> {
        let done = match step {
            Step::Make(object) => self.make(object),
            Step::Mend(object) => self.mend(object),
            Step::Remove(object) => self.remove(object),
        };
        // What was seen is not so any more.
        let is_of_links = matches!(step.object(), Object::Link(_) | Object::Namespace { .. });
        for site in self.sites.values_mut() {
            site.snapshot = None;
            if is_of_links || done.is_err() {
                site.forget();
            }
        }
        // The kernel's words are what tells one refusal from another.
        done.map_err(|error| Error::from_io(format!("{step}: {error}"), error))
    }

    fn make(&mut self, object: &Object) -> io::Result<()> {
        match object {
            Object::Namespace { name, mark } => {
                let (namespace, opened) = named::create_and(name, sockets)?;
                let (route, nftables) = opened?;
                let place = Place::Named(name.clone());
                self.leave(&place);
                self.sites
                    .insert(place.clone(), Site::new(Some(namespace), route, nftables));
                let site = self.site(&place)?;
                let index = site.index(LOOPBACK)?;
                route::set_alias(&mut site.route, index, mark)
            }
            Object::Link(link) => self.make_link(link),
            Object::Up { place, link } => {
                let site = self.site(place)?;
                let index = site.index(link)?;
                route::set_up(&mut site.route, index)
            }
            Object::Setting { place, key, value } => {
                let path = sysctl::path(key)?;
                self.site(place)?.within(|| std::fs::write(path, value))
            }
            Object::Address {
                place,
                link,
                address,
                prefix_len,
            } => {
                let site = self.site(place)?;
                let index = site.index(link)?;
                route::add_address(&mut site.route, index, *address, *prefix_len)
            }
            Object::Route { place, link, .. } => {
                let site = self.site(place)?;
                let index = site.optional_index(link.as_ref())?;
                route::add_route(&mut site.route, object, index)
            }
            Object::Neighbour {
                place,
                link,
                address,
                mac,
            } => {
                let site = self.site(place)?;
                let index = site.index(link)?;
                route::add_neighbour(&mut site.route, index, *address, *mac)
            }
            Object::Proxy {
                place,
                link,
                address,
            } => {
                let site = self.site(place)?;
                let index = site.index(link)?;
                route::add_proxy(&mut site.route, index, *address)
            }
            Object::Station { place, link, mac } => {
                let site = self.site(place)?;
                let index = site.index(link)?;
                route::add_station(&mut site.route, index, *mac)
            }
            Object::PortFilter(filter) => {
                self.site(&filter.place)?.nftables.make_port_filter(filter)
            }
            Object::NetworkFilter(filter) => self
                .site(&filter.place)?
                .nftables
                .make_network_filter(filter),
            Object::Ingress(ingress) => self.site(&ingress.place)?.nftables.make_ingress(ingress),
            Object::HostMasquerade { source, .. } => {
                self.site(&Place::Host)?.nftables.make_masquerade(*source)
            }
            Object::Identity { .. } => Ok(()),
        }
    }

    fn make_link(&mut self, link: &Link) -> io::Result<()> {
        // First, so that it does not take the place of the other end's.
        self.site(&link.place)?;
        let peer_namespace = match &link.kind {
            LinkKind::Veth(peer) => {
                self.site(&peer.place)?;
                Some(&peer.place)
            }
            _ => None,
        };
        match &link.kind {
            LinkKind::Tun | LinkKind::Tap { .. } => {
                let name = link.name.clone();
                let owner = match link.kind {
                    LinkKind::Tap { owner } => owner,
                    _ => None,
                };
                let layer = match link.kind {
                    LinkKind::Tun => tun_rs::Layer::L3,
                    _ => tun_rs::Layer::L2,
                };
                let site = self.site(&link.place)?;
                // The kernel would take an interface of that name and kind for the one that is meant.
                if route::find(&mut site.route, &link.name)?.is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                site.within(|| make_persistent(&name, layer, owner))?;
                route::configure(&mut site.route, link)
            }
            LinkKind::Bridge | LinkKind::Veth(_) => {
                // Another place's descriptor is needed while this one's socket is used.
                let handle = match peer_namespace.and_then(|place| self.sites.get(place)) {
                    Some(Site {
                        namespace: Some(namespace),
                        ..
                    }) => Some(namespace.raw_fd()),
                    _ => None,
                };
                let own = match peer_namespace {
                    Some(Place::Host) if link.place != Place::Host => Some(Namespace::current()?),
                    _ => None,
                };
                let handle = own.as_ref().map(Namespace::raw_fd).or(handle);
                let site = self.site(&link.place)?;
                let bridge = site.optional_index(link.port.as_ref().map(|port| &port.bridge))?;
                route::create(&mut site.route, link, handle, bridge)?;
                route::describe(&mut site.route, link)?;
                match &link.kind {
                    LinkKind::Veth(peer) => {
                        route::describe_peer(&mut self.site(&peer.place)?.route, peer)
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// What can be changed of a link that is there.
    fn configure_link(&mut self, link: &Link) -> io::Result<()> {
        let site = self.site(&link.place)?;
        route::configure(&mut site.route, link)?;
        if let LinkKind::Veth(peer) = &link.kind {
            let site = self.site(&peer.place)?;
            route::configure_peer(&mut site.route, peer)?;
        }
        Ok(())
    }

    fn mend(&mut self, object: &Object) -> io::Result<()> {
        match object {
            Object::Link(link) => self.configure_link(link),
            Object::NetworkFilter(filter) => {
                let nftables = &mut self.site(&filter.place)?.nftables;
                nftables.make_network_filter(filter)
            }
            Object::Ingress(_) | Object::Neighbour { .. } => {
                self.remove(object)?;
                self.make(object)
            }
            _ => self.make(object),
        }
    }

    fn remove(&mut self, object: &Object) -> io::Result<()> {
        let gone = match object {
            Object::Namespace { name, .. } => {
                self.leave(&Place::Named(name.clone()));
                named::delete(name).map_err(io::Error::from)
            }
            Object::Link(link) => self.remove_link(link),
            // What a setting was before is not known; that something is down is nobody's wish.
            Object::Setting { .. } | Object::Up { .. } | Object::Identity { .. } => Ok(()),
            Object::Address {
                place,
                link,
                address,
                prefix_len,
            } => self.at_link(place, link, |route, index| {
                route::remove_address(route, index, *address, *prefix_len)
            }),
            Object::Route { place, link, .. } => self.site(place).and_then(|site| {
                let index = site.optional_index(link.as_ref())?;
                route::remove_route(&mut site.route, object, index)
            }),
            Object::Neighbour {
                place,
                link,
                address,
                ..
            } => self.at_link(place, link, |route, index| {
                route::remove_neighbour(route, index, *address)
            }),
            Object::Proxy {
                place,
                link,
                address,
            } => self.at_link(place, link, |route, index| {
                route::remove_proxy(route, index, *address)
            }),
            Object::Station { place, link, mac } => self.at_link(place, link, |route, index| {
                route::remove_station(route, index, *mac)
            }),
            Object::PortFilter(filter) => self
                .site(&filter.place)
                .and_then(|site| site.nftables.remove_port_filter(filter)),
            Object::NetworkFilter(filter) => self
                .site(&filter.place)
                .and_then(|site| site.nftables.remove_network_filter()),
            Object::Ingress(ingress) => self
                .site(&ingress.place)
                .and_then(|site| site.nftables.remove_ingress(ingress)),
            Object::HostMasquerade { source, .. } => self
                .site(&Place::Host)
                .and_then(|site| site.nftables.remove_masquerade(*source)),
        };
        gone.or_else(|error| {
            if is_absence(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })
    }

    fn remove_link(&mut self, link: &Link) -> io::Result<()> {
        let site = self.site(&link.place)?;
        let Some(found) = route::find(&mut site.route, &link.name)? else {
            return Ok(());
        };
        if !is_ours(&found, link) {
            return Ok(());
        }
        let namespace = self
            .sites
            .get(&link.place)
            .and_then(|site| site.namespace.as_ref());
        self.departures.delete(namespace, found.index)
    }

    /// Carry out these removals of interfaces, as few at a time as keep others from waiting.
    ///
    /// # Errors
    /// [`Error`] with the kernel's words; some may be gone then.
    pub(crate) fn remove_links<'a>(
        &mut self,
        steps: impl IntoIterator<Item = &'a Step>,
    ) -> Result<()> {
        let mut places = BTreeMap::<&Place, Vec<&Link>>::new();
        for step in steps {
            if let Object::Link(link) = step.object() {
                places.entry(&link.place).or_default().push(link);
            }
        }
        for (place, links) in places {
            self.site(place)
                .and_then(|site| departure::delete_together(&mut site.route, &links))
                .map_err(|error| {
                    let what = format!("remove {} interfaces of {place}: {error}", links.len());
                    Error::from_io(what, error)
                })?;
        }
        Ok(())
    }

    fn at_link(
        &mut self,
        place: &Place,
        link: &str,
        act: impl FnOnce(&mut Transport, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let site = self.site(place)?;
        let index = site.index(link)?;
        act(&mut site.route, index)
    }

    /// What is there of an object. Identities are not the kernel's: they are said to be the same.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn observe(&mut self, object: &Object) -> Result<State> {
        observe::observe(self, object)
            .map_err(|error| Error::from_io(format!("look for {object}: {error}"), error))
    }

    /// The number of an interface; `None`: there is none of this name.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn index(&mut self, place: &Place, link: &str) -> Result<Option<u32>> {
        self.site(place)
            .and_then(|site| route::find(&mut site.route, link))
            .map(|found| found.map(|found| found.index))
            .map_err(|error| Error::from_io(format!("look for {link}"), error))
    }

    /// Wait until packets to the addresses that were added are taken for them, which the kernel sees to after it has
    /// answered; longest [`SETTLING`].
    ///
    /// # Errors
    /// When the kernel cannot be asked. That it takes longer is none.
    pub(crate) fn wait_until_local(&mut self, objects: &[Object]) -> Result<()> {
        let deadline = Instant::now() + SETTLING;
        for object in objects {
            let Object::Address { place, address, .. } = object else {
                continue;
            };
            let settled = self.site(place).and_then(|site| {
                while !route::is_local(&mut site.route, *address)? && Instant::now() < deadline {
                    std::thread::sleep(SETTLING / 1000);
                }
                Ok(())
            });
            settled
                .map_err(|error| Error::from_io(format!("look for {object}: {error}"), error))?;
        }
        Ok(())
    }

    /// What the filters at ports have stopped, by `PORT WHAT`, where WHAT is `mac`, `source`, `router`, `discovery`,
    /// `rate` or `other`.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn port_counters(&mut self) -> Result<BTreeMap<String, Counted>> {
        self.site(&Place::Host)
            .and_then(|site| site.nftables.port_counters())
            .map_err(|error| Error::from_io("read the counters of ports", error))
    }

    /// What a network's routed hop has refused: `PORT refused` for each workload, `refused` for what is for nobody,
    /// `invalid` for what belongs to no connection, `input` for the hop itself.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn network_counters(&mut self, namespace: &str) -> Result<BTreeMap<String, Counted>> {
        let place = Place::Named(namespace.to_owned());
        self.site(&place)
            .and_then(|site| site.nftables.counters())
            .map_err(|error| Error::from_io(format!("read the counters of {place}"), error))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let sites = std::mem::take(&mut self.sites);
        let nftables = sites.into_values().map(|site| site.nftables);
        self.departures.hang_up(nftables);
    }
}

/// Whether what bears the name of a noted link is that link, or what was begun of it.
fn is_ours(found: &route::Found, link: &Link) -> bool {
    found.mark.as_ref().is_none_or(|mark| *mark == link.mark)
}

/// Make a TUN or tap that stays when nobody has it open.
fn make_persistent(name: &str, layer: tun_rs::Layer, owner: Option<u32>) -> io::Result<()> {
    let device = tun_rs::DeviceBuilder::new()
        .name(name)
        .layer(layer)
        .inherit_enable_state()
        .with(|builder| {
            builder.offload(true);
        })
        .build_sync()?;
    if let Some(owner) = owner {
        let owner = i32::try_from(owner).map_err(|_| io::ErrorKind::InvalidInput)?;
        device.user(owner)?;
    }
    device.persist()
}

/// Whether something was not there to begin with.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(
            errno(error),
            Some(
                Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO
            )
        )
}

/// Whether the path is a namespace's.
pub(crate) fn exists(place: &Place) -> bool {
    match place {
        Place::Host => true,
        Place::Named(name) => named::path(name).is_ok_and(|path| Namespace::open(path).is_ok()),
        Place::Path(path) => Namespace::open(Path::new(path)).is_ok(),
    }
}

//! Interfaces that go: they are out of sight long before the kernel is done with them.
//!
//! A request to delete one is answered when nothing in the kernel refers to it any more, after one or two grace periods of
//! RCU (16 to 24 ms). But within two milliseconds both ends of a cable have left their namespaces, nobody finds them, and
//! their names are free. That is what a caller waits for; a thread of its own waits for the answer, or, since a process
//! cannot end before its threads, another process. (To move them to a namespace that nobody has, and leave them to the
//! kernel, takes longer: 20 ms each.)
//!
//! What a transaction of nf_tables has removed is freed after a grace period too. Who closes a socket of nf_tables waits
//! for that, and keeps everybody from changing rules meanwhile; so the same thread or process keeps such sockets until
//! nothing is outstanding.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::thread;

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::nft::Nftables;
use super::transport::Transport;
use super::{is_absence, is_ours, route};
use crate::Namespace;
use crate::object::{Link, LinkKind};
use crate::porter::{GRACE, Porter};

/// Bridges that are deleted at a time: each takes a grace period in which nobody on the machine changes an interface.
const BRIDGES: usize = 8;
/// Others that are deleted at a time.
const LINKS: usize = 128;

/// Who waits for the kernel: a process, where there can be one, or threads.
#[derive(Default)]
pub(super) struct Departures {
    /// Says that somebody works on the host, also when this process is killed while something is outstanding.
    lock: Option<File>,
    /// `None`: there was no need yet.
    porter: Option<Porter>,
}

impl Departures {
    pub(super) fn locking(lock: File) -> Self {
        Self {
            lock: Some(lock),
            porter: None,
        }
    }

    /// The process; `None`: threads do its work.
    pub(super) fn prepare(&mut self) -> Option<(&Porter, &File)> {
        let lock = self.lock.as_ref()?;
        if self.porter.is_none() {
            self.porter = Porter::start().ok();
        }
        Some((self.porter.as_ref()?, lock))
    }

    /// Delete the interface `index` of a namespace; `None`: that of the thread. It is out of sight on return.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn delete(&mut self, namespace: Option<&Namespace>, index: u32) -> io::Result<()> {
        let open = || -> io::Result<_> {
            let mut news = Transport::open(NETLINK_ROUTE)?;
            news.hear_of_links()?;
            Ok((news, Transport::open(NETLINK_ROUTE)?))
        };
        let (mut news, mut request) = match namespace {
            None => open()?,
            Some(namespace) => namespace.visit(open)??,
        };
        if let Some((porter, lock)) = self.prepare()
            && porter.ask(&request, &route::deletion(index), lock).is_ok()
        {
            while !porter.has_answered() {
                if news.departed()?.contains(&index) {
                    return Ok(());
                }
            }
            // What came of it, asking again tells.
        }
        let answer = thread::Builder::new()
            .name("departure".to_owned())
            .spawn(move || route::delete(&mut request, index))?;
        while !answer.is_finished() {
            if news.departed()?.contains(&index) {
                return Ok(());
            }
        }
        answer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// End conversations about rules.
    pub(super) fn hang_up(&mut self, all: impl IntoIterator<Item = Nftables>) {
        let mut waiting: Vec<Nftables> = all.into_iter().collect();
        waiting.retain(Nftables::has_removed);
        if waiting.is_empty() {
            return;
        }
        if let Some((porter, _)) = self.prepare() {
            waiting.retain(|nftables| porter.keep(nftables).is_err());
        }
        if waiting.is_empty() {
            return;
        }
        let closing = thread::Builder::new().name("departure".to_owned());
        // Without a thread they are closed here, and take their time.
        let _ = closing.spawn(move || {
            thread::sleep(GRACE);
            drop(waiting);
        });
    }
}

/// Delete interfaces, many with one request: they share the grace periods, but for those of bridges, and no two compete.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn delete_together(route: &mut Transport, links: &[&Link]) -> io::Result<()> {
    let is_bridge = |link: &&Link| link.kind == LinkKind::Bridge;
    // What is at a bridge goes before it.
    let (bridges, others): (Vec<&Link>, Vec<&Link>) = links.iter().copied().partition(is_bridge);
    for links in others.chunks(LINKS).chain(bridges.chunks(BRIDGES)) {
        delete_group(route, links)?;
    }
    Ok(())
}

fn delete_group(route: &mut Transport, links: &[&Link]) -> io::Result<()> {
    // People number groups from below; nobody has this one.
    let group = 1 << 30 | u32::try_from(RandomState::new().hash_one(0) >> 34).unwrap_or_default();
    for link in links {
        if let Some(found) = route::find(route, &link.name)?.filter(|found| is_ours(found, link)) {
            let put = route::set_group(route, found.index, group);
            put.or_else(|error| {
                if is_absence(&error) {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
    }
    route::delete_group(route, group).or_else(|error| {
        if is_absence(&error) {
            Ok(())
        } else {
            Err(error)
        }
    })
}

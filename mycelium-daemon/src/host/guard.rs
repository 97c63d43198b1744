//! Sees to it that the interfaces of this namespace stay usable, whatever else on the host does to them: an address that
//! somebody took away is given back, an interface that is gone is made anew, and `status` shows what is wrong meanwhile.
//! An interface that is down stays so: that is an operator's decision. Interfaces in other namespaces are not watched.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use mycelium_core::io::IdentityId;
use nix::net::if_::if_nametoindex;
use node_integration::survey::{Survey, Surveyed};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::{HostInterface, PREFIX_LEN, address};
use crate::engine::EngineHandle;
use crate::health::Health;
use crate::identities::{Identities, IdentityRecord};

/// Warning: there is no interface.
pub(crate) const GONE: &str = "tun-gone";
const DOWN: &str = "tun-down";
const RENAMED: &str = "tun-renamed";
const NO_ADDRESS: &str = "tun-without-address";
/// Between looks: who keeps undoing our repairs gets one a second.
const REST: Duration = Duration::from_secs(1);
/// Looks without any news, for news may be lost.
const IDLE: Duration = Duration::from_secs(30);
/// Longest wait between attempts to make an interface again; they double from [`REST`].
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Watch for ever. `news`: something has changed about some interface.
pub(crate) async fn run(
    identities: Identities,
    engine: EngineHandle,
    health: Health,
    news: Arc<Notify>,
) {
    let mut guard = Guard {
        engine,
        health,
        watched: BTreeMap::new(),
    };
    loop {
        // Held during repairs, so that nothing is repaired that is being removed.
        let records = identities.locked().await;
        let wait = guard.look(&records).await;
        drop(records);
        let looked = Instant::now();
        // Silence is no error: then it is time to look anyhow.
        let _ = timeout(wait, news.notified()).await;
        sleep_until(looked + REST).await;
    }
}

struct Guard {
    engine: EngineHandle,
    health: Health,
    watched: BTreeMap<IdentityId, Watched>,
}

struct Watched {
    name: String,
    /// `None`: it is gone.
    index: Option<u32>,
    retry: Duration,
    retry_at: Instant,
}

impl Guard {
    /// Look and repair; how long to wait for news.
    async fn look(&mut self, records: &BTreeMap<IdentityId, IdentityRecord>) -> Duration {
        let ours = |record: &IdentityRecord| {
            let name = record.place.tun_name.clone();
            name.filter(|_| record.place.netns.is_none())
        };
        let health = &self.health;
        self.watched.retain(|id, watched| {
            let stays = records.get(id).and_then(ours).is_some();
            if !stays {
                for code in [GONE, DOWN, RENAMED, NO_ADDRESS] {
                    health.clear(code, &watched.name);
                }
            }
            stays
        });
        let looked = Survey::open().and_then(|mut survey| {
            let addresses = survey.addresses()?;
            Ok((survey, addresses))
        });
        let (mut survey, addresses) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::debug!(%error, "cannot read the interfaces");
                return IDLE;
            }
        };
        let mut wait = IDLE;
        for (id, record) in records {
            let Some(name) = ours(record) else {
                continue;
            };
            let watched = self.watched.entry(*id).or_insert_with(|| Watched {
                index: if_nametoindex(name.as_str()).ok(),
                name,
                retry: REST,
                retry_at: Instant::now(),
            });
            let address = record.public_key.address();
            let found = match watched.index.map(|index| survey.interface(index)) {
                Some(Ok(found)) => found,
                None => None,
                Some(Err(error)) => {
                    tracing::debug!(interface = watched.name, %error, "cannot read the interface");
                    continue;
                }
            };
            match watched.index.zip(found) {
                Some((index, interface)) => {
                    let has_address = addresses
                        .get(&index)
                        .is_some_and(|known| known.contains(&IpAddr::V6(address)));
                    watched.mend(index, &interface, address, has_address, &self.health);
                }
                None => {
                    watched
                        .replace(*id, address, &self.engine, &self.health)
                        .await;
                    wait = wait.min(watched.retry_at.saturating_duration_since(Instant::now()));
                }
            }
        }
        wait
    }
}

impl Watched {
    fn mend(
        &mut self,
        index: u32,
        found: &Surveyed,
        address: Ipv6Addr,
        has_address: bool,
        health: &Health,
    ) {
        let name = &self.name;
        if self.retry_at.elapsed() > MAX_RETRY {
            self.retry = REST;
        }
        if found.name == *name {
            health.clear(RENAMED, name);
        } else {
            let text = format!("interface {name} was renamed to {}", found.name);
            health.raise(RENAMED, name, text, "name it back or restart the node");
        }
        if !found.is_up {
            let text = format!("interface {name} is down: the host has no access to the network");
            let hint = format!("ip link set {} up", found.name);
            health.raise(DOWN, name, text, &hint);
            return;
        }
        health.clear(DOWN, name);
        if has_address {
            health.clear(NO_ADDRESS, name);
            return;
        }
        match address::add(index, address, PREFIX_LEN) {
            Ok(()) => {
                health.clear(NO_ADDRESS, name);
                tracing::warn!(interface = found.name, %address, "the interface had lost its address: given back");
            }
            Err(error) => {
                let text = format!("interface {name} has lost its address {address}: {error}");
                let hint = format!("ip addr add {address}/{PREFIX_LEN} dev {}", found.name);
                health.raise(NO_ADDRESS, name, text, &hint);
            }
        }
    }

    /// Make it again, and attach it.
    async fn replace(
        &mut self,
        id: IdentityId,
        address: Ipv6Addr,
        engine: &EngineHandle,
        health: &Health,
    ) {
        self.index = None;
        for code in [DOWN, RENAMED, NO_ADDRESS] {
            health.clear(code, &self.name);
        }
        if Instant::now() < self.retry_at {
            return;
        }
        let name = self.name.clone();
        let create = move || HostInterface::create(&name, None, address);
        let made = match tokio::task::spawn_blocking(create).await {
            Ok(Ok(host)) => engine
                .replace_host(id, host)
                .await
                .map_err(io::Error::other),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        };
        self.retry_at = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(MAX_RETRY);
        match made {
            Ok(()) => {
                self.index = if_nametoindex(self.name.as_str()).ok();
                health.clear(GONE, &self.name);
                tracing::warn!(interface = self.name, "the interface was gone: made anew");
            }
            Err(error) => {
                let text = format!("interface {} is gone: {error}", self.name);
                health.raise(GONE, &self.name, text, "restart the node");
            }
        }
    }
}

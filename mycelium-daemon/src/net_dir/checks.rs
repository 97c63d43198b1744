//! Warns of what commonly breaks the networks that are carried. What is inside workloads is theirs, and not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use node_integration::check::{self, CheckError, Finding};
use node_integration::desired::{Name, Network};

use crate::health::Health;

/// Networks at a time: each costs the kernel a dump of interfaces, and there may be thousands.
const AT_A_TIME: usize = 10;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    last: Option<Name>,
    /// The kernel counts since it started; what counts here is what is new.
    neighbours: Option<Finding>,
    has_looked: bool,
    host: Vec<Finding>,
    networks: BTreeMap<Name, Vec<Finding>>,
}

impl Checks {
    /// Check the host and the next of these networks.
    pub(super) async fn go_on(&mut self, networks: &BTreeMap<Name, &Network>, health: &Health) {
        let gone: BTreeSet<Name> = self
            .networks
            .keys()
            .filter(|name| !networks.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            let found = self.networks.remove(&name).unwrap_or_default();
            replace(&found, &[], health);
        }
        let from = match &self.last {
            Some(name) => Bound::Excluded(name.clone()),
            None => Bound::Unbounded,
        };
        let turn: Vec<Network> = networks
            .range((from, Bound::Unbounded))
            .take(AT_A_TIME)
            .map(|(_, network)| (*network).clone())
            .collect();
        // At the end it starts again.
        self.last = match turn.len() {
            AT_A_TIME => turn.last().map(|network| network.name.clone()),
            _ => None,
        };
        let looked = tokio::task::spawn_blocking(move || look(&turn)).await;
        match looked {
            Ok(Ok((mut host, found))) => {
                let is_count = |finding: &Finding| finding.code == check::NEIGHBOURS;
                let counted = host.iter().position(is_count).map(|at| host.remove(at));
                if self.has_looked && counted != self.neighbours {
                    host.extend(counted.clone());
                }
                self.has_looked = true;
                self.neighbours = counted;
                replace(&self.host, &host, health);
                self.host = host;
                for (name, found) in found {
                    let earlier = self.networks.insert(name.clone(), found);
                    let now = self.networks.get(&name).map(Vec::as_slice);
                    replace(
                        &earlier.unwrap_or_default(),
                        now.unwrap_or_default(),
                        health,
                    );
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "networks are not checked"),
            Err(error) => tracing::error!(%error, "check networks"),
        }
    }
}

type Found = (Vec<Finding>, Vec<(Name, Vec<Finding>)>);

fn look(networks: &[Network]) -> Result<Found, CheckError> {
    let mut found = Vec::new();
    for network in networks {
        found.push((network.name.clone(), check::network(network)?));
    }
    Ok((check::host()?, found))
}

fn replace(earlier: &[Finding], now: &[Finding], health: &Health) {
    for gone in earlier.iter().filter(|finding| !now.contains(finding)) {
        health.clear(gone.code, &gone.about());
    }
    for finding in now {
        health.raise(
            finding.code,
            &finding.about(),
            finding.text.as_str(),
            &finding.hint,
        );
    }
}

//! What this node originates: one /64 per identity, each with its own router-id and sequence number (RFC 8966 §3.7.4,
//! wire spec §1.4).

use std::collections::BTreeMap;

use super::budget::{Allowance, Budget};
use super::metric::Metric;
use super::seqno::Seqno;
use crate::addr::Subnet;
use crate::crypto::identity::PublicKey;
use crate::io::IdentityId;
use crate::router_id::RouterId;
use crate::time::Time;
use crate::wire::babel::Update;

/// One identity that we announce.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) id: IdentityId,
    pub(crate) public_key: PublicKey,
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    increases: Budget,
}

/// The identities, by subnet.
#[derive(Debug, Default)]
pub(crate) struct Origins(BTreeMap<Subnet, Origin>);

impl Origin {
    pub(crate) fn new(
        id: IdentityId,
        public_key: PublicKey,
        router_id: RouterId,
        increases: Allowance,
        now: Time,
    ) -> Self {
        Self {
            id,
            public_key,
            router_id,
            seqno: Seqno::default(),
            increases: Budget::new(increases, now),
        }
    }

    /// Go to `wanted` if that is ahead; `false` if it is too soon. Upstream goes one step per request and waits 4 s
    /// between steps; to go all the way at once ends what a lost request or a forged seqno would stall.
    #[must_use]
    pub(crate) fn increase_to(&mut self, wanted: Seqno, now: Time) -> bool {
        if !self.increases.take(now) {
            return false;
        }
        self.seqno = wanted;
        true
    }

    pub(crate) fn update(&self, subnet: Subnet, metric: Metric, interval: u16) -> Update {
        Update {
            interval,
            seqno: self.seqno.raw(),
            metric: metric.raw(),
            prefix: subnet.into(),
            router_id: self.router_id,
        }
    }
}

impl Origins {
    pub(crate) fn get(&self, subnet: Subnet) -> Option<&Origin> {
        self.0.get(&subnet)
    }

    pub(crate) fn get_mut(&mut self, subnet: Subnet) -> Option<&mut Origin> {
        self.0.get_mut(&subnet)
    }

    pub(crate) fn insert(&mut self, subnet: Subnet, origin: Origin) {
        self.0.insert(subnet, origin);
    }

    pub(crate) fn remove(&mut self, subnet: Subnet) -> Option<Origin> {
        self.0.remove(&subnet)
    }

    pub(crate) fn subnet_of(&self, id: IdentityId) -> Option<Subnet> {
        self.iter()
            .find(|(_, origin)| origin.id == id)
            .map(|(subnet, _)| subnet)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Subnet, &Origin)> {
        self.0.iter().map(|(&subnet, origin)| (subnet, origin))
    }
}

//! Sources: the feasibility distances that keep routes free of loops (RFC 8966 §3.2.5, §3.5.1 and §3.7.3, wire spec
//! §5.9).
//!
//! RFC 8966 has one table keyed by (prefix, router-id). Here every destination has a small table keyed by router-id:
//! one look-up finds the routes and the sources of a prefix.

use super::metric::Metric;
use super::seqno::Seqno;
use crate::router_id::RouterId;
use crate::time::{Duration, Time};

/// What we once announced of a source, or `None` before the first announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FeasibilityDistance {
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
}

impl FeasibilityDistance {
    /// Whether a route with these values is surely not through ourselves.
    pub(crate) fn admits(&self, seqno: Seqno, metric: Metric) -> bool {
        seqno.is_newer_than(self.seqno) || (seqno == self.seqno && metric < self.metric)
    }
}

/// Which source of a destination. Valid until a source is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceIndex(u8);

#[derive(Clone, Debug)]
struct Source {
    router_id: RouterId,
    distance: Option<FeasibilityDistance>,
    refreshed_at: Time,
}

/// The sources of one destination.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

impl Sources {
    /// Most sources of one destination: the incarnations of a node that restarted within the lifetime.
    pub(crate) const LIMIT: usize = 16;

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn find(&self, router_id: &RouterId) -> Option<SourceIndex> {
        let position = self
            .0
            .iter()
            .position(|source| source.router_id == *router_id)?;
        u8::try_from(position).ok().map(SourceIndex)
    }

    /// Add a source that `find` does not know; `None` if the table is full.
    pub(crate) fn insert(&mut self, router_id: RouterId, now: Time) -> Option<SourceIndex> {
        if self.0.len() >= Self::LIMIT {
            return None;
        }
        let index = u8::try_from(self.0.len()).ok().map(SourceIndex)?;
        // Nearly always the only one: no spare room.
        self.0.reserve_exact(1);
        self.0.push(Source {
            router_id,
            distance: None,
            refreshed_at: now,
        });
        Some(index)
    }

    pub(crate) fn router_id(&self, index: SourceIndex) -> Option<&RouterId> {
        self.0
            .get(usize::from(index.0))
            .map(|source| &source.router_id)
    }

    pub(crate) fn distance(&self, index: SourceIndex) -> Option<FeasibilityDistance> {
        self.0.get(usize::from(index.0))?.distance
    }

    /// The feasibility condition. A retraction is always feasible, and so is a source never announced.
    pub(crate) fn is_feasible(&self, index: SourceIndex, seqno: Seqno, metric: Metric) -> bool {
        metric.is_infinite()
            || self
                .distance(index)
                .is_none_or(|distance| distance.admits(seqno, metric))
    }

    /// The oldest seqno with which `metric` would be feasible; `None` if any is, or if the source was ourselves.
    pub(crate) fn seqno_for(&self, index: SourceIndex, metric: Metric) -> Option<Seqno> {
        let distance = self.distance(index)?;
        if distance.metric == Metric::ZERO {
            None
        } else if metric < distance.metric {
            Some(distance.seqno)
        } else {
            Some(distance.seqno.next())
        }
    }

    /// We announced this: keep the smallest distance of the newest seqno. Retractions do not count.
    pub(crate) fn announced(
        &mut self,
        index: SourceIndex,
        seqno: Seqno,
        metric: Metric,
        now: Time,
    ) {
        let Some(source) = self.0.get_mut(usize::from(index.0)) else {
            return;
        };
        if metric.is_infinite() {
            return;
        }
        source.refreshed_at = now;
        if source
            .distance
            .is_none_or(|distance| distance.admits(seqno, metric))
        {
            source.distance = Some(FeasibilityDistance { seqno, metric });
        }
    }

    /// When the first source that `in_use` does not hold may be forgotten.
    pub(crate) fn next_expiry(
        &self,
        lifetime: Duration,
        in_use: impl Fn(SourceIndex) -> bool,
    ) -> Option<Time> {
        (0..)
            .map(SourceIndex)
            .zip(&self.0)
            .filter(|(index, _)| !in_use(*index))
            .map(|(_, source)| match source.distance {
                Some(_) => source.refreshed_at + lifetime,
                // Nothing to remember.
                None => source.refreshed_at,
            })
            .min()
    }

    /// The source not in use that was announced longest ago.
    pub(crate) fn oldest_unused(
        &self,
        in_use: impl Fn(SourceIndex) -> bool,
    ) -> Option<SourceIndex> {
        (0..)
            .map(SourceIndex)
            .zip(&self.0)
            .filter(|(index, _)| !in_use(*index))
            .min_by_key(|(_, source)| (source.distance.is_some(), source.refreshed_at))
            .map(|(index, _)| index)
    }

    /// Forget a source. Indices above it move down by one: see [`SourceIndex::after_removal`].
    pub(crate) fn remove(&mut self, index: SourceIndex) {
        if usize::from(index.0) < self.0.len() {
            self.0.remove(usize::from(index.0));
            self.0.shrink_to_fit();
        }
    }
}

impl SourceIndex {
    /// Where this index points after `removed` was removed.
    pub(crate) fn after_removal(self, removed: Self) -> Self {
        Self(self.0 - u8::from(self.0 > removed.0))
    }
}

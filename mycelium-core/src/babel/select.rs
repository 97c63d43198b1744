//! Route selection (RFC 8966 §3.6, wire spec §5.12). Pure.

use super::metric::Metric;
use crate::io::PeerId;

/// A route as far as selection cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The next hop.
    pub peer: PeerId,
    /// Received metric plus link cost.
    pub total: Metric,
    /// Whether it meets the feasibility condition (RFC 8966 §3.5.1).
    pub feasible: bool,
}

/// The next hop to use: the shortest finite feasible route, lowest peer id first among equals. The current one stays
/// unless the shortest is better by more than `hysteresis`, directly connected origins included: otherwise parallel
/// links to one node flap with every sample of their RTT.
pub fn select(
    candidates: impl Iterator<Item = Candidate>,
    current: Option<PeerId>,
    hysteresis: u16,
) -> Option<PeerId> {
    let mut best: Option<Candidate> = None;
    let mut kept: Option<Candidate> = None;
    for candidate in candidates.filter(|c| c.feasible && c.total.is_finite()) {
        if current == Some(candidate.peer) {
            kept = Some(candidate);
        }
        if best.is_none_or(|best| (candidate.total, candidate.peer) < (best.total, best.peer)) {
            best = Some(candidate);
        }
    }
    let best = best?;
    match kept {
        Some(kept) if best.total.plus(Metric::new(hysteresis)) >= kept.total => Some(kept.peer),
        _ => Some(best.peer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(peer: u32, total: u16) -> Candidate {
        Candidate {
            peer: PeerId(peer),
            total: Metric::new(total),
            feasible: true,
        }
    }

    fn choose(candidates: &[Candidate], current: Option<u32>) -> Option<u32> {
        select(candidates.iter().copied(), current.map(PeerId), 10).map(|peer| peer.0)
    }

    #[test]
    fn the_shortest_route_wins_and_ties_go_to_the_lowest_peer() {
        assert_eq!(choose(&[], None), None);
        assert_eq!(choose(&[candidate(1, 30), candidate(2, 20)], None), Some(2));
        assert_eq!(choose(&[candidate(2, 20), candidate(1, 20)], None), Some(1));
    }

    #[test]
    fn a_route_in_use_stays_until_another_is_better_by_more_than_the_hysteresis() {
        assert_eq!(
            choose(&[candidate(1, 30), candidate(2, 20)], Some(1)),
            Some(1)
        );
        assert_eq!(
            choose(&[candidate(1, 31), candidate(2, 20)], Some(1)),
            Some(2)
        );
    }

    #[test]
    fn infeasible_and_infinite_routes_are_never_chosen() {
        let infeasible = Candidate {
            feasible: false,
            ..candidate(1, 5)
        };
        assert_eq!(choose(&[infeasible], None), None);
        assert_eq!(choose(&[infeasible], Some(1)), None);
        assert_eq!(choose(&[infeasible, candidate(2, 90)], Some(1)), Some(2));
        assert_eq!(choose(&[candidate(1, u16::MAX)], Some(1)), None);
    }
}

//! Import rules: which Updates may touch the tables at all (wire spec §5.8). Pure.

use crate::addr::Subnet;
use crate::wire::babel::Update;

/// Why an Update was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a /64 of the overlay. The present network also takes longer prefixes, which let anybody take over single
    /// addresses of anybody.
    #[error("not a /64 of the overlay")]
    Prefix,
    /// The announced key's address lies elsewhere.
    #[error("the key does not own the prefix")]
    Owner,
    /// A route that would be gone at once.
    #[error("interval 0")]
    Interval,
}

/// The subnet that `update` is about. A retraction may come with anybody's router-id: upstream retracts under its own.
///
/// # Errors
/// If the Update must be ignored.
pub fn admit(update: &Update) -> Result<Subnet, Refusal> {
    let subnet = update
        .prefix
        .as_subnet()
        .filter(|subnet| subnet.is_overlay())
        .ok_or(Refusal::Prefix)?;
    if update.metric != u16::MAX {
        if update.interval == 0 {
            return Err(Refusal::Interval);
        }
        if update.router_id.public_key().subnet() != subnet {
            return Err(Refusal::Owner);
        }
    }
    Ok(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::PublicKey;
    use crate::router_id::RouterId;
    use crate::wire::babel::Prefix;

    const KEY: PublicKey = PublicKey([9; 32]);

    fn update(length: u8, metric: u16) -> Update {
        Update {
            interval: 30_000,
            seqno: 0,
            metric,
            prefix: Prefix::new(KEY.address(), length).unwrap(),
            router_id: RouterId::new(KEY, [0; 2], [1; 6]),
        }
    }

    #[test]
    fn a_subnet_announced_by_its_owner_passes() {
        assert_eq!(admit(&update(64, 0)), Ok(KEY.subnet()));
    }

    #[test]
    fn prefixes_longer_or_shorter_than_a_subnet_are_refused() {
        for length in [0, 7, 63, 65, 127, 128] {
            assert_eq!(admit(&update(length, 0)), Err(Refusal::Prefix));
        }
    }

    #[test]
    fn prefixes_outside_the_overlay_are_refused_even_when_retracted() {
        let elsewhere = Update {
            prefix: Prefix::new("2001:db8::".parse().unwrap(), 64).unwrap(),
            ..update(64, u16::MAX)
        };
        assert_eq!(admit(&elsewhere), Err(Refusal::Prefix));
    }

    #[test]
    fn a_key_must_own_the_prefix_that_it_announces_but_not_the_one_that_it_retracts() {
        let foreign = RouterId::new(PublicKey([8; 32]), [0; 2], [1; 6]);
        let announced = Update {
            router_id: foreign,
            ..update(64, 7)
        };
        let retracted = Update {
            router_id: foreign,
            ..update(64, u16::MAX)
        };
        assert_eq!(admit(&announced), Err(Refusal::Owner));
        assert_eq!(admit(&retracted), Ok(KEY.subnet()));
    }

    #[test]
    fn interval_zero_is_for_retractions_only() {
        let fleeting = |metric| Update {
            interval: 0,
            ..update(64, metric)
        };
        assert_eq!(admit(&fleeting(7)), Err(Refusal::Interval));
        assert_eq!(admit(&fleeting(u16::MAX)), Ok(KEY.subnet()));
    }
}

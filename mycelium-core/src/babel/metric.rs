//! Metrics: the length of a path (RFC 8966 §3.5.2, wire spec §5.5).

use std::fmt;

/// Distance in the unit of link costs, roughly milliseconds. 65535 is infinite: no path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric(u16);

impl Metric {
    /// What an origin announces.
    pub const ZERO: Self = Self(0);
    /// No path; the metric of a retraction.
    pub const INFINITE: Self = Self(u16::MAX);
    /// The longest path.
    pub const MAX_FINITE: Self = Self(u16::MAX - 1);

    /// As read from the wire.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// As written to the wire.
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Whether there is no path.
    pub const fn is_infinite(self) -> bool {
        self.0 == u16::MAX
    }

    /// Whether there is a path.
    pub const fn is_finite(self) -> bool {
        !self.is_infinite()
    }

    /// The length as a number; `None` if there is no path.
    pub const fn finite(self) -> Option<u16> {
        if self.is_infinite() {
            None
        } else {
            Some(self.0)
        }
    }

    /// The path extended by one link; infinite if it becomes too long. (The present network saturates below infinity:
    /// then the longest routes would look infeasible to those who announced them.)
    #[must_use]
    pub fn plus(self, cost: Self) -> Self {
        Self(self.0.saturating_add(cost.0))
    }

    /// How far apart two lengths are; infinite if exactly one of them is.
    #[must_use]
    pub fn distance(self, other: Self) -> Self {
        if self.is_infinite() != other.is_infinite() {
            return Self::INFINITE;
        }
        Self(self.0.abs_diff(other.0))
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.finite() {
            Some(length) => write!(f, "{length}"),
            None => f.write_str("infinite"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_beyond_the_longest_path_are_infinite() {
        assert_eq!(
            Metric::new(65_000).plus(Metric::new(65_000)),
            Metric::INFINITE
        );
        assert_eq!(Metric::MAX_FINITE.plus(Metric::new(1)), Metric::INFINITE);
        assert_eq!(Metric::MAX_FINITE.plus(Metric::ZERO), Metric::MAX_FINITE);
        assert_eq!(Metric::new(3).plus(Metric::new(4)), Metric::new(7));
    }

    #[test]
    fn infinity_swallows_everything() {
        assert_eq!(Metric::INFINITE.plus(Metric::ZERO), Metric::INFINITE);
        assert_eq!(Metric::ZERO.plus(Metric::INFINITE), Metric::INFINITE);
        assert_eq!(Metric::INFINITE.distance(Metric::ZERO), Metric::INFINITE);
        assert_eq!(Metric::INFINITE.distance(Metric::INFINITE), Metric::ZERO);
        assert_eq!(Metric::new(3).distance(Metric::new(13)), Metric::new(10));
    }
}

//! Sequence numbers of originators (RFC 8966 §2.1 and §3.2.1, wire spec §5.1).

/// A 16-bit number that wraps. Only differences below 32768 have a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seqno(u16);

impl Seqno {
    const HALF: u16 = 1 << 15;

    /// As read from the wire.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// As written to the wire.
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Whether this is newer than `other`. Numbers exactly half the circle apart are neither newer nor older.
    pub const fn is_newer_than(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0);
        ahead != 0 && ahead < Self::HALF
    }

    /// Whether this is `other` or newer.
    pub const fn is_at_least(self, other: Self) -> bool {
        self.0 == other.0 || self.is_newer_than(other)
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_wraps_around() {
        assert!(Seqno::new(0).is_newer_than(Seqno::new(65_535)));
        assert!(!Seqno::new(65_535).is_newer_than(Seqno::new(0)));
        assert!(Seqno::new(32_767).is_newer_than(Seqno::new(0)));
        assert_eq!(Seqno::new(65_535).next(), Seqno::new(0));
    }

    #[test]
    fn numbers_half_the_circle_apart_have_no_order() {
        assert!(!Seqno::new(32_768).is_newer_than(Seqno::new(0)));
        assert!(!Seqno::new(0).is_newer_than(Seqno::new(32_768)));
        assert!(!Seqno::new(0).is_at_least(Seqno::new(32_768)));
        assert!(Seqno::new(5).is_at_least(Seqno::new(5)));
    }
}

//! Names of links.

use std::fmt;

/// One native link, or the attempt to have one. Never reused within a process; the driver maps it to an
/// [`io::PeerId`](crate::io::PeerId).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.0)
    }
}

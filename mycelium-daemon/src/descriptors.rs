//! File descriptors: enough of them, and some left for ourselves when strangers take many.
//!
//! The usual limit of a process is 1024, less than all the links and API clients that we accept. Without descriptors a node
//! can neither dial a peer nor answer its operator.

use std::os::fd::AsRawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as all connections, interfaces and what else we open can need, and twice that.
const WANTED: u64 = 8192;
/// Not for connections of others: dialling, interfaces, files.
const RESERVE: u64 = 64;

/// Ask for as many as the system lets us have without privileges, if that is more than we have.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let limit = Rlimit {
        current: Some(wanted),
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, wanted, "the limit of open files stays as it is");
    }
}

/// Whether `accepted`, the newest descriptor, is one of the last: others should not have it.
pub(crate) fn is_scarce(accepted: &impl AsRawFd) -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return false;
    };
    let number = u64::try_from(accepted.as_raw_fd()).unwrap_or(u64::MAX);
    is_last(number, limit)
}

/// The system gives the lowest free number, so one near the limit means that nearly all are in use.
fn is_last(number: u64, limit: u64) -> bool {
    number >= limit - RESERVE.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_kept() {
        assert!(!is_last(959, 1024));
        assert!(is_last(960, 1024));
        assert!(!is_last(47, 64));
        assert!(is_last(48, 64));
    }

    #[test]
    fn the_limit_is_raised_to_what_the_system_allows() {
        raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
        assert!(current.is_none_or(|current| current >= wanted));
    }
}

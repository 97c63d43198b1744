//! File descriptors: enough of them, and some left for ourselves when strangers take many.
//!
//! The usual limit of a process is 1024, less than all the links and API clients that we accept. Without descriptors a node
//! can neither dial a peer nor answer its operator.

use std::os::fd::AsRawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as all connections, interfaces and what else we open can need, and twice that.
const WANTED: u64 = 8192;

/// Whom a connection came from, and so how many descriptors it must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Another node, maybe a hostile one. What is left is for ourselves (dialling, interfaces, files) and for clients.
    Peer,
    /// A client of the API. What is left is for ourselves.
    Client,
}

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
pub(crate) fn is_scarce(accepted: &impl AsRawFd, source: Source) -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return false;
    };
    let number = u64::try_from(accepted.as_raw_fd()).unwrap_or(u64::MAX);
    is_last(number, limit, source)
}

/// The system gives the lowest free number, so one near the limit means that nearly all are in use.
fn is_last(number: u64, limit: u64, source: Source) -> bool {
    let reserve = match source {
        Source::Peer => (limit / 4).min(64),
        Source::Client => (limit / 8).min(32),
    };
    number >= limit - reserve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_kept() {
        for (source, first, limit) in [
            (Source::Peer, 960, 1024),
            (Source::Client, 992, 1024),
            (Source::Peer, 48, 64),
            (Source::Client, 56, 64),
        ] {
            assert!(!is_last(first - 1, limit, source));
            assert!(is_last(first, limit, source));
        }
    }

    #[test]
    fn the_limit_is_raised_to_what_the_system_allows() {
        raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let wanted = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
        assert!(current.is_none_or(|current| current >= wanted));
    }
}

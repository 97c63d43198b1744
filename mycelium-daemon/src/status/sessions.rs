//! Sessions as the API shows them.

use mycelium_api::{PublicKey, Session, SessionCounts, SessionDrops, SessionProtocol, Warning};
use mycelium_core::crypto::aead::Suite;
use mycelium_core::session::view::{Protocol, SessionView};

use crate::engine::WorkerReport;

/// Remote identities that a warning names.
const NAMED: usize = 3;

/// As the API shows it.
pub(super) fn api_session(view: &SessionView) -> Session {
    let counters = &view.counters;
    Session {
        identity: view.identity.0,
        address: view.key.address(),
        subnet: view.subnet.to_string(),
        public_key: PublicKey(view.key.0),
        protocol: match view.protocol {
            Protocol::V2 => SessionProtocol::V2,
            Protocol::Waiting => SessionProtocol::Waiting,
            Protocol::V1 => SessionProtocol::V1,
            Protocol::Idle => SessionProtocol::Idle,
        },
        suite: view.suite.map(|suite| suite_name(suite).to_owned()),
        // No handshake is without ML-KEM.
        hybrid: view.protocol == Protocol::V2,
        pinned: view.pinned,
        initiated: view.initiated,
        age: view.age.map(|age| age.as_secs()),
        rekeys: counters.handshakes.saturating_sub(1),
        path_size: view.path_size,
        tx_packets: counters.sent,
        rx_packets: counters.received,
        drops: SessionDrops {
            replay: counters.drop_replay,
            authentication: counters.drop_authentication,
            v1: counters.drop_v1,
            malformed: counters.drop_malformed,
        },
    }
}

fn suite_name(suite: Suite) -> &'static str {
    match suite {
        Suite::Aes256Gcm => "AES-256-GCM",
        Suite::ChaCha20Poly1305 => "ChaCha20-Poly1305",
    }
}

/// How many remote identities are reached how.
pub(crate) fn count(report: &WorkerReport) -> SessionCounts {
    let with = |protocol| {
        let matching = report
            .sessions
            .iter()
            .filter(|view| view.protocol == protocol);
        matching.count() as u64
    };
    SessionCounts {
        v2: with(Protocol::V2),
        v1: with(Protocol::V1),
        waiting: with(Protocol::Waiting),
        pins: report.session_stats.pins,
    }
}

/// Who is reached without forward secrecy.
pub(super) fn v1_warning(report: &WorkerReport) -> Option<Warning> {
    let on_v1 = report
        .sessions
        .iter()
        .filter(|view| view.protocol == Protocol::V1);
    let names: Vec<String> = on_v1
        .clone()
        .take(NAMED)
        .map(|view| view.key.address().to_string())
        .collect();
    let count = on_v1.count();
    if count == 0 {
        return None;
    }
    let more = if count > names.len() { ", ..." } else { "" };
    Some(Warning {
        code: "session-v1-traffic".to_owned(),
        text: format!(
            "{count} remote {} without session v2, with one key for ever: {}{more}",
            if count == 1 {
                "identity is reached"
            } else {
                "identities are reached"
            },
            names.join(", "),
        ),
        hint: Some(
            "those nodes do not speak it (mycelium 0.7), or somebody hides that they do; `mycelium sessions` lists them, --session-policy require does without them"
                .to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use mycelium_core::addr::Subnet;
    use mycelium_core::crypto::identity;
    use mycelium_core::io::IdentityId;
    use mycelium_core::session::view::SessionCounters;
    use mycelium_core::time::Duration;

    use super::*;

    fn view(number: u8, protocol: Protocol) -> SessionView {
        let key = identity::PublicKey([number; 32]);
        SessionView {
            identity: IdentityId::NODE,
            subnet: Subnet::containing(key.address()),
            key,
            protocol,
            suite: (protocol == Protocol::V2).then_some(Suite::Aes256Gcm),
            age: (protocol == Protocol::V2).then_some(Duration::from_millis(75_900)),
            initiated: true,
            pinned: true,
            path_size: Some(1162),
            counters: SessionCounters {
                handshakes: 3,
                sent: 5,
                received: 4,
                drop_replay: 1,
                ..SessionCounters::default()
            },
        }
    }

    #[test]
    fn a_session_is_shown_with_what_matters() {
        let session = api_session(&view(1, Protocol::V2));
        assert_eq!(session.suite.as_deref(), Some("AES-256-GCM"));
        assert_eq!((session.age, session.rekeys), (Some(75), 2));
        assert_eq!((session.tx_packets, session.rx_packets), (5, 4));
        assert!(session.hybrid && session.pinned && session.initiated);
        assert_eq!(session.drops.total(), 1);
        let other = api_session(&view(2, Protocol::V1));
        assert!(!other.hybrid && other.suite.is_none());
    }

    #[test]
    fn traffic_on_v1_is_a_warning_that_names_some() {
        let report = |protocols: &[Protocol]| WorkerReport {
            sessions: (1..)
                .zip(protocols)
                .map(|(number, &protocol)| view(number, protocol))
                .collect(),
            ..WorkerReport::default()
        };
        let quiet = report(&[Protocol::V2, Protocol::Idle, Protocol::Waiting]);
        assert_eq!(v1_warning(&quiet), None);
        let counts = count(&quiet);
        assert_eq!((counts.v2, counts.v1, counts.waiting), (1, 0, 1));
        let one = v1_warning(&report(&[Protocol::V2, Protocol::V1])).unwrap();
        assert!(one.text.starts_with("1 remote identity is"), "{}", one.text);
        let many = v1_warning(&report(&[Protocol::V1; 5])).unwrap();
        assert!(
            many.text.starts_with("5 remote identities are"),
            "{}",
            many.text
        );
        assert!(many.text.ends_with(", ..."), "{}", many.text);
    }
}

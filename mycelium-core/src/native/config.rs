//! Bounds and intervals of the native link.

use crate::babel::Allowance;
use crate::time::Duration;

/// What an endpoint may spend, and how long it waits. The defaults are meant for everybody.
#[derive(Clone, Debug)]
pub struct NativeConfig {
    /// Whether this processor has instructions for AES: then that suite is offered.
    pub aes: bool,
    /// Links, dials included, at once. Beyond it dials fail and handshakes are dropped.
    pub max_links: usize,
    /// The largest UDP payload ever probed for, bytes. 1472 is what Ethernet carries over IPv4; for jumbo frames or loopback
    /// (65507) the driver says more. Never below 1200.
    pub max_datagram: u16,
    /// Handshakes answered without a cookie, by everybody together. Each costs about four agreements and an encapsulation.
    pub handshakes: Allowance,
    /// Handshakes answered with a valid cookie while the budget above is spent.
    pub cookie_handshakes: Allowance,
    /// Handshakes answered per source: an IPv4 address or an IPv6 /64.
    pub handshakes_per_source: Allowance,
    /// Questions for our key answered, by everybody together.
    pub who: Allowance,
    /// A dial gives up after this long.
    pub dial_timeout: Duration,
    /// Keys are replaced by their initiator at this age, by the responder a quarter later, and refused at one and a half.
    pub rekey_after: Duration,
    /// Keys are replaced by their initiator after this many packets, refused at twice as many.
    pub rekey_after_packets: u64,
    /// Control packets that may wait on one link for being sent or acknowledged. One more closes the link: what Babel said
    /// last must not be lost silently, and a peer that takes nothing is none.
    pub max_control_packets: usize,
    /// The same in bytes.
    pub max_control_bytes: usize,
}

impl Default for NativeConfig {
    fn default() -> Self {
        Self {
            aes: false,
            max_links: 4096,
            max_datagram: 1472,
            handshakes: Allowance {
                per_second: 200,
                burst: 50,
            },
            cookie_handshakes: Allowance {
                per_second: 300,
                burst: 50,
            },
            handshakes_per_source: Allowance {
                per_second: 20,
                burst: 40,
            },
            who: Allowance {
                per_second: 200,
                burst: 100,
            },
            dial_timeout: Duration::from_secs(5),
            rekey_after: Duration::from_secs(120),
            rekey_after_packets: 1 << 32,
            max_control_packets: 65_536,
            max_control_bytes: 4 << 20,
        }
    }
}

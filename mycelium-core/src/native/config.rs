//! Bounds and intervals of the native link.

use crate::babel::Allowance;
use crate::session::mac::NetworkKey;
use crate::time::Duration;

/// What an endpoint may spend, and how long it waits. The defaults are meant for everybody.
#[derive(Clone, Debug)]
pub struct NativeConfig {
    /// The secret of a closed network; without it nobody gets past the first MAC.
    pub network_key: Option<NetworkKey>,
    /// Whether this processor has instructions for AES: then that suite is offered.
    pub aes: bool,
    /// Links, dials included, at once; beyond it dials fail. A quarter is kept for dials: with three quarters in use, nobody new
    /// is accepted.
    pub max_links: usize,
    /// The largest UDP payload ever probed for, bytes. 1472 is what Ethernet carries over IPv4; for jumbo frames or loopback
    /// (65507) the driver says more. Never below 1200.
    pub max_datagram: u16,
    /// First messages examined without a cookie, of everybody together. Each costs up to four agreements and an encapsulation,
    /// about 0.3 ms, and packets wait for it: the burst is what one batch may cost.
    pub handshakes: Allowance,
    /// The same per source: an IPv4 address or an IPv6 /64.
    pub handshakes_per_source: Allowance,
    /// First messages examined with a valid cookie, of everybody together.
    pub proven_handshakes: Allowance,
    /// The same per source.
    pub proven_handshakes_per_source: Allowance,
    /// Questions for our key answered, of everybody together.
    pub who: Allowance,
    /// The same per source.
    pub who_per_source: Allowance,
    /// A dial gives up after this long.
    pub dial_timeout: Duration,
    /// Keys are replaced by their initiator at this age, by the responder a quarter later. Nothing is sent under them 50 s
    /// later (then the link ends), nothing accepted 70 s later.
    pub rekey_after: Duration,
    /// Keys are replaced after this many packets in one direction; 2^33 packets are refused.
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
            network_key: None,
            aes: false,
            max_links: 4096,
            max_datagram: 1472,
            handshakes: Allowance {
                per_second: 50,
                burst: 8,
            },
            handshakes_per_source: Allowance {
                per_second: 4,
                burst: 8,
            },
            proven_handshakes: Allowance {
                per_second: 200,
                burst: 8,
            },
            proven_handshakes_per_source: Allowance {
                per_second: 8,
                burst: 16,
            },
            who: Allowance {
                per_second: 100,
                burst: 100,
            },
            who_per_source: Allowance {
                per_second: 10,
                burst: 10,
            },
            dial_timeout: Duration::from_secs(5),
            rekey_after: Duration::from_secs(120),
            rekey_after_packets: 1 << 32,
            max_control_packets: 65_536,
            max_control_bytes: 8 << 20,
        }
    }
}

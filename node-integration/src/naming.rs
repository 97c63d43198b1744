//! Names of namespaces and interfaces, and MACs: as Zero-OS derives them, so that either finds what the other made.

use std::fmt;
use std::str::FromStr;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

/// Characters of [`device_hash`] and [`net_id`]: an interface name of 15 bytes less a prefix of two.
pub const HASH_LEN: usize = 13;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// From its bytes.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Its bytes.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Rule HW: the MAC of whatever `bytes` name. Locally administered, unicast, stable.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut hash: [u8; 16] = Md5::digest(bytes).into();
        loop {
            for start in 0..=10 {
                hash[start] = (hash[start] | 0x02) & 0xfe;
                let mut candidate = [0; 6];
                candidate.copy_from_slice(&hash[start..start + 6]);
                if is_usable(candidate) {
                    return Self(candidate);
                }
            }
            hash = Md5::digest(hash).into();
        }
    }
}

/// The ranges that Zero-OS takes MACs from.
fn is_usable(mac: [u8; 6]) -> bool {
    let [a, b, _, d, e, f] = mac;
    let (vendor, device) = ([a, b], [d, e, f]);
    if device <= [0x00, 0x51, 0xff] {
        vendor >= [0x00, 0x03]
    } else if device <= [0x90, 0x00, 0xff] {
        vendor >= [0x00, 0x54] && vendor != [0x33, 0x33]
    } else {
        mac <= [0xff, 0xff, 0xff, 0xff, 0xff, 0xfe] && vendor >= [0x90, 0x02]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no MAC that an interface can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no MAC of a host: six pairs of hexadecimal digits with colons, the first even")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()));
            *octet = u8::from_str_radix(part.ok_or_else(error)?, 16).map_err(|_| error())?;
        }
        let is_multicast = octets[0] & 1 != 0;
        if parts.next().is_some() || is_multicast || octets == [0; 6] {
            return Err(error());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// Rule R3: the id of the user network `name` of twin `twin`.
pub fn net_id(twin: u32, name: &str) -> String {
    device_hash(format!("{twin}:{name}").as_bytes())
}

/// Rule R4: a name of 13 characters for whatever `bytes` name.
pub fn device_hash(bytes: &[u8]) -> String {
    let hash: [u8; 16] = Md5::digest(bytes).into();
    let mut text = base58(hash);
    text.truncate(HASH_LEN);
    text
}

/// Rule R4 for a workload of Zero-OS, `TWIN-CONTRACT-NAME`, and one of its interfaces.
pub fn unique(workload: &str, interface: &str) -> String {
    device_hash(format!("{workload}:{interface}").as_bytes())
}

/// Base58 with Bitcoin's alphabet.
fn base58(bytes: [u8; 16]) -> String {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let digit = |value: u128| char::from(ALPHABET[usize::try_from(value % 58).unwrap_or(0)]);
    let mut value = u128::from_be_bytes(bytes);
    let mut digits = Vec::new();
    while value > 0 {
        digits.push(digit(value));
        value /= 58;
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    digits.extend(std::iter::repeat_n(digit(0), zeros));
    digits.iter().rev().collect()
}

/// Whose names to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Ours: the names that people gave, as far as they fit.
    #[default]
    Native,
    /// Of `netlightd` (Zero-OS "light", version 4).
    Light,
    /// Of `networkd` (Zero-OS version 3).
    Full,
}

/// The names of a user network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkNames {
    /// Namespace, below `/run/netns`.
    pub namespace: String,
    /// Bridge, in the host's namespace.
    pub bridge: String,
    /// The bridge's port towards the namespace, in the host's namespace.
    pub uplink: String,
    /// The gateway of guests: the other end of the uplink.
    pub gateway: String,
    /// The interface towards the overlay.
    pub tun: String,
}

/// The names of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentNames {
    /// Its tap, or the host's end of its pair.
    pub port: String,
    /// The MAC of the guest.
    pub mac: Mac,
}

impl Profile {
    /// The names of network `id`: a net id with the profiles of Zero-OS, at most 13 bytes.
    pub fn network(self, id: &str) -> NetworkNames {
        let (namespace, bridge, gateway, tun) = match self {
            Self::Native => (format!("my-{id}"), format!("m-{id}"), "gateway", "my0"),
            Self::Light => (format!("n{id}"), format!("m{id}"), "mycelium", "my0"),
            Self::Full => (format!("n-{id}"), format!("m-{id}"), "br-my", "my"),
        };
        NetworkNames {
            namespace,
            bridge,
            uplink: format!("u-{id}"),
            gateway: gateway.to_owned(),
            tun: tun.to_owned(),
        }
    }

    /// The names of an attachment. `workload` is what the profile derives them from: with Zero-OS
    /// `TWIN-CONTRACT-NAME`, else `NETWORK/NAME`; `network` is the name of the network as its user wrote it.
    pub fn attachment(self, workload: &str, network: &str) -> AttachmentNames {
        match self {
            Self::Native => {
                let port = format!("t-{}", device_hash(workload.as_bytes()));
                let mac = Mac::of_bytes(port.as_bytes());
                AttachmentNames { port, mac }
            }
            Self::Light => {
                let id = unique(workload, network);
                let port = format!("m-{}", device_hash(id.as_bytes()));
                let mac = Mac::of_bytes(port.as_bytes());
                AttachmentNames { port, mac }
            }
            Self::Full => {
                let id = unique(workload, "mycelium");
                AttachmentNames {
                    port: format!("t-{id}"),
                    mac: Mac::of_bytes(format!("mycelium:{id}").as_bytes()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_ids_and_device_names_of_zero_os() {
        assert_eq!(net_id(26, "mynet"), "B3gDSpMoHJXdF");
        assert_eq!(unique("26-1234-vm1", "mycelium"), "FMM8nnDHtrTXn");
        assert_eq!(unique("26-1234-vm1", "mynet"), "AbE3zNtFw21Fr");
    }

    #[test]
    fn taps_and_macs_of_full_zero_os() {
        let names = Profile::Full.attachment("26-1234-vm1", "mynet");
        assert_eq!(names.port, "t-FMM8nnDHtrTXn");
        assert_eq!(names.mac.to_string(), "d2:e0:f7:d6:32:8d");
    }

    #[test]
    fn taps_and_macs_of_light_zero_os() {
        let names = Profile::Light.attachment("26-1234-vm1", "mynet");
        assert_eq!(names.port, "m-WS9GZgAXWZJdB");
        assert_eq!(names.mac.to_string(), "f6:1e:35:34:c1:f9");
    }

    #[test]
    fn networks_are_called_as_by_zero_os() {
        let id = net_id(26, "mynet");
        let light = Profile::Light.network(&id);
        assert_eq!(light.namespace, "nB3gDSpMoHJXdF");
        assert_eq!(light.bridge, "mB3gDSpMoHJXdF");
        assert_eq!(
            (light.gateway.as_str(), light.tun.as_str()),
            ("mycelium", "my0")
        );
        let full = Profile::Full.network(&id);
        assert_eq!(full.namespace, "n-B3gDSpMoHJXdF");
        assert_eq!(full.bridge, "m-B3gDSpMoHJXdF");
        assert_eq!((full.gateway.as_str(), full.tun.as_str()), ("br-my", "my"));
    }

    #[test]
    fn every_interface_name_fits_the_kernel() {
        for profile in [Profile::Native, Profile::Light, Profile::Full] {
            let names = profile.network("abcdefghijklm");
            for name in [names.bridge, names.uplink, names.gateway, names.tun] {
                assert!(name.len() <= 15, "{name}");
            }
            assert!(profile.attachment("w", "n").port.len() <= 15);
        }
    }

    #[test]
    fn every_mac_is_of_a_host() {
        for number in 0..2000_u32 {
            let mac = Mac::of_bytes(&number.to_be_bytes());
            assert_eq!(mac.octets()[0] & 3, 2, "{mac}");
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }

    #[test]
    fn what_is_no_mac_of_a_host_is_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "+2:00:00:00:00:01",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn leading_zeros_show_in_base58() {
        assert_eq!(base58([0; 16]), "1".repeat(16));
        let mut one = [0; 16];
        one[15] = 57;
        assert_eq!(base58(one), format!("{}z", "1".repeat(15)));
    }
}

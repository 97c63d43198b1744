//! Container engines' plugins: [`cni`] for containerd, CRI-O and Kubernetes, [`netavark`] for Podman.
//!
//! Both attach containers to networks that `mycelium net create` has made. They need no node: one that runs with
//! `--net-dir` carries the network whether or not it runs at that moment.

pub mod cni;
pub mod netavark;

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::desired::{Attachment, AttachmentSpec, Network};
use crate::directory::{self, Directory};
use crate::host::Host;
use crate::secret::Seed;
use crate::{Error, Namespace, link, reconcile};

/// The kernel takes a few milliseconds to notice that both ends of a cable are up, and to make addresses known to itself.
const PLUGGED_IN: Duration = Duration::from_secs(5);

/// The host that a configuration names, or the usual one.
fn host(directory: Option<&PathBuf>, notes: Option<&PathBuf>) -> Host {
    let or = |path: Option<&PathBuf>, usual: &str| path.cloned().unwrap_or_else(|| usual.into());
    Host {
        directory: Directory::new(or(directory, directory::DEFAULT)),
        notes: or(notes, reconcile::DEFAULT_NOTES),
    }
}

/// Ask for an address: as the seed that it ends in, or as a further one.
fn want_address(network: &Network, address: Ipv6Addr, spec: &mut AttachmentSpec) {
    let [.., 0xff, 0x0f, a, b, c, d, e, f] = address.octets() else {
        spec.addresses.push(address);
        return;
    };
    match Seed::new([a, b, c, d, e, f]) {
        Ok(seed) if crate::addressing::of_seed(network.subnet(), seed) == address => {
            spec.seed = Some(seed);
        }
        _ => spec.addresses.push(address),
    }
}

/// The address of `text`, `ADDRESS` or `ADDRESS/LENGTH`.
fn address(text: &str) -> Option<Ipv6Addr> {
    let (address, length) = text.split_once('/').unwrap_or((text, "128"));
    let length: u8 = length.parse().ok()?;
    (length <= 128).then_some(address.parse().ok()?)
}

/// Wait until a container that starts now loses no packet: what it sends before, or is sent, would be lost, a TCP SYN for
/// a second.
fn wait_until_usable(netns: &str, attachment: &Attachment) -> Result<(), String> {
    let usable = || -> crate::Result<()> {
        let open = |namespace: std::io::Result<Namespace>| {
            namespace.map_err(|error| Error::from_io("open the namespace", error))
        };
        let inside = open(Namespace::open(netns))?;
        link::wait_until_usable(&inside, &attachment.interface, PLUGGED_IN)?;
        let host = open(Namespace::current())?;
        link::wait_until_usable(&host, &attachment.names.port, PLUGGED_IN)?;
        for address in &attachment.addresses {
            link::wait_until_local(&inside, *address, PLUGGED_IN)?;
        }
        Ok(())
    };
    usable().map_err(|error| error.to_string())
}

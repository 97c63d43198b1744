//! Container engines' plugins: [`cni`] for containerd, CRI-O and Kubernetes, [`netavark`] for Podman.
//!
//! Both attach containers to networks that `mycelium net create` has made. They need no node: one that runs with
//! `--net-dir` carries the network whether or not it runs at that moment.

pub mod cni;
pub mod netavark;

use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::desired::{AttachmentSpec, Network};
use crate::directory::{self, Directory};
use crate::host::Host;
use crate::reconcile;
use crate::secret::Seed;

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

//! Carries the user networks of a directory: their identities, and what answers their guests.
//!
//! `mycelium net` makes namespaces and interfaces and tells the node of new networks itself; this makes a node that
//! starts later, or again, carry them too. Interfaces are persistent and are taken as they are.

mod checks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mycelium_core::crypto::identity::PublicKey;
use node_integration::desired::{Attachment, GuestAddressing, Name, Network};
use node_integration::directory::{Directory, DirectoryError};
use node_integration::guest::advert::{Addressing, Advertised, Reach};
use node_integration::guest::responder::{Responder, Segment};
use node_integration::{Namespace, link, named};

use self::checks::Checks;
use crate::health::Health;
use crate::host::MTU;
use crate::identities::{AddIdentityError, HostPlace, Identities, NamespaceId, namespace_id};

/// Between looks at the directory: what `mycelium net` does, it tells at once.
const LOOKS: Duration = Duration::from_secs(1);
/// Looks from one check for what commonly breaks to the next.
const LOOKS_TO_CHECK: u32 = 5;
const WRONG: &str = "network-wrong";
const NOT_MADE: &str = "network-not-made";

/// What changes when a network's description does: when its files were changed.
type Signature = [Option<SystemTime>; 2];

/// A network that is carried, or would be.
struct Carried {
    signature: Signature,
    network: Network,
    segment: Option<Segment>,
    has_identity: bool,
    /// What answers its guests, and where.
    responder: Option<(Responder, Option<NamespaceId>)>,
}

/// What a look at the directory finds of a network.
enum Found {
    AsBefore,
    Anew(Box<Network>, Option<Segment>, Signature),
    Wrong(DirectoryError),
}

/// For ever: carry the networks that `root` describes.
pub(crate) async fn follow(root: PathBuf, identities: Identities, health: Health) {
    let directory = Directory::new(root);
    let mut carried: BTreeMap<Name, Carried> = BTreeMap::new();
    for path in directory.exposed() {
        identities_exposed(&path, &health);
    }
    let mut checks = Checks::default();
    let mut looks_to_check = 0;
    loop {
        let known = carried
            .iter()
            .map(|(name, carried)| (name.clone(), carried.signature))
            .collect();
        let looked = directory.clone();
        let found = tokio::task::spawn_blocking(move || look(&looked, &known)).await;
        match found {
            Ok(Ok(found)) => {
                health.clear_all(WRONG);
                take(found, &mut carried, &identities, &health).await;
                for (name, carried) in &mut carried {
                    carry(name, carried, &identities, &health).await;
                }
            }
            Ok(Err(error)) => wrong(&health, "the directory", &error),
            Err(error) => tracing::error!(%error, "look at the networks"),
        }
        if looks_to_check == 0 {
            looks_to_check = LOOKS_TO_CHECK;
            let networks = carried
                .iter()
                .map(|(name, carried)| (name.clone(), &carried.network));
            checks.go_on(&networks.collect(), &health).await;
        }
        looks_to_check -= 1;
        tokio::time::sleep(LOOKS).await;
    }
}

fn identities_exposed(path: &Path, health: &Health) {
    use std::os::unix::fs::MetadataExt as _;
    let mode = std::fs::metadata(path).map(|file| file.mode() & 0o7777);
    crate::identities::report_mode(path, mode.ok(), health);
}

fn wrong(health: &Health, subject: &str, error: &DirectoryError) {
    health.raise(WRONG, subject, error.to_string(), "correct the file");
}

/// Read what differs from what is `known`.
fn look(
    directory: &Directory,
    known: &BTreeMap<Name, Signature>,
) -> Result<Vec<(Name, Found)>, DirectoryError> {
    let mut found = Vec::new();
    for name in directory.network_names()? {
        let signature = signature(directory, &name);
        let what = if known.get(&name) == Some(&signature) {
            Found::AsBefore
        } else {
            match read(directory, &name) {
                Ok((network, segment)) => Found::Anew(Box::new(network), segment, signature),
                Err(error) => Found::Wrong(error),
            }
        };
        found.push((name, what));
    }
    Ok(found)
}

fn signature(directory: &Directory, name: &Name) -> Signature {
    let file = directory.network_path(name);
    let attachments = file.with_file_name("attachments");
    [file, attachments].map(|path| {
        let changed = std::fs::metadata(path).and_then(|file| file.modified());
        changed.ok()
    })
}

fn read(directory: &Directory, name: &Name) -> Result<(Network, Option<Segment>), DirectoryError> {
    let network = directory.network(name)?;
    let (attachments, bad) = directory.attachments(&network)?;
    for (attachment, error) in bad {
        tracing::warn!(network = %name, %attachment, %error, "attachment ignored");
    }
    let segment = segment(&network, &attachments);
    Ok((network, segment))
}

/// What the guests of a network are told; `None`: nothing.
fn segment(network: &Network, attachments: &[Attachment]) -> Option<Segment> {
    let spec = &network.spec;
    let addressing = match spec.addressing {
        GuestAddressing::Automatic => Addressing::Automatic,
        GuestAddressing::Dhcp => Addressing::Dhcp,
        GuestAddressing::Static => return None,
    };
    let name_servers = spec.name_servers.iter().filter_map(|server| match server {
        std::net::IpAddr::V6(server) => Some(*server),
        std::net::IpAddr::V4(_) => None,
    });
    Some(Segment {
        advertised: Advertised {
            prefix: network.subnet().network_address(),
            on_link: false,
            addressing,
            reach: if spec.default_route {
                Reach::Everything
            } else {
                Reach::Overlay
            },
            mtu: MTU.into(),
            name_servers: name_servers.collect(),
            router: Some(network.gateway_mac()),
        },
        leases: attachments
            .iter()
            .map(|attachment| (attachment.names.mac, attachment.address))
            .collect(),
    })
}

/// Take over what the look has found.
async fn take(
    found: Vec<(Name, Found)>,
    carried: &mut BTreeMap<Name, Carried>,
    identities: &Identities,
    health: &Health,
) {
    let gone: Vec<Name> = carried
        .keys()
        .filter(|name| !found.iter().any(|(found, _)| found == *name))
        .cloned()
        .collect();
    for name in gone {
        if let Some(carried) = carried.remove(&name) {
            drop_identity(identities, &name, &carried.network.public_key).await;
            health.clear(NOT_MADE, name.as_str());
        }
    }
    for (name, found) in found {
        match found {
            Found::AsBefore => {}
            // What it was goes on until the file is right again.
            Found::Wrong(error) => wrong(health, name.as_str(), &error),
            Found::Anew(network, segment, signature) => match carried.get_mut(&name) {
                Some(known) if known.network.public_key == network.public_key => {
                    if let (Some((responder, _)), Some(segment)) = (&known.responder, &segment) {
                        responder.update(segment.clone());
                    }
                    if segment.is_none() {
                        known.responder = None;
                    }
                    known.network = *network;
                    known.segment = segment;
                    known.signature = signature;
                }
                known => {
                    if let Some(known) = known {
                        drop_identity(identities, &name, &known.network.public_key).await;
                    }
                    let anew = Carried {
                        signature,
                        network: *network,
                        segment,
                        has_identity: false,
                        responder: None,
                    };
                    carried.insert(name, anew);
                }
            },
        }
    }
}

/// Give a network what it lacks.
async fn carry(name: &Name, carried: &mut Carried, identities: &Identities, health: &Health) {
    let names = &carried.network.names;
    let netns = Path::new(named::DIRECTORY).join(&names.namespace);
    let namespace = namespace_id(&netns);
    if !carried.has_identity {
        match add_identity(name, &carried.network, &netns, identities).await {
            Ok(()) => {
                carried.has_identity = true;
                health.clear(NOT_MADE, name.as_str());
            }
            Err(text) => {
                let text = format!("network {name} is not carried: {text}");
                let hint = "run `mycelium net apply`";
                health.raise(NOT_MADE, name.as_str(), text, hint);
                return;
            }
        }
    }
    let is_elsewhere = |(_, place): &(Responder, Option<NamespaceId>)| *place != namespace;
    if carried.responder.as_ref().is_some_and(is_elsewhere) {
        carried.responder = None;
    }
    if let (None, Some(segment)) = (&carried.responder, &carried.segment) {
        match Responder::start(&netns, &names.gateway, segment.clone()) {
            Ok(responder) => carried.responder = Some((responder, namespace)),
            Err(error) => tracing::debug!(network = %name, %error, "guests are not answered yet"),
        }
    }
}

/// Have the node originate a network, whose interface must be there.
async fn add_identity(
    name: &Name,
    network: &Network,
    netns: &Path,
    identities: &Identities,
) -> Result<(), String> {
    let named = identity_name(name);
    let records = identities.list().await;
    let is_there = |record: &crate::identities::IdentityRecord| {
        record.public_key == network.public_key && record.name.as_ref() == Some(&named)
    };
    // `mycelium net` was quicker.
    if records.iter().any(is_there) {
        return Ok(());
    }
    let tun_name = network.names.tun.clone();
    let (path, tun) = (netns.to_owned(), tun_name.clone());
    let has_interface = tokio::task::spawn_blocking(move || {
        Namespace::open(path)
            .is_ok_and(|namespace| link::index(&namespace, &tun).is_ok_and(|index| index.is_some()))
    });
    if !has_interface.await.unwrap_or(false) {
        return Err(format!("there is no {tun_name} in {}", netns.display()));
    }
    let place = HostPlace {
        tun_name: Some(tun_name),
        netns: Some(netns.to_owned()),
    };
    match identities
        .add(network.key.secret(), Some(named), place)
        .await
    {
        Ok(_) => Ok(()),
        Err(AddIdentityError::NameExists(_)) => {
            Err("another identity has its name: remove it".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn drop_identity(identities: &Identities, name: &Name, public_key: &PublicKey) {
    let named = identity_name(name);
    let records = identities.list().await;
    let record = records
        .iter()
        .find(|record| record.public_key == *public_key && record.name.as_ref() == Some(&named));
    if let Some(record) = record
        && let Err(error) = identities.remove(record.id).await
    {
        tracing::warn!(network = %name, %error, "identity not removed");
    }
}

fn identity_name(network: &Name) -> String {
    format!("net:{network}")
}

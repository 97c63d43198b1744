//! What users of a host do: create and delete networks, attach and detach workloads. Each is written down and made, or
//! neither.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::desired::{
    Attachment, AttachmentSpec, DesiredError, Kind, MAX_ATTACHMENTS, Masquerade, Name, Network,
    NetworkSpec,
};
use crate::directory::{Directory, DirectoryError};
use crate::object::{self, Object, Place};
use crate::plan::State;
use crate::reconcile::{Entry, ReconcileError, Reconciler, Registrar, entry_of};
use crate::{Namespace, named};

/// Where a host's descriptions and notes are.
#[derive(Clone, Debug)]
pub struct Host {
    /// Descriptions.
    pub directory: Directory,
    /// Notes of what was made.
    pub notes: PathBuf,
}

impl Host {
    /// Only one process works on a host at a time: wait for the others.
    ///
    /// # Errors
    /// When the notes cannot be opened.
    pub fn open(&self) -> Result<Reconciler, ReconcileError> {
        Reconciler::open(&self.notes)
    }

    /// Create a network, or change it to be as described. With masquerade and no pair given, a free one is taken.
    ///
    /// # Errors
    /// [`ReconcileError`]; a new network leaves nothing behind then.
    pub fn create_network(
        &self,
        name: &Name,
        spec: &NetworkSpec,
        registrar: &mut dyn Registrar,
    ) -> Result<Network, ReconcileError> {
        let mut reconciler = self.open()?;
        let is_new = !self.directory.network_path(name).exists();
        let network = self.directory.save_network(name, spec)?;
        let entry = Entry::Network(name.clone());
        let objects = object::network(&network);
        if let Err(error) = reconciler.apply(&entry, &objects, registrar) {
            if is_new {
                self.directory.remove_network(name)?;
            }
            return Err(error);
        }
        Ok(network)
    }

    /// A masquerade pair that no network has.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn free_pair(&self) -> Result<Masquerade, DirectoryError> {
        let (networks, _) = self.directory.networks()?;
        let taken: BTreeSet<u16> = networks
            .iter()
            .filter_map(|network| Some(network.spec.masquerade?.pair))
            .collect();
        // The limit on identities is far below the number of pairs.
        let pair = (0..Masquerade::PAIRS).find(|pair| !taken.contains(pair));
        Ok(Masquerade {
            pair: pair.unwrap_or_default(),
        })
    }

    /// Delete networks and their attachments. Several at a time take less than each by itself.
    ///
    /// # Errors
    /// [`DirectoryError::NoNetwork`] for the first of which there is neither a description nor anything made; the others
    /// are gone then. [`ReconcileError`].
    pub fn delete_networks(
        &self,
        names: &[Name],
        registrar: &mut dyn Registrar,
    ) -> Result<(), ReconcileError> {
        let mut reconciler = self.open()?;
        let made = reconciler.entries()?;
        let mut failure = None;
        for name in names {
            // It is not wanted any more from here on, whatever happens.
            match self.directory.remove_network(name) {
                Err(DirectoryError::NoNetwork(_))
                    if made.iter().any(|entry| entry.network() == name) => {}
                outcome => failure = failure.or(outcome.err()),
            }
        }
        // Sorted, networks come before all attachments.
        let leaving: Vec<Entry> = made
            .into_iter()
            .filter(|entry| names.contains(entry.network()))
            .collect();
        reconciler.remove(&leaving, registrar)?;
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Attach a workload, or change its attachment to be as described. The network is made first if it is not there.
    ///
    /// # Errors
    /// [`ReconcileError`]; a new attachment leaves nothing behind then.
    pub fn attach(
        &self,
        network: &Name,
        name: &Name,
        spec: &AttachmentSpec,
        registrar: &mut dyn Registrar,
    ) -> Result<(Network, Attachment), ReconcileError> {
        let mut reconciler = self.open()?;
        let network = self.directory.network(network)?;
        let mut spec = spec.clone();
        let earlier = self.directory.attachment(&network, name).ok();
        if network.spec.masquerade.is_some() && spec.ipv4.is_none() {
            spec.ipv4 = match &earlier {
                Some(earlier) if earlier.spec.ipv4.is_some() => earlier.spec.ipv4,
                _ => Some(self.free_ipv4(&network)?),
            };
        }
        if earlier.is_none() {
            let found = self.directory.attachment_count(&network.name)? + 1;
            if found > MAX_ATTACHMENTS {
                let error = DesiredError::TooMany {
                    what: "attachments of a network",
                    found,
                    limit: MAX_ATTACHMENTS,
                };
                let path = self.directory.network_path(&network.name);
                return Err(DirectoryError::Desired { path, error }.into());
            }
        }
        let wanted = Attachment::new(&network, name.clone(), spec.clone());
        if let (None, Ok(wanted)) = (&earlier, &wanted) {
            self.refuse_taken(&mut reconciler, &network, wanted)?;
        }
        let attachment = self.directory.save_attachment(&network, name, &spec)?;
        let outcome = self.make(&mut reconciler, &network, &attachment, registrar);
        if let Err(error) = outcome {
            match earlier {
                None => self.directory.remove_attachment(&network.name, name)?,
                Some(earlier) => {
                    self.directory
                        .save_attachment(&network, name, &earlier.spec)?;
                }
            }
            return Err(error);
        }
        Ok((network, attachment))
    }

    fn make(
        &self,
        reconciler: &mut Reconciler,
        network: &Network,
        attachment: &Attachment,
        registrar: &mut dyn Registrar,
    ) -> Result<(), ReconcileError> {
        let base = Entry::Network(network.name.clone());
        if !reconciler.is_noted(&base) {
            reconciler.apply(&base, &object::network(network), registrar)?;
        }
        let objects = object::attachment(network, attachment);
        let steps = reconciler.apply(&entry_of(network, attachment), &objects, registrar)?;
        if !steps.is_empty() {
            reconciler.kernel().wait_until_local(&objects)?;
        }
        Ok(())
    }

    /// Refuse a new attachment with an address or MAC of another, or for a namespace that is not there. The kernel knows the
    /// neighbours of all attachments, which takes less than to read a thousand descriptions.
    fn refuse_taken(
        &self,
        reconciler: &mut Reconciler,
        network: &Network,
        wanted: &Attachment,
    ) -> Result<(), ReconcileError> {
        if reconciler.is_noted(&entry_of(network, wanted)) {
            return Ok(());
        }
        if wanted.spec.kind == Kind::Veth
            && let Some(netns) = object::namespace_of(network, wanted)
        {
            let path = Path::new(named::DIRECTORY).join(&netns);
            Namespace::open(&path).map_err(|error| {
                let path = path.display();
                let action = format!("open the network namespace {path}: {error}");
                crate::Error::from_io(action, error)
            })?;
        }
        let router = Place::Named(network.names.namespace.clone());
        if named::open(&network.names.namespace).is_err() {
            return Ok(());
        }
        let mut is_taken = false;
        for object in object::attachment(network, wanted) {
            if matches!(&object, Object::Neighbour { place, .. } if *place == router) {
                is_taken |= reconciler.kernel().observe(&object)? != State::Absent;
            }
        }
        if !is_taken {
            return Ok(());
        }
        let (others, _) = self.directory.attachments(network)?;
        match others.iter().find_map(|other| conflict(other, wanted)) {
            Some(text) => Err(DirectoryError::Duplicate(text).into()),
            // Somebody else's: the plan says so.
            None => Ok(()),
        }
    }

    fn free_ipv4(&self, network: &Network) -> Result<u16, DirectoryError> {
        let (attachments, _) = self.directory.attachments(network)?;
        let taken: BTreeSet<u16> = attachments
            .iter()
            .filter_map(|attachment| attachment.spec.ipv4)
            .collect();
        let limit = u16::try_from(MAX_ATTACHMENTS).unwrap_or(u16::MAX);
        Ok((0..limit)
            .find(|number| !taken.contains(number))
            .unwrap_or_default())
    }

    /// Detach a workload. Safe while it runs: its interface loses its cable.
    ///
    /// # Errors
    /// [`DirectoryError::NoAttachment`] when there is neither a description nor anything made; [`ReconcileError`].
    pub fn detach(
        &self,
        network: &Name,
        name: &Name,
        registrar: &mut dyn Registrar,
    ) -> Result<(), ReconcileError> {
        let mut reconciler = self.open()?;
        reconciler.kernel().expect_departures();
        let forgotten = self.directory.remove_attachment(network, name);
        let entry = Entry::Attachment(network.clone(), name.clone());
        let was_made = reconciler.is_noted(&entry);
        reconciler.apply(&entry, &[], registrar)?;
        match forgotten {
            Err(DirectoryError::NoAttachment(..)) if was_made => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

/// Why two attachments cannot be on one network.
fn conflict(other: &Attachment, wanted: &Attachment) -> Option<String> {
    let (other_name, name) = (&other.name, &wanted.name);
    if other.names.mac == wanted.names.mac {
        let mac = wanted.names.mac;
        return Some(format!(
            "{other_name} and {name} would both have the MAC {mac}"
        ));
    }
    let address = wanted
        .addresses
        .iter()
        .find(|address| other.addresses.contains(address))?;
    Some(format!(
        "{other_name} and {name} would both have {address}: give {name} another seed or address"
    ))
}

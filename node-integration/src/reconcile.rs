//! Brings the kernel and the node to what is wanted, one entry at a time, and notes what it makes.
//!
//! The notes are in a directory of the system's runtime files: they vanish with what they are about when the machine
//! starts anew. What is about to be made is noted first, so that after a crash nothing is left that nobody knows of.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::desired::{Attachment, Name, Network};
use crate::directory::{self, Directory, DirectoryError};
use crate::kernel::Kernel;
use crate::object::{self, Object};
use crate::plan::{State, Step, Stranger, plan};

/// Where notes are unless somebody says otherwise.
pub const DEFAULT_NOTES: &str = "/run/mycelium/net";

/// A network or an attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub enum Entry {
    /// A network.
    Network(Name),
    /// An attachment of a network.
    Attachment(Name, Name),
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(name) => write!(f, "{name}"),
            Self::Attachment(network, name) => write!(f, "{network}/{name}"),
        }
    }
}

impl Entry {
    /// The network that it is, or is of.
    pub fn network(&self) -> &Name {
        match self {
            Self::Network(name) | Self::Attachment(name, _) => name,
        }
    }
}

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        entry.to_string()
    }
}

/// Why an entry is not as it is wanted.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Somebody else's things are in the way.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] crate::Error),
    /// Files.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The node refused.
    #[error("the node refuses the identity: {0}")]
    Node(String),
}

/// The node's table of identities, as far as networks need it.
pub trait Registrar {
    /// Whether the node has an identity with this public key. A node that does not run has nothing to be done to: it is
    /// said to have it.
    fn has(&mut self, public_key: &str) -> bool;

    /// Give the node the identity of this [`Object::Identity`].
    ///
    /// # Errors
    /// In the node's words.
    fn add(&mut self, identity: &Object) -> Result<(), String>;

    /// Take it away.
    ///
    /// # Errors
    /// In the node's words.
    fn remove(&mut self, identity: &Object) -> Result<(), String>;
}

/// No node: whatever is wanted of it is as it should be.
#[derive(Clone, Copy, Debug)]
pub struct NoNode;

impl Registrar for NoNode {
    fn has(&mut self, _public_key: &str) -> bool {
        true
    }

    fn add(&mut self, _identity: &Object) -> Result<(), String> {
        Ok(())
    }

    fn remove(&mut self, _identity: &Object) -> Result<(), String> {
        Ok(())
    }
}

/// What was done about an entry, or would be.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub entry: Entry,
    /// What.
    pub steps: Vec<Step>,
    /// Why not all of it.
    pub error: Option<ReconcileError>,
}

/// The notes of what was made for an entry.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    objects: Vec<Object>,
}

/// Makes and removes entries. One at a time on a machine: others wait.
#[derive(Debug)]
pub struct Reconciler {
    kernel: Kernel,
    notes: PathBuf,
    /// Held as long as this is.
    lock: File,
}

impl Reconciler {
    /// With notes in the directory `notes`, once no other process works there.
    ///
    /// # Errors
    /// When the directory cannot be made or the lock not taken.
    pub fn open(notes: &Path) -> Result<Self, ReconcileError> {
        let failed = |error| DirectoryError::Io {
            path: notes.to_owned(),
            error,
        };
        let lock = || -> io::Result<(File, File)> {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(notes)?;
            let path = notes.join(".lock");
            let file = File::options().create(true).append(true).open(path)?;
            file.lock()?;
            Ok((file.try_clone()?, file))
        };
        let (lock, same) = lock().map_err(failed)?;
        Ok(Self {
            lock,
            kernel: Kernel::locking(same),
            notes: notes.to_owned(),
        })
    }

    /// The kernel, to ask it other things.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// What would be done to bring `entry` to `wanted`.
    ///
    /// # Errors
    /// [`ReconcileError`].
    pub fn plan(
        &mut self,
        entry: &Entry,
        wanted: &[Object],
        registrar: &mut dyn Registrar,
    ) -> Result<Vec<Step>, ReconcileError> {
        let noted = self.noted(entry)?;
        self.plan_from(wanted, &noted, registrar)
    }

    fn plan_from(
        &mut self,
        wanted: &[Object],
        noted: &[Object],
        registrar: &mut dyn Registrar,
    ) -> Result<Vec<Step>, ReconcileError> {
        let mut failure = None;
        let is_new = noted.is_empty();
        let steps = plan(wanted, noted, |object| match object {
            Object::Identity { public_key, .. } => {
                if registrar.has(public_key) {
                    State::Same
                } else {
                    State::Absent
                }
            }
            object if is_new && object.is_made_blindly() => State::Absent,
            object => self.kernel.observe(object).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                State::Same
            }),
        });
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(steps?),
        }
    }

    /// Bring `entry` to `wanted`; nothing wanted: it goes. An entry that was not there before and fails leaves nothing.
    ///
    /// # Errors
    /// [`ReconcileError`].
    pub fn apply(
        &mut self,
        entry: &Entry,
        wanted: &[Object],
        registrar: &mut dyn Registrar,
    ) -> Result<Vec<Step>, ReconcileError> {
        let noted = self.noted(entry)?;
        let steps = self.plan_from(wanted, &noted, registrar)?;
        if steps.is_empty() && noted == wanted {
            return Ok(steps);
        }
        let going = noted
            .iter()
            .filter(|old| !wanted.iter().any(|new| new.key() == old.key()))
            .cloned();
        let begun: Vec<Object> = going.chain(wanted.iter().cloned()).collect();
        if begun != noted {
            self.note(entry, &begun)?;
        }
        for (number, step) in steps.iter().enumerate() {
            if let Err(error) = self.execute(step, registrar) {
                if noted.is_empty() {
                    self.undo(entry, &steps[..=number], registrar)?;
                }
                return Err(error);
            }
        }
        if wanted.is_empty() {
            self.forget(entry)?;
        } else if begun != wanted {
            self.note(entry, wanted)?;
        }
        Ok(steps)
    }

    /// Remove entries together, networks before their attachments: what goes with something else need not be removed by
    /// itself.
    ///
    /// # Errors
    /// [`ReconcileError`]; what is left is still noted.
    pub fn remove(
        &mut self,
        entries: &[Entry],
        registrar: &mut dyn Registrar,
    ) -> Result<Vec<Step>, ReconcileError> {
        let steps = self.plan_removal(entries, registrar)?;
        let is_link = |step: &&Step| matches!(step.object(), Object::Link(_));
        let is_namespace = |step: &&Step| matches!(step.object(), Object::Namespace { .. });
        let (links, others): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(is_link);
        let (namespaces, others): (Vec<&Step>, Vec<&Step>) =
            others.into_iter().partition(is_namespace);
        for step in others {
            self.execute(step, registrar)?;
        }
        self.kernel.remove_links(links)?;
        // Last: what the kernel does about them in its own time would hold up the interfaces.
        for step in namespaces {
            self.execute(step, registrar)?;
        }
        for entry in entries.iter().rev() {
            self.forget(entry)?;
        }
        Ok(steps)
    }

    fn plan_removal(
        &mut self,
        entries: &[Entry],
        registrar: &mut dyn Registrar,
    ) -> Result<Vec<Step>, ReconcileError> {
        let mut noted = Vec::new();
        for entry in entries {
            noted.extend(self.noted(entry)?);
        }
        self.plan_from(&[], &noted, registrar)
    }

    fn execute(
        &mut self,
        step: &Step,
        registrar: &mut dyn Registrar,
    ) -> Result<(), ReconcileError> {
        match step {
            Step::Make(object @ Object::Identity { .. })
            | Step::Mend(object @ Object::Identity { .. }) => {
                registrar.add(object).map_err(ReconcileError::Node)
            }
            Step::Remove(object @ Object::Identity { .. }) => {
                registrar.remove(object).map_err(ReconcileError::Node)
            }
            step => Ok(self.kernel.execute(step)?),
        }
    }

    /// Take back what was made, and what may have been.
    fn undo(
        &mut self,
        entry: &Entry,
        steps: &[Step],
        registrar: &mut dyn Registrar,
    ) -> Result<(), ReconcileError> {
        for step in steps.iter().rev() {
            if let Step::Make(object) = step {
                self.execute(&Step::Remove(object.clone()), registrar)?;
            }
        }
        self.forget(entry)
    }

    /// All entries that were made: networks before their attachments.
    ///
    /// # Errors
    /// When the notes cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, ReconcileError> {
        let notes = Directory::new(&self.notes);
        let mut entries = Vec::new();
        for name in directory::entries(&self.notes)? {
            let Ok(network) = name.parse::<Name>() else {
                continue;
            };
            if notes.network_path(&network).is_file() {
                entries.push(Entry::Network(network.clone()));
            }
            for attachment in notes.attachment_names(&network)? {
                entries.push(Entry::Attachment(network.clone(), attachment));
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// Whether an entry was made, or begun.
    pub fn is_noted(&self, entry: &Entry) -> bool {
        self.note_path(entry).is_file()
    }

    fn note_path(&self, entry: &Entry) -> PathBuf {
        match entry {
            Entry::Network(network) => Directory::new(&self.notes).network_path(network),
            Entry::Attachment(network, name) => self
                .notes
                .join(network.as_str())
                .join("attachments")
                .join(format!("{name}.json")),
        }
    }

    /// What was made for an entry, or begun.
    fn noted(&self, entry: &Entry) -> Result<Vec<Object>, ReconcileError> {
        let path = self.note_path(entry);
        let Some(text) = directory::read(&path)? else {
            return Ok(Vec::new());
        };
        // Notes of another version of this program: what is there is recognised by its marks.
        Ok(serde_json::from_str::<Note>(&text)
            .unwrap_or_default()
            .objects)
    }

    fn note(&self, entry: &Entry, objects: &[Object]) -> Result<(), ReconcileError> {
        #[derive(Serialize)]
        struct Noted<'a> {
            objects: &'a [Object],
        }
        Ok(directory::write(
            &self.note_path(entry),
            &Noted { objects },
        )?)
    }

    fn forget(&self, entry: &Entry) -> Result<(), ReconcileError> {
        let path = self.note_path(entry);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(DirectoryError::Io { path, error }.into()),
        }
        // Empty directories say nothing; one that is not empty stays.
        if let Entry::Network(network) = entry {
            let directory = self.notes.join(network.as_str());
            let _ = std::fs::remove_dir(directory.join("attachments"));
            let _ = std::fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Bring everything to what the directory wants, or with `dry_run` say what that would take.
    ///
    /// # Errors
    /// When the directory or the notes cannot be read. What is wrong with one entry is in its report, and does not
    /// keep the others from being done.
    pub fn reconcile(
        &mut self,
        wanted: &Directory,
        registrar: &mut dyn Registrar,
        dry_run: bool,
    ) -> Result<Vec<Report>, ReconcileError> {
        let (networks, bad_networks) = wanted.networks()?;
        let mut keep: Vec<Entry> = Vec::new();
        let mut todo: Vec<(Entry, Vec<Object>)> = Vec::new();
        let mut reports = Vec::new();
        for (name, error) in bad_networks {
            // What it was stays until it can be read again.
            for attachment in wanted.attachment_names(&name)? {
                keep.push(Entry::Attachment(name.clone(), attachment));
            }
            keep.push(Entry::Network(name.clone()));
            reports.push(failed(Entry::Network(name), error));
        }
        for network in &networks {
            let entry = Entry::Network(network.name.clone());
            todo.push((entry, object::network(network)));
            let (attachments, bad) = wanted.attachments(network)?;
            for attachment in &attachments {
                todo.push((
                    entry_of(network, attachment),
                    object::attachment(network, attachment),
                ));
            }
            for (name, error) in bad {
                let entry = Entry::Attachment(network.name.clone(), name);
                keep.push(entry.clone());
                reports.push(failed(entry, error));
            }
        }
        keep.extend(todo.iter().map(|(entry, _)| entry.clone()));
        keep.sort();
        let mut leaving: Vec<Entry> = self.entries()?;
        leaving.retain(|entry| keep.binary_search(entry).is_err());
        leaving.sort_by_key(|entry| match entry {
            Entry::Network(network) => (network.clone(), None),
            Entry::Attachment(network, name) => (network.clone(), Some(name.clone())),
        });
        // A network goes with its attachments, which come behind it.
        let groups = || {
            leaving.chunk_by(|first, next| {
            matches!(next, Entry::Attachment(network, _) if network == first.network())
        })
        };
        let mut planned = Vec::new();
        for group in groups() {
            planned.push(self.plan_removal(group, registrar));
        }
        // All together if nothing is in the way; else each by itself.
        let is_done = !dry_run && self.remove(&leaving, registrar).is_ok();
        for (group, planned) in groups().zip(planned) {
            let outcome = if dry_run || is_done {
                planned
            } else {
                self.remove(group, registrar)
            };
            reports.push(reported(group[0].clone(), outcome));
        }
        for (entry, objects) in todo {
            let outcome = if dry_run {
                self.plan(&entry, &objects, registrar)
            } else {
                self.apply(&entry, &objects, registrar)
            };
            reports.push(reported(entry, outcome));
        }
        Ok(reports)
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        // A porter may have the lock as well, which is for when we are killed. That nobody has it any more is no error.
        let _ = self.lock.unlock();
    }
}

/// What an attachment is called.
pub fn entry_of(network: &Network, attachment: &Attachment) -> Entry {
    Entry::Attachment(network.name.clone(), attachment.name.clone())
}

fn failed(entry: Entry, error: DirectoryError) -> Report {
    reported(entry, Err(error.into()))
}

fn reported(entry: Entry, outcome: Result<Vec<Step>, ReconcileError>) -> Report {
    let (steps, error) = match outcome {
        Ok(steps) => (steps, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    Report {
        entry,
        steps,
        error,
    }
}

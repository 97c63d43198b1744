//! The desired-state directory: one file for each network and attachment, and the only place where network keys are.
//!
//! `DIR/NETWORK/network.json`, `DIR/NETWORK/attachments/NAME.json`, mode 0600, replaced as a whole by rename.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::Uid;

use crate::desired::{
    Attachment, AttachmentSpec, DesiredError, MAX_ATTACHMENTS, Name, Network, NetworkSpec,
};
use crate::naming::NetworkNames;
use crate::secret::NetworkKey;

/// Where it is unless somebody says otherwise.
pub const DEFAULT: &str = "/etc/mycelium/net.d";

const NETWORK_FILE: &str = "network.json";
const ATTACHMENTS: &str = "attachments";
const SUFFIX: &str = ".json";
/// No description is longer; nothing else is read.
const LONGEST_FILE: u64 = 256 << 10;

/// What is wrong in the directory, and in which file.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        error: io::Error,
    },
    /// A description.
    #[error("{path}: {error}")]
    Desired {
        /// Where.
        path: PathBuf,
        /// What.
        error: DesiredError,
    },
    /// A deployment that does not fit what is described.
    #[error(transparent)]
    Deployment(DesiredError),
    /// Two things that cannot be both.
    #[error("{0}")]
    Duplicate(String),
    /// It is not there.
    #[error("there is no network {0}; `mycelium net list` shows those that there are")]
    NoNetwork(Name),
    /// It is not there.
    #[error("network {0} has no attachment {1}; `mycelium net show {0}` lists them")]
    NoAttachment(Name, Name),
}

type Result<T> = std::result::Result<T, DirectoryError>;

/// What can be read, and what is wrong with the rest.
pub type Listed<T> = (Vec<T>, Vec<(Name, DirectoryError)>);

/// A desired-state directory, which need not exist.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The one at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Names of all networks, sorted.
    ///
    /// # Errors
    /// [`DirectoryError::Io`].
    pub fn network_names(&self) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for name in entries(&self.root)? {
            // Files and directories of others, such as those of editors, are not ours to judge.
            if let Ok(name) = name.parse::<Name>()
                && self.network_path(&name).is_file()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// One network.
    ///
    /// # Errors
    /// [`DirectoryError::NoNetwork`], or what is wrong with it.
    pub fn network(&self, name: &Name) -> Result<Network> {
        let path = self.network_path(name);
        let text = read(&path)?.ok_or_else(|| DirectoryError::NoNetwork(name.clone()))?;
        // Who may replace the files decides what root does.
        let directory = self.root.join(name.as_str());
        for path in [self.root.clone(), directory.join(ATTACHMENTS), directory] {
            match fs::metadata(&path) {
                Ok(found) => trust(&found, false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
            .map_err(|error| DirectoryError::Io { path, error })?;
        }
        NetworkSpec::from_json(&text)
            .and_then(|spec| Network::new(name.clone(), spec))
            .map_err(|error| DirectoryError::Desired { path, error })
    }

    /// All networks that can be read, and what is wrong with the others.
    ///
    /// # Errors
    /// [`DirectoryError::Io`] when the directory cannot be read.
    pub fn networks(&self) -> Result<Listed<Network>> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let mut claims = Vec::new();
        for name in self.network_names()? {
            match self.network(&name) {
                Ok(network) => {
                    let claim = Claim::of(&network);
                    match claim.conflict(&claims) {
                        None => {
                            good.push(network);
                            claims.push(claim);
                        }
                        Some(text) => bad.push((name, DirectoryError::Duplicate(text))),
                    }
                }
                Err(error) => bad.push((name, error)),
            }
        }
        Ok((good, bad))
    }

    /// What all networks but one claim. Unlike [`Directory::networks`] it makes no public keys, which would take most of
    /// the time.
    fn claims_beside(&self, name: &Name) -> Result<Vec<Claim>> {
        let mut claims = Vec::new();
        for other in entries(&self.root)? {
            let Ok(other) = other.parse::<Name>() else {
                continue;
            };
            if other == *name {
                continue;
            }
            // What is wrong with another one is said when that one is asked for.
            let text = read(&self.network_path(&other)).ok().flatten();
            if let Some(Ok(spec)) = text.map(|text| NetworkSpec::from_json(&text))
                && let Ok((key, id)) = spec.checked(&other)
            {
                claims.push(Claim {
                    names: spec.profile.network(&id),
                    pair: spec.masquerade.map(|masquerade| masquerade.pair),
                    name: other,
                    key,
                });
            }
        }
        Ok(claims)
    }

    /// Names of the attachments of a network, sorted.
    ///
    /// # Errors
    /// [`DirectoryError::Io`].
    pub fn attachment_names(&self, network: &Name) -> Result<Vec<Name>> {
        let directory = self.root.join(network.as_str()).join(ATTACHMENTS);
        let mut names: Vec<Name> = entries(&directory)?
            .iter()
            .filter_map(|file| file.strip_suffix(SUFFIX)?.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// How many attachments a network has at most: by the ends of their files' names, which takes less than to know them.
    ///
    /// # Errors
    /// [`DirectoryError::Io`].
    pub(crate) fn attachment_count(&self, network: &Name) -> Result<usize> {
        let directory = self.root.join(network.as_str()).join(ATTACHMENTS);
        let found = entries(&directory)?;
        Ok(found.iter().filter(|file| file.ends_with(SUFFIX)).count())
    }

    /// One attachment.
    ///
    /// # Errors
    /// [`DirectoryError::NoAttachment`], or what is wrong with it.
    pub fn attachment(&self, network: &Network, name: &Name) -> Result<Attachment> {
        let path = self.attachment_path(&network.name, name);
        let text = read(&path)?
            .ok_or_else(|| DirectoryError::NoAttachment(network.name.clone(), name.clone()))?;
        AttachmentSpec::from_json(&text)
            .and_then(|spec| Attachment::new(network, name.clone(), spec))
            .map_err(|error| DirectoryError::Desired { path, error })
    }

    /// All attachments of a network that can be read, and what is wrong with the others.
    ///
    /// # Errors
    /// [`DirectoryError::Io`] when the directory cannot be read.
    pub fn attachments(&self, network: &Network) -> Result<Listed<Attachment>> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let mut seen: BTreeMap<_, Name> = BTreeMap::new();
        let mut macs: BTreeMap<_, Name> = BTreeMap::new();
        for name in self.attachment_names(&network.name)? {
            let attachment = match self.attachment(network, &name) {
                Ok(attachment) => attachment,
                Err(error) => {
                    bad.push((name, error));
                    continue;
                }
            };
            let taken = attachment
                .addresses
                .iter()
                .find_map(|address| Some((address, seen.get(address)?)));
            let duplicate = match (taken, macs.get(&attachment.names.mac)) {
                (Some((address, other)), _) => Some(format!(
                    "attachments {other} and {name} of network {} both have {address}: give one another seed",
                    network.name
                )),
                (None, Some(other)) => Some(format!(
                    "attachments {other} and {name} of network {} both have the MAC {}",
                    network.name, attachment.names.mac
                )),
                (None, None) => None,
            };
            if let Some(text) = duplicate {
                bad.push((name, DirectoryError::Duplicate(text)));
                continue;
            }
            for address in &attachment.addresses {
                seen.insert(*address, name.clone());
            }
            macs.insert(attachment.names.mac, name);
            good.push(attachment);
        }
        if good.len() > MAX_ATTACHMENTS {
            for attachment in good.split_off(MAX_ATTACHMENTS) {
                let text = format!(
                    "network {} has more than {MAX_ATTACHMENTS} attachments: a bridge has no more ports",
                    network.name
                );
                bad.push((attachment.name, DirectoryError::Duplicate(text)));
            }
        }
        Ok((good, bad))
    }

    /// Write a network down after checking it against the others.
    ///
    /// # Errors
    /// [`DirectoryError`]; nothing has changed then.
    pub fn save_network(&self, name: &Name, spec: &NetworkSpec) -> Result<Network> {
        let path = self.network_path(name);
        let network =
            Network::new(name.clone(), spec.clone()).map_err(|error| DirectoryError::Desired {
                path: path.clone(),
                error,
            })?;
        if let Some(text) = Claim::of(&network).conflict(&self.claims_beside(name)?) {
            return Err(DirectoryError::Duplicate(text));
        }
        write(&path, spec)?;
        Ok(network)
    }

    /// Write an attachment down.
    ///
    /// # Errors
    /// [`DirectoryError`]; nothing has changed then.
    pub fn save_attachment(
        &self,
        network: &Network,
        name: &Name,
        spec: &AttachmentSpec,
    ) -> Result<Attachment> {
        let path = self.attachment_path(&network.name, name);
        let attachment = Attachment::new(network, name.clone(), spec.clone()).map_err(|error| {
            DirectoryError::Desired {
                path: path.clone(),
                error,
            }
        })?;
        write(&path, spec)?;
        Ok(attachment)
    }

    /// Forget a network and its attachments.
    ///
    /// # Errors
    /// [`DirectoryError::NoNetwork`], [`DirectoryError::Io`].
    pub fn remove_network(&self, name: &Name) -> Result<()> {
        let path = self.network_path(name);
        // First what makes it a network: whatever happens then, it is none.
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryError::NoNetwork(name.clone()));
            }
            Err(error) => return Err(DirectoryError::Io { path, error }),
        }
        for attachment in self.attachment_names(name)? {
            self.remove_attachment(name, &attachment)?;
        }
        let directory = self.root.join(name.as_str());
        for path in [directory.join(ATTACHMENTS), directory] {
            match fs::remove_dir(&path) {
                Ok(()) => {}
                // Somebody keeps something else there.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                    ) => {}
                Err(error) => return Err(DirectoryError::Io { path, error }),
            }
        }
        Ok(())
    }

    /// Forget an attachment.
    ///
    /// # Errors
    /// [`DirectoryError::NoAttachment`], [`DirectoryError::Io`].
    pub fn remove_attachment(&self, network: &Name, name: &Name) -> Result<()> {
        let path = self.attachment_path(network, name);
        fs::remove_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DirectoryError::NoAttachment(network.clone(), name.clone()),
            _ => DirectoryError::Io { path, error },
        })
    }

    /// Files that others can read although keys are in them.
    pub fn exposed(&self) -> Vec<PathBuf> {
        let paths = self.network_names().unwrap_or_default();
        let paths = paths.iter().map(|name| self.network_path(name));
        paths
            .filter(|path| {
                fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
            })
            .collect()
    }

    /// Where a network is written down.
    pub fn network_path(&self, name: &Name) -> PathBuf {
        self.root.join(name.as_str()).join(NETWORK_FILE)
    }

    fn attachment_path(&self, network: &Name, name: &Name) -> PathBuf {
        let file = format!("{name}{SUFFIX}");
        self.root
            .join(network.as_str())
            .join(ATTACHMENTS)
            .join(file)
    }
}

/// What no two networks of a host may both have.
struct Claim {
    name: Name,
    key: NetworkKey,
    names: NetworkNames,
    pair: Option<u16>,
}

impl Claim {
    fn of(network: &Network) -> Self {
        Self {
            name: network.name.clone(),
            key: network.key.clone(),
            names: network.names.clone(),
            pair: network.spec.masquerade.map(|masquerade| masquerade.pair),
        }
    }

    /// Why this network and one of the others cannot be on one host.
    fn conflict(&self, others: &[Self]) -> Option<String> {
        others.iter().find_map(|other| {
            let what = if other.key.is_same_identity(&self.key) {
                "have the same key: every network needs one of its own"
            } else if other.names.bridge == self.names.bridge
                || other.names.namespace == self.names.namespace
            {
                "have the same id: give one another"
            } else if self.pair.is_some() && other.pair == self.pair {
                "have the same masquerade pair: give one another"
            } else {
                return None;
            };
            Some(format!("networks {} and {} {what}", other.name, self.name))
        })
    }
}

/// Names in a directory; none if it does not exist.
pub(crate) fn entries(path: &Path) -> Result<Vec<String>> {
    let failed = |error| DirectoryError::Io {
        path: path.to_owned(),
        error,
    };
    let found = match fs::read_dir(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in found {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// Refuse what somebody else than root or this user decides about, and keys that everybody knows.
fn trust(found: &fs::Metadata, is_secret: bool) -> io::Result<()> {
    let reason = if found.uid() != 0 && found.uid() != Uid::effective().as_raw() {
        "it belongs to another user: chown it to root"
    } else if found.mode() & 0o022 != 0 {
        "others can write it: chmod go-w"
    } else if is_secret && found.mode() & 0o004 != 0 {
        "others can read the key in it: chmod 600"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

/// The text of a file; `None`: there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let failed = |error| DirectoryError::Io {
        path: path.to_owned(),
        error,
    };
    // A pipe that nobody writes to would keep whoever opens it.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(failed(io::Error::other("it is no file")));
    }
    let is_secret = path.file_name().is_some_and(|name| name == NETWORK_FILE);
    trust(&found, is_secret).map_err(failed)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, LONGEST_FILE), &mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Replace a file as a whole, readable by its owner only; its directories come with it.
pub(crate) fn write(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("descriptions always serialise");
    let write = || {
        let temporary = path.with_extension("new");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = match options.open(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(Path::new("/"));
                let mut builder = fs::DirBuilder::new();
                builder.recursive(true).mode(0o700).create(directory)?;
                options.open(&temporary)?
            }
            outcome => outcome?,
        };
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        drop(file);
        fs::rename(&temporary, path)
    };
    write().map_err(|error| DirectoryError::Io {
        path: path.to_owned(),
        error,
    })
}

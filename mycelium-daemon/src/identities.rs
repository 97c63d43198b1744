//! The identities of this node: which there are, what they are called, and adding and removing them while running.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::io::IdentityId;
use tokio::sync::Mutex;

use crate::config::IdentityConfig;
use crate::engine::{EngineError, EngineHandle};
use crate::health::Health;
use crate::host::{HostError, HostInterface};
use crate::identity;

/// Identities of one node at a time. Each may have an interface, which costs the kernel a few hundred kilobytes.
pub const MAX_IDENTITIES: usize = 4096;
const FAILED: &str = "identity-not-started";
const LOST: &str = "identity-netns-gone";
/// Between looks for namespaces that are missing or were made anew.
const NAMESPACE_LOOKS: Duration = Duration::from_secs(1);
const EXPOSED: &str = "key-file-exposed";

/// Where an identity's interface is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPlace {
    /// Name of the interface; `None`: it has none.
    pub tun_name: Option<String>,
    /// Network namespace of the interface; `None`: the node's own.
    pub netns: Option<PathBuf>,
}

/// One identity.
#[derive(Clone, Debug)]
pub struct IdentityRecord {
    /// Its number.
    pub id: IdentityId,
    /// What the operator calls it.
    pub name: Option<String>,
    /// Who it is.
    pub public_key: PublicKey,
    /// Its interface.
    pub place: HostPlace,
    /// The section of the configuration file that it comes from.
    configured: Option<IdentityConfig>,
    /// The namespace that its interface is in; `None`: the node's own.
    namespace: Option<NamespaceId>,
}

/// Device and inode of a network namespace: names and paths may come to mean another one.
pub(crate) type NamespaceId = (u64, u64);

pub(crate) fn namespace_id(path: &Path) -> Option<NamespaceId> {
    let namespace = std::fs::metadata(path).ok()?;
    Some((namespace.dev(), namespace.ino()))
}

/// Why an identity was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddIdentityError {
    /// It is there.
    #[error("an identity with that key already exists: number {0}")]
    KeyExists(u32),
    /// The name is taken.
    #[error("an identity called {0:?} already exists")]
    NameExists(String),
    /// There are [`MAX_IDENTITIES`].
    #[error("there are {MAX_IDENTITIES} identities already")]
    TooMany,
    /// A namespace without an interface to put into it.
    #[error("a network namespace needs an interface name too")]
    NamespaceWithoutInterface,
    /// No interface.
    #[error("{0}")]
    Interface(std::io::Error),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why an identity was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveIdentityError {
    /// It is not there.
    #[error("there is no identity {0}")]
    Unknown(u32),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The table. Cheap to clone; one change at a time.
#[derive(Clone, Debug)]
pub struct Identities {
    engine: EngineHandle,
    records: Arc<Mutex<BTreeMap<IdentityId, IdentityRecord>>>,
    /// Configured ones whose namespace is missing. Held while the configuration is followed.
    waiting: Arc<Mutex<Vec<IdentityConfig>>>,
}

impl Identities {
    /// With the node's own identity.
    pub fn new(engine: EngineHandle, node: PublicKey, tun_name: Option<String>) -> Self {
        let record = IdentityRecord {
            id: IdentityId::NODE,
            name: None,
            public_key: node,
            place: HostPlace {
                tun_name,
                netns: None,
            },
            configured: None,
            namespace: None,
        };
        Self {
            engine,
            records: Arc::new(Mutex::new(BTreeMap::from([(IdentityId::NODE, record)]))),
            waiting: Arc::default(),
        }
    }

    /// The table, which stays as it is while this is held.
    pub(crate) async fn locked(
        &self,
    ) -> tokio::sync::MutexGuard<'_, BTreeMap<IdentityId, IdentityRecord>> {
        self.records.lock().await
    }

    /// All of them, the node's own first.
    pub async fn list(&self) -> Vec<IdentityRecord> {
        self.records.lock().await.values().cloned().collect()
    }

    /// Originate another identity.
    ///
    /// # Errors
    /// See [`AddIdentityError`]; then nothing has changed.
    pub async fn add(
        &self,
        secret: SecretKey,
        name: Option<String>,
        place: HostPlace,
    ) -> Result<IdentityRecord, AddIdentityError> {
        self.add_from(secret, name, place, None).await
    }

    async fn add_from(
        &self,
        secret: SecretKey,
        name: Option<String>,
        place: HostPlace,
        configured: Option<IdentityConfig>,
    ) -> Result<IdentityRecord, AddIdentityError> {
        // Held while the interface is made, so that two requests for one key or name cannot both succeed.
        let mut records = self.records.lock().await;
        let public_key = secret.public_key();
        if let Some(other) = records
            .values()
            .find(|record| record.public_key == public_key)
        {
            return Err(AddIdentityError::KeyExists(other.id.0));
        }
        if let Some(name) = &name
            && records
                .values()
                .any(|record| record.name.as_ref() == Some(name))
        {
            return Err(AddIdentityError::NameExists(name.clone()));
        }
        if records.len() >= MAX_IDENTITIES {
            return Err(AddIdentityError::TooMany);
        }
        if place.netns.is_some() && place.tun_name.is_none() {
            return Err(AddIdentityError::NamespaceWithoutInterface);
        }
        // Before the interface: if the path comes to mean another namespace meanwhile, that is noticed later.
        let namespace = place.netns.as_deref().and_then(namespace_id);
        let host = create_host(&place, public_key)
            .await
            .map_err(AddIdentityError::Interface)?;
        let id = self.engine.add_identity(secret, host).await?;
        let record = IdentityRecord {
            id,
            name,
            public_key,
            place,
            configured,
            namespace,
        };
        tracing::info!(id = id.0, name = record.name, address = %public_key.address(), "identity added");
        records.insert(id, record.clone());
        Ok(record)
    }

    /// Stop originating an identity and remove its interface.
    ///
    /// # Errors
    /// See [`RemoveIdentityError`].
    pub async fn remove(&self, id: IdentityId) -> Result<(), RemoveIdentityError> {
        let mut records = self.records.lock().await;
        if !records.contains_key(&id) {
            return Err(RemoveIdentityError::Unknown(id.0));
        }
        self.engine.remove_identity(id).await?;
        records.remove(&id);
        tracing::info!(id = id.0, "identity removed");
        Ok(())
    }

    /// Make the identities of the configuration file these: what differs is removed and added anew, what was added
    /// through the API stays. Failures are warnings of `health`.
    pub async fn configure(&self, wanted: &[IdentityConfig], health: &Health) {
        let mut waiting = self.waiting.lock().await;
        waiting.clear();
        let gone: Vec<_> = self
            .list()
            .await
            .into_iter()
            .filter(|record| {
                record
                    .configured
                    .as_ref()
                    .is_some_and(|own| !wanted.contains(own))
            })
            .collect();
        for record in gone {
            if let Err(error) = self.remove(record.id).await {
                tracing::warn!(id = record.id.0, %error, "identity not removed");
            }
        }
        health.clear_all(FAILED);
        for identity in wanted {
            let there = self
                .list()
                .await
                .iter()
                .any(|record| record.configured.as_ref() == Some(identity));
            if there {
                continue;
            }
            if let Err(error) = self.start(identity, health).await {
                let text = format!("identity {:?} is not running: {error:#}", identity.name);
                let hint = if lacks_namespace(&error) {
                    waiting.push(identity.clone());
                    "it starts once the namespace is there; if its name is wrong, correct it and send SIGHUP"
                } else {
                    "correct it in the configuration file and send SIGHUP"
                };
                health.raise(FAILED, &identity.name, text, hint);
            }
        }
    }

    /// For ever: start the configured identities whose namespace has come, and give those their interface again whose
    /// namespace was made anew.
    pub(crate) async fn follow_namespaces(self, health: Health) {
        loop {
            tokio::time::sleep(NAMESPACE_LOOKS).await;
            self.start_waiting(&health).await;
            self.replace_lost(&health).await;
        }
    }

    async fn start_waiting(&self, health: &Health) {
        let mut waiting = self.waiting.lock().await;
        let mut rest = Vec::new();
        for identity in waiting.drain(..) {
            let there = identity.netns.as_deref().is_none_or(Path::exists);
            let error = match there {
                true => self.start(&identity, health).await.err(),
                false => None,
            };
            match error {
                None if there => health.clear(FAILED, &identity.name),
                // The path is made first, and the namespace put there later.
                Some(error) if !lacks_namespace(&error) => {
                    let text = format!("identity {:?} is not running: {error:#}", identity.name);
                    let hint = "correct it in the configuration file and send SIGHUP";
                    health.raise(FAILED, &identity.name, text, hint);
                }
                _ => rest.push(identity),
            }
        }
        *waiting = rest;
    }

    async fn replace_lost(&self, health: &Health) {
        let mut records = self.records.lock().await;
        for record in records.values_mut() {
            let (Some(path), Some(_)) = (&record.place.netns, &record.place.tun_name) else {
                continue;
            };
            let subject = record.id.0.to_string();
            let now = namespace_id(path);
            if now == record.namespace {
                health.clear(LOST, &subject);
                continue;
            }
            let replaced = match now {
                Some(_) => self
                    .replace_host(record)
                    .await
                    .map_err(|error| error.to_string()),
                None => Err(format!("there is no {}", path.display())),
            };
            match replaced {
                Ok(()) => {
                    tracing::info!(id = record.id.0, namespace = %path.display(), "interface made in the new namespace");
                    record.namespace = now;
                    health.clear(LOST, &subject);
                }
                Err(error) => {
                    let text =
                        format!("the network namespace of identity {subject} is gone: {error}");
                    let hint = "its interface comes back with the namespace";
                    health.raise(LOST, &subject, text, hint);
                }
            }
        }
        let gone = |id: &str| {
            let id = id.parse().map(IdentityId);
            id.is_ok_and(|id| !records.contains_key(&id))
        };
        health.clear_where(LOST, gone);
    }

    async fn replace_host(&self, record: &IdentityRecord) -> Result<(), AddIdentityError> {
        let host = create_host(&record.place, record.public_key)
            .await
            .map_err(AddIdentityError::Interface)?;
        if let Some(host) = host {
            self.engine.replace_host(record.id, host).await?;
        }
        Ok(())
    }

    async fn start(&self, config: &IdentityConfig, health: &Health) -> anyhow::Result<()> {
        let key = identity::load_or_create(&config.key_file)?;
        report_key(&key, health);
        let place = HostPlace {
            tun_name: config.tun_name.clone(),
            netns: config.netns.clone(),
        };
        self.add_from(
            key.secret,
            Some(config.name.clone()),
            place,
            Some(config.clone()),
        )
        .await?;
        Ok(())
    }
}

/// The interface of an identity, if it is to have one.
async fn create_host(
    place: &HostPlace,
    public_key: PublicKey,
) -> std::io::Result<Option<HostInterface>> {
    let Some(tun_name) = place.tun_name.clone() else {
        return Ok(None);
    };
    let netns = place.netns.clone();
    let address = public_key.address();
    let create = move || HostInterface::create(&tun_name, netns.as_deref(), address);
    let host = tokio::task::spawn_blocking(create).await;
    host.map_err(std::io::Error::other).flatten().map(Some)
}

/// Whether this may end by itself, when the namespace is made.
fn lacks_namespace(error: &anyhow::Error) -> bool {
    let Some(AddIdentityError::Interface(error)) = error.downcast_ref() else {
        return false;
    };
    let host = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(host, Some(HostError::Namespace { .. }))
}

/// Say what there is to say about a key file.
pub fn report_key(key: &identity::LoadedKey, health: &Health) {
    let path = key.path.display();
    if key.created {
        tracing::warn!(path = %path, address = %key.secret.public_key().address(), "created a new key: keep a copy of it");
    }
    report_mode(&key.path, key.exposed_mode, health);
}

/// Say so if others on this machine can read a secret.
pub(crate) fn report_mode(path: &Path, exposed: Option<u32>, health: &Health) {
    let path = path.display();
    if let Some(mode) = exposed {
        health.raise(
            EXPOSED,
            &path.to_string(),
            format!("the key file {path} has mode {mode:04o}: others on this machine can use or replace it"),
            &format!("chmod 600 {path}"),
        );
    }
}

//! The identities of this node: which there are, what they are called, and adding and removing them while running.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mycelium_core::crypto::identity::{PublicKey, SecretKey};
use mycelium_core::io::IdentityId;
use tokio::sync::Mutex;

use crate::config::IdentityConfig;
use crate::engine::{EngineError, EngineHandle};
use crate::health::Health;
use crate::host::HostInterface;
use crate::identity;

/// Identities of one node at a time. Each may have an interface, which costs the kernel a few hundred kilobytes.
pub const MAX_IDENTITIES: usize = 4096;
const FAILED: &str = "identity-not-started";
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
        };
        Self {
            engine,
            records: Arc::new(Mutex::new(BTreeMap::from([(IdentityId::NODE, record)]))),
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
        let host = match place.tun_name.clone() {
            Some(tun_name) => {
                let netns = place.netns.clone();
                let address = public_key.address();
                let create = move || HostInterface::create(&tun_name, netns.as_deref(), address);
                let host = tokio::task::spawn_blocking(create).await;
                Some(
                    host.map_err(std::io::Error::other)
                        .flatten()
                        .map_err(AddIdentityError::Interface)?,
                )
            }
            None => None,
        };
        let id = self.engine.add_identity(secret, host).await?;
        let record = IdentityRecord {
            id,
            name,
            public_key,
            place,
            configured,
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
                let hint = "correct it in the configuration file and send SIGHUP";
                health.raise(FAILED, &identity.name, text, hint);
            }
        }
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

/// Say what there is to say about a key file.
pub fn report_key(key: &identity::LoadedKey, health: &Health) {
    let path = key.path.display();
    if key.created {
        tracing::warn!(path = %path, address = %key.secret.public_key().address(), "created a new key: keep a copy of it");
    }
    if let Some(mode) = key.exposed_mode {
        health.raise(
            EXPOSED,
            &path.to_string(),
            format!("the key file {path} has mode {mode:04o}: others on this machine can use or replace the identity"),
            &format!("chmod 600 {path}"),
        );
    }
}

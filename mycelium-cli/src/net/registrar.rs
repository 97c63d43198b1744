//! The node's identities, as networks need them.

use std::collections::BTreeMap;
use std::io::Write;

use mycelium_api::client::{self, Client};
use mycelium_api::{AddIdentity, Identity, SecretKey};
use node_integration::directory::Directory;
use node_integration::object::Object;
use node_integration::reconcile::Registrar;

use crate::Context;

/// The node of this machine, if it runs.
pub(crate) struct Node<'a> {
    context: &'a Context,
    /// `None`: nothing was asked yet. To attach to a network that is there takes no node.
    client: Option<Client>,
    directory: &'a Directory,
    remarks: &'a mut dyn Write,
    /// By public key; `None`: not asked yet.
    identities: Option<Option<BTreeMap<String, Identity>>>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(
        context: &'a Context,
        directory: &'a Directory,
        remarks: &'a mut dyn Write,
    ) -> Self {
        Self {
            context,
            client: None,
            directory,
            remarks,
            identities: None,
        }
    }

    fn client(&mut self) -> &Client {
        self.client.get_or_insert_with(|| self.context.client())
    }

    /// The identities of the node; `None`: no node answers.
    fn identities(&mut self) -> &mut Option<BTreeMap<String, Identity>> {
        if self.identities.is_none() {
            let asked = match self.client().identities() {
                Ok(identities) => Some(
                    identities
                        .into_iter()
                        .map(|identity| (identity.public_key.to_string(), identity))
                        .collect(),
                ),
                Err(error) => {
                    let directory = self.directory.path().display();
                    // That nobody reads the remark changes nothing.
                    let _ = writeln!(
                        self.remarks,
                        "{error}\nA node that is started with --net-dir {directory} takes the network up."
                    );
                    None
                }
            };
            self.identities = Some(asked);
        }
        self.identities.get_or_insert_default()
    }

    fn delete(&mut self, public_key: &str) -> Result<(), String> {
        let Some(identities) = self.identities() else {
            return Ok(());
        };
        let Some(identity) = identities.remove(public_key) else {
            return Ok(());
        };
        match self.client().remove_identity(identity.id) {
            // The node follows the directory by itself, and may have been quicker.
            Ok(()) | Err(client::Error::Unsupported { .. }) => Ok(()),
            Err(client::Error::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Registrar for Node<'_> {
    fn has(&mut self, public_key: &str) -> bool {
        self.identities()
            .as_ref()
            .is_none_or(|identities| identities.contains_key(public_key))
    }

    fn add(&mut self, identity: &Object) -> Result<(), String> {
        let Object::Identity {
            name,
            public_key,
            tun_name,
            netns,
        } = identity
        else {
            return Err("no identity".to_owned());
        };
        if self.identities().is_none() {
            return Ok(());
        }
        // One that it has refers to an interface that is gone.
        self.delete(public_key)?;
        let network = name.strip_prefix("net:").unwrap_or(name);
        let network = network.parse().map_err(|error| format!("{error}"))?;
        let network = self
            .directory
            .network(&network)
            .map_err(|error| error.to_string())?;
        let request = AddIdentity {
            secret_key: SecretKey::new(*network.key.as_bytes()),
            name: Some(name.clone()),
            tun_name: Some(tun_name.clone()),
            netns: Some(netns.clone()),
        };
        match self.client().add_identity(&request) {
            Ok(added) => {
                if let Some(identities) = self.identities() {
                    identities.insert(public_key.clone(), added);
                }
                Ok(())
            }
            // The node follows the directory by itself, and may have been quicker.
            Err(client::Error::Refused { status: 409, .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn remove(&mut self, identity: &Object) -> Result<(), String> {
        let Object::Identity { public_key, .. } = identity else {
            return Err("no identity".to_owned());
        };
        self.delete(public_key)
    }
}

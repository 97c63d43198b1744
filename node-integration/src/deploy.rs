//! Deployments of Zero-OS on a host: what of them is ours is made, or nothing.

use std::collections::BTreeMap;

use crate::desired::{
    Allow, Attachment, AttachmentSpec, Deployment, DesiredError, Network, NetworkSpec, Wanted,
};
use crate::directory::DirectoryError;
use crate::host::Host;
use crate::reconcile::{ReconcileError, Registrar};

/// What became of a workload.
#[derive(Clone, Debug)]
pub enum Deployed {
    /// A user network.
    Network(Box<Network>),
    /// A tap, and its network.
    Tap(Box<(Network, Attachment)>),
    /// Nothing of it is ours.
    PassedOver,
}

impl Host {
    /// Make the networks and taps of a deployment, or change them to be as it says; one answer for each of its workloads.
    /// What it does not speak of, such as masquerade and rules, stays as it is; `allow` replaces the rules of its machines
    /// unless it is empty.
    ///
    /// # Errors
    /// [`ReconcileError`]; nothing that was not there before is left then.
    pub fn deploy(
        &self,
        deployment: &Deployment,
        allow: &[Allow],
        registrar: &mut dyn Registrar,
    ) -> Result<Vec<Deployed>, ReconcileError> {
        self.check(deployment)?;
        let mut new = Vec::new();
        let outcome = self.make_all(deployment, allow, &mut new, registrar);
        if outcome.is_err() {
            // The first failure says what is wrong; what cannot be undone now, `net apply` does.
            for wanted in new.iter().rev() {
                let _ = match wanted {
                    Wanted::Network { name, .. } => {
                        self.delete_networks(std::slice::from_ref(name), registrar)
                    }
                    Wanted::Tap { network, name, .. } => self.detach(network, name, registrar),
                    Wanted::Nothing => Ok(()),
                };
            }
        }
        outcome
    }

    /// Everything that can be seen to be wrong before anything is made.
    fn check(&self, deployment: &Deployment) -> Result<(), ReconcileError> {
        let mut networks = BTreeMap::new();
        for workload in &deployment.workloads {
            if let Wanted::Network { name, spec } = &workload.wanted {
                let network = Network::new(name.clone(), (**spec).clone());
                let network = network.map_err(|error| wrong(&workload.name, error))?;
                networks.insert(name.clone(), network);
            }
        }
        for workload in &deployment.workloads {
            let Wanted::Tap {
                network,
                name,
                spec,
            } = &workload.wanted
            else {
                continue;
            };
            let described;
            let network = match networks.get(network) {
                Some(network) => network,
                None => {
                    described = self.directory.network(network).map_err(|error| match error {
                        DirectoryError::NoNetwork(_) => {
                            let called = spec.network.as_deref().unwrap_or_default();
                            let text = format!(
                                "its network {called:?} has no mycelium key, here or in an earlier deployment of the twin"
                            );
                            wrong(&workload.name, DesiredError::Shape(text))
                        }
                        error => error,
                    })?;
                    &described
                }
            };
            Attachment::new(network, name.clone(), (**spec).clone())
                .map_err(|error| wrong(&workload.name, error))?;
        }
        Ok(())
    }

    /// Networks first: a machine may stand before its network. What was not there before is told in `new`.
    fn make_all(
        &self,
        deployment: &Deployment,
        allow: &[Allow],
        new: &mut Vec<Wanted>,
        registrar: &mut dyn Registrar,
    ) -> Result<Vec<Deployed>, ReconcileError> {
        let mut deployed = vec![Deployed::PassedOver; deployment.workloads.len()];
        for (workload, deployed) in deployment.workloads.iter().zip(&mut deployed) {
            let Wanted::Network { name, spec } = &workload.wanted else {
                continue;
            };
            let spec = match self.directory.network(name) {
                Err(DirectoryError::NoNetwork(_)) => {
                    new.push(workload.wanted.clone());
                    (**spec).clone()
                }
                earlier => NetworkSpec {
                    mycelium: spec.mycelium.clone(),
                    ..earlier?.spec
                },
            };
            *deployed = Deployed::Network(Box::new(self.create_network(name, &spec, registrar)?));
        }
        for (workload, deployed) in deployment.workloads.iter().zip(&mut deployed) {
            let Wanted::Tap {
                network,
                name,
                spec,
            } = &workload.wanted
            else {
                continue;
            };
            let made = self.directory.network(network)?;
            let mut spec = match self.directory.attachment(&made, name) {
                Err(DirectoryError::NoAttachment(..)) => {
                    new.push(workload.wanted.clone());
                    (**spec).clone()
                }
                earlier => AttachmentSpec {
                    seed: spec.seed,
                    ..earlier?.spec
                },
            };
            if !allow.is_empty() {
                spec.allow = allow.to_vec();
            }
            *deployed = Deployed::Tap(Box::new(self.attach(network, name, &spec, registrar)?));
        }
        Ok(deployed)
    }
}

fn wrong(workload: &str, error: DesiredError) -> DirectoryError {
    DirectoryError::Deployment(DesiredError::Workload {
        name: workload.to_owned(),
        error: Box::new(error),
    })
}

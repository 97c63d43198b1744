//! `mycelium net deploy`: the networks and taps of a Zero-OS deployment.

use std::io::Write;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use node_integration::deploy::Deployed;
use node_integration::desired::{Allow, Deployment, MachineResult, MachineTap};
use serde::Serialize;

use super::{Node, Place, read_text, table};
use crate::{Context, Error, write_json};

/// What to deploy.
#[derive(Clone, Debug, clap::Args)]
pub struct DeployArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Who may connect to its machines, as with `attach`; repeatable [default: nobody, or as it is]
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<Allow>,
    /// The deployment, JSON
    pub file: PathBuf,
}

/// A workload, and what became of it.
#[derive(Serialize)]
struct Answer {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    /// The network that it is, or is in; `None`: nothing of it is ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Ipv6Addr>,
    /// Its namespace or tap.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<MachineResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tap: Option<MachineTap>,
}

impl Answer {
    fn new(name: String, kind: String, deployed: &Deployed) -> Self {
        let passed_over = Self {
            name,
            kind,
            network: None,
            address: None,
            place: None,
            result: None,
            tap: None,
        };
        match deployed {
            Deployed::PassedOver => passed_over,
            Deployed::Network(network) => Self {
                network: Some(network.name.to_string()),
                address: Some(network.address()),
                place: Some(network.names.namespace.clone()),
                ..passed_over
            },
            Deployed::Tap(tap) => {
                let (network, attachment) = &**tap;
                Self {
                    network: Some(network.name.to_string()),
                    address: Some(attachment.address),
                    place: Some(attachment.names.port.clone()),
                    result: Some(MachineResult::of(attachment)),
                    tap: Some(MachineTap::of(network, attachment)),
                    ..passed_over
                }
            }
        }
    }

    fn row(&self) -> Vec<String> {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            self.name.clone(),
            self.kind.clone(),
            self.network
                .clone()
                .unwrap_or_else(|| "not ours".to_owned()),
            or_none(self.address.map(|address| address.to_string())),
            or_none(self.place.clone()),
        ]
    }
}

pub(super) fn run(
    args: &DeployArgs,
    context: &Context,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let deployment = Deployment::from_json(&read_text(&args.file)?)
        .map_err(|error| Error::Net(format!("{}: {error}", args.file.display())))?;
    let host = args.place.host();
    let mut node = Node::new(context, &host.directory, remarks);
    let deployed = host.deploy(&deployment, &args.allow, &mut node)?;
    let answers = deployment.workloads.into_iter().zip(&deployed);
    let answers: Vec<Answer> = answers
        .map(|(workload, deployed)| Answer::new(workload.name, workload.kind, deployed))
        .collect();
    if args.json {
        return write_json(&answers, out);
    }
    let header = ["Workload", "Type", "Network", "Address", "Place"];
    write!(out, "{}", table(answers.iter().map(Answer::row), &header))?;
    Ok(())
}

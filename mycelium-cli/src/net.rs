//! `mycelium net`: user networks of this host.

mod check;
mod deploy;
mod registrar;
pub(crate) mod show;

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use node_integration::desired::{GuestAddressing, Name, NetworkSpec};
use node_integration::directory::{self, Directory, DirectoryError};
use node_integration::host::Host;
use node_integration::naming::Profile;
use node_integration::reconcile::{self, Entry, Report};
use node_integration::secret::NetworkKey;
use zeroize::Zeroizing;

pub use deploy::DeployArgs;
pub(crate) use registrar::Node;

use crate::table::Table;
use crate::{Context, Error, key_file, write_json};

/// Between looks whether something is wanted otherwise.
const LOOKS: Duration = Duration::from_secs(1);
/// Looks after which what is there is compared, whether or not something is wanted otherwise.
const LOOKS_TO_REPAIR: u32 = 30;

/// Arguments of `net`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  mycelium net create web\n  mycelium attach netns web www --allow tcp/80\n  ip netns exec web-www ip address"
)]
pub struct Args {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// How to list.
    #[arg(long)]
    pub json: bool,
    /// What to do instead of listing.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// Where networks are described and noted.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Directory that describes the networks; their keys are there
    #[arg(long, value_name = "DIRECTORY", default_value = directory::DEFAULT)]
    pub net_dir: PathBuf,
    /// Directory where it is noted what was made
    #[arg(long, value_name = "DIRECTORY", default_value = reconcile::DEFAULT_NOTES, hide = true)]
    pub notes_dir: PathBuf,
}

impl Place {
    pub(crate) fn host(&self) -> Host {
        Host {
            directory: Directory::new(&self.net_dir),
            notes: self.notes_dir.clone(),
        }
    }
}

/// What to do with networks.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List the networks of this host
    #[command(after_help = "Example:\n  mycelium net list --json")]
    List(ListArgs),
    /// Create a network: an identity, a namespace, a bridge for workloads
    ///
    /// Without a key, one is made. The same command again changes the network to be as described and keeps its key.
    #[command(
        after_help = "Example:\n  mycelium net create web --masquerade --dns 2001:4860:4860::8888"
    )]
    Create(CreateArgs),
    /// Delete networks with their attachments and keys
    #[command(after_help = "Example:\n  mycelium net delete web")]
    Delete(DeleteArgs),
    /// Show a network: addresses, attachments, what was refused
    #[command(after_help = "Example:\n  mycelium net show web")]
    Show(ShowArgs),
    /// Make the networks and taps of a Zero-OS deployment
    ///
    /// Networks are called by their net id, taps TWIN-CONTRACT-NAME: `net delete` and `detach` remove them. Workloads
    /// of other types, and networks without a mycelium key, are passed over.
    #[command(after_help = "Example:\n  mycelium net deploy deployment.json --allow all")]
    Deploy(DeployArgs),
    /// Show what `apply` would do
    #[command(after_help = "Example:\n  mycelium net plan")]
    Plan(PlanArgs),
    /// Make everything as the directory describes it
    ///
    /// Repairs what was changed or lost, removes what is not described any more, and leaves alone what it did not
    /// make. Run it at boot before the node starts, or with --watch as a service.
    #[command(after_help = "Example:\n  mycelium net apply --dry-run")]
    Apply(ApplyArgs),
    /// Look for what commonly breaks, and say what to do
    ///
    /// Other routes to the overlay, wrong MTUs, forwarding or IPv6 switched off, duplicate keys and seeds, full tables;
    /// also inside containers. Exits with 1 if something is found.
    #[command(after_help = "Example:\n  mycelium net check --json")]
    Check(CheckArgs),
}

/// How to list.
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Whose names to use.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ProfileName {
    /// Our own
    Native,
    /// Those of Zero-OS "light"
    Light,
    /// Those of "full" Zero-OS
    Full,
}

/// What to create.
#[derive(Clone, Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("secret").args(["key_text", "raw_key_file", "ed25519_seed_file"])))]
pub struct CreateArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Its key: 64 hexadecimal digits, or base64. Others on this machine can read command lines
    #[arg(long = "key", value_name = "KEY")]
    pub key_text: Option<String>,
    /// File with its key: 32 bytes, or text as with --key
    #[arg(long = "network-key-file", value_name = "FILE")]
    pub raw_key_file: Option<PathBuf>,
    /// File with the Ed25519 seed of a Zero-OS node, from which its key is derived
    #[arg(long, value_name = "FILE")]
    pub ed25519_seed_file: Option<PathBuf>,
    /// Description in JSON, as the directory or Zero-OS has it; the other options win over it
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// Whose names its interfaces have
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub profile: Option<ProfileName>,
    /// What its interface names are made of, at most 13 characters
    #[arg(long)]
    pub id: Option<String>,
    /// Its owner in Zero-OS, from which its id is derived
    #[arg(long, value_name = "NUMBER")]
    pub twin: Option<u32>,
    /// Give guests the address of their seed by DHCPv6
    #[arg(long, conflicts_with = "no_announcements")]
    pub dhcp: bool,
    /// Announce nothing to guests
    #[arg(long)]
    pub no_announcements: bool,
    /// Tell guests to send everything here, not only what is for 400::/7
    #[arg(long)]
    pub default_route: bool,
    /// Give guests IPv4 behind the host's address. Turns IPv4 forwarding of the host on
    #[arg(long)]
    pub masquerade: bool,
    /// Name server that guests are told; repeatable
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// Its name
    pub name: Name,
}

/// What to delete.
#[derive(Clone, Debug, clap::Args)]
pub struct DeleteArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Their names
    #[arg(required = true)]
    pub names: Vec<Name>,
}

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Its name
    pub name: Name,
}

/// What to plan.
#[derive(Clone, Debug, clap::Args)]
pub struct PlanArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// How to check.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// How to apply.
#[derive(Clone, Debug, clap::Args)]
pub struct ApplyArgs {
    /// Where the networks are.
    #[command(flatten)]
    pub place: Place,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Follow the directory, and repair every half minute, until interrupted
    #[arg(long, conflicts_with = "dry_run")]
    pub watch: bool,
}

pub(crate) fn run(
    args: Args,
    context: &Context,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let list = Action::List(ListArgs {
        place: args.place,
        json: args.json,
    });
    match args.action.unwrap_or(list) {
        Action::List(args) => show::list(&args, out),
        Action::Show(args) => show::network(&args, out),
        Action::Create(args) => create(args, context, out, remarks),
        Action::Delete(args) => {
            let host = args.place.host();
            let mut node = Node::new(context, &host.directory, remarks);
            Ok(host.delete_networks(&args.names, &mut node)?)
        }
        Action::Deploy(args) => deploy::run(&args, context, out, remarks),
        Action::Check(args) => check::run(&args, out),
        Action::Plan(args) => {
            let host = args.place.host();
            apply(&host, context, true, args.json, out, remarks)
        }
        Action::Apply(args) if args.watch => watch(&args.place.host(), context, out, remarks),
        Action::Apply(args) => {
            let host = args.place.host();
            apply(&host, context, args.dry_run, args.json, out, remarks)
        }
    }
}

fn create(
    args: CreateArgs,
    context: &Context,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let host = args.place.host();
    let earlier = match host.directory.network(&args.name) {
        Ok(network) => network.spec,
        Err(DirectoryError::NoNetwork(_)) => NetworkSpec::default(),
        // Its key may be all that is left of it.
        Err(error) => return Err(net(error)),
    };
    let mut spec = match &args.spec {
        Some(path) => NetworkSpec::from_json(&read_text(path)?)
            .map_err(|error| Error::Net(format!("{}: {error}", path.display())))?,
        None => earlier.clone(),
    };
    if let Some(key) = network_key(&args)? {
        spec.mycelium = NetworkSpec::with_key(key).mycelium;
    }
    if spec.mycelium.is_none() {
        spec.mycelium = earlier.mycelium;
    }
    if spec.mycelium.is_none() {
        let fresh = key_file::generate()?.to_bytes();
        spec.mycelium = NetworkSpec::with_key(key_from(NetworkKey::from_raw(&*fresh))?).mycelium;
    }
    if let Some(profile) = args.profile {
        spec.profile = match profile {
            ProfileName::Native => Profile::Native,
            ProfileName::Light => Profile::Light,
            ProfileName::Full => Profile::Full,
        };
    }
    spec.id = args.id.or(spec.id);
    spec.twin = args.twin.or(spec.twin);
    if args.dhcp {
        spec.addressing = GuestAddressing::Dhcp;
    }
    if args.no_announcements {
        spec.addressing = GuestAddressing::Static;
    }
    spec.default_route |= args.default_route;
    if !args.dns.is_empty() {
        spec.name_servers = args.dns;
    }
    if args.masquerade && spec.masquerade.is_none() {
        spec.masquerade = Some(host.free_pair().map_err(net)?);
    }
    let mut node = Node::new(context, &host.directory, remarks);
    let network = host.create_network(&args.name, &spec, &mut node)?;
    if args.json {
        return write_json(&show::Summary::of(&network), out);
    }
    writeln!(out, "{} has {}", network.name, network.address())?;
    Ok(())
}

/// The key that the arguments name; `None`: they name none.
fn network_key(args: &CreateArgs) -> Result<Option<NetworkKey>, Error> {
    if let Some(text) = &args.key_text {
        return key_from(NetworkKey::parse(text)).map(Some);
    }
    if let Some(path) = &args.raw_key_file {
        let bytes = read_bytes(path)?;
        let key = match <&[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(raw) => NetworkKey::from_raw(raw),
            Err(_) => NetworkKey::parse(&String::from_utf8_lossy(&bytes)),
        };
        return key_from(key).map(Some);
    }
    if let Some(path) = &args.ed25519_seed_file {
        let bytes = read_bytes(path)?;
        let seed = bytes.as_slice().try_into().map_err(|_| {
            Error::Net(format!(
                "{}: an Ed25519 seed has 32 bytes, not {}",
                path.display(),
                bytes.len()
            ))
        })?;
        return key_from(NetworkKey::from_ed25519_seed(seed)).map(Some);
    }
    Ok(None)
}

fn key_from(
    key: Result<NetworkKey, node_integration::secret::TextError>,
) -> Result<NetworkKey, Error> {
    key.map_err(net)
}

fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| Error::Net(format!("cannot read {}: {error}", path.display())))
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, Error> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| Error::Net(format!("cannot read {}: {error}", path.display())))
}

pub(crate) fn net(error: impl std::fmt::Display) -> Error {
    Error::Net(error.to_string())
}

/// One entry of the JSON of `plan` and `apply`.
#[derive(serde::Serialize)]
struct Applied {
    entry: Entry,
    steps: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<&Report> for Applied {
    fn from(report: &Report) -> Self {
        Self {
            entry: report.entry.clone(),
            steps: report.steps.iter().map(ToString::to_string).collect(),
            error: report.error.as_ref().map(ToString::to_string),
        }
    }
}

fn apply(
    host: &Host,
    context: &Context,
    dry_run: bool,
    json: bool,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let reports = {
        let mut node = Node::new(context, &host.directory, remarks);
        host.open()?
            .reconcile(&host.directory, &mut node, dry_run)?
    };
    let failed = reports
        .iter()
        .filter(|report| report.error.is_some())
        .count();
    if json {
        let applied: Vec<Applied> = reports.iter().map(Applied::from).collect();
        write_json(&applied, out)?;
    } else {
        write_reports(&reports, out)?;
        if reports.iter().all(|report| report.steps.is_empty()) && failed == 0 {
            writeln!(out, "nothing to do")?;
        }
    }
    if failed > 0 {
        out.flush()?;
        return Err(Error::Net(format!(
            "{failed} of {} entries are not as described",
            reports.len()
        )));
    }
    Ok(())
}

fn write_reports(reports: &[Report], out: &mut dyn Write) -> Result<(), Error> {
    for report in reports {
        for step in &report.steps {
            writeln!(out, "{}: {step}", report.entry)?;
        }
        if let Some(error) = &report.error {
            writeln!(out, "{}: {error}", report.entry)?;
        }
    }
    Ok(())
}

fn watch(
    host: &Host,
    context: &Context,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    let mut seen = None;
    let mut looks = 0;
    loop {
        let now = signature(host.directory.path());
        if seen.as_ref() != Some(&now) || looks >= LOOKS_TO_REPAIR {
            looks = 0;
            let mut node = Node::new(context, &host.directory, remarks);
            let reports = host.open()?.reconcile(&host.directory, &mut node, false)?;
            write_reports(&reports, out)?;
            out.flush()?;
            seen = Some(now);
        }
        looks += 1;
        std::thread::sleep(LOOKS);
    }
}

/// What changes when a description does: when which directory was changed.
fn signature(root: &Path) -> Vec<(PathBuf, Option<SystemTime>)> {
    let changed = |path: &Path| {
        let time = std::fs::metadata(path).and_then(|file| file.modified());
        (path.to_owned(), time.ok())
    };
    let mut signature = vec![changed(root)];
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries {
        signature.push(changed(&entry.path()));
        signature.push(changed(&entry.path().join("attachments")));
        signature.push(changed(&entry.path().join("network.json")));
    }
    signature.sort();
    signature
}

pub(crate) fn table(rows: impl IntoIterator<Item = Vec<String>>, header: &[&'static str]) -> Table {
    let mut table = Table::new(header);
    for row in rows {
        table.row(row);
    }
    table
}

//! Systems under measurement, one adapter each.

mod mycelium;
mod plain;
mod wireguard;
mod yggdrasil;

use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use netns_tests::probe::ping::Pinger;

use super::options::{Options, Topology};
use super::process::Daemon;
use super::testbed::Testbed;

use plain::Plain;
use wireguard::WireGuard;
use yggdrasil::Yggdrasil;

/// How long a system may take from its start to the first answered ping.
const CONNECTED: Duration = Duration::from_secs(20);

/// What can be set up on a [`Testbed`].
pub trait System {
    /// As on the command line and in the table.
    fn name(&self) -> &str;

    /// Why it cannot run here.
    fn missing(&self) -> Option<String>;

    /// Why it has no such topology.
    fn unfit(&self, topology: Topology) -> Option<String> {
        let _ = topology;
        None
    }

    /// Start it; the ends need not reach each other yet. Files go to `scratch`.
    ///
    /// # Errors
    /// When a program cannot be started or interfaces cannot be set up.
    fn start(&self, testbed: &Testbed, scratch: &Path) -> anyhow::Result<Overlay>;
}

/// A system that has been started.
#[derive(Debug)]
pub struct Overlay {
    /// Its processes.
    pub daemons: Vec<Daemon>,
    /// Address of A in it.
    pub a: Ipv6Addr,
    /// Address of B in it.
    pub b: Ipv6Addr,
    /// Addresses of the others in a star.
    pub more: Vec<Ipv6Addr>,
    /// Whether a neighbour over TCP may announce routes in the protocol of the overlay.
    pub takes_routes: bool,
}

impl Overlay {
    /// Wait until pings from A to all others are answered.
    ///
    /// # Errors
    /// With what the daemons have printed, after a while or when one has ended.
    pub fn connected(&mut self, testbed: &Testbed) -> anyhow::Result<()> {
        for target in std::iter::once(self.b).chain(self.more.clone()) {
            let pinger = Pinger::start(&testbed.a, target, Duration::from_millis(10))?;
            let reply = pinger.first_reply(CONNECTED);
            for daemon in &mut self.daemons {
                daemon.check_alive()?;
            }
            reply.with_context(|| {
                let words: Vec<String> = self.daemons.iter().map(Daemon::last_words).collect();
                format!("{target} is not reached:\n{}", words.join("\n"))
            })?;
        }
        Ok(())
    }

    /// The daemon of A.
    ///
    /// # Errors
    /// When there is none.
    pub fn daemon_of_a(&self) -> anyhow::Result<&Daemon> {
        let mut daemons = self.daemons.iter();
        daemons
            .find(|daemon| daemon.role() == "a")
            .context("A has no daemon")
    }
}

/// All systems, in the order of the table.
pub fn all(options: &Options) -> Vec<Box<dyn System>> {
    let mut systems: Vec<Box<dyn System>> = vec![
        Box::new(Plain::new("plain", false)),
        Box::new(Plain::new("plain-uso", true)),
        Box::new(WireGuard),
        Box::new(Yggdrasil),
    ];
    systems.extend(
        mycelium::variants(options)
            .into_iter()
            .map(|variant| -> Box<dyn System> { Box::new(variant) }),
    );
    systems
}

/// Those that a run without `--systems` measures.
const USUAL: [&str; 6] = [
    "ours",
    "plain",
    "wireguard-go",
    "yggdrasil",
    "upstream-tcp",
    "ours-v1-tcp",
];

/// The systems asked for that can run; the others are named on standard error.
///
/// # Errors
/// When a name is unknown, or nothing is left.
pub fn selected(options: &Options) -> anyhow::Result<Vec<Box<dyn System>>> {
    let wanted: Vec<&str> = match options.systems.is_empty() {
        true => USUAL.to_vec(),
        false => options.systems.iter().map(String::as_str).collect(),
    };
    let mut left = Vec::new();
    for name in wanted {
        let system = all(options)
            .into_iter()
            .find(|system| system.name() == name)
            .with_context(|| format!("no system {name:?}; --list names them"))?;
        match system.missing() {
            Some(reason) => eprintln!("without {name}: {reason}"),
            None => left.push(system),
        }
    }
    ensure!(!left.is_empty(), "no system to measure");
    Ok(left)
}

/// Name all systems and workloads.
pub fn list(options: &Options) {
    println!("systems:");
    for system in all(options) {
        match system.missing() {
            Some(reason) => println!("  {} (cannot run: {reason})", system.name()),
            None => println!("  {}", system.name()),
        }
    }
    println!("workloads:");
    for workload in super::workload::ALL {
        println!("  {:<10} {}", workload.name, workload.about);
    }
}

/// The `n`th address of an overlay that leaves the choice to us.
fn address(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, n)
}

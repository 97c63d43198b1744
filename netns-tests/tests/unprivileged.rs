//! The same tests for an ordinary user: everything inside a user namespace of one's own.
//!
//! When root runs the tests, this one runs itself again as "nobody". Where `/dev/net/tun` is not accessible to
//! everybody, a private mount namespace puts a device node in its place that is.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use netns_tests::daemon::Build::Ours;
use netns_tests::daemon::mycelium_binary;
use netns_tests::harness::{Scratch, case, main as run};
use netns_tests::probe::tcp;
use netns_tests::topology::{Relayed, Underlay};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Set for the second run, the one as an ordinary user.
const INNER: &str = "MYCELIUM_TEST_INNER";
const NOBODY: u32 = 65_534;
const TUN: &str = "/dev/net/tun";
/// Capability bits of `/proc/self/status`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_MKNOD: u32 = 27;

fn main() -> ExitCode {
    if std::env::var_os(INNER).is_some() {
        return run(vec![case("relay", relay)]);
    }
    run(vec![case("as_nobody", as_nobody).unless(cannot_set_up())])
}

fn cannot_set_up() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or_default();
    let has = |bit: u32| capabilities >> bit & 1 == 1;
    if !has(CAP_SYS_ADMIN) {
        Some("this is an ordinary user already: all other tests show the same".to_owned())
    } else if !has(CAP_MKNOD) && !tun_is_open_to_all() {
        Some(format!(
            "{TUN} is not accessible to everybody, and a node that is cannot be made here"
        ))
    } else {
        None
    }
}

fn tun_is_open_to_all() -> bool {
    std::fs::metadata(TUN).is_ok_and(|metadata| metadata.permissions().mode() & 0o006 == 0o006)
}

/// What the second run does: a relay, pings and bulk TCP, as in `relay.rs`.
fn relay(scratch: &Scratch) -> anyhow::Result<()> {
    let net = Relayed::start(scratch, Underlay::Tcp4, [Ours; 3])?;
    net.connected(Duration::from_secs(10))?;
    tcp::transfer(net.a.host(), net.b.host(), net.b.address(), 10_000_000)?;
    Ok(())
}

fn as_nobody(scratch: &Scratch) -> anyhow::Result<()> {
    // A file system of our own: /tmp may forbid devices, and the build may lie where nobody else may read.
    let place = scratch.path().join("public");
    std::fs::create_dir(&place)?;
    let flags = MsFlags::MS_NOSUID;
    mount(
        Some("tmpfs"),
        &place,
        Some("tmpfs"),
        flags,
        Some("mode=0755,size=1g"),
    )
    .context("mount tmpfs")?;
    std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
    let outcome = run_again(&place);
    nix::mount::umount(&place).context("unmount")?;
    outcome
}

fn run_again(place: &Path) -> anyhow::Result<()> {
    if !tun_is_open_to_all() {
        let node = place.join("tun");
        mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(10, 200))
            .context("make a device node")?;
        std::fs::set_permissions(&node, Permissions::from_mode(0o666))?;
        mount(
            Some(&node),
            TUN,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .context("bind-mount it")?;
    }
    let (test, node) = (place.join("test"), place.join("mycelium"));
    std::fs::copy(std::env::current_exe()?, &test)?;
    std::fs::copy(mycelium_binary(), &node)?;
    let temporary = place.join("tmp");
    std::fs::create_dir(&temporary)?;
    std::fs::set_permissions(&temporary, Permissions::from_mode(0o777))?;
    let output = Command::new(&test)
        .env_clear()
        .env(INNER, "1")
        .env("MYCELIUM_BIN", &node)
        .env("TMPDIR", &temporary)
        .current_dir(place)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::null())
        .output()
        .context("start as nobody")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    if complained.contains("user namespaces are not available") {
        println!("ordinary users cannot have user namespaces here: {complained}");
        return Ok(());
    }
    ensure!(
        output.status.success(),
        "as nobody: {}\n{said}\n{complained}",
        output.status
    );
    ensure!(
        said.contains("1 passed"),
        "as nobody, nothing ran:\n{said}\n{complained}"
    );
    Ok(())
}

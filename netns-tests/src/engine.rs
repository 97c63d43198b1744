//! A machine with container engines: the root file system that `engine-files.sh` has made, with processes, files and
//! control groups of its own, in the network namespace of a host of a lab.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Uid;
use node_integration::named;

use crate::daemon::mycelium_binary;
use crate::harness::Scratch;
use crate::lab::Host;
use crate::wait;

/// Where a machine has the plugins.
pub const PLUGINS: &str = "/opt/cni/bin";
/// A root file system for containers, in a machine.
pub const CONTAINER: &str = "/container";
/// The longest life of a container: however a test ends, none stays.
pub const LIFE: &str = "120";
/// Everything below is done in the longest of a loaded machine's waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why container engines cannot run here; `None` when they can.
pub fn missing() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("container engines need root".to_owned());
    }
    directory().err().map(|error| format!("{error:#}"))
}

fn directory() -> anyhow::Result<PathBuf> {
    let directory = std::env::var_os("MYCELIUM_ENGINE_DIR").context(
        "MYCELIUM_ENGINE_DIR does not name what netns-tests/engine-files.sh has made, so there is no container engine",
    )?;
    let directory = PathBuf::from(directory);
    ensure!(
        directory.join("complete").exists(),
        "{} is not what netns-tests/engine-files.sh has made",
        directory.display()
    );
    Ok(directory)
}

/// A machine. Everything in it ends with it.
#[derive(Debug)]
pub struct Machine {
    host: Arc<Host>,
    root: PathBuf,
    /// Its first process is the only child of this one.
    first: Child,
}

impl Machine {
    /// Switch one on. It sees the namespaces that have names by now, and the files of this test at the same place.
    pub fn start(scratch: &Scratch, host: &Arc<Host>) -> anyhow::Result<Self> {
        let root = scratch.path().join(format!("{}.machine", host.name()));
        let memory = scratch.path().join(format!("{}.memory", host.name()));
        lay_out(&root, &memory, scratch.path(), host)?;
        let first = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child"])
            .arg("/usr/sbin/chroot")
            .arg(&root)
            .args(["/bin/busybox", "sh", "-c"])
            .arg(format!(
                "busybox mount -t proc proc /proc && exec busybox sleep {LIFE}"
            ))
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start unshare")?;
        let machine = Self {
            host: Arc::clone(host),
            root,
            first,
        };
        wait::until("the machine is on", PATIENCE, || {
            Ok(machine.root.join("proc/1").exists().then_some(()))
        })?;
        Ok(machine)
    }

    /// A path as this test sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// Write a file.
    pub fn write(&self, inside: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(inside);
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// A program with arguments, to be started with [`Host::spawn`] of [`Self::host`].
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!(
                "--pid=/proc/{}/ns/pid_for_children",
                self.first.id()
            ))
            .arg("/usr/sbin/chroot")
            .arg(&self.root)
            .args(words)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::null());
        command
    }

    /// Run a program; what it prints, and whether it succeeds.
    pub fn try_run(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(words);
        Ok(self.host.inside(|| command.output())??)
    }

    /// Run a program that must succeed; what it prints.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.try_run(words)?;
        ensure!(
            output.status.success(),
            "{words:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The host whose network it is in.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
        // What containerd leaves in the hierarchy of control groups, which is the system's.
        let _ = fs::remove_dir(self.root.join("sys/fs/cgroup/default"));
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        let _ = umount2(&self.root.with_extension("memory"), MntFlags::MNT_DETACH);
    }
}

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The machine's files: those of the engines below, and above them memory for what it writes.
fn lay_out(root: &Path, memory: &Path, scratch: &Path, host: &Host) -> anyhow::Result<()> {
    for directory in [root, memory] {
        fs::create_dir(directory)?;
    }
    make("tmpfs", memory, None)?;
    for name in ["upper", "work"] {
        fs::create_dir(memory.join(name))?;
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        directory()?.display(),
        memory.join("upper").display(),
        memory.join("work").display()
    );
    make("overlay", root, Some(&layers))?;
    let at = |inside: &str| root.join(inside);
    // It shows the interfaces of the namespace that it is mounted in.
    host.inside(|| make("sysfs", &at("sys"), None))??;
    make("cgroup2", &at("sys/fs/cgroup"), None)?;
    make("tmpfs", &at("run"), None)?;
    let own = at(&scratch.to_string_lossy()[1..]);
    for directory in [at("run/netns"), own.clone()] {
        fs::create_dir_all(directory)?;
    }
    bind(Path::new("/dev"), &at("dev"), MsFlags::MS_REC)?;
    bind(
        Path::new(named::DIRECTORY),
        &at("run/netns"),
        MsFlags::MS_REC,
    )?;
    // The machine itself is below.
    bind(scratch, &own, MsFlags::empty())?;
    let plugins = at(PLUGINS.trim_start_matches('/'));
    fs::create_dir_all(&plugins)?;
    for name in ["mycelium-cni", "mycelium-netavark"] {
        let to = plugins.join(name);
        fs::copy(mycelium_binary().with_file_name(name), &to).context(name)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Mount a file system that needs no device.
fn make(kind: &str, at: &Path, options: Option<&str>) -> anyhow::Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount {kind} at {}", at.display()))
}

/// Show the directory `from` at another place too.
fn bind(from: &Path, at: &Path, how_far: MsFlags) -> anyhow::Result<()> {
    mount(
        Some(from),
        at,
        None::<&str>,
        MsFlags::MS_BIND | how_far,
        None::<&str>,
    )
    .with_context(|| format!("cannot mount {} at {}", from.display(), at.display()))
}

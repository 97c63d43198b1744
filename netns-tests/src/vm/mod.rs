//! Virtual machines: Debian's cloud kernel under QEMU's software emulation, with a root file system that is made here.
//!
//! The first serial port is the kernel's console and becomes a log. The second is the control channel: a line is a
//! shell command, its output comes back and after it a line with its status.

mod cloud_init;
mod files;
mod initramfs;
mod transfer;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};

use crate::daemon::mycelium_binary;
use crate::harness::Scratch;
use crate::lab::Host;

pub use cloud_init::cloud_init;
pub use files::{missing, vsock_backend};
pub use transfer::{Exchange, between, exchange};

/// Kernel modules, in the order in which they need each other.
const NETWORK_MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];
/// What it takes to mount a FAT image.
const DISK_MODULES: [&str; 6] = [
    "virtio_blk",
    "fat",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_utf8",
];

/// Memory, MiB: the root file system, a node in it and one file of a bulk transfer fit.
const MEMORY: u32 = 512;
/// How long booting may take. An idle machine with two cores takes 3 s.
const BOOT: Duration = Duration::from_secs(90);

/// How a virtual machine is built.
#[derive(Clone, Debug, Default)]
pub struct VmOptions {
    name: String,
    disks: Vec<PathBuf>,
    programs: Vec<(String, PathBuf)>,
    files: Vec<(String, String)>,
    devices: Vec<String>,
    modules: Vec<String>,
}

impl VmOptions {
    /// A machine without a network card.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Add a read-only disk with the content of a file. Disks become `/dev/vda`, `/dev/vdb` and so on.
    #[must_use]
    pub fn disk(mut self, image: &Path) -> Self {
        self.disks.push(image.to_owned());
        self
    }

    /// Put a copy of a program of this machine, with the libraries it needs, into the root file system.
    #[must_use]
    pub fn program(mut self, path: &str, program: &Path) -> Self {
        self.programs.push((path.to_owned(), program.to_owned()));
        self
    }

    /// Put an executable file there.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.push((path.to_owned(), content.to_owned()));
        self
    }

    /// Put a DHCPv6 client there, `dhclient`, and for its `-sf` a script, `/dhcp-script`, that sets addresses and keeps
    /// what the server said in `/tmp/dhcp-EVENT`.
    pub fn dhcp_client(self) -> anyhow::Result<Self> {
        let client = files::file("sbin/dhclient")?;
        Ok(self
            .program("sbin/dhclient", &client)
            .file("dhcp-script", DHCP_SCRIPT))
    }

    /// Further arguments for QEMU, such as those for a network card. Cards become `eth0`, `eth1` and so on.
    #[must_use]
    pub fn device<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.devices.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Put the node under test there, as `mycelium`, with what it takes to have a TUN interface.
    #[must_use]
    pub fn node(self) -> Self {
        self.program("bin/mycelium", &mycelium_binary())
            .modules(&["tun"])
    }

    /// Add a vsock device whose other half, vhost-device-vsock, serves the Unix socket `backend`.
    #[must_use]
    pub fn vsock(mut self, backend: &Path) -> Self {
        self.devices.extend([
            "-object".to_owned(),
            // The other process reads and writes the guest's memory.
            format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on"),
            "-machine".to_owned(),
            "memory-backend=memory".to_owned(),
            "-chardev".to_owned(),
            format!("socket,id=vsock,path={}", backend.display()),
            "-device".to_owned(),
            "vhost-user-vsock-pci,chardev=vsock".to_owned(),
        ]);
        self.modules(&[
            "vsock",
            "vmw_vsock_virtio_transport_common",
            "vmw_vsock_virtio_transport",
        ])
    }

    /// Load further kernel modules.
    #[must_use]
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules
            .extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    fn root(&self) -> anyhow::Result<Vec<u8>> {
        let mut archive = initramfs::Archive::default();
        for directory in ["proc", "sys", "dev", "tmp", "etc", "var/lib", "mnt", "bin"] {
            archive.directory(directory)?;
        }
        archive.copy("bin/busybox", &files::file("bin/busybox")?)?;
        let mut modules: Vec<&str> = NETWORK_MODULES.to_vec();
        if !self.disks.is_empty() {
            modules.extend(DISK_MODULES);
        }
        modules.extend(self.modules.iter().map(String::as_str));
        for name in &modules {
            archive.copy(&format!("modules/{name}.ko"), &files::module(name)?)?;
        }
        let mut present = Vec::new();
        for (path, program) in &self.programs {
            archive.copy(path, program)?;
            for library in files::libraries(program)? {
                if !present.contains(&library) {
                    let inside = library.to_string_lossy();
                    archive.copy(inside.trim_start_matches('/'), &library)?;
                    present.push(library);
                }
            }
        }
        for (path, content) in &self.files {
            archive.file(path, content.as_bytes())?;
        }
        archive.file("init", init(&modules).as_bytes())?;
        archive.finish()
    }
}

const DHCP_SCRIPT: &str = r#"#!/bin/busybox sh
export PATH=/bin
env >/tmp/dhcp-$reason
case $reason in
  BOUND6|RENEW6|REBIND6) ip -6 address add $new_ip6_address/$new_ip6_prefixlen dev $interface || exit 1 ;;
  RELEASE6|EXPIRE6|STOP6) ip -6 address del $old_ip6_address/$old_ip6_prefixlen dev $interface ;;
esac
exit 0
"#;

/// The first process.
fn init(modules: &[&str]) -> String {
    let modules = modules.join(" ");
    format!(
        r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in {modules}; do insmod /modules/$module.ko || echo "no module $module" >/dev/console; done
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
echo ready
while read -r number command; do
  ( eval "$command" ) </dev/null
  echo "
done $number $?"
done
"#
    )
}

/// A running virtual machine. Switched off when dropped.
#[derive(Debug)]
pub struct Vm {
    name: String,
    process: Child,
    control: ChildStdin,
    lines: Receiver<String>,
    commands: u32,
    started: Instant,
    booted: Duration,
}

impl Vm {
    /// Boot a machine on `host`; returns when it takes commands.
    pub fn boot(scratch: &Scratch, host: &Arc<Host>, options: &VmOptions) -> anyhow::Result<Self> {
        let mut vm = Self::start(scratch, host, options)?;
        vm.wait_until_ready()?;
        Ok(vm)
    }

    /// As [`Vm::boot`], but returns at once. Follow with [`Vm::wait_until_ready`].
    pub fn start(scratch: &Scratch, host: &Arc<Host>, options: &VmOptions) -> anyhow::Result<Self> {
        let name = &options.name;
        let root = scratch.path().join(format!("{name}.cpio"));
        std::fs::write(&root, options.root()?)?;
        let console = scratch.path().join(format!("{name}-console.log"));
        let mut command = Command::new(files::EMULATOR);
        command
            .args(["-accel", "tcg", "-nodefaults", "-display", "none"])
            .args(["-no-reboot", "-m", &MEMORY.to_string()])
            .arg("-kernel")
            .arg(files::kernel()?)
            .arg("-initrd")
            .arg(&root)
            // One that panics ends, and with it the control channel.
            .args(["-append", "console=ttyS0 panic=-1 mitigations=off"])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", "stdio"]);
        for disk in &options.disks {
            let drive = format!("file={},format=raw,if=virtio,readonly=on", disk.display());
            command.args(["-drive", &drive]);
        }
        command
            .args(&options.devices)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(
                scratch.path().join(format!("{name}-emulator.log")),
            )?);
        let mut process = host.spawn(&mut command).context(files::EMULATOR)?;
        let control = process.stdin.take().context("standard input")?;
        let output = process.stdout.take().context("standard output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::Builder::new()
            .name(format!("{name}-control"))
            .spawn(move || {
                for line in BufReader::new(output).split(b'\n') {
                    let Ok(line) = line else { return };
                    let line = String::from_utf8_lossy(&line);
                    if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            name: name.clone(),
            process,
            control,
            lines,
            commands: 0,
            started: Instant::now(),
            booted: Duration::ZERO,
        })
    }

    /// Wait until it takes commands.
    pub fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BOOT;
        while self.line(deadline).context("booting")? != "ready" {}
        self.booted = self.started.elapsed();
        Ok(())
    }

    /// How long booting took.
    pub fn boot_time(&self) -> Duration {
        self.booted
    }

    /// Run a shell command; its output, or an error if its status is not 0 or it takes longer than `limit`.
    pub fn run(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let (status, output) = self.outcome(command, limit)?;
        ensure!(
            status == 0,
            "{}: {command}: status {status}: {output}",
            self.name
        );
        Ok(output)
    }

    /// Run a shell command; its status and output.
    pub fn outcome(&mut self, command: &str, limit: Duration) -> anyhow::Result<(i32, String)> {
        ensure!(!command.contains('\n'), "a command is one line");
        let deadline = Instant::now() + limit;
        self.commands += 1;
        writeln!(self.control, "{} {command}", self.commands)?;
        self.control.flush()?;
        let done = format!("done {} ", self.commands);
        let mut output: Vec<String> = Vec::new();
        loop {
            let line = self
                .line(deadline)
                .with_context(|| format!("{command}: after {output:?}"))?;
            if let Some(status) = line.strip_prefix(&done) {
                return Ok((status.trim().parse()?, output.join("\n").trim().to_owned()));
            }
            if line.starts_with("done ") {
                // A guest that is slow to read loses the 16 bytes that its serial port holds, here those with the number.
                output.clear();
                writeln!(self.control, "{} {command}", self.commands)?;
                self.control.flush()?;
                continue;
            }
            output.push(line);
        }
    }

    /// Run a shell command again and again until it succeeds; its output then.
    pub fn eventually(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let (status, output) = self.outcome(command, limit)?;
            if status == 0 {
                return Ok(output);
            }
            if Instant::now() >= deadline {
                let state = self.outcome("ip -6 address; ip -6 route", limit)?.1;
                bail!(
                    "{}: {command}: not within {limit:?}; at last {output}\n{state}",
                    self.name
                );
            }
            self.outcome("sleep 0.1", limit)?;
        }
    }

    fn line(&mut self, deadline: Instant) -> anyhow::Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("{}: no answer in time", self.name),
            RecvTimeoutError::Disconnected => anyhow!("{}: the machine is off", self.name),
        })
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Errors mean that it is already off, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! What virtual machines are made of: packages of Debian, unpacked into a directory by `vm-files.sh`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// The emulator, looked up in PATH.
pub(super) const EMULATOR: &str = "qemu-system-x86_64";

/// Why virtual machines cannot run here; `None` when they can.
pub fn missing() -> Option<String> {
    let emulator = Command::new(EMULATOR)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match emulator {
        Ok(status) if status.success() => {}
        _ => return Some(format!("{EMULATOR} cannot be started: install QEMU")),
    }
    directory().err().map(|error| format!("{error:#}"))
}

/// The other half of a virtual machine's vsock device, looked up in PATH and in cargo's directory of programs.
///
/// # Errors
/// Why there is none.
pub fn vsock_backend() -> anyhow::Result<PathBuf> {
    const NAME: &str = "vhost-device-vsock";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin"));
    std::env::split_paths(&path)
        .chain(cargo)
        .map(|directory| directory.join(NAME))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{NAME} is not installed: cargo install --locked {NAME}"))
}

fn directory() -> anyhow::Result<PathBuf> {
    let directory = std::env::var_os("MYCELIUM_VM_DIR").context(
        "MYCELIUM_VM_DIR does not name what netns-tests/vm-files.sh has made, so there is no kernel for a virtual machine",
    )?;
    let directory = PathBuf::from(directory);
    ensure!(
        directory.join("complete").exists(),
        "{} is not what netns-tests/vm-files.sh has made",
        directory.display()
    );
    Ok(directory)
}

/// A file below the directory, such as `bin/busybox`.
pub(super) fn file(name: &str) -> anyhow::Result<PathBuf> {
    Ok(directory()?.join(name))
}

/// The kernel's image.
pub(super) fn kernel() -> anyhow::Result<PathBuf> {
    let boot = directory()?.join("boot");
    std::fs::read_dir(&boot)
        .with_context(|| boot.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .with_context(|| format!("no kernel in {}", boot.display()))
}

/// The kernel module called `name`.
pub(super) fn module(name: &str) -> anyhow::Result<PathBuf> {
    let modules = directory()?.join("lib/modules");
    find(&modules, &format!("{name}.ko"))?
        .with_context(|| format!("no module {name} in {}", modules.display()))
}

fn find(directory: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), name)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// The shared libraries that a program needs, with the paths at which it looks for them.
pub(super) fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output().context("ldd")?;
    ensure!(
        listed.status.success(),
        "ldd {}: {}",
        program.display(),
        String::from_utf8_lossy(&listed.stderr)
    );
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f…)", "/lib64/ld-linux-x86-64.so.2 (0x7f…)"
    Ok(String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

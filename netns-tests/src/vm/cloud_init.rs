//! Debian's cloud-init, asked what it reads from a disk.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::files;
use crate::harness::Scratch;

/// Copies the files out of a FAT image (mtools) and has cloud-init's NoCloud data source read them, its own schema
/// check them, and its own parser make network settings of them. See `cidata.py` for the fields.
pub fn cloud_init(scratch: &Scratch, image: &Path) -> anyhow::Result<serde_json::Value> {
    let seed = scratch.path().join("nocloud");
    std::fs::create_dir(&seed)?;
    let copied = Command::new(files::file("usr/bin/mcopy")?)
        .arg("-i")
        .arg(image)
        .arg("::*")
        .arg(&seed)
        .output()
        .context("mcopy")?;
    ensure!(
        copied.status.success(),
        "mcopy: {}",
        String::from_utf8_lossy(&copied.stderr)
    );
    // The interpreter that Debian's modules are made for.
    let read = Command::new("/usr/bin/python3")
        .args(["-c", include_str!("cidata.py")])
        .arg(scratch.path())
        .env("PYTHONPATH", files::file("usr/lib/python3/dist-packages")?)
        .stdin(Stdio::null())
        .output()
        .context("/usr/bin/python3")?;
    ensure!(
        read.status.success(),
        "cloud-init: {}",
        String::from_utf8_lossy(&read.stderr)
    );
    serde_json::from_slice(&read.stdout).context("what cloud-init says")
}

//! The root file system of a virtual machine, as the archive that the kernel unpacks into memory ("newc" cpio; the
//! format is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// An archive under construction. Paths have no leading slash.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Add a directory, and those above it, unless it is there.
    pub(super) fn directory(&mut self, path: &str) -> anyhow::Result<()> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        if !path.is_empty() && self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, &[])?;
        }
        Ok(())
    }

    /// Add an executable file, and the directories above it.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        self.entry(path, FILE, content)
    }

    /// Add a copy of a file of this machine.
    pub(super) fn copy(&mut self, path: &str, from: &Path) -> anyhow::Result<()> {
        let content = std::fs::read(from).with_context(|| from.display().to_string())?;
        self.file(path, &content)
    }

    /// The archive, complete.
    pub(super) fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name with its zero, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len())?,
            0,
            0,
            0,
            0,
            u32::try_from(path.len() + 1)?,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

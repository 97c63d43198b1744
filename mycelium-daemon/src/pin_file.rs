//! Pins that outlive the process (`--state-dir`): who speaks session v2, and under which key.
//!
//! One text file, replaced as a whole: a line each, then a digest of all before it. A file that was cut short, edited or is
//! not ours counts as none, with a warning, for a pin that is wrong would cut somebody off. It tells whom this node talks to,
//! so only its owner may read it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mycelium_core::addr::Subnet;
use mycelium_core::crypto::identity::PublicKey;
use mycelium_core::session::pins::Pin;
use ring::digest::{SHA256, digest};

const NAME: &str = "pins";
const HEADER: &str = "mycelium pins 1";
/// Longer files are not ours: as many pins as a node keeps take less.
const MAX_FILE: u64 = 16 << 20;

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum PinFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is cut short, edited, or not ours.
    #[error("{path} is damaged, line {line}", path = .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
}

/// The pins kept in `directory`; none if there is no file.
///
/// # Errors
/// [`PinFileError`]; then the file is best ignored.
pub fn load(directory: &Path) -> Result<Vec<Pin>, PinFileError> {
    let path = directory.join(NAME);
    let read = || -> io::Result<Option<String>> {
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        if metadata.len() > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let bytes = fs::read(&path)?;
        // What is no text fails at its first line.
        Ok(Some(String::from_utf8(bytes).unwrap_or_default()))
    };
    match read() {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(text)) => parse(&text).map_err(|line| PinFileError::Damaged { path, line }),
        Err(error) => Err(PinFileError::Read { path, error }),
    }
}

/// Replace what is kept in `directory`, which is made if it is missing: at every moment the file is the old one or the new.
///
/// # Errors
/// What the system says.
pub fn save(directory: &Path, pins: &[Pin]) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let draft = directory.join(format!("{NAME}.new"));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(render(pins).as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, directory.join(NAME))
}

fn render(pins: &[Pin]) -> String {
    let mut text = format!("{HEADER}\n");
    for pin in pins {
        let class = if pin.ours { "ours" } else { "theirs" };
        text.push_str(&format!("{} {class}\n", pin.key));
    }
    let sum = hex(digest(&SHA256, text.as_bytes()).as_ref());
    text.push_str(&format!("end {sum}\n"));
    text
}

/// The pins, or the line at which it stops making sense.
fn parse(text: &str) -> Result<Vec<Pin>, usize> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(1);
    }
    let mut pins = Vec::new();
    let mut covered = HEADER.len() + 1;
    for (line, number) in lines.zip(2..) {
        if let Some(sum) = line.strip_prefix("end ") {
            let before = text.as_bytes().get(..covered).ok_or(number)?;
            let matches = sum == hex(digest(&SHA256, before).as_ref());
            let is_last = text.len() == covered + line.len() + 1;
            return if matches && is_last {
                Ok(pins)
            } else {
                Err(number)
            };
        }
        pins.push(pin(line).ok_or(number)?);
        covered += line.len() + 1;
    }
    Err(pins.len() + 2)
}

/// The subnet follows from the key.
fn pin(line: &str) -> Option<Pin> {
    let (key, class) = line.split_once(' ')?;
    let key = PublicKey::from_hex(key)?;
    let ours = match class {
        "ours" => true,
        "theirs" => false,
        _ => return None,
    };
    Some(Pin {
        subnet: Subnet::containing(key.address()),
        key,
        ours,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn pins(count: u8) -> Vec<Pin> {
        let pin = |number| {
            let key = PublicKey([number; 32]);
            Pin {
                subnet: Subnet::containing(key.address()),
                key,
                ours: number % 2 == 0,
            }
        };
        (0..count).map(pin).collect()
    }

    #[test]
    fn pins_are_read_back_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("state");
        assert!(load(&directory).unwrap().is_empty());
        for count in [3, 0, 200] {
            save(&directory, &pins(count)).unwrap();
            assert_eq!(load(&directory).unwrap(), pins(count));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode(&directory), mode(&directory.join(NAME))),
            (0o700, 0o600)
        );
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn whatever_was_changed_is_noticed() {
        let whole = render(&pins(3));
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "cut at {end}");
        }
        for position in 0..whole.len() {
            let mut changed = whole.clone().into_bytes();
            changed[position] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert!(parse(&changed).is_err(), "changed at {position}");
        }
        assert!(parse(&format!("{whole}{whole}")).is_err());
        assert!(parse(&format!("{whole}\n")).is_err());
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        for content in [
            &b"\xff\xfe"[..],
            b"",
            b"mycelium pins 2\n",
            b"mycelium pins 1\nx",
        ] {
            fs::write(directory.path().join(NAME), content).unwrap();
            let error = load(directory.path()).unwrap_err();
            assert!(matches!(error, PinFileError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(directory.path().join(NAME)).unwrap(), content);
        }
    }
}

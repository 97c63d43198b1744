//! Key files: 32 raw bytes, an X25519 secret.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use mycelium_core::crypto::identity::SecretKey;
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error(
        "there is no key at {}: create one with `mycelium generate-keys`, or name another with --key-file",
        .0.display()
    )]
    Missing(PathBuf),
    /// It has fewer than 32 bytes.
    #[error(
        "the key file {} is too short: it has {length} bytes instead of {KEY_LEN}; restore it, or replace it with `mycelium generate-keys --force`",
        path.display()
    )]
    Short {
        /// Which.
        path: PathBuf,
        /// Bytes in it.
        length: usize,
    },
    /// It has more than 32 bytes.
    #[error(
        "the key file {} is too long: a key is {KEY_LEN} raw bytes, not text; if it worked with mycelium before, keep its address with `head -c {KEY_LEN}`",
        .0.display()
    )]
    Long(PathBuf),
    /// It holds nothing but zeros.
    #[error(
        "the key file {} holds zeros only, which is no secret: restore it, or replace it with `mycelium generate-keys --force`",
        .0.display()
    )]
    Zero(PathBuf),
    /// It cannot be read.
    #[error("cannot read the key file {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// There is one already.
    #[error("there is a key at {} already", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("cannot write the key file {}: {error}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The default directory cannot be created.
    #[error("cannot create the directory {} for the key file: {error}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for a key: {0}")]
    Randomness(getrandom::Error),
}

/// Where the key is unless `--key-file` says otherwise.
pub fn default_path() -> PathBuf {
    default_directory(|name| env::var_os(name).filter(|value| !value.is_empty()))
        .join("priv_key.bin")
}

fn default_directory(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    // A relative base directory is invalid and to be ignored (XDG base directory specification).
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let home = || absolute("HOME");
    let (base, below) = if cfg!(target_os = "windows") {
        (absolute("LOCALAPPDATA"), "ThreeFold Tech/Mycelium")
    } else if cfg!(target_os = "macos") {
        let support = home().map(|home| home.join("Library/Application Support"));
        (support, "ThreeFold Tech/Mycelium")
    } else {
        let share = || home().map(|home| home.join(".local/share"));
        (absolute("XDG_DATA_HOME").or_else(share), "mycelium")
    };
    base.unwrap_or_else(|| PathBuf::from(".")).join(below)
}

/// Read a key.
///
/// # Errors
/// [`Error::Missing`], [`Error::Short`], [`Error::Long`], [`Error::Zero`] or [`Error::Read`].
pub fn read(path: &Path) -> Result<SecretKey, Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => Error::Read {
            path: path.to_owned(),
            error,
        },
    };
    let mut file = File::open(path).map_err(failed)?;
    // One more than a key has: text, or a key of another kind, would be cut to a weak one silently.
    let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    match bytes.first_chunk::<KEY_LEN>() {
        Some(key) if length == KEY_LEN && *key != [0; KEY_LEN] => Ok(SecretKey::from_bytes(*key)),
        _ if length < KEY_LEN => Err(Error::Short {
            path: path.to_owned(),
            length,
        }),
        _ if length > KEY_LEN => Err(Error::Long(path.to_owned())),
        _ => Err(Error::Zero(path.to_owned())),
    }
}

/// A new key from the system's random bytes.
pub fn generate() -> Result<SecretKey, Error> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(bytes.as_mut_slice()).map_err(Error::Randomness)?;
    Ok(SecretKey::from_bytes(*bytes))
}

/// Create the directory of [`default_path`], closed to others.
pub fn create_default_directory() -> Result<(), Error> {
    let path = default_path();
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|error| Error::Directory {
        path: directory.to_owned(),
        error,
    })
}

/// Write a key where there is none, readable by its owner only. Never leaves a part of a key behind.
///
/// # Errors
/// [`Error::Exists`] if something is there, which is then untouched.
pub fn create(path: &Path, key: &SecretKey) -> Result<(), Error> {
    write_new(path, key).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => Error::Write {
            path: path.to_owned(),
            error,
        },
    })
}

/// Write a key in place of the one that is there, if any: at every moment the file holds the old key or the new.
pub fn replace(path: &Path, key: &SecretKey) -> Result<(), Error> {
    let failed = |error| Error::Write {
        path: path.to_owned(),
        error,
    };
    // A link stays a link: the file that it names is replaced.
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed(error)),
    };
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let draft = target.with_file_name(name);
    write_new(&draft, key)
        .and_then(|()| fs::rename(&draft, &target).inspect_err(|_| discard(&draft)))
        .map_err(failed)
}

fn write_new(path: &Path, key: &SecretKey) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(key.to_bytes().as_slice())
        .and_then(|()| file.sync_all())
        .inspect_err(|_| discard(path))
}

/// Best effort, after another failure that is the one to report.
fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests;

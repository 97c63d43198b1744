//! The keys of the node and of its further identities, as it starts.
//!
//! The files themselves are [`mycelium_cli::key_file`]'s business. What the node adds: a key that is missing is
//! created, and one that others can read is reported.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mycelium_cli::key_file;
use mycelium_core::crypto::identity::SecretKey;

/// Permission bits that a key file should not have: anything for others, writing for the group. Reading by the group
/// is what mycelium gives its own (0640).
pub(crate) const EXPOSING_MODE: u32 = 0o027;

/// A key, and what there is to say about its file.
#[derive(Debug)]
pub struct LoadedKey {
    /// The secret.
    pub secret: SecretKey,
    /// Where it is.
    pub path: PathBuf,
    /// The file did not exist.
    pub created: bool,
    /// The file's permission bits, if more people than its owner and group may use it.
    pub exposed_mode: Option<u32>,
}

/// The node's key: from `path`, or from the default path, whose directory is made.
///
/// # Errors
/// If the key cannot be read or created.
pub fn load_or_create_node_key(path: Option<&Path>) -> Result<LoadedKey, key_file::Error> {
    match path {
        Some(path) => load_or_create(path),
        None => {
            key_file::create_default_directory()?;
            load_or_create(&key_file::default_path())
        }
    }
}

/// The key in `path`; a new one is written there if the file does not exist.
///
/// # Errors
/// If the key cannot be read or created.
pub fn load_or_create(path: &Path) -> Result<LoadedKey, key_file::Error> {
    match load(path) {
        Err(key_file::Error::Missing(_)) => {}
        result => return result,
    }
    let secret = key_file::generate()?;
    match key_file::create(path, &secret) {
        Ok(()) => Ok(LoadedKey {
            secret,
            path: path.to_owned(),
            created: true,
            exposed_mode: None,
        }),
        // Another process was faster: its key counts.
        Err(key_file::Error::Exists(_)) => load(path),
        Err(error) => Err(error),
    }
}

fn load(path: &Path) -> Result<LoadedKey, key_file::Error> {
    let secret = key_file::read(path)?;
    let mode = fs::metadata(path).map(|metadata| metadata.mode() & 0o7777);
    Ok(LoadedKey {
        secret,
        path: path.to_owned(),
        created: false,
        exposed_mode: mode.ok().filter(|mode| mode & EXPOSING_MODE != 0),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_key_is_created_private_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.bin");
        let created = load_or_create(&path).unwrap();
        assert!(created.created);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let loaded = load_or_create(&path).unwrap();
        assert!(!loaded.created && loaded.exposed_mode.is_none());
        assert_eq!(loaded.secret.public_key(), created.secret.public_key());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_short_file_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.bin");
        fs::write(&path, [1; 31]).unwrap();
        assert!(matches!(
            load_or_create(&path),
            Err(key_file::Error::Short { length: 31, .. })
        ));
        assert_eq!(fs::read(&path).unwrap().len(), 31);
    }

    #[test]
    fn long_files_and_zeros_are_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.bin");
        fs::write(&path, "07".repeat(32)).unwrap();
        assert!(matches!(
            load_or_create(&path),
            Err(key_file::Error::Long(_))
        ));
        fs::write(&path, [0; 32]).unwrap();
        assert!(matches!(
            load_or_create(&path),
            Err(key_file::Error::Zero(_))
        ));
        assert_eq!(fs::read(&path).unwrap(), [0; 32]);
    }

    #[test]
    fn open_modes_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.bin");
        fs::write(&path, [7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let key = load_or_create(&path).unwrap();
        assert_eq!(
            key.secret.public_key(),
            SecretKey::from_bytes([7; 32]).public_key()
        );
        assert_eq!(key.exposed_mode, Some(0o644));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(load_or_create(&path).unwrap().exposed_mode, None);
    }
}

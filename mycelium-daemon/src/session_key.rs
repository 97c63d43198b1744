//! The secret of a closed network, from its file: 32 raw bytes, or 64 hexadecimal digits and maybe a line end.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mycelium_core::session::mac::NetworkKey;
use zeroize::Zeroizing;

use crate::identity::EXPOSING_MODE;

const KEY_LEN: usize = 32;
/// 64 digits, and a line end of either kind.
const LONGEST: usize = 2 * KEY_LEN + 2;

/// The secret, and what there is to say about its file.
#[derive(Debug)]
pub struct LoadedKey {
    /// The secret.
    pub key: NetworkKey,
    /// Where it is.
    pub path: PathBuf,
    /// The file's permission bits, if more people than its owner and group may use it.
    pub exposed_mode: Option<u32>,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum SessionKeyError {
    /// It cannot be read.
    #[error("cannot read the session key file {path}: {error}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Neither form.
    #[error(
        "the session key file {path} holds no key: that is 32 raw bytes or 64 hexadecimal digits, the same on every node of the network",
        path = .0.display()
    )]
    Malformed(PathBuf),
    /// A secret of zeros is everybody's.
    #[error("the session key file {path} holds zeros only, which is no secret", path = .0.display())]
    Zero(PathBuf),
}

/// Read the secret.
///
/// # Errors
/// [`SessionKeyError`], one line each.
pub fn load(path: &Path) -> Result<LoadedKey, SessionKeyError> {
    let failed = |error| SessionKeyError::Read {
        path: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let key = parse(&bytes).ok_or_else(|| SessionKeyError::Malformed(path.to_owned()))?;
    let key = NetworkKey::from_bytes(*key).ok_or_else(|| SessionKeyError::Zero(path.to_owned()))?;
    Ok(LoadedKey {
        key,
        path: path.to_owned(),
        exposed_mode: (mode & EXPOSING_MODE != 0).then_some(mode),
    })
}

fn parse(bytes: &[u8]) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if bytes.len() == KEY_LEN {
        key.copy_from_slice(bytes);
        return Some(key);
    }
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn raw_and_hexadecimal_are_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("network.key");
        let hex = "07".repeat(32);
        for content in [
            vec![7; 32],
            hex.clone().into_bytes(),
            format!("{hex}\n").into_bytes(),
            format!("{}\r\n", hex.to_uppercase()).into_bytes(),
        ] {
            std::fs::write(&path, &content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let loaded = load(&path).unwrap();
            assert_eq!(NetworkKey::or_zeros(Some(&loaded.key)), &[7; 32]);
            assert_eq!(loaded.exposed_mode, None);
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load(&path).unwrap().exposed_mode, Some(0o644));
    }

    #[test]
    fn anything_else_is_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("network.key");
        for (content, words) in [
            (Vec::new(), "holds no key"),
            (vec![7; 31], "holds no key"),
            (vec![7; 33], "holds no key"),
            (vec![b'x'; 64], "holds no key"),
            ("07".repeat(33).into_bytes(), "holds no key"),
            (vec![0; 32], "zeros only"),
            (vec![b'0'; 64], "zeros only"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.lines().count() == 1,
                "{error}"
            );
        }
        let error = load(&directory.path().join("none")).unwrap_err();
        assert!(matches!(error, SessionKeyError::Read { .. }));
    }
}

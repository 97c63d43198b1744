use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes([byte; 32])
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_key_is_readable_by_its_owner_only_and_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    create(&path, &key(7)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [7; 32]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(read(&path).unwrap().public_key(), key(7).public_key());
}

#[test]
fn an_existing_file_is_not_touched_by_create() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(create(&path, &key(7)), Err(Error::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn replacing_closes_a_key_that_was_open_to_others_and_leaves_no_draft() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    fs::write(&path, [1; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    replace(&path, &key(7)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [7; 32]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names(directory.path()), ["key.bin"]);
}

#[test]
fn replacing_creates_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    replace(&path, &key(7)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [7; 32]);
}

#[test]
fn replacing_through_a_link_keeps_the_link() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (
        directory.path().join("key.bin"),
        directory.path().join("link"),
    );
    fs::write(&path, [1; 32]).unwrap();
    symlink("key.bin", &link).unwrap();
    replace(&link, &key(7)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&path).unwrap(), [7; 32]);
}

#[test]
fn a_directory_in_the_way_is_reported_and_leaves_no_draft() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    fs::create_dir(&path).unwrap();
    assert!(matches!(replace(&path, &key(7)), Err(Error::Write { .. })));
    assert_eq!(names(directory.path()), ["key.bin"]);
}

#[test]
fn the_directory_of_a_given_path_is_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/key.bin");
    assert!(matches!(create(&path, &key(7)), Err(Error::Write { .. })));
    assert!(matches!(replace(&path, &key(7)), Err(Error::Write { .. })));
}

#[test]
fn a_file_of_another_length_or_of_zeros_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.bin");
    for (content, words) in [(vec![7; 33], "too long"), (vec![0; 32], "zeros only")] {
        fs::write(&path, content).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    fs::write(&path, [7; 31]).unwrap();
    let error = read(&path).unwrap_err();
    assert!(
        matches!(error, Error::Short { length: 31, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("31 bytes instead of 32"),
        "{error}"
    );
}

#[test]
fn a_missing_file_says_how_to_get_one() {
    let error = read(Path::new("/nonexistent/key.bin")).unwrap_err();
    assert!(matches!(error, Error::Missing(_)), "{error:?}");
    assert!(
        error.to_string().contains("mycelium generate-keys"),
        "{error}"
    );
}

#[test]
fn an_unreadable_file_is_reported_with_the_reason() {
    let error = read(Path::new("/")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
}

#[test]
fn two_new_keys_differ() {
    let [a, b] = [generate().unwrap(), generate().unwrap()];
    assert_ne!(a.public_key(), b.public_key());
}

#[cfg(target_os = "linux")]
#[test]
fn the_default_directory_follows_the_xdg_rules() {
    let with = |variables: &[(&str, &str)]| {
        default_directory(|name| {
            let value = variables.iter().find(|(key, _)| *key == name)?.1;
            Some(value.into())
        })
    };
    assert_eq!(
        with(&[("HOME", "/root"), ("XDG_DATA_HOME", "/data")]),
        Path::new("/data/mycelium")
    );
    assert_eq!(
        with(&[("HOME", "/root")]),
        Path::new("/root/.local/share/mycelium")
    );
    assert_eq!(
        with(&[("HOME", "/root"), ("XDG_DATA_HOME", "relative")]),
        Path::new("/root/.local/share/mycelium")
    );
    assert_eq!(with(&[]), Path::new("./mycelium"));
}

//! What supervisors and Zero-OS call: the command lines of our units, and `inspect` in both orders of words.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

fn mycelium(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mycelium"))
        .args(words)
        .output()
        .unwrap()
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A command line that names a flag or verb that is not there fails before its help is shown.
fn is_understood(line: &str) {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    assert!(program.ends_with("mycelium"), "{line}");
    let words: Vec<&str> = words.chain(["--help"]).collect();
    let output = mycelium(&words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
}

#[test]
fn units_of_zinit_have_its_keys_and_our_words() {
    // All that zinit knows.
    const KEYS: [&str; 6] = ["exec", "oneshot", "test", "after", "env", "log"];
    for name in ["zinit/mycelium.yaml", "zinit/mycelium-net.yaml"] {
        let text = file(name);
        let mut commands = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((key, value)) = line.split_once(':') else {
                assert!(line.starts_with("  - "), "{name}: {line}");
                continue;
            };
            assert!(KEYS.contains(&key), "{name}: {line}");
            if matches!(key, "exec" | "test") {
                is_understood(value);
                commands += 1;
            }
        }
        assert_eq!(commands, 2, "{name}");
    }
}

#[test]
fn units_of_systemd_have_our_words() {
    for name in ["systemd/mycelium.service", "systemd/mycelium-net.service"] {
        let text = file(name);
        let command = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        is_understood(command.unwrap());
    }
}

#[test]
fn inspect_takes_the_key_file_before_and_after_the_verb() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.bin");
    let secret: Vec<u8> = (0..32).collect();
    std::fs::write(&path, secret).unwrap();
    let path = path.to_str().unwrap();
    for words in [
        ["inspect", "--json", "--key-file", path],
        ["--key-file", path, "inspect", "--json"],
        ["inspect", "--key-file", path, "--json"],
    ] {
        let output = mycelium(&words);
        assert!(output.status.success(), "{words:?}");
        let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "publicKey": "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f",
                "address": "430:9364:d8d8:84a9:dd60:de78:c767:d361",
            })
        );
    }
}

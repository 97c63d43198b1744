//! Everything that the user networks of a host consist of, to see that a refused command changes none of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::ensure;
use node_integration::kernel::Kernel;
use node_integration::{link, named};

use super::Networks;
use crate::daemon::mycelium_binary;
use crate::lab::Lab;

impl Networks {
    /// Files with their content, namespaces, interfaces, filters.
    pub fn state(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut state = BTreeMap::new();
        for directory in [self.directory(), self.notes()] {
            if directory.exists() {
                files(directory, &mut state)?;
            }
        }
        let mut places = vec![("host".to_owned(), Arc::clone(self.host()))];
        for name in named::list()? {
            places.push((name.clone(), Lab::new().adopt(&name, named::open(&name)?)));
        }
        for (place, host) in places {
            for name in link::names(host.namespace())? {
                let addresses = link::addresses(host.namespace(), &name)?;
                state.insert(format!("{place} {name}"), format!("{addresses:?}"));
            }
            let counters = host.inside(|| Kernel::new().port_counters())??;
            for name in counters.into_keys() {
                state.insert(format!("{place} counts {name}"), String::new());
            }
        }
        Ok(state)
    }

    /// The command fails with one line that says this, and leaves everything as it was.
    pub fn refuses(&self, words: &[&str], expected: &str) -> anyhow::Result<()> {
        let before = self.state()?;
        let mut command = Command::new(mycelium_binary());
        command
            .args(words)
            .arg("--net-dir")
            .arg(self.directory())
            .arg("--notes-dir")
            .arg(self.notes());
        let output = self.host().inside(|| command.output())??;
        let said = String::from_utf8(output.stderr)?;
        ensure!(!output.status.success(), "{words:?} succeeds");
        ensure!(said.contains(expected), "{words:?}: {said}");
        ensure!(said.trim_end().lines().count() <= 4, "{words:?}: {said}");
        let unprintable = |character: char| character.is_control() && character != '\n';
        ensure!(!said.contains(unprintable), "{words:?}: {said:?}");
        let after = self.state()?;
        ensure!(before == after, "{words:?}: {before:#?}\n{after:#?}");
        Ok(())
    }
}

fn files(directory: &Path, state: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let kind = path.symlink_metadata()?;
        if kind.is_dir() {
            files(&path, state)?;
            continue;
        }
        // By which commands take turns: there once and for all.
        if path.ends_with(".lock") {
            continue;
        }
        // Not what would take long, or never end.
        let text = if kind.is_file() && kind.len() < 1 << 20 {
            String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()
        } else {
            format!("{:?}, {} bytes", kind.file_type(), kind.len())
        };
        state.insert(path.display().to_string(), text);
    }
    Ok(())
}

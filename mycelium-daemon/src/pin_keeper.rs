//! Keeps the engine's pins in their file, while the node runs and when it leaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mycelium_core::session::pins::Pin;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::engine::EngineHandle;
use crate::health::Health;
use crate::pin_file;

const NOT_READ: &str = "pins-not-read";
const NOT_KEPT: &str = "pins-not-kept";
/// Between looks whether they changed; what is learned in between is lost with a crash.
const LOOKS: Duration = Duration::from_secs(2);
/// Rest after writing so many pins, for each of them: strangers can change them at will, and the file is written whole.
const REST: Duration = Duration::from_millis(1);

/// The pins of before; none, and a warning, if they cannot be read.
pub(crate) fn load(directory: Option<&Path>, health: &Health) -> Vec<Pin> {
    let Some(directory) = directory else {
        return Vec::new();
    };
    match pin_file::load(directory) {
        Ok(pins) => {
            tracing::info!(pins = pins.len(), "pins read");
            pins
        }
        Err(error) => {
            let text = format!("who speaks session v2 is learned anew: {error}");
            let hint = "restore the file and restart, or leave it: it is replaced";
            health.raise(NOT_READ, "", text, hint);
            Vec::new()
        }
    }
}

/// For ever: keep what changes.
pub(crate) async fn keep(directory: PathBuf, engine: EngineHandle, health: Health) {
    let mut kept = None;
    loop {
        sleep(LOOKS).await;
        let Ok(pins) = engine.pins(kept).await else {
            return;
        };
        if let Some((generation, pins)) = pins {
            let rest = REST * u32::try_from(pins.len()).unwrap_or(u32::MAX);
            if write(&directory, pins, &health).await {
                kept = Some(generation);
            }
            sleep(rest).await;
        }
    }
}

/// Keep what there is.
pub(crate) async fn save(directory: &Path, engine: &EngineHandle, health: &Health) {
    if let Ok(Some((_, pins))) = engine.pins(None).await {
        write(directory, pins, health).await;
    }
}

async fn write(directory: &Path, pins: Vec<Pin>, health: &Health) -> bool {
    let path = directory.to_owned();
    let written = spawn_blocking(move || pin_file::save(&path, &pins)).await;
    match written.map_err(std::io::Error::other).flatten() {
        Ok(()) => {
            health.clear(NOT_KEPT, "");
            true
        }
        Err(error) => {
            let text = format!(
                "who speaks session v2 will not be known after a restart: cannot write {}: {error}",
                directory.display()
            );
            let hint =
                "make the directory writable for the node, or choose another with --state-dir";
            health.raise(NOT_KEPT, "", text, hint);
            false
        }
    }
}

//! What the threads of a probe share: their notes, and the sign to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The notes of a probe, at hand for its threads and its owner.
#[derive(Debug)]
pub(super) struct Journal<T> {
    notes: Mutex<T>,
    stop: AtomicBool,
}

impl<T: Default> Journal<T> {
    pub(super) fn start() -> Arc<Self> {
        Arc::new(Self {
            notes: Mutex::default(),
            stop: AtomicBool::new(false),
        })
    }
}

impl<T> Journal<T> {
    /// The notes, also after a thread that held them panicked: joining it tells.
    pub(super) fn notes(&self) -> MutexGuard<'_, T> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ask the threads to stop.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether they were asked to.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

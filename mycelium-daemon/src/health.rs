//! What works only in part: every failure that does not stop the node, for `status` to show until it is over.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use mycelium_api::{Listener, ListenerService, Warning};

use crate::config::Notice;

/// More would be one warning repeated.
const MAX_WARNINGS: usize = 100;

/// Warnings and open ports, shared by all that run into them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By code and subject, so that the same trouble is one warning.
    warnings: BTreeMap<(&'static str, String), Warning>,
    listeners: BTreeMap<(u8, String), Listener>,
}

impl Health {
    /// Say (and log, when it is news) that something does not work: `code` of `subject`. `hint` is what to do.
    pub fn raise(&self, code: &'static str, subject: &str, text: impl Into<String>, hint: &str) {
        let warning = Warning {
            code: code.to_owned(),
            text: text.into(),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        };
        let mut state = self.lock();
        let key = (code, subject.to_owned());
        if state.warnings.get(&key) == Some(&warning) {
            return;
        }
        tracing::warn!(code, hint, "{}", warning.text);
        if state.warnings.len() < MAX_WARNINGS || state.warnings.contains_key(&key) {
            state.warnings.insert(key, warning);
        }
    }

    /// It works again.
    pub fn clear(&self, code: &'static str, subject: &str) {
        self.lock().warnings.remove(&(code, subject.to_owned()));
    }

    /// Whatever had this trouble no longer matters.
    pub fn clear_all(&self, code: &'static str) {
        self.lock().warnings.retain(|(other, _), _| *other != code);
    }

    /// Whatever had this trouble no longer matters, where `is_over` says so of the subject.
    pub fn clear_where(&self, code: &'static str, is_over: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        state
            .warnings
            .retain(|(other, subject), _| *other != code || !is_over(subject));
    }

    /// Replace what the last reading of the configuration had to say.
    pub fn set_notices(&self, notices: Vec<Notice>) {
        let codes = [
            "config-key-unknown",
            "config-key-not-supported",
            "discovery-interface-ignored",
        ];
        for code in codes {
            self.clear_all(code);
        }
        for notice in notices {
            self.raise(notice.code, &notice.text, notice.text.clone(), &notice.hint);
        }
    }

    /// Whether it has that trouble.
    pub fn is_raised(&self, code: &'static str, subject: &str) -> bool {
        let key = (code, subject.to_owned());
        self.lock().warnings.contains_key(&key)
    }

    /// All warnings.
    pub fn warnings(&self) -> Vec<Warning> {
        self.lock().warnings.values().cloned().collect()
    }

    /// A port is open.
    pub fn listening(&self, service: ListenerService, address: &dyn Display) {
        let address = address.to_string();
        let listener = Listener {
            service,
            address: address.clone(),
        };
        self.lock()
            .listeners
            .insert((service as u8, address), listener);
    }

    /// Open ports.
    pub fn listeners(&self) -> Vec<Listener> {
        self.lock().listeners.values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_one_warning_until_it_is_over() {
        let health = Health::default();
        health.raise(
            "tcp-port-busy",
            "9651",
            "port 9651 is busy",
            "stop its owner",
        );
        health.raise("tcp-port-busy", "9651", "port 9651 is still busy", "");
        assert_eq!(health.warnings().len(), 1);
        assert_eq!(health.warnings()[0].text, "port 9651 is still busy");
        health.clear("tcp-port-busy", "9651");
        assert!(health.warnings().is_empty());
    }

    #[test]
    fn warnings_are_bounded() {
        let health = Health::default();
        for subject in 0..1000 {
            health.raise("key-file-exposed", &subject.to_string(), "x", "");
        }
        assert_eq!(health.warnings().len(), MAX_WARNINGS);
    }
}

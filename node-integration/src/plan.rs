//! From what is wanted, what was made, and what is there, to what is to be done. Pure: no kernel, no files.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::object::{Key, Object};

/// What is there of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing of its key.
    Absent,
    /// The very object.
    Same,
    /// Another of its key, which is ours or would be, and can be changed to be this one.
    Different,
    /// Another of its key, which is ours and must go before this one comes.
    Unfit,
    /// Another of its key without a mark: half-made by us, if it is noted.
    Unmarked,
    /// Another of its key that somebody else made.
    Strange,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Remove what was made.
    Remove(Object),
    /// Make what is not there.
    Make(Object),
    /// Change what is there and differs.
    Mend(Object),
}

impl Step {
    /// What it is done to.
    pub fn object(&self) -> &Object {
        match self {
            Self::Remove(object) | Self::Make(object) | Self::Mend(object) => object,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(object) => write!(f, "remove {object}"),
            Self::Make(object) => write!(f, "make {object}"),
            Self::Mend(object) => write!(f, "mend {object}"),
        }
    }
}

/// Something that we did not make is in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is there already and is not ours: remove it, or choose another name or seed")]
pub struct Stranger(pub String);

/// The steps from what is there to `wanted`, an entry's objects in the order in which they are made; none: the entry
/// goes. `noted` are those that were made for it, or begun. `observe` says what is there.
///
/// # Errors
/// [`Stranger`]; nothing may be done then.
pub fn plan(
    wanted: &[Object],
    noted: &[Object],
    mut observe: impl FnMut(&Object) -> State,
) -> Result<Vec<Step>, Stranger> {
    let noted_keys: BTreeSet<Key> = noted.iter().map(Object::key).collect();

    // What goes, or must be made anew. Containers come before what they contain.
    let mut leaving = BTreeSet::new();
    let mut removals = Vec::new();
    for object in noted {
        let key = object.key();
        let stays = wanted
            .iter()
            .any(|wanted| wanted.key() == key && wanted.can_replace(object));
        if stays {
            continue;
        }
        let goes_with_another = object
            .containers()
            .iter()
            .any(|container| leaving.contains(container));
        leaving.insert(key);
        let is_gone_by_itself = goes_with_another && !object.must_be_removed();
        let is_there = |state| !matches!(state, State::Absent | State::Strange);
        if !is_gone_by_itself && is_there(observe(object)) {
            removals.push(Step::Remove(object.clone()));
        }
    }
    removals.reverse();
    let mut steps = removals;

    // Containers that are made by then, and those of them that stood until then.
    let mut made = BTreeSet::new();
    let mut emptied = leaving;
    for object in wanted {
        let key = object.key();
        let is_inside = |keys: &BTreeSet<Key>| {
            let containers = object.containers();
            containers.iter().any(|container| keys.contains(container))
        };
        let state = match observe(object) {
            // What was in it went with it.
            _ if emptied.contains(&key) || is_inside(&emptied) => State::Absent,
            State::Unmarked if noted_keys.contains(&key) => State::Unfit,
            State::Unfit => State::Unfit,
            _ if is_inside(&made) => State::Absent,
            state => state,
        };
        match state {
            State::Same => {}
            State::Absent => {
                steps.push(Step::Make(object.clone()));
                made.insert(key);
            }
            State::Different if noted_keys.contains(&key) || object.is_unmistakable() => {
                steps.push(Step::Mend(object.clone()));
            }
            State::Unfit => {
                steps.push(Step::Remove(object.clone()));
                steps.push(Step::Make(object.clone()));
                made.insert(key.clone());
                emptied.insert(key);
            }
            State::Different | State::Unmarked | State::Strange => {
                return Err(Stranger(object.to_string()));
            }
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests;

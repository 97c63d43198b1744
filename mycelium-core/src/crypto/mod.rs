//! Keys and the AEAD. Thin wrappers of maintained crates; nothing here invents cryptography.

pub mod aead;
pub mod identity;

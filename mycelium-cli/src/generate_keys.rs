//! `mycelium generate-keys`: a new key file.

use std::io::Write;
use std::path::Path;

use crate::{Error, key_file};

/// Arguments of `generate-keys`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  mycelium generate-keys --key-file web.bin && mycelium inspect --key-file web.bin"
)]
pub struct Args {
    /// Replace a key that exists
    #[arg(long)]
    pub force: bool,
}

pub(crate) fn run(
    args: &Args,
    key_file: Option<&Path>,
    remarks: &mut dyn Write,
) -> Result<(), Error> {
    // The directory of the default path is ours to create; that of a path given by the operator is theirs.
    let path = match key_file {
        Some(path) => path.to_owned(),
        None => {
            key_file::create_default_directory()?;
            key_file::default_path()
        }
    };
    let key = key_file::generate()?;
    let written = if args.force {
        key_file::replace(&path, &key)
    } else {
        key_file::create(&path, &key)
    };
    match written {
        Ok(()) => writeln!(
            remarks,
            "Wrote a new key to {}; its address is {}",
            path.display(),
            key.public_key().address()
        )?,
        Err(key_file::Error::Exists(path)) => writeln!(
            remarks,
            "Warning: kept the key that is at {} already; --force replaces it",
            path.display()
        )?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

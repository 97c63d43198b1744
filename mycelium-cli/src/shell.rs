//! `mycelium completions` and `mycelium man`: what shells and manuals need, made from the help texts.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::Error;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mycelium completions bash > /etc/bash_completion.d/mycelium")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  mycelium man | man -l -\n  mycelium man /usr/local/share/man/man1"
)]
pub struct ManArgs {
    /// Write the page of every command to this directory, instead of the main page to standard output
    pub directory: Option<PathBuf>,
}

pub(crate) fn completions(
    args: &CompletionsArgs,
    mut root: clap::Command,
    out: &mut dyn Write,
) -> Result<(), Error> {
    // The generator panics when it cannot write; memory it can always write to.
    let mut script = Vec::new();
    let name = root.get_name().to_owned();
    clap_complete::generate(args.shell, &mut root, name, &mut script);
    out.write_all(&script)?;
    Ok(())
}

pub(crate) fn man(args: &ManArgs, root: clap::Command, out: &mut dyn Write) -> Result<(), Error> {
    match &args.directory {
        None => Ok(clap_mangen::Man::new(root).render(out)?),
        Some(directory) => fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(root, directory))
            .map_err(|source| Error::ManualPages {
                directory: directory.clone(),
                source,
            }),
    }
}

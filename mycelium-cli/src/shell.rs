//! `mycelium completions` and `mycelium man`: what shells and manuals need, made from the help texts.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

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
    // Pages for `mycelium help help` and its like would say nothing.
    let mut root = root.disable_help_subcommand(true);
    root.build();
    match &args.directory {
        None => Ok(write_page(&root, &source(&root), out)?),
        Some(directory) => fs::create_dir_all(directory)
            .and_then(|()| write_pages(&root, &source(&root), directory))
            .map_err(|error| Error::ManualPages {
                directory: directory.clone(),
                error,
            }),
    }
}

/// What a page names as its origin.
fn source(root: &clap::Command) -> String {
    format!(
        "{} {}",
        root.get_name(),
        root.get_version().unwrap_or_default()
    )
}

fn write_pages(command: &clap::Command, source: &str, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let mut page = Vec::new();
    write_page(command, source, &mut page)?;
    fs::write(directory.join(format!("{name}.1")), page)?;
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .try_for_each(|command| write_pages(command, source, directory))
}

/// The page that the generator makes, with the examples under a heading of their own and as they are written.
fn write_page(command: &clap::Command, source: &str, out: &mut dyn Write) -> io::Result<()> {
    let help = command.get_after_help().map(ToString::to_string);
    Man::new(command.clone().after_help(None::<&str>))
        .source(source)
        .render(out)?;
    let Some(help) = help else {
        return Ok(());
    };
    let help = help
        .strip_prefix("Example:")
        .or_else(|| help.strip_prefix("Examples:"))
        .unwrap_or(&help);
    let (examples, remarks) = help.split_once("\n\n").unwrap_or((help, ""));
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in examples.lines().filter(|line| !line.trim().is_empty()) {
        roff.text([roman(line.trim())]);
    }
    roff.control("fi", []);
    if !remarks.is_empty() {
        roff.control("SH", ["NOTES"]);
        roff.text([roman(remarks)]);
    }
    roff.to_writer(out)
}

//! What commonly breaks, for people and programs.

use std::io::Write;

use node_integration::check;

use super::{CheckArgs, net};
use crate::{Error, write_json};

pub(super) fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<(), Error> {
    let directory = args.place.host().directory;
    let findings = check::everything(&directory).map_err(net)?;
    if args.json {
        write_json(&findings, out)?;
    } else {
        for finding in &findings {
            writeln!(out, "{}: {}", finding.subject, finding.text)?;
            writeln!(out, "  do: {}", finding.hint)?;
        }
    }
    match findings.len() {
        0 if args.json => Ok(()),
        0 => Ok(writeln!(out, "nothing found")?),
        found => {
            out.flush()?;
            Err(Error::Net(format!("{found} found")))
        }
    }
}

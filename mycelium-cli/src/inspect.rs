//! `mycelium inspect`: the public key and address of a key.

use std::io::Write;
use std::net::Ipv6Addr;
use std::path::Path;

use mycelium_core::crypto::identity::PublicKey;

use crate::{Error, key_file};

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mycelium inspect --json --key-file /var/lib/mycelium/key.bin")]
pub struct Args {
    /// Print JSON with the fields publicKey and address
    #[arg(long)]
    pub json: bool,
    /// Public key: 64 hexadecimal digits
    // Text, because mycelium reports a wrong one with exit code 1, not as a usage error.
    pub key: Option<String>,
}

/// What `--json` prints: exactly these two fields, in this order.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspection {
    public_key: String,
    address: Ipv6Addr,
}

pub(crate) fn run(args: &Args, key_file: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let key = match &args.key {
        Some(text) => match PublicKey::from_hex(text) {
            Some(PublicKey(key)) if key == [0; 32] => return Err(Error::ZeroKey),
            Some(key) => key,
            None => return Err(Error::NotAKey(text.clone())),
        },
        None => key_file::read(key_file)?.public_key(),
    };
    let inspection = Inspection {
        public_key: key.to_string(),
        address: key.address(),
    };
    if args.json {
        crate::write_json(&inspection, out)
    } else {
        writeln!(out, "Public key: {}", inspection.public_key)?;
        writeln!(out, "Address: {}", inspection.address)?;
        Ok(())
    }
}

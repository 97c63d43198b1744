//! The CNI plugin: put it into the runtime's directory of plugins, and `"type": "mycelium-cni"` into a configuration.

use std::ffi::OsString;
use std::io::Read as _;
use std::process::ExitCode;

use node_integration::plugin::cni::{Call, answer};
use node_integration::porter;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = porter::serve_if_asked(&arguments) {
        return code;
    }
    let mut input = String::new();
    // What cannot be read cannot be decoded either, which is said in the specification's words.
    let _ = std::io::stdin().read_to_string(&mut input);
    match answer(&Call::of_environment(), &input) {
        Ok(Some(result)) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(failure) => {
            println!(
                "{}",
                serde_json::to_string(&failure).expect("a failure always serialises")
            );
            ExitCode::FAILURE
        }
    }
}

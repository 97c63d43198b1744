//! The network plugin for Podman: name its directory as `netavark_plugin_dirs` in containers.conf, and it as the driver
//! of `podman network create -d`.

use std::ffi::OsString;
use std::io::Read as _;
use std::process::ExitCode;

use node_integration::plugin::netavark::answer;
use node_integration::porter;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = porter::serve_if_asked(&arguments) {
        return code;
    }
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let netns = arguments.next();
    let mut input = String::new();
    if command != "info" {
        // What cannot be read cannot be decoded either.
        let _ = std::io::stdin().read_to_string(&mut input);
    }
    match answer(&command, netns.as_deref(), &input) {
        Ok(Some(result)) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", serde_json::json!({ "error": error }));
            ExitCode::FAILURE
        }
    }
}

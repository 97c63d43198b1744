//! The disk from which cloud-init configures a guest: NoCloud, a FAT file system labelled `cidata`, with what Zero-OS
//! writes there (network configuration version 2, static addresses, no DHCP).
//!
//! The files are YAML in block style with every text in double quotes, one value a line: guests without cloud-init can
//! read them with a few lines of awk.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Cursor, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use md5::{Digest as _, Md5};

use super::Mac;

#[cfg(test)]
mod tests;

/// By which cloud-init finds the disk.
const LABEL: [u8; 11] = *b"cidata     ";
/// Size of the image, bytes; larger by whole such steps where the content needs it.
const STEP: usize = 1 << 20;
/// Most of all files together, bytes. cloud-init's own data sources allow far less.
const LARGEST: usize = 4 << 20;

/// What a guest is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its name.
    pub hostname: String,
    /// Changes when the guest shall take itself for new, and configure itself from scratch.
    pub instance_id: String,
    /// Keys that may log in as root, one authorized_keys line each.
    pub ssh_keys: Vec<String>,
    /// User data, instead of what follows from `ssh_keys`.
    pub user_data: Option<String>,
    /// Told with the first interface.
    pub name_servers: Vec<IpAddr>,
    /// Network cards.
    pub interfaces: Vec<Interface>,
    /// Variables for guests that start a single program: the shell script `zosrc`, which is left out when there are none.
    pub environment: BTreeMap<String, String>,
}

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// How the guest finds it.
    pub mac: Mac,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Destinations with prefix lengths, and the gateway there.
    pub routes: Vec<(IpAddr, u8, IpAddr)>,
    /// Default gateway.
    pub gateway4: Option<Ipv4Addr>,
    /// Default gateway.
    pub gateway6: Option<Ipv6Addr>,
}

/// The image: a raw disk without partitions. The same content gives the same bytes.
///
/// # Errors
/// `InvalidInput`: an empty or multi-line name, id or key, a variable that no shell takes, or more than 4 MiB.
pub fn image(content: &Content) -> io::Result<Vec<u8>> {
    let files = files(content)?;
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    if bytes > LARGEST {
        return Err(invalid("more than 4 MiB of user data and variables"));
    }
    // Half of the first step is more than the tables of the file system and unused ends of clusters take.
    let mut disk = vec![0; (bytes + STEP / 2).next_multiple_of(STEP)];
    let hash = Md5::digest(&content.instance_id);
    let number = hash
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let options = FormatVolumeOptions::new()
        .volume_label(LABEL)
        .volume_id(number);
    format_volume(Cursor::new(disk.as_mut_slice()), options)?;
    let volume = FileSystem::new(Cursor::new(disk.as_mut_slice()), FsOptions::new())?;
    for (name, text) in files {
        let mut file = volume.root_dir().create_file(name)?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
    }
    volume.unmount()?;
    Ok(disk)
}

/// The keys in the variable `SSH_KEY` of a Zero-OS deployment: separated by line ends or commas.
pub fn split_keys(variable: &str) -> Vec<String> {
    variable
        .split(['\n', ','])
        .map(str::trim)
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect()
}

fn files(content: &Content) -> io::Result<Vec<(&'static str, String)>> {
    let mut files = vec![
        ("meta-data", meta_data(content)?),
        ("network-config", network_config(content)),
        ("user-data", user_data(content)?),
    ];
    if !content.environment.is_empty() {
        files.push(("zosrc", variables(&content.environment)?));
    }
    Ok(files)
}

fn meta_data(content: &Content) -> io::Result<String> {
    Ok(format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        quoted(&content.instance_id, "an instance id")?,
        quoted(&content.hostname, "a host name")?
    ))
}

fn network_config(content: &Content) -> String {
    let mut text = String::from("version: 2\n");
    if content.interfaces.is_empty() {
        text.push_str("ethernets: {}\n");
        return text;
    }
    text.push_str("ethernets:\n");
    for (number, interface) in content.interfaces.iter().enumerate() {
        let servers: &[IpAddr] = if number == 0 {
            &content.name_servers
        } else {
            &[]
        };
        describe(&mut text, number, interface, servers);
    }
    text
}

fn describe(text: &mut String, number: usize, interface: &Interface, name_servers: &[IpAddr]) {
    let mac = interface.mac;
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        // A string takes everything.
        let _ = writeln!(text, "{arguments}");
    };
    line(format_args!("  eth{number}:"));
    line(format_args!("    match:\n      macaddress: \"{mac}\""));
    line(format_args!("    dhcp4: false"));
    if !interface.addresses.is_empty() {
        line(format_args!("    addresses:"));
    }
    for (address, length) in &interface.addresses {
        line(format_args!("      - \"{address}/{length}\""));
    }
    if let Some(gateway) = interface.gateway4 {
        line(format_args!("    gateway4: \"{gateway}\""));
    }
    if let Some(gateway) = interface.gateway6 {
        line(format_args!("    gateway6: \"{gateway}\""));
    }
    if !interface.routes.is_empty() {
        line(format_args!("    routes:"));
    }
    for (destination, length, gateway) in &interface.routes {
        line(format_args!("      - to: \"{destination}/{length}\""));
        line(format_args!("        via: \"{gateway}\""));
    }
    if !name_servers.is_empty() {
        line(format_args!("    nameservers:\n      addresses:"));
    }
    for server in name_servers {
        line(format_args!("        - \"{server}\""));
    }
}

fn user_data(content: &Content) -> io::Result<String> {
    if let Some(text) = &content.user_data {
        return Ok(text.clone());
    }
    let mut text = String::from("#cloud-config\n");
    if !content.ssh_keys.is_empty() {
        text.push_str("disable_root: false\nusers:\n  - name: root\n    ssh_authorized_keys:\n");
    }
    for key in &content.ssh_keys {
        let _ = writeln!(text, "      - {}", quoted(key, "an SSH key")?);
    }
    Ok(text)
}

fn variables(environment: &BTreeMap<String, String>) -> io::Result<String> {
    let mut text = String::new();
    for (name, value) in environment {
        let proper = name
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
            && !name.is_empty()
            && !name.as_bytes()[0].is_ascii_digit();
        if !proper || value.contains('\0') {
            return Err(invalid(&format!("{name:?} is no variable of a shell")));
        }
        let _ = writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''"));
    }
    Ok(text)
}

/// A text in double quotes: what JSON makes of it is YAML too.
fn quoted(text: &str, what: &str) -> io::Result<String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(invalid(&format!(
            "{what} is one line of text and not empty: {text:?}"
        )));
    }
    Ok(serde_json::to_string(text)?)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, reason)
}

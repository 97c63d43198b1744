//! The bytes of DHCPv6 messages (RFC 8415 §8, §21): what a server must understand of a client's, and its answers.

use std::net::Ipv6Addr;

use super::Refusal;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const PREFERENCE: u16 = 7;
const STATUS_CODE: u16 = 13;
const RAPID_COMMIT: u16 = 14;
/// RFC 3646.
const NAME_SERVERS: u16 = 23;
const IA_PD: u16 = 25;

const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;

/// RFC 8415 §11.1: at most 128 bytes beside the type.
const LONGEST_DUID: usize = 130;
/// A guest with more associations, or more addresses in one, than this is answered for the first ones only.
const MOST_ASSOCIATIONS: usize = 4;
const MOST_ADDRESSES: usize = 4;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Solicit,
    Request,
    Confirm,
    Renew,
    Rebind,
    Release,
    Decline,
    InformationRequest,
}

impl Kind {
    fn of(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Solicit,
            3 => Self::Request,
            4 => Self::Confirm,
            5 => Self::Renew,
            6 => Self::Rebind,
            8 => Self::Release,
            9 => Self::Decline,
            11 => Self::InformationRequest,
            _ => return None,
        })
    }
}

/// A set of addresses that a client treats as one.
#[derive(Debug)]
pub(super) enum Association {
    Addresses { id: [u8; 4], asked: Vec<Ipv6Addr> },
    Temporary { id: [u8; 4] },
    Prefixes { id: [u8; 4] },
}

/// A client's message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    transaction: [u8; 3],
    pub(super) client: Option<&'a [u8]>,
    pub(super) server: Option<&'a [u8]>,
    pub(super) rapid_commit: bool,
    pub(super) associations: Vec<Association>,
}

impl<'a> Message<'a> {
    pub(super) fn parse(packet: &'a [u8]) -> Result<Self, Refusal> {
        let (&[kind, a, b, c], options) =
            packet.split_first_chunk::<4>().ok_or(Refusal::Malformed)?;
        let mut message = Self {
            kind: Kind::of(kind).ok_or(Refusal::Kind(kind))?,
            transaction: [a, b, c],
            client: None,
            server: None,
            rapid_commit: false,
            associations: Vec::new(),
        };
        for option in Options(options) {
            let (code, value) = option?;
            match code {
                CLIENT_ID => set_once(&mut message.client, value)?,
                SERVER_ID => set_once(&mut message.server, value)?,
                RAPID_COMMIT => message.rapid_commit = true,
                IA_NA | IA_TA | IA_PD => {
                    let association = association(code, value)?;
                    if message.associations.len() < MOST_ASSOCIATIONS {
                        message.associations.push(association);
                    }
                }
                _ => {}
            }
        }
        Ok(message)
    }

    /// All addresses that the client names.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.associations
            .iter()
            .flat_map(|association| match association {
                Association::Addresses { asked, .. } => asked.as_slice(),
                _ => &[],
            })
            .copied()
    }
}

fn set_once<'a>(field: &mut Option<&'a [u8]>, duid: &'a [u8]) -> Result<(), Refusal> {
    if field.is_some() || !(3..=LONGEST_DUID).contains(&duid.len()) {
        return Err(Refusal::Malformed);
    }
    *field = Some(duid);
    Ok(())
}

fn association(code: u16, value: &[u8]) -> Result<Association, Refusal> {
    let (&id, rest) = value.split_first_chunk::<4>().ok_or(Refusal::Malformed)?;
    match code {
        IA_TA => return Ok(Association::Temporary { id }),
        IA_PD => return Ok(Association::Prefixes { id }),
        _ => {}
    }
    // T1 and T2 are the client's wishes.
    let options = rest.get(8..).ok_or(Refusal::Malformed)?;
    let mut asked = Vec::new();
    for option in Options(options) {
        let (code, value) = option?;
        if code == IA_ADDRESS && asked.len() < MOST_ADDRESSES {
            let address = value.first_chunk::<16>().ok_or(Refusal::Malformed)?;
            asked.push(Ipv6Addr::from(*address));
        }
    }
    Ok(Association::Addresses { id, asked })
}

/// Options one after another: code, length, value.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u16, &'a [u8]), Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        let Some((&[a, b, c, d], rest)) = all.split_first_chunk::<4>() else {
            return Some(Err(Refusal::Malformed));
        };
        let length = usize::from(u16::from_be_bytes([c, d]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Some(Err(Refusal::Malformed));
        };
        self.0 = rest;
        Some(Ok((u16::from_be_bytes([a, b]), value)))
    }
}

/// An answer under construction. Its length is bounded by what [`Message`] keeps of the question: under 1 KiB.
#[derive(Debug)]
pub(super) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// An Advertise or a Reply to `message`.
    pub(super) fn new(advertise: bool, message: &Message<'_>, server: &[u8]) -> Self {
        let kind = if advertise { ADVERTISE } else { REPLY };
        let [a, b, c] = message.transaction;
        let mut reply = Self {
            bytes: vec![kind, a, b, c],
        };
        if let Some(client) = message.client {
            reply.option(CLIENT_ID, client);
        }
        reply.option(SERVER_ID, server);
        reply
    }

    /// This server is the best: the client need not wait for others (§18.2.1).
    pub(super) fn preference(&mut self) {
        self.option(PREFERENCE, &[255]);
    }

    pub(super) fn rapid_commit(&mut self) {
        self.option(RAPID_COMMIT, &[]);
    }

    pub(super) fn status(&mut self, code: u16) {
        self.option(STATUS_CODE, &code.to_be_bytes());
    }

    pub(super) fn name_servers(&mut self, servers: &[Ipv6Addr]) {
        if !servers.is_empty() {
            let servers: Vec<u8> = servers.iter().take(3).flat_map(Ipv6Addr::octets).collect();
            self.option(NAME_SERVERS, &servers);
        }
    }

    /// Addresses with their preferred and valid lifetimes, and when to renew and rebind; seconds.
    pub(super) fn association(
        &mut self,
        id: [u8; 4],
        renew: u32,
        rebind: u32,
        addresses: impl Iterator<Item = (Ipv6Addr, u32, u32)>,
    ) {
        let mut value = Self { bytes: id.to_vec() };
        value.bytes.extend_from_slice(&renew.to_be_bytes());
        value.bytes.extend_from_slice(&rebind.to_be_bytes());
        for (address, preferred, valid) in addresses {
            let mut lifetimes = address.octets().to_vec();
            lifetimes.extend_from_slice(&preferred.to_be_bytes());
            lifetimes.extend_from_slice(&valid.to_be_bytes());
            value.option(IA_ADDRESS, &lifetimes);
        }
        self.option(IA_NA, &value.bytes);
    }

    pub(super) fn no_addresses(&mut self, id: [u8; 4], status: u16) {
        self.refusal(IA_NA, id, &[0; 8], status);
    }

    pub(super) fn no_temporary(&mut self, id: [u8; 4], status: u16) {
        self.refusal(IA_TA, id, &[], status);
    }

    pub(super) fn no_prefixes(&mut self, id: [u8; 4], status: u16) {
        self.refusal(IA_PD, id, &[0; 8], status);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn refusal(&mut self, code: u16, id: [u8; 4], times: &[u8], status: u16) {
        let mut value = Self { bytes: id.to_vec() };
        value.bytes.extend_from_slice(times);
        value.status(status);
        self.option(code, &value.bytes);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // Values are bounded far below 64 KiB; what were longer is left out rather than sent with a wrong length.
        if let Ok(length) = u16::try_from(value.len()) {
            self.bytes.extend_from_slice(&code.to_be_bytes());
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(value);
        }
    }
}

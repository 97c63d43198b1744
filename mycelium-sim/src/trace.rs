//! What happened, for a person to read: one line an event.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use mycelium_core::addr::Subnet;
use mycelium_core::time::Time;

/// How much is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceMode {
    /// Nothing: the fastest.
    #[default]
    Off,
    /// The newest so many lines, to be printed when something fails.
    Keep(usize),
    /// Everything goes to standard output at once.
    Print,
}

/// The written events of a run.
#[derive(Debug, Default)]
pub struct Trace {
    mode: TraceMode,
    lines: VecDeque<String>,
    names: BTreeMap<Subnet, String>,
}

impl Trace {
    /// An empty one.
    pub fn new(mode: TraceMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    /// Whether lines are wanted at all: ask before formatting one.
    pub fn wanted(&self) -> bool {
        self.mode != TraceMode::Off
    }

    /// Call a subnet by this name from now on.
    pub fn name(&mut self, subnet: Subnet, name: String) {
        self.names.insert(subnet, name);
    }

    /// The name of a subnet.
    pub fn of(&self, subnet: Subnet) -> String {
        match self.names.get(&subnet) {
            Some(name) => name.clone(),
            None => subnet.to_string(),
        }
    }

    /// Write a line.
    pub fn line(&mut self, at: Time, what: fmt::Arguments<'_>) {
        let micros = at.as_micros();
        let line = format!("{:>5}.{:06} {what}", micros / 1_000_000, micros % 1_000_000);
        match self.mode {
            TraceMode::Off => {}
            TraceMode::Keep(most) => {
                if self.lines.len() == most {
                    self.lines.pop_front();
                }
                self.lines.push_back(line);
            }
            #[expect(clippy::print_stdout, reason = "this is what the mode is for")]
            TraceMode::Print => println!("{line}"),
        }
    }

    /// The kept lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// A control packet in words (wire spec §4.3, §5.2). Independent of the codec under test.
    pub fn control(&self, packet: &[u8]) -> String {
        let mut out = String::new();
        let mut tlvs = packet.get(8..).unwrap_or_default();
        while let [kind, len, rest @ ..] = tlvs {
            let (payload, next) = rest.split_at(rest.len().min(usize::from(*len)));
            if !out.is_empty() {
                out.push_str(", ");
            }
            if self.tlv(&mut out, *kind, payload).is_none() {
                let _ = write!(out, "type {kind} with {} bytes", payload.len());
            }
            tlvs = next;
        }
        if out.is_empty() {
            "nothing".to_owned()
        } else {
            out
        }
    }

    fn tlv(&self, out: &mut String, kind: u8, payload: &[u8]) -> Option<()> {
        let short = |at: usize| {
            let bytes = payload.get(at..at + 2)?;
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let subnet = |at: usize| {
            let octets = payload.get(at..at + 8)?.try_into().ok()?;
            Some(self.of(Subnet::from_octets(octets)))
        };
        let router = |at: usize| {
            let random = payload.get(at + 34..at + 40)?;
            Some(
                random
                    .iter()
                    .take(3)
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>(),
            )
        };
        let text = match kind {
            4 => format!("Hello {}", short(2)?),
            5 => format!("IHU cost {}", short(2)?),
            8 => {
                let metric = match short(8)? {
                    u16::MAX => "infinite".to_owned(),
                    finite => finite.to_string(),
                };
                format!(
                    "Update {} metric {metric} seqno {} by {}",
                    subnet(10)?,
                    short(6)?,
                    router(18)?
                )
            }
            9 if payload.get(1) == Some(&0) => "RouteRequest for everything".to_owned(),
            9 => format!(
                "RouteRequest {} generation {}",
                subnet(3)?,
                payload.first()?
            ),
            10 => format!(
                "SeqnoRequest {} seqno {} of {} hops {}",
                subnet(46)?,
                short(2)?,
                router(6)?,
                payload.get(4)?
            ),
            _ => return None,
        };
        out.push_str(&text);
        Some(())
    }
}

//! Messages of nf_tables: attributes, and transactions of several messages that take effect together or not at all
//! (`linux/netfilter/nfnetlink.h`, `nf_tables.h`).

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;
const HEADER: usize = 20;

/// Address families of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Inet = 1,
    Ipv4 = 2,
    Netdev = 5,
}

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    DelRule = 8,
    NewSet = 9,
    NewElements = 12,
    GetElements = 13,
    DelElements = 14,
    NewObject = 18,
    GetObject = 19,
    DelObject = 20,
}

/// Attributes of a message or of a nest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("an attribute has less than 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn word(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn long(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// The attributes in `bytes`, each with its kind; what is malformed ends them.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let half = |at: usize| -> Option<u16> {
            Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
        };
        let length = usize::from(half(0)?);
        let kind = half(2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// Text of an attribute.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .to_owned()
}

/// A number of an attribute.
pub(crate) fn long(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// Several messages that take effect together.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    first: u32,
    next: u32,
    removes: bool,
    /// Where the flags of the last message are.
    last_flags: Option<usize>,
}

impl Batch {
    /// An empty one whose messages are numbered from `first` on.
    pub(crate) fn new(first: u32) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            first,
            next: first,
            removes: false,
            last_flags: None,
        };
        batch.message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, &Attributes::new());
        batch
    }

    /// Add a message that creates something, or leaves what is there.
    pub(crate) fn make(&mut self, verb: Verb, family: Family, attributes: &Attributes) {
        let append = if verb == Verb::NewRule { APPEND } else { 0 };
        self.add(verb, CREATE | append, family, attributes);
    }

    /// Add a message that removes something.
    pub(crate) fn remove(&mut self, verb: Verb, family: Family, attributes: &Attributes) {
        // Chains are emptied before they are filled, also new ones.
        self.removes |= verb != Verb::DelRule;
        self.add(verb, 0, family, attributes);
    }

    /// Whether something is removed.
    pub(crate) fn removes(&self) -> bool {
        self.removes
    }

    fn add(&mut self, verb: Verb, flags: u16, family: Family, attributes: &Attributes) {
        self.last_flags = Some(self.bytes.len() + 6);
        let kind = SUBSYSTEM << 8 | verb as u16;
        self.message(kind, REQUEST | flags, family as u8, 0, attributes);
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &Attributes) {
        let length = u32::try_from(HEADER + body.0.len()).expect("a message has less than 4 GiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.next.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(&body.0);
        self.next += 1;
    }

    /// The bytes, and the numbers of the first message and of the one that will be acknowledged; `None`: there is
    /// nothing to do.
    pub(crate) fn finish(mut self) -> Option<(Vec<u8>, std::ops::RangeInclusive<u32>)> {
        let at = self.last_flags?;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        let last = self.next - 1;
        self.message(BATCH_END, REQUEST, 0, SUBSYSTEM, &Attributes::new());
        Some((self.bytes, self.first..=last))
    }
}

/// A question for one thing, or with `all` for all of a kind.
pub(crate) fn question(
    sequence: u32,
    verb: Verb,
    family: Family,
    all: bool,
    attributes: &Attributes,
) -> Vec<u8> {
    let mut batch = Batch {
        bytes: Vec::new(),
        first: sequence,
        next: sequence,
        removes: false,
        last_flags: None,
    };
    let kind = SUBSYSTEM << 8 | verb as u16;
    let flags = REQUEST | if all { DUMP } else { ACK };
    batch.message(kind, flags, family as u8, 0, attributes);
    batch.bytes
}

/// The attributes of an answer, behind its family and version.
pub(crate) fn body(answer: &[u8]) -> &[u8] {
    answer.get(4..).unwrap_or_default()
}

//! The hosts and wires that a system is set up on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netns_tests::lab::{Host, Lab, Wire};
use netns_tests::wait;
use node_integration::link;

use super::options::Topology;

/// How long an interface may take to appear.
const INTERFACE: Duration = Duration::from_secs(10);

/// Others than A in a star.
const LEAVES: usize = 10;

/// Two ends, joined directly or through a relay; or one among many.
#[derive(Debug)]
pub struct Testbed {
    /// One end.
    pub a: Arc<Host>,
    /// The other end.
    pub b: Arc<Host>,
    /// The relay.
    pub r: Option<Arc<Host>>,
    /// A on the left, and R or B on the right.
    pub first: Wire,
    /// R on the left, B on the right.
    pub second: Option<Wire>,
    /// In a star the others than B, each with its wire: A on the left.
    pub more: Vec<(Arc<Host>, Wire)>,
}

impl Testbed {
    /// Lay it out.
    pub fn lay_out(topology: Topology) -> anyhow::Result<Self> {
        let lab = Lab::new();
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        Ok(match topology {
            Topology::Direct => Self {
                first: lab.wire(&a, &b)?,
                second: None,
                r: None,
                more: Vec::new(),
                a,
                b,
            },
            Topology::Star => {
                let first = lab.wire(&a, &b)?;
                let mut more = Vec::new();
                for n in 1..LEAVES {
                    let leaf = lab.host(&format!("leaf{n}"))?;
                    let wire = lab.wire(&a, &leaf)?;
                    more.push((leaf, wire));
                }
                Self {
                    first,
                    second: None,
                    r: None,
                    more,
                    a,
                    b,
                }
            }
            Topology::Relay => {
                let r = lab.host("r")?;
                Self {
                    first: lab.wire(&a, &r)?,
                    second: Some(lab.wire(&r, &b)?),
                    r: Some(r),
                    more: Vec::new(),
                    a,
                    b,
                }
            }
        })
    }

    /// B's wire, on which B is the right end.
    pub fn last(&self) -> &Wire {
        self.second.as_ref().unwrap_or(&self.first)
    }

    /// Addresses of the neighbours A–, –R–, –B over IPv4 at `port`: of each wire the left and the right end.
    pub fn underlay(wire: &Wire, port: u16) -> [SocketAddr; 2] {
        [
            SocketAddr::new(IpAddr::V4(wire.left.v4()), port),
            SocketAddr::new(IpAddr::V4(wire.right.v4()), port),
        ]
    }
}

/// Wait until `host` has an interface of that name.
pub fn wait_for_interface(host: &Host, name: &str) -> anyhow::Result<()> {
    wait::until(&format!("interface {name}"), INTERFACE, || {
        Ok(link::index(host.namespace(), name)?.map(drop))
    })
}

//! Whole-node tests in Linux network namespaces: real processes, real TUN interfaces, real packets.
//!
//! Every test is a function of a [`harness::Scratch`] and runs under [`harness::main`], which finds out whether
//! namespaces can be had (as root, or through a user namespace) and says why when they cannot. A test lays out hosts
//! and wires with [`lab`], starts nodes on them with [`daemon`], breaks things with [`impair`] and judges by what a
//! user of the overlay would see, with [`probe`]. Nothing leaves the namespaces, and all of them are unnamed: they
//! disappear with the test process however it ends.
//!
//! Environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `MYCELIUM_BIN` | the node under test; by default `cargo build -p mycelium-daemon` provides it |
//! | `MYCELIUM_UPSTREAM_BIN` | an unmodified mycelium 0.7.10, for the interoperability tests |
//! | `MYCELIUM_VM_DIR` | what `vm-files.sh` has made, for tests with virtual machines; QEMU must be in `PATH` |
//! | `MYCELIUM_ENGINE_DIR` | what `engine-files.sh` has made, for tests with container engines |
//! | `MYCELIUM_TEST_BYTES` | size of bulk transfers, in bytes |
//! | `MYCELIUM_TEST_STRICT` | `1`: assert the strict figures (quiet machine, release build) and more repetitions |
//! | `MYCELIUM_TEST_LOG` | `debug`: nodes log at that level |

pub mod attach;
pub mod capture;
pub mod daemon;
pub mod engine;
pub mod figures;
pub mod flood;
pub mod flood_frames;
pub mod harness;
pub mod impair;
pub mod lab;
pub mod probe;
pub mod rogue;
pub mod routers;
pub mod topology;
pub mod vm;
pub mod wait;

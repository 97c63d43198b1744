//! Who is at the other end of a connection. On the Unix socket the kernel says so; of a loopback connection its socket
//! table says which user owns it.
//!
//! The API has no authentication, and most of it needs none. Identities are different: making one opens an interface in
//! a namespace with the node's power, so only root and the user that the node runs as may do it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Refusal;

/// Sockets of the namespace that the calling thread is in, one line each, by family.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// The client's end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Client {
    /// Its address.
    Tcp(SocketAddr),
    /// Its user, if the kernel says so.
    Unix(Option<u32>),
}

/// Lets requests of root and of the node's own user pass. `port` is where the API listens on TCP, 0 elsewhere.
pub(super) async fn require_trusted_user(
    State(port): State<u16>,
    ConnectInfo(client): ConnectInfo<Client>,
    request: Request,
    next: Next,
) -> Response {
    let trusted = match client {
        Client::Tcp(client) => {
            client.ip().to_canonical().is_loopback()
                && owners(client, port).is_ok_and(|owners| are_trusted(&owners))
        }
        Client::Unix(user) => user.is_some_and(|user| are_trusted(&[user])),
    };
    if trusted {
        return next.run(request).await;
    }
    let reason = "only root and the user that runs the node may change identities and pins, over the Unix socket or a loopback address";
    Refusal::new(StatusCode::FORBIDDEN, &reason).into_response()
}

fn are_trusted(owners: &[u32]) -> bool {
    let own = rustix::process::geteuid().as_raw();
    !owners.is_empty() && owners.iter().all(|&owner| owner == 0 || owner == own)
}

/// The users whose sockets go from `client` to our `port`; more than one only if somebody plays tricks.
fn owners(client: SocketAddr, port: u16) -> io::Result<Vec<u32>> {
    let mut owners = Vec::new();
    for table in TABLES {
        // A kernel without IPv6 has only the first.
        match std::fs::read_to_string(table) {
            Ok(table) => owners.extend(owners_in(&table, client, port)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(owners)
}

/// Lines of proc_net_tcp(5): number, local and remote address, state, queues, timer, retransmits, user, …
fn owners_in(table: &str, client: SocketAddr, port: u16) -> impl Iterator<Item = u32> {
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = socket_address(fields.next()?)?;
        let remote = socket_address(fields.next()?)?;
        let owner = fields.nth(4)?.parse().ok()?;
        let same = local.ip() == client.ip().to_canonical() && local.port() == client.port();
        (same && remote.port() == port).then_some(owner)
    })
}

/// `0100007F:1F90`: the address as words in the byte order of the machine, the port as a number.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (index, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:231D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5012 1
   1: 0100007F:231D 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 5013 1
   2: 0100007F:9C40 0100007F:231D 01 00000000:00000000 00:00000000 00000000  1000        0 5014 1
";
    const V6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:9C40 00000000000000000000000001000000:231D 01 00000000:00000000 00:00000000 00000000  1001        0 5015 1
   1: 0000000000000000FFFF00000100007F:9C41 0000000000000000FFFF00000100007F:231D 01 00000000:00000000 00:00000000 00000000  1002        0 5016 1
";

    fn owners_of(table: &str, client: &str) -> Vec<u32> {
        owners_in(table, client.parse().unwrap(), 8989).collect()
    }

    #[test]
    fn the_clients_end_of_a_connection_names_its_user() {
        assert_eq!(owners_of(V4, "127.0.0.1:40000"), [1000]);
        assert_eq!(owners_of(V6, "[::1]:40000"), [1001]);
        assert_eq!(owners_of(V6, "[::ffff:127.0.0.1]:40001"), [1002]);
        assert_eq!(owners_of(V6, "127.0.0.1:40001"), [1002]);
        assert!(owners_of(V4, "127.0.0.1:40001").is_empty());
    }

    #[test]
    fn nobody_is_not_trusted_and_neither_is_anybody_beside_root() {
        assert!(are_trusted(&[0]));
        assert!(!are_trusted(&[]));
        assert!(!are_trusted(&[0, 4_000_000_000]));
    }

    #[test]
    fn broken_lines_are_skipped() {
        for line in [
            "",
            "x",
            "0: zz:1 1:1",
            "0: 0100007F:9C40",
            "0: é:1 é:2 01 a b c d",
        ] {
            let table = format!("header\n{line}\n");
            assert!(owners_of(&table, "127.0.0.1:40000").is_empty(), "{line}");
        }
    }

    #[test]
    fn a_real_connection_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let found = owners(client.local_addr().unwrap(), address.port()).unwrap();
        assert_eq!(found, [rustix::process::geteuid().as_raw()]);
    }
}

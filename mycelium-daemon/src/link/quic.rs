//! QUIC links: control packets on one bidirectional stream, data packets in datagrams (wire spec §2.5).
//!
//! One UDP socket per address family on the listen port, for dialling and accepting alike. Two sockets rather than one,
//! because what we tell a peer about the largest UDP payload differs: 1472 bytes fit a 1500-byte network over IPv4, but
//! only 1452 over IPv6, and a peer that believes 1472 there loses every full datagram.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mycelium_core::time::Duration;
use nix::sys::socket::{setsockopt, sockopt};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use socket2::{Domain, Protocol, Socket, Type};

use super::pending::{Admission, Pending, Place};
use super::reset::ResetSecret;
use super::udp_socket::UdpSocket;
use super::unreachable::{ErrorQueue, NetworkError};
use super::{Established, Transport, link_info};

/// Static cost over IPv4 (wire spec §2.7).
const COST: u16 = 12;
/// The name that every client of the network asks for and no server looks at.
const SERVER_NAME: &str = "dummy.mycelium";
/// Handshake and first stream together, inbound and outbound.
const SETUP_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes that wait to be looked at.
const MAX_INCOMING: usize = 128;
/// Largest UDP payload on a 1500-byte network over IPv4.
const MAX_PAYLOAD_V4: u16 = 1472;
/// The same over IPv6.
const MAX_PAYLOAD_V6: u16 = 1452;
/// What a peer may have in flight to us on its stream; also all that a hostile one can make us buffer there. Control
/// packets need little, data goes in datagrams.
const RECEIVE_WINDOW: u32 = 1 << 20;
/// Datagrams received but not yet read; the oldest are dropped beyond it.
const DATAGRAM_RECEIVE_BUFFER: usize = 2 << 20;
/// Datagrams handed to QUIC but not yet sent. Small: what waits should wait in the outbox, behind control.
pub(crate) const DATAGRAM_SEND_BUFFER: usize = 256 << 10;
/// Stream bytes handed to QUIC but not yet acknowledged.
const SEND_WINDOW: u64 = 1 << 20;
/// The standard's ten packets would make the first megabyte of a long path take a second; upstream's 4 MiB floods it.
const INITIAL_WINDOW: u64 = 128 << 10;
/// Round trip assumed before the first measurement. Unanswered first packets are repeated after three of it, then twice as
/// late each time: a peer that starts a moment after us is found in 12 or 36 ms instead of the standard's second. A distant
/// one gets three or four first packets too many.
const INITIAL_RTT: Duration = Duration::from_millis(4);
/// The socket is shared by all links. The kernel keeps up to 208 KiB of packets, at our expense, for each neighbour that it
/// cannot resolve, about three seconds long: with its default of the same size one dead neighbour silences all others.
const SOCKET_SEND_BUFFER: usize = 4 << 20;
/// What arrives while the runtime is busy elsewhere.
const SOCKET_RECEIVE_BUFFER: usize = 2 << 20;

/// Why a QUIC link did not come about.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// This system has no socket of the peer's address family.
    #[error("no {0} on this system")]
    NoFamily(&'static str),
    /// The attempt could not begin.
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// The connection failed.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// Handshake and first stream took more than 10 s.
    #[error("not set up within 10 s")]
    TimedOut,
    /// The peer takes no datagrams, so it is no node of this network.
    #[error("the peer does not take datagrams")]
    NoDatagrams,
}

/// The QUIC side of the node. Must be made inside a tokio runtime, which then drives it.
#[derive(Debug)]
pub struct QuicEndpoint {
    v4: Option<Family>,
    v6: Option<Family>,
    pending: Pending,
}

#[derive(Debug)]
struct Family {
    endpoint: quinn::Endpoint,
    client: ClientConfig,
    errors: ErrorQueue,
    socket: Arc<UdpSocket>,
}

/// An inbound connection whose handshake has not been answered yet.
#[derive(Debug)]
pub struct Incoming {
    incoming: quinn::Incoming,
    _place: Place,
}

impl QuicEndpoint {
    /// Open the sockets of both families on `port` (0: any, the same for both). Connections to these sockets of a process
    /// that had the same `secret` end as soon as their other ends send something.
    ///
    /// # Errors
    /// `AddrInUse` when the port is busy. A missing address family is no error unless both are missing.
    pub fn bind(port: u16, firewall_mark: Option<u32>, secret: &ResetSecret) -> io::Result<Self> {
        let certificate = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])
            .map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(certificate.signing_key.serialize_der().into());
        let certificate = certificate.cert.der().clone();
        let family = |address: SocketAddr, max_payload| -> io::Result<Option<Family>> {
            match socket(address, firewall_mark) {
                Ok(socket) => {
                    Family::new(socket, max_payload, secret, &certificate, &key).map(Some)
                }
                Err(error) if is_missing_family(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let v4 = family((Ipv4Addr::UNSPECIFIED, port).into(), MAX_PAYLOAD_V4)?;
        let port = match &v4 {
            Some(v4) => v4.endpoint.local_addr()?.port(),
            None => port,
        };
        let v6 = family((Ipv6Addr::UNSPECIFIED, port).into(), MAX_PAYLOAD_V6)?;
        if v4.is_none() && v6.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "neither IPv4 nor IPv6",
            ));
        }
        Ok(Self {
            v4,
            v6,
            pending: Pending::default(),
        })
    }

    /// The port of both sockets.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_port(&self) -> io::Result<u16> {
        let family = self.v4.as_ref().or(self.v6.as_ref());
        match family {
            Some(family) => Ok(family.endpoint.local_addr()?.port()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Connect to `remote` and open the stream. Something must be written on it at once: the peer cannot see it before.
    ///
    /// # Errors
    /// See [`QuicError`].
    pub async fn dial(&self, remote: SocketAddr) -> Result<Established, QuicError> {
        let (family, name) = match remote {
            SocketAddr::V4(_) => (&self.v4, "IPv4"),
            SocketAddr::V6(_) => (&self.v6, "IPv6"),
        };
        let family = family.as_ref().ok_or(QuicError::NoFamily(name))?;
        let setup = async {
            let connection = family
                .endpoint
                .connect_with(family.client.clone(), remote, SERVER_NAME)?
                .await?;
            let streams = connection.open_bi().await?;
            established(connection, streams)
        };
        tokio::time::timeout(SETUP_LIMIT, setup)
            .await
            .map_err(|_| QuicError::TimedOut)?
    }

    /// The next inbound connection, to be passed to [`complete`](Self::complete) in a task of its own. `None` once the
    /// endpoint is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = tokio::select! {
                incoming = accept_on(self.v4.as_ref()) => incoming?,
                incoming = accept_on(self.v6.as_ref()) => incoming?,
            };
            let is_validated = incoming.remote_address_validated();
            match self
                .pending
                .admit(incoming.remote_address().ip(), is_validated)
            {
                Admission::Granted(place) => {
                    return Some(Incoming {
                        incoming,
                        _place: place,
                    });
                }
                Admission::Validate => {
                    if let Err(error) = incoming.retry() {
                        error.into_incoming().refuse();
                    }
                }
                Admission::Refused => incoming.refuse(),
            }
        }
    }

    /// Finish the handshake and wait for the peer's stream.
    ///
    /// # Errors
    /// See [`QuicError`].
    pub async fn complete(&self, incoming: Incoming) -> Result<Established, QuicError> {
        let Incoming { incoming, _place } = incoming;
        let setup = async {
            let connection = incoming.accept()?.await?;
            let streams = connection.accept_bi().await?;
            established(connection, streams)
        };
        tokio::time::timeout(SETUP_LIMIT, setup)
            .await
            .map_err(|_| QuicError::TimedOut)?
    }

    /// Wait for ICMP errors. Should be awaited all the time.
    ///
    /// # Errors
    /// What the system says; then no further errors are told.
    pub async fn errors(&self) -> io::Result<Vec<NetworkError>> {
        tokio::select! {
            errors = errors_on(self.v4.as_ref()) => errors,
            errors = errors_on(self.v6.as_ref()) => errors,
        }
    }

    /// The sockets, for the native link.
    pub(crate) fn sockets(&self) -> Vec<Arc<UdpSocket>> {
        let families = [&self.v4, &self.v6].into_iter().flatten();
        families.map(|family| Arc::clone(&family.socket)).collect()
    }

    /// Close every connection and wait, for at most `limit`, until the peers have been told.
    pub async fn close(&self, limit: Duration) {
        for family in [&self.v4, &self.v6].into_iter().flatten() {
            family.endpoint.close(VarInt::from_u32(0), b"leaving");
        }
        let idle = async {
            for family in [&self.v4, &self.v6].into_iter().flatten() {
                family.endpoint.wait_idle().await;
            }
        };
        // Late peers find out by themselves.
        let _ = tokio::time::timeout(limit, idle).await;
    }
}

impl Incoming {
    /// Who knocks. Not yet shown to be reachable there.
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }
}

async fn accept_on(family: Option<&Family>) -> Option<quinn::Incoming> {
    match family {
        Some(family) => family.endpoint.accept().await,
        None => std::future::pending().await,
    }
}

async fn errors_on(family: Option<&Family>) -> io::Result<Vec<NetworkError>> {
    match family {
        Some(family) => family.errors.errors().await,
        None => std::future::pending().await,
    }
}

fn established(
    connection: quinn::Connection,
    (send, recv): (quinn::SendStream, quinn::RecvStream),
) -> Result<Established, QuicError> {
    if connection.max_datagram_size().is_none() {
        return Err(QuicError::NoDatagrams);
    }
    let remote = connection.remote_address();
    Ok(Established {
        local: connection.local_ip().map(|ip| SocketAddr::new(ip, 0)),
        remote,
        info: link_info(COST, remote, Some(connection.rtt())),
        transport: Transport::Quic {
            connection,
            send,
            recv,
        },
    })
}

fn socket(address: SocketAddr, firewall_mark: Option<u32>) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(mark) = firewall_mark {
        socket.set_mark(mark)?;
    }
    // Beyond the system's limit only with CAP_NET_ADMIN, which a node with an interface has.
    if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_SEND_BUFFER).is_err() {
        socket.set_send_buffer_size(SOCKET_SEND_BUFFER)?;
    }
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(SOCKET_RECEIVE_BUFFER)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn is_missing_family(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

impl Family {
    fn new(
        socket: std::net::UdpSocket,
        max_payload: u16,
        secret: &ResetSecret,
        certificate: &CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
    ) -> io::Result<Self> {
        let transport = Arc::new(transport_config(max_payload));
        let mut server = ServerConfig::with_crypto(Arc::new(server_crypto(
            certificate.clone(),
            key.clone_key(),
        )?));
        server
            .transport_config(Arc::clone(&transport))
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(64 << 10)
            .incoming_buffer_size_total(1 << 20);
        let mut client = ClientConfig::new(Arc::new(client_crypto()?));
        client.transport_config(transport);
        let local = socket.local_addr()?;
        let reset_key = secret.reset_key(local).map_err(io::Error::other)?;
        let ids = secret.connection_ids(local).map_err(io::Error::other)?;
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        config
            // What tells our packets apart from those of others on the same port.
            .grease_quic_bit(false)
            .cid_generator(move || Box::new(ids.clone()))
            .max_udp_payload_size(max_payload)
            .map_err(io::Error::other)?;
        let errors = ErrorQueue::of(&socket)?;
        let socket = Arc::new(UdpSocket::new(socket)?);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            config,
            Some(server),
            Arc::clone(&socket) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(quinn::TokioRuntime),
        )?;
        Ok(Self {
            endpoint,
            client,
            errors,
            socket,
        })
    }
}

fn transport_config(max_payload: u16) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(max_payload);
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        // More would be accepted by nobody, and what is sent on them would only fill our memory.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(60_000))))
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .initial_rtt(INITIAL_RTT)
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(congestion));
    config
}

fn server_crypto(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> io::Result<QuicServerConfig> {
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    QuicServerConfig::try_from(config).map_err(io::Error::other)
}

fn client_crypto() -> io::Result<QuicClientConfig> {
    let provider = provider();
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(io::Error::other)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts any certificate, as the network does: a link is not authenticated, what travels over it is.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::JoinHandle;

    use mycelium_core::crypto::identity::SecretKey;
    use tokio::sync::oneshot;

    use super::*;

    fn secret() -> ResetSecret {
        ResetSecret::of(&SecretKey::from_bytes([7; 32]))
    }

    fn bind(port: u16) -> QuicEndpoint {
        QuicEndpoint::bind(port, None, &secret()).unwrap()
    }

    #[tokio::test]
    async fn a_dialled_link_is_accepted_over_both_families() {
        let (a, b) = (bind(0), bind(0));
        let port = b.local_port().unwrap();
        for (host, cost, max_datagram) in [("127.0.0.1", 12, 1434), ("[::1]", 7, 1414)] {
            let remote = format!("{host}:{port}").parse().unwrap();
            let dial = async {
                let mut link = a.dial(remote).await.unwrap();
                let Transport::Quic { send, .. } = &mut link.transport else {
                    unreachable!("dialled with QUIC");
                };
                send.write_all(b"first").await.unwrap();
                link
            };
            let accept = async {
                let incoming = b.accept().await.unwrap();
                b.complete(incoming).await.unwrap()
            };
            let (dialled, mut accepted) = tokio::join!(dial, accept);
            assert_eq!(dialled.remote, remote);
            assert_eq!(accepted.remote.port(), a.local_port().unwrap());
            assert_eq!(
                (dialled.info.static_cost, accepted.info.static_cost),
                (cost, cost)
            );
            let (Transport::Quic { connection, .. }, Transport::Quic { recv, .. }) =
                (&dialled.transport, &mut accepted.transport)
            else {
                unreachable!("dialled with QUIC");
            };
            let mut first = [0; 5];
            recv.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"first");
            // Path MTU discovery is a matter of a few round trips.
            let settled = async {
                while connection.max_datagram_size().unwrap() < max_datagram - 20 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), settled)
                .await
                .unwrap();
            assert!(connection.max_datagram_size().unwrap() <= max_datagram);
        }
    }

    #[tokio::test]
    async fn a_peer_has_one_stream() {
        let (a, b) = (bind(0), bind(0));
        let remote = ([127, 0, 0, 1], b.local_port().unwrap()).into();
        let dial = async {
            let mut link = a.dial(remote).await.unwrap();
            if let Transport::Quic { send, .. } = &mut link.transport {
                send.write_all(b"first").await.unwrap();
            }
            link
        };
        let accept = async {
            let incoming = b.accept().await.unwrap();
            b.complete(incoming).await.unwrap()
        };
        let (dialled, _accepted) = tokio::join!(dial, accept);
        let Transport::Quic { connection, .. } = &dialled.transport else {
            unreachable!("dialled with QUIC");
        };
        let wait = Duration::from_millis(200);
        let second = tokio::time::timeout(wait, connection.open_bi()).await;
        assert!(second.is_err(), "a second stream was allowed");
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    /// A process with an endpoint on the port, which accepts `links` links, says so, and goes without a word when the
    /// sender is dropped.
    fn mortal(
        links: usize,
    ) -> (
        u16,
        oneshot::Receiver<()>,
        oneshot::Sender<()>,
        JoinHandle<()>,
    ) {
        let (port_sender, port) = std::sync::mpsc::channel();
        let (complete, completed) = oneshot::channel();
        let (kill, killed) = oneshot::channel::<()>();
        let process = std::thread::spawn(move || {
            let runtime = runtime();
            let (endpoint, links) = runtime.block_on(async {
                let endpoint = bind(0);
                port_sender.send(endpoint.local_port().unwrap()).unwrap();
                let mut held = Vec::new();
                for _ in 0..links {
                    let incoming = endpoint.accept().await.unwrap();
                    held.push(endpoint.complete(incoming).await.unwrap());
                }
                complete.send(()).unwrap();
                let _ = killed.await;
                (endpoint, held)
            });
            // Without those who would send it, no goodbye is sent.
            drop(runtime);
            drop((endpoint, links));
        });
        (port.recv().unwrap(), completed, kill, process)
    }

    #[test]
    fn a_restarted_node_ends_the_connections_of_its_former_self() {
        let (port, completed, kill, process) = mortal(2);
        runtime().block_on(async {
            let peer = bind(0);
            let mut links = Vec::new();
            for host in ["127.0.0.1", "[::1]"] {
                let remote = format!("{host}:{port}").parse().unwrap();
                let Transport::Quic {
                    connection,
                    mut send,
                    recv,
                } = peer.dial(remote).await.unwrap().transport
                else {
                    unreachable!("dialled with QUIC");
                };
                send.write_all(b"first").await.unwrap();
                links.push((connection, send, recv));
            }
            completed.await.unwrap();
            drop(kill);
            process.join().unwrap();
            for (connection, _, _) in &links {
                assert_eq!(connection.close_reason(), None);
            }
            let _restarted = bind(port);
            for (connection, send, _recv) in &mut links {
                // What a repeated packet has already ended takes no more.
                let _ = send.write_all(b"hello").await;
                let closed = tokio::time::timeout(Duration::from_secs(1), connection.closed());
                assert_eq!(closed.await, Ok(quinn::ConnectionError::Reset));
            }
        });
    }

    #[tokio::test]
    async fn a_busy_port_says_so() {
        let first = bind(0);
        let error = QuicEndpoint::bind(first.local_port().unwrap(), None, &secret()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}

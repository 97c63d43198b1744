use std::future::poll_fn;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket as StdSocket};

use super::super::unreachable::{ErrorQueue, NetworkError};
use super::*;

const LOOPBACKS: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

fn open(address: SocketAddr) -> (UdpSocket, ErrorQueue) {
    let socket = StdSocket::bind(address).unwrap();
    let errors = ErrorQueue::of(&socket).unwrap();
    (UdpSocket::new(socket).unwrap(), errors)
}

/// An address where nobody listens.
fn closed(address: SocketAddr) -> SocketAddr {
    StdSocket::bind(address).unwrap().local_addr().unwrap()
}

fn send(socket: &UdpSocket, destination: SocketAddr) {
    let transmit = Transmit {
        destination,
        ecn: None,
        contents: b"a datagram",
        segment_size: None,
        src_ip: None,
    };
    socket.try_send(&transmit).unwrap();
}

async fn receive(socket: &UdpSocket) -> io::Result<usize> {
    let mut buffer = vec![0; 65535];
    let mut meta = [RecvMeta::default()];
    poll_fn(|context| {
        let mut buffers = [IoSliceMut::new(&mut buffer)];
        socket.poll_recv(context, &mut buffers, &mut meta)
    })
    .await
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

#[tokio::test]
async fn a_closed_port_is_reported_with_its_address() {
    for address in LOOPBACKS {
        let (socket, errors) = open(address);
        let remote = closed(address);
        send(&socket, remote);
        send(&socket, remote);
        let limit = Duration::from_secs(1);
        let reported = tokio::time::timeout(limit, errors.errors()).await;
        assert_eq!(
            reported.unwrap().unwrap(),
            [NetworkError::Unreachable(remote)]
        );
    }
}

#[tokio::test]
async fn an_error_costs_no_datagram_to_somebody_else() {
    for address in LOOPBACKS {
        let (socket, _errors) = open(address);
        let other = StdSocket::bind(address).unwrap();
        other.set_nonblocking(true).unwrap();
        let remote = closed(address);
        for _ in 0..20 {
            send(&socket, remote);
            send(&socket, other.local_addr().unwrap());
            let mut buffer = [0; 32];
            assert_eq!(other.recv(&mut buffer).unwrap(), 10);
        }
    }
}

#[tokio::test]
async fn after_errors_it_receives_and_rests() {
    for address in LOOPBACKS {
        let (socket, errors) = open(address);
        let remote = closed(address);
        for _ in 0..200 {
            send(&socket, remote);
        }
        let reports = async {
            loop {
                errors.errors().await.unwrap();
            }
        };
        let arrived = async {
            let other = StdSocket::bind(address).unwrap();
            let local = socket.local_addr().unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            other.send_to(b"hello", local).unwrap();
            assert_eq!(receive(&socket).await.unwrap(), 1);
            let before = cpu_time();
            let idle = tokio::time::timeout(Duration::from_millis(300), receive(&socket));
            assert!(idle.await.is_err(), "nothing more was sent");
            cpu_time() - before
        };
        tokio::select! {
            () = reports => {}
            used = arrived => assert!(used < Duration::from_millis(30), "{used:?} of 300 ms"),
        }
    }
}

#[tokio::test]
async fn a_full_socket_is_left_alone_for_a_moment() {
    let socket = Arc::new(open(LOOPBACKS[0]).0);
    let mut room = Arc::clone(&socket).create_io_poller();
    poll_fn(|context| room.as_mut().poll_writable(context))
        .await
        .unwrap();
    let until = socket.opened.elapsed() + Duration::from_millis(20);
    socket
        .full_until
        .store(u64::try_from(until.as_micros()).unwrap(), Ordering::Relaxed);
    poll_fn(|context| room.as_mut().poll_writable(context))
        .await
        .unwrap();
    assert!(socket.opened.elapsed() >= until);
}

#[tokio::test]
async fn another_reader_passes_on_what_is_quics() {
    for address in LOOPBACKS {
        let socket = Arc::new(open(address).0);
        let other = StdSocket::bind(address).unwrap();
        let local = socket.local_addr().unwrap();
        other.send_to(b"one", local).unwrap();
        assert_eq!(receive(&socket).await.unwrap(), 1);
        // Whoever waits while the reader changes goes on.
        let (waiting, reader) = tokio::join!(receive(&socket), async {
            tokio::task::yield_now().await;
            let reader = socket.divert().unwrap();
            other.send_to(b"two", local).unwrap();
            reader.readable().await.unwrap();
            let mut buffer = vec![0; 65535];
            let mut meta = [RecvMeta::default()];
            let mut buffers = [IoSliceMut::new(&mut buffer)];
            assert_eq!(reader.receive(&mut buffers, &mut meta), Some(1));
            assert_eq!(reader.receive(&mut buffers, &mut [meta[0]]), None);
            reader.inbox().push(meta[0], &buffer[..meta[0].len]);
            reader.inbox().wake();
            reader
        });
        assert_eq!(waiting.unwrap(), 1);
        other.send_to(b"three", local).unwrap();
        let both = tokio::time::timeout(Duration::from_millis(50), receive(&socket));
        assert!(both.await.is_err(), "QUIC reads as well");
        drop(reader);
    }
}

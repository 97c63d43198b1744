use mycelium_core::crypto::identity::SecretKey;
use mycelium_core::dataplane::{DataPlane, DataPlaneConfig};
use mycelium_core::fib::{Fib, FibPublisher};
use mycelium_core::io::Output;
use mycelium_core::native::NativeConfig;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;
use crate::control::{ControlInput, Hint};
use crate::link::LinkStats;
use crate::link::quic::QuicEndpoint;
use crate::link::reset::ResetSecret;
use crate::worker::{Turn, WorkerChannels, WorkerCommand, WorkerReport, run};

const PATIENCE: Duration = Duration::from_secs(20);
const PEER: PeerId = PeerId(1);

/// A worker whose control thread and manager of peers the test plays.
struct Station {
    inputs: mpsc::Receiver<ControlInput>,
    turns: mpsc::Sender<Turn>,
    commands: mpsc::Sender<WorkerCommand>,
    news: mpsc::Receiver<PeerNews>,
    port: u16,
    _hints: mpsc::Receiver<Hint>,
    _quic: QuicEndpoint,
    _fib: FibPublisher,
}

impl Station {
    /// Must be called inside a `LocalSet`.
    async fn start(name: u8) -> Self {
        let secret = SecretKey::from_bytes([name; 32]);
        let fib = FibPublisher::new(Fib::new(0));
        let dataplane = DataPlane::new(DataPlaneConfig::default(), fib.reader(), [name; 32]);
        // A control thread that does one thing after the other.
        let (control, inputs) = mpsc::channel(1);
        let (hints, hints_of_control) = mpsc::channel(16);
        let (turns, turns_of_worker) = mpsc::channel(16);
        let (commands, commands_of_worker) = mpsc::channel(16);
        let channels = WorkerChannels {
            control,
            hints,
            turns: turns_of_worker,
            commands: commands_of_worker,
        };
        tokio::task::spawn_local(run(dataplane, channels));
        let quic = QuicEndpoint::bind(0, None, &ResetSecret::of(&secret)).unwrap();
        let port = quic.local_port().unwrap();
        let unix = Duration::from_secs(1_700_000_000);
        let endpoint = NativeEndpoint::new(
            NativeConfig::default(),
            &secret,
            [name; 32],
            unix,
            clock::now(),
        );
        let (news, news_of_manager) = mpsc::channel(16);
        let attach = WorkerCommand::AttachUdp {
            endpoint: Box::new(endpoint),
            sockets: quic.sockets(),
            port,
            news,
        };
        commands.send(attach).await.unwrap();
        Self {
            inputs,
            turns,
            commands,
            news: news_of_manager,
            port,
            _hints: hints_of_control,
            _quic: quic,
            _fib: fib,
        }
    }

    async fn attach(&mut self, link: Established) -> oneshot::Receiver<LinkClosed> {
        let (closed, receiver) = oneshot::channel();
        let attach = WorkerCommand::AttachLink {
            peer: PEER,
            link: Box::new(link),
            stats: Arc::new(LinkStats::default()),
            closed,
        };
        self.commands.send(attach).await.unwrap();
        let input = self.inputs.recv().await;
        assert!(matches!(input, Some(ControlInput::PeerUp { .. })));
        receiver
    }

    async fn report(&self) -> WorkerReport {
        let (reply, report) = oneshot::channel();
        let sessions = false;
        let command = WorkerCommand::Report { sessions, reply };
        self.commands.send(command).await.unwrap();
        report.await.unwrap()
    }
}

/// A control packet with a number in it; the worker looks at its framing only.
fn numbered(number: u32) -> Vec<u8> {
    let header = [1, 1, 0, 0, 42, 3, 0, 6, 1, 4];
    [&header[..], &number.to_be_bytes()].concat()
}

#[tokio::test]
async fn a_link_with_more_control_packets_than_can_be_handled_is_held_not_closed() {
    let test = async {
        let (mut ours, mut theirs) = (Station::start(1).await, Station::start(2).await);
        let (reply, dialled) = oneshot::channel();
        let remote = SocketAddr::from(([127, 0, 0, 1], ours.port));
        let key = None;
        let dial = WorkerCommand::DialNative { remote, key, reply };
        theirs.commands.send(dial).await.unwrap();
        let dialled = dialled.await.unwrap().unwrap();
        let Some(PeerNews::Inbound(accepted)) = ours.news.recv().await else {
            panic!("no link");
        };
        let mut closed = ours.attach(*accepted).await;
        let _closed = theirs.attach(dialled).await;
        let count = u32::try_from(4 * CONTROL_HIGH).unwrap();
        for numbers in (0..count).collect::<Vec<_>>().chunks(64) {
            let outputs = numbers.iter().map(|&number| Output::Send {
                peer: PEER,
                packet: numbered(number),
            });
            let turn = Turn {
                outputs: outputs.collect(),
                ..Turn::default()
            };
            theirs.turns.send(turn).await.unwrap();
        }
        // Our control thread takes nothing meanwhile.
        while ours.report().await.native.control_held == 0 {
            assert!(closed.try_recv().is_err(), "closed instead of held");
            tokio::task::yield_now().await;
        }
        let mut taken = 0;
        while taken < count {
            let input = tokio::select! {
                input = ours.inputs.recv() => input,
                reason = &mut closed => panic!("{reason:?}"),
            };
            let Some(ControlInput::Packets { packets, .. }) = input else {
                panic!("{input:?}");
            };
            for packet in packets.chunks(numbered(0).len()) {
                assert_eq!(packet[4..], numbered(taken)[4..]);
                taken += 1;
            }
        }
    };
    timeout(PATIENCE, LocalSet::new().run_until(test))
        .await
        .unwrap();
}

//! One link: its keys, its lanes, its path, and what is due on it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::datagram::{self, CONTROL, Header, SEALED_AT};
use super::echo::Echoes;
use super::epoch::Epoch;
use super::event::{DownReason, Event};
use super::frame::{self, Frame};
use super::halves::{self, Halves, Joiner};
use super::initiate::Initiation;
use super::io::{CloseCode, DataClass, LinkSnapshot, SealError};
use super::lane::{self, Incoming, Outgoing};
use super::liveness::{Liveness, Verdict};
use super::path::{Answer, Path};
use super::pmtu::{self, PathMtu};
use super::rtt::RttEstimator;
use super::stats::NativeStats;
use super::{LinkId, NativeConfig};
use crate::crypto::identity::PublicKey;
use crate::rng::Rng;
use crate::session::handshake::Established;
use crate::session::transport::{ReceiveError, Receiver};
use crate::time::{Duration, Time};

/// Epochs at once: the one in use, its predecessor, and handshakes that crossed. One more, and the oldest unused one goes.
const MAX_EPOCHS: usize = 4;
/// Keys outlive the time of their replacement by this for sending, and by this for receiving: clocks start at different
/// instants, and the ends need not agree at once which keys are the current ones.
const SEND_GRACE: Duration = Duration::from_secs(50);
const RECEIVE_GRACE: Duration = Duration::from_secs(70);
/// How long a handshake of ours has to be confirmed before another may be started.
const CONFIRMATION: Duration = Duration::from_secs(5);
const MAX_ECHO_REPLIES: usize = 16;
const MAX_RESPONSES: usize = 4;
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// A challenge in its datagram.
const CHALLENGE_LEN: usize = SEALED_AT + frame::HEADER_LEN + 8;
/// Events that may wait; beyond it control packets are not taken (and come again), and figures are not told.
pub const MAX_EVENTS: usize = 8192;

/// What the owner of a link has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// Nothing.
    Keep,
    /// The other end speaks, under the epoch with this index, for another incarnation of itself: call
    /// [`Link::restart`], then repeat the frames.
    Restarted { index: u32 },
    /// End it; tell the other end if there is a code.
    End(DownReason, Option<CloseCode>),
}

/// What a datagram was that opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Frames, from [`SEALED_AT`] on.
    Control,
    /// A data frame, in place.
    Data(DataClass),
    /// The second half of a data frame, which is in [`Link::joined`].
    Joined(DataClass),
    /// Something that opened, for which nothing is to be done.
    Taken,
}

/// A link that exists, up or about to be.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) remote_key: PublicKey,
    pub(super) dialled: bool,
    /// Our key is the lower one.
    lower: bool,
    pub(super) up_since: Option<Time>,
    instance: u64,
    remote_instance: Option<u64>,
    epochs: Vec<Epoch>,
    /// Position of the epoch to send with.
    sending: Option<usize>,
    pub(super) path: Path,
    rtt: RttEstimator,
    liveness: Liveness,
    mtu: PathMtu,
    max_datagram: u16,
    loss_permille: u16,
    outgoing: Outgoing,
    incoming: Incoming,
    echoes: Echoes,
    joiner: Joiner,
    next_half: u32,
    ask: bool,
    echo_replies: VecDeque<u32>,
    responses: VecDeque<[u8; 8]>,
    next_report: Time,
    report: bool,
    /// Send a control datagram even if no frame is due.
    speak: bool,
    observed: Option<SocketAddr>,
    /// What of that was told.
    told: Option<SocketAddr>,
    /// Control packets are not taken for now.
    pub(super) held: bool,
    pub(super) rekey: Option<Initiation>,
    rekeys: u32,
    /// When the owner's timer for this link goes off.
    pub(super) scheduled: Time,
    /// Whether the owner has this link on its list of those with something to send.
    pub(super) ready: bool,
}

impl Link {
    pub(super) fn new(
        id: LinkId,
        remote_key: PublicKey,
        local_key: &PublicKey,
        address: SocketAddr,
        dialled: bool,
        max_datagram: u16,
        rng: &mut Rng,
        now: Time,
    ) -> Self {
        Self {
            id,
            remote_key,
            dialled,
            lower: *local_key < remote_key,
            up_since: None,
            instance: rng.next_u64() | 1,
            remote_instance: None,
            epochs: Vec::new(),
            sending: None,
            path: Path::validated(address),
            rtt: RttEstimator::default(),
            liveness: Liveness::new(now),
            mtu: PathMtu::new(address.ip(), max_datagram),
            max_datagram,
            loss_permille: 0,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            echoes: Echoes::default(),
            joiner: Joiner::default(),
            next_half: 0,
            ask: false,
            echo_replies: VecDeque::new(),
            responses: VecDeque::new(),
            next_report: now,
            report: false,
            speak: false,
            observed: None,
            told: None,
            held: false,
            rekey: None,
            rekeys: 0,
            scheduled: Time::FAR_FUTURE,
            ready: false,
        }
    }

    /// Take the keys of a finished handshake, ours or the answer to `first_message`; the index of an epoch that made room.
    pub(super) fn add_epoch(
        &mut self,
        established: Established,
        first_message: Option<[u8; 32]>,
        now: Time,
    ) -> Option<u32> {
        let displaced = (self.epochs.len() >= MAX_EPOCHS)
            .then(|| (0..self.epochs.len()).find(|&at| Some(at) != self.sending))
            .flatten()
            .map(|at| self.epochs.remove(at).index());
        self.epochs
            .push(Epoch::new(established, first_message, self.lower, now));
        self.choose();
        displaced
    }

    /// The other end is another incarnation, as it says under the epoch `index`: forget everything of the old one. Gives the
    /// indices of the other epochs.
    pub(super) fn restart(&mut self, id: LinkId, index: u32, now: Time) -> Vec<u32> {
        let mut gone = self.all_indices();
        gone.retain(|&other| other != index);
        self.rekey = None;
        self.epochs.retain(|epoch| epoch.index() == index);
        self.choose();
        self.id = id;
        self.up_since = None;
        self.remote_instance = None;
        self.outgoing = Outgoing::default();
        self.incoming = Incoming::default();
        self.liveness = Liveness::new(now);
        self.joiner = Joiner::default();
        self.told = None;
        self.held = false;
        gone
    }

    /// The newest epoch is confirmed by its initiator, `waited` after we answered it.
    pub(super) fn on_confirmed(&mut self, waited: Duration) {
        if self.rtt.rtt().is_none() {
            self.rtt.on_sample(waited);
        }
    }

    /// The indices of all epochs.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        self.epochs.iter().map(Epoch::index)
    }

    /// The indices of all epochs and attempts.
    pub(super) fn all_indices(&self) -> Vec<u32> {
        let attempts = self.rekey.iter().flat_map(Initiation::indices);
        self.indices().chain(attempts).collect()
    }

    /// Open a datagram in place; its counter.
    pub(super) fn open(
        &mut self,
        header: Header,
        bytes: &mut [u8],
        stats: &mut NativeStats,
    ) -> Option<u64> {
        let mut epochs = self.epochs.iter_mut();
        let epoch = epochs.find(|epoch| epoch.index() == header.index)?;
        open(&mut epoch.receiver, header, bytes, stats)
    }

    /// What a datagram means that opened.
    pub(super) fn on_opened(
        &mut self,
        header: Header,
        counter: u64,
        from: SocketAddr,
        bytes: &[u8],
        now: Time,
        rng: &mut Rng,
        stats: &mut NativeStats,
        events: &mut VecDeque<Event>,
    ) -> Opened {
        let mut epochs = self.epochs.iter();
        let Some(at) = epochs.position(|epoch| epoch.index() == header.index) else {
            return Opened::Taken;
        };
        let receiver = &self.epochs[at].receiver;
        // Before there are keys to challenge with, the link stays where the handshake put it.
        let newest = counter == receiver.highest() && self.sending.is_some_and(|best| at >= best);
        self.liveness.on_heard(now, &self.rtt);
        self.mtu.on_heard();
        if newest
            && let Some(before) = self
                .path
                .on_newest(from, bytes.len(), now, || [rng.array(), rng.array()])
        {
            stats.moves_undone += u64::from(self.path.is_settled());
            self.on_moved(before, events);
        }
        match header.kind {
            CONTROL => Opened::Control,
            _ if self.up_since.is_none() => Opened::Taken,
            kind => {
                self.liveness.on_data(now);
                if let Some(class) = DataClass::of_datagram(kind) {
                    return Opened::Data(class);
                }
                match self.joiner.add(header, bytes, now) {
                    Some(class) => Opened::Joined(class),
                    None => Opened::Taken,
                }
            }
        }
    }

    /// The data frame of which the last half came.
    pub(super) fn joined(&mut self) -> &mut [u8] {
        self.joiner.frame()
    }

    /// Take the frames of an opened control datagram of the epoch `index`.
    pub(super) fn on_frames(
        &mut self,
        index: u32,
        bytes: &[u8],
        now: Time,
        stats: &mut NativeStats,
        events: &mut VecDeque<Event>,
    ) -> Fate {
        for frame in frame::frames(bytes) {
            let Ok(frame) = frame else {
                stats.malformed += 1;
                break;
            };
            let fate = self.on_frame(index, frame, now, stats, events);
            if fate != Fate::Keep {
                return fate;
            }
        }
        self.tell_up(now, events);
        if self.observed != self.told && self.up_since.is_some() && events.len() < MAX_EVENTS {
            self.told = self.observed;
            events.extend(self.observed.map(|address| Event::Observed {
                link: self.id,
                address,
            }));
        }
        Fate::Keep
    }

    /// Say that the link is up, once both ends know each other's incarnation.
    fn tell_up(&mut self, now: Time, events: &mut VecDeque<Event>) {
        if self.up_since.is_none() && self.sending.is_some() {
            self.up_since = Some(now);
            events.push_back(Event::Up {
                link: self.id,
                remote_key: self.remote_key,
                address: self.path.address(),
                rtt: self.rtt.rtt().map(|rtt| rtt.latest),
                dialled: self.dialled,
            });
        }
    }

    fn on_frame(
        &mut self,
        index: u32,
        frame: Frame<'_>,
        now: Time,
        stats: &mut NativeStats,
        events: &mut VecDeque<Event>,
    ) -> Fate {
        let Some(epoch) = self.epochs.iter_mut().find(|epoch| epoch.index() == index) else {
            return Fate::Keep;
        };
        match frame {
            Frame::Instance { own: 0, .. } => stats.malformed += 1,
            Frame::Instance { own, known } => {
                if epoch.speaks_for_another(own) {
                    // Who starts anew has lost its keys. It would cost a datagram to make us tell all routes again.
                    return Fate::End(DownReason::Malformed, Some(CloseCode::Malformed));
                }
                if self.remote_instance.is_some_and(|old| old != own) {
                    return Fate::Restarted { index };
                }
                self.remote_instance = Some(own);
                let was_active = epoch.is_active();
                epoch.on_instance(own, known, self.instance);
                if !was_active {
                    self.choose();
                }
            }
            // The lanes belong to a pair of incarnations; what is not yet known to be of this pair comes again.
            Frame::Babel { .. } | Frame::Ack { .. } if !epoch.is_active() => {}
            Frame::Babel { seq, packet } => {
                if !lane::is_control_packet(packet) {
                    // It would have to be delivered, and never could be.
                    return Fate::End(DownReason::Malformed, Some(CloseCode::Malformed));
                }
                if events.len() < MAX_EVENTS && !self.held {
                    self.tell_up(now, events);
                    let link = self.id;
                    self.incoming.on_packet(seq, packet, |packet| {
                        events.push_back(Event::Control { link, packet });
                    });
                } else {
                    stats.control_held += 1;
                }
            }
            Frame::Ack { next, held } => {
                stats.malformed += u64::from(!self.outgoing.on_ack(next, held));
            }
            Frame::EchoRequest { id } => {
                if self.echo_replies.len() < MAX_ECHO_REPLIES {
                    self.echo_replies.push_back(id);
                }
                self.report |= now >= self.next_report;
            }
            Frame::EchoReply { id } => self.on_echo_reply(id, now, events),
            Frame::PathChallenge { token } => {
                if self.responses.len() < MAX_RESPONSES {
                    self.responses.push_back(token);
                }
            }
            Frame::PathResponse { token } => match self.path.on_response(token, now) {
                Answer::Ignored => {}
                Answer::Proven => self.tell_path(events),
                Answer::Returned { from } => {
                    stats.moves_undone += 1;
                    self.on_moved(from, events);
                }
            },
            Frame::Observed { address } => self.observed = Some(address),
            Frame::Report { highest, received } => {
                if let Some(loss) = epoch.on_report(highest, received) {
                    // 3 · 1000 + 1000 fits.
                    self.loss_permille = (self.loss_permille * 3 + loss) / 4;
                }
            }
            Frame::Close { code } => {
                // The end of superseded keys is not the end of the link.
                let current = self.sending.and_then(|at| self.epochs.get(at));
                if current.is_none_or(|current| current.index() == index) {
                    return Fate::End(DownReason::ClosedByPeer(code), None);
                }
            }
            Frame::Unknown => {}
        }
        Fate::Keep
    }

    fn on_echo_reply(&mut self, id: u32, now: Time, events: &mut VecDeque<Event>) {
        let Some(answered) = self.echoes.on_reply(id, now) else {
            return;
        };
        let rtt = self.rtt.on_sample(answered.round_trip);
        if let Some(size) = answered.size
            && self.mtu.on_reply(size, now)
        {
            self.tell_path(events);
        }
        if self.up_since.is_some() && events.len() < MAX_EVENTS {
            events.push_back(Event::Rtt { link: self.id, rtt });
        }
    }

    fn on_moved(&mut self, before: SocketAddr, events: &mut VecDeque<Event>) {
        self.report = true;
        self.speak = true;
        // Another port of the same address is the same path behind another mapping.
        let ip = self.path.address().ip();
        if ip != before.ip() {
            self.mtu = PathMtu::new(ip, self.max_datagram);
            self.rtt = RttEstimator::default();
        }
        self.tell_path(events);
    }

    fn tell_path(&self, events: &mut VecDeque<Event>) {
        if self.up_since.is_some() && events.len() < MAX_EVENTS {
            events.push_back(Event::PathChanged {
                link: self.id,
                address: self.path.address(),
                max_frame: self.max_frame(),
            });
        }
    }

    /// Longest data frame in one datagram.
    pub(super) fn max_frame(&self) -> usize {
        usize::from(self.mtu.size()) - datagram::DATA_OVERHEAD
    }

    /// Seal the data frame in `buffer`, or its two halves. Gives where it goes, and whether it was cut.
    pub(super) fn seal_data(
        &mut self,
        class: DataClass,
        buffer: &mut [u8],
        scratch: &mut Halves,
        now: Time,
    ) -> Result<(SocketAddr, bool), SealError> {
        let Some(epoch) = self.sending.and_then(|at| self.epochs.get_mut(at)) else {
            return Err(SealError::NoLink);
        };
        if !datagram::holds_data_frame(buffer) {
            return Err(SealError::NotData);
        }
        let size = usize::from(self.mtu.size());
        let cut = buffer.len() > size;
        if cut {
            if !halves::fits(buffer, size) {
                return Err(SealError::TooLong(buffer.len() - datagram::DATA_OVERHEAD));
            }
            scratch
                .seal(&mut epoch.sender, class, self.next_half, buffer)
                .map_err(|_| SealError::KeysExpired)?;
            self.next_half = self.next_half.wrapping_add(1);
        } else {
            datagram::seal_data(&mut epoch.sender, class, buffer)
                .map_err(|_| SealError::KeysExpired)?;
            self.mtu.on_data(buffer.len());
        }
        self.liveness.on_sent(now);
        self.liveness.on_data(now);
        Ok((self.path.data_address(), cut))
    }

    /// Put a control packet on the lane. `Err`: too many wait.
    pub(super) fn send_control(
        &mut self,
        packet: &[u8],
        config: &NativeConfig,
    ) -> Result<(), DownReason> {
        if self.outgoing.len() >= config.max_control_packets
            || self.outgoing.bytes() + packet.len() > config.max_control_bytes
        {
            return Err(DownReason::ControlOverflow);
        }
        self.outgoing.push(packet);
        Ok(())
    }

    /// The network says that the port of the other end is closed.
    pub(super) fn on_unreachable(&mut self, now: Time) {
        self.liveness.on_unreachable(now);
    }

    /// We may be seen at another address from now on, and over another path.
    pub(super) fn on_network_change(&mut self, now: Time) {
        self.on_ask(now);
        self.liveness.on_sent(now);
        self.mtu.on_hint(now);
    }

    /// The network says that something was too long.
    pub(super) fn on_too_large(&mut self, now: Time) {
        self.mtu.on_hint(now);
    }

    /// When [`on_timeout`](Self::on_timeout) has something to do.
    pub(super) fn deadline(&self, config: &NativeConfig) -> Time {
        let mut deadline = self
            .liveness
            .deadline(&self.rtt)
            .min(self.lane_deadline())
            .min(self.path.deadline().unwrap_or(Time::FAR_FUTURE))
            .min(self.rekey_deadline(config));
        if self.may_probe() {
            deadline = deadline.min(self.mtu.deadline());
        }
        for epoch in &self.epochs {
            deadline = deadline
                .min(epoch.confirm_due().unwrap_or(Time::FAR_FUTURE))
                .min(epoch.since + config.rekey_after + RECEIVE_GRACE);
        }
        deadline
    }

    /// When data makes it necessary to look sooner than planned. Cheap: for after each data datagram.
    #[inline]
    pub(super) fn data_deadline(&self) -> Time {
        let deadline = self.liveness.deadline(&self.rtt);
        match self.mtu.wants_check() && self.may_probe() {
            true => deadline.min(self.mtu.deadline()),
            false => deadline,
        }
    }

    fn lane_deadline(&self) -> Time {
        match self.sending {
            Some(_) => self.outgoing.deadline(&self.rtt),
            None => None,
        }
        .unwrap_or(Time::FAR_FUTURE)
    }

    fn may_probe(&self) -> bool {
        self.up_since.is_some() && self.sending.is_some() && self.path.is_validated()
    }

    /// Do what is due. Afterwards there may be something to transmit.
    pub(super) fn on_timeout(
        &mut self,
        now: Time,
        config: &NativeConfig,
        gone: &mut Vec<u32>,
        events: &mut VecDeque<Event>,
    ) -> Fate {
        loop {
            match self.liveness.on_timeout(now, &self.rtt) {
                Verdict::Alive => break,
                Verdict::Ask => self.on_ask(now),
                Verdict::Dead(reason) => return Fate::End(reason, None),
            }
        }
        if self.keys_expired(now, config) {
            return Fate::End(DownReason::KeysExpired, None);
        }
        if now >= self.lane_deadline() {
            self.outgoing.on_timeout(now);
        }
        if self.may_probe() && self.mtu.on_timeout(now, self.loss_permille) {
            self.tell_path(events);
        }
        if let Some(before) = self.path.on_timeout(now) {
            self.on_moved(before, events);
        }
        if self.rekey.is_some() && now < self.next_rekey(config) {
            // The other end was quicker.
            gone.extend(self.rekey.take().iter().flat_map(Initiation::indices));
        }
        let before = gone.len();
        let lifetime = config.rekey_after + RECEIVE_GRACE;
        self.epochs.retain(|epoch| {
            let keep = now < epoch.since + lifetime;
            if !keep {
                gone.push(epoch.index());
            }
            keep
        });
        if gone.len() > before {
            self.choose();
        }
        Fate::Keep
    }

    /// Whether a handshake of ours is to be attempted now.
    pub(super) fn wants_attempt(&self, now: Time, config: &NativeConfig) -> bool {
        now >= self.rekey_deadline(config)
    }

    /// When to attempt a handshake that replaces the keys in use, or to attempt it again.
    fn rekey_deadline(&self, config: &NativeConfig) -> Time {
        match &self.rekey {
            Some(initiation) => initiation.deadline(),
            None => self.next_rekey(config),
        }
    }

    /// When the keys in use are to be replaced.
    fn next_rekey(&self, config: &NativeConfig) -> Time {
        let Some(epoch) = self.sending.and_then(|at| self.epochs.get(at)) else {
            return Time::FAR_FUTURE;
        };
        let age = match epoch.initiated {
            true => config.rekey_after,
            false => config.rekey_after * 5 / 4,
        };
        let due = match epoch.sender.is_worn() || epoch.sender.count() >= config.rekey_after_packets
        {
            true => epoch.since,
            false => epoch.since + age,
        };
        let proposed = self.epochs.iter().filter(|other| !other.is_active());
        proposed.fold(due, |due, other| due.max(other.since + CONFIRMATION))
    }

    fn keys_expired(&self, now: Time, config: &NativeConfig) -> bool {
        let Some(epoch) = self.sending.and_then(|at| self.epochs.get(at)) else {
            return false;
        };
        epoch.sender.is_exhausted() || now >= epoch.since + config.rekey_after + SEND_GRACE
    }

    /// A handshake of ours is finished: stop attempting.
    pub(super) fn on_rekeyed(&mut self) -> Option<Initiation> {
        self.rekeys += 1;
        self.rekey.take()
    }

    /// Choose the epoch to send with.
    fn choose(&mut self) {
        let mut best: Option<usize> = None;
        for (at, epoch) in self.epochs.iter().enumerate() {
            let better = best
                .and_then(|best| self.epochs.get(best))
                .is_none_or(|best| epoch.is_better_than(best));
            if epoch.is_active() && better {
                best = Some(at);
            }
        }
        self.sending = best;
    }

    /// Whether an epoch was made from this first message.
    pub(super) fn has_answered(&self, first_message: &[u8; 32]) -> bool {
        let mut epochs = self.epochs.iter();
        epochs.any(|epoch| epoch.first_message.as_ref() == Some(first_message))
    }

    /// The next datagram of control.
    pub(super) fn poll_transmit(
        &mut self,
        now: Time,
        rng: &mut Rng,
        out: &mut Vec<u8>,
    ) -> Option<SocketAddr> {
        out.clear();
        out.resize(SEALED_AT, 0);
        if let Some(address) = self.write_challenge(now, out) {
            return Some(address);
        }
        for at in 0..self.epochs.len() {
            if Some(at) != self.sending && self.epochs[at].must_speak(now) {
                self.write_confirmation(at, now, rng, out);
                return self.finish(at, now, out);
            }
        }
        let at = self.sending?;
        self.write_frames(at, now, rng, out);
        if out.len() > SEALED_AT {
            return self.finish(at, now, out);
        }
        if self.may_probe()
            && let Some(size) = self.mtu.poll_probe()
        {
            let id = self.echoes.send(now, Some(size), rng);
            Frame::EchoRequest { id }.write(out);
            out.resize(usize::from(size), 0);
            self.mtu.on_probe_sent(now, self.rtt.timeout());
            return self.finish(at, now, out);
        }
        None
    }

    /// The last datagram of a link that ends.
    pub(super) fn write_close(
        &mut self,
        code: CloseCode,
        now: Time,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let at = self.sending?;
        let mut out = vec![0; SEALED_AT];
        Frame::Close { code: code as u8 }.write(&mut out);
        let to = self.finish(at, now, &mut out)?;
        Some((to, out))
    }

    fn write_challenge(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let at = self.sending?;
        let (token, address) = self.path.poll_challenge(now, CHALLENGE_LEN, &self.rtt)?;
        Frame::PathChallenge { token }.write(out);
        let epoch = self.epochs.get_mut(at)?;
        datagram::seal(&mut epoch.sender, CONTROL, out).ok()?;
        Some(address)
    }

    fn write_confirmation(&mut self, at: usize, now: Time, rng: &mut Rng, out: &mut Vec<u8>) {
        let Some(epoch) = self.epochs.get_mut(at) else {
            return;
        };
        if let Some(frame) = epoch.instance(self.instance) {
            frame.write(out);
        }
        let id = self.echoes.send(now, None, rng);
        Frame::EchoRequest { id }.write(out);
        let address = self.path.address();
        Frame::Observed { address }.write(out);
        if self.sending.is_none() {
            // Before a link is up this is all that is said.
            self.ask = false;
            while let Some(id) = self.echo_replies.pop_front() {
                Frame::EchoReply { id }.write(out);
            }
        }
    }

    fn write_frames(&mut self, at: usize, now: Time, rng: &mut Rng, out: &mut Vec<u8>) {
        let size = usize::from(pmtu::BASE);
        let Some(epoch) = self.epochs.get_mut(at) else {
            return;
        };
        let must_speak = std::mem::take(&mut self.speak) || epoch.must_speak(now);
        if let Some(frame) = epoch.instance(self.instance) {
            frame.write(out);
            self.report |= now >= self.next_report;
        }
        let reception = (epoch.receiver.highest(), epoch.receiver.accepted());
        let before = out.len();
        if self.incoming.ack_due() {
            self.incoming.take_ack().write(out);
        }
        while let Some(id) = self.echo_replies.pop_front() {
            Frame::EchoReply { id }.write(out);
        }
        while let Some(token) = self.responses.pop_front() {
            Frame::PathResponse { token }.write(out);
        }
        if std::mem::take(&mut self.ask) {
            let id = self.echoes.send(now, None, rng);
            Frame::EchoRequest { id }.write(out);
        }
        let lane_at = out.len();
        self.outgoing.write(out, size, now);
        if out.len() > lane_at {
            self.liveness.on_sent(now);
        }
        if out.len() == before && !must_speak {
            // Our incarnation alone says nothing that the next datagram will not.
            out.truncate(SEALED_AT);
            return;
        }
        if std::mem::take(&mut self.report) {
            self.next_report = now + REPORT_INTERVAL;
            let (highest, received) = reception;
            let address = self.path.address();
            Frame::Observed { address }.write(out);
            Frame::Report { highest, received }.write(out);
        }
    }

    fn finish(&mut self, at: usize, now: Time, out: &mut [u8]) -> Option<SocketAddr> {
        let epoch = self.epochs.get_mut(at)?;
        datagram::seal(&mut epoch.sender, CONTROL, out).ok()?;
        epoch.on_spoken(now, &self.rtt);
        Some(self.path.admit(out.len()))
    }

    fn on_ask(&mut self, now: Time) {
        self.ask = true;
        if self.sending.is_none()
            && let Some(epoch) = self.epochs.last_mut()
        {
            epoch.confirm_now(now);
        }
    }

    /// This link for those who look; `None` until it is up.
    pub(super) fn snapshot(&self, now: Time) -> Option<LinkSnapshot> {
        let epoch = self.sending.and_then(|at| self.epochs.get(at))?;
        Some(LinkSnapshot {
            link: self.id,
            remote_key: self.remote_key,
            address: self.path.address(),
            rtt: self.rtt.rtt(),
            loss_permille: self.loss_permille,
            max_frame: self.max_frame(),
            suite: epoch.suite,
            age: now.since(self.up_since?),
            rekeys: self.rekeys,
            control_waiting: self.outgoing.len(),
            control_repeated: self.outgoing.repeated(),
            control_duplicates: self.incoming.duplicates(),
        })
    }
}

/// Open a sealed datagram of any type in place; its counter. What does not open is counted.
pub(super) fn open(
    receiver: &mut Receiver,
    header: Header,
    bytes: &mut [u8],
    stats: &mut NativeStats,
) -> Option<u64> {
    let opened = match header.kind {
        kind if DataClass::of_datagram(kind).is_some() => {
            datagram::open_data(receiver, header, bytes)
        }
        _ => datagram::open(receiver, header, bytes),
    };
    match opened {
        Ok(counter) => Some(counter),
        Err(error) => {
            match error {
                ReceiveError::Replay(_) => stats.replayed += 1,
                _ => stats.unauthentic += 1,
            }
            None
        }
    }
}

#[cfg(test)]
mod tests;

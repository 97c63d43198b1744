//! What sessions do when time goes by.

use crate::session::config::{Policy, RETRY, V1_VERDICT};
use crate::time::{Duration, Time};

use super::{Action, CONFIRM_AGAIN, Sessions};

/// Hosts that sent nothing for so long do not need a session any more.
const HOST_PATIENCE: Duration = Duration::from_secs(5);

impl Sessions {
    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let timer = self.timers.first().map(|&(at, _)| at);
        let line = self.budgets.poll_timeout();
        [timer, line, self.half_open.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Do what is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        for index in self.half_open.expire(now) {
            self.by_index.remove(&u64::from(index));
        }
        self.answer_in_turn(now);
        while let Some(&(at, slot)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(Some(remote)) = self.remotes.get_mut(slot) {
                remote.armed = None;
                self.service(slot, now);
            }
        }
    }

    pub(super) fn service(&mut self, slot: usize, now: Time) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        let gone = remote.expire(now);
        if remote.owes(now) {
            remote.on_sent_empty();
            self.actions.push_back(Action::Empty {
                slot,
                confirm: false,
            });
        }
        if let Some((at, times)) = remote.confirm
            && at <= now
        {
            remote.confirm = CONFIRM_AGAIN
                .get(usize::from(times) + 1)
                .map(|&pause| (now + pause, times + 1));
            self.actions.push_back(Action::Empty {
                slot,
                confirm: false,
            });
        }
        let must = self.policy == Policy::Require || self.pins.key(remote.pair.1).is_some();
        let mut initiate = false;
        if !remote.sessions.is_empty() && remote.is_unheard(now) && now >= remote.quiet_until {
            initiate = true;
        }
        if remote.retry_at.is_some_and(|at| at <= now) {
            remote.retry_at = None;
            let waited = remote
                .waiting_since
                .map_or(Duration::ZERO, |since| now.since(since));
            if !must && waited >= V1_VERDICT {
                remote.on_v1_verdict(now);
                let subnet = remote.pair.1;
                self.stats.v1_verdicts += 1;
                self.actions.push_back(Action::Ready(subnet));
            } else if now.since(remote.last_host) < HOST_PATIENCE {
                initiate = true;
                let next = match remote.attempts.len() {
                    0 | 1 => now + RETRY,
                    _ => remote.quiet_until.max(now + RETRY),
                };
                remote.retry_at = Some(next);
            } else {
                remote.waiting_since = None;
            }
        }
        for index in gone {
            self.by_index.remove(&u64::from(index));
        }
        if initiate {
            self.initiate(slot, now);
        }
        self.arm(slot);
    }

    /// Set the timer of `slot`, unless it is set early enough.
    #[inline]
    pub(super) fn arm(&mut self, slot: usize) {
        let Some(Some(remote)) = self.remotes.get_mut(slot) else {
            return;
        };
        let Some(due) = remote.next_due() else {
            return;
        };
        if remote.armed.is_some_and(|armed| armed <= due) {
            return;
        }
        if let Some(armed) = remote.armed.replace(due) {
            self.timers.remove(&(armed, slot));
        }
        self.timers.insert((due, slot));
    }
}

//! Whether an upstream may be asked: open, or resting with one probe at a time.
//!
//! It shuts when the callee is not reached, and when so many different events fail in a row that the callee must be
//! the reason. Nobody's attempts are burned by that.

use std::time::{Duration, Instant};

use super::lanes::LaneId;
use crate::{outbox::Seq, resilience::Backoff};

/// So many different events fail, and none is taken between them: the callee is at fault, not they.
const DIFFERENT: usize = 5;

#[derive(Debug, Default)]
pub struct Gate {
    state: State,
    /// Rests in a row.
    rests: u32,
    /// Who failed since something was taken, and how often.
    failing: Vec<(LaneId, Seq, u32)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Open,
    Resting(Instant),
    /// One is on its way to see.
    Probing,
}

impl Gate {
    /// Whether one may pass, and as a probe.
    pub fn pass(&mut self, now: Instant) -> Option<bool> {
        match self.state {
            State::Open => Some(false),
            State::Resting(until) if until <= now => {
                self.state = State::Probing;
                Some(true)
            }
            State::Resting(_) | State::Probing => None,
        }
    }

    /// When a probe may pass.
    pub fn opens_at(&self) -> Option<Instant> {
        match self.state {
            State::Resting(until) => Some(until),
            State::Open | State::Probing => None,
        }
    }

    /// The callee took an event or refused it for good: it is there.
    pub fn reached(&mut self) {
        self.state = State::Open;
        self.rests = 0;
        self.failing.clear();
    }

    /// A probe came to nothing before it asked: another may go.
    pub fn unasked(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Resting(now);
        }
    }

    /// The callee was not reached.
    pub fn unreached(&mut self, now: Instant, backoff: &Backoff) {
        // Those that were under way when it shut tell nothing new.
        if !matches!(self.state, State::Resting(_)) {
            self.rest(now, backoff);
        }
    }

    /// An event failed in a way that may pass. Returns whom to give attempts back, and how many.
    pub fn failed(
        &mut self,
        lane: LaneId,
        seq: Seq,
        now: Instant,
        backoff: &Backoff,
    ) -> Vec<(LaneId, Seq, u32)> {
        match self.state {
            State::Probing => {
                self.rest(now, backoff);
                return Vec::new();
            }
            // Under way when the gate shut: it burned nothing either.
            State::Resting(_) => return vec![(lane, seq, 1)],
            State::Open => {}
        }
        match self.failing.iter_mut().find(|(_, known, _)| *known == seq) {
            Some((_, _, failures)) => *failures += 1,
            None => self.failing.push((lane, seq, 1)),
        }
        if self.failing.len() < DIFFERENT {
            return Vec::new();
        }
        self.rest(now, backoff);
        std::mem::take(&mut self.failing)
    }

    fn rest(&mut self, now: Instant, backoff: &Backoff) {
        self.rests = self.rests.saturating_add(1);
        // At least half the ceiling: a probe at once would tell nothing.
        let ceiling = backoff.ceiling(self.rests);
        let wait = ceiling.mul_f64(0.5 + 0.5 * fastrand::f64());
        self.state = State::Resting(now + wait.max(Duration::from_millis(1)));
    }
}

//! The deliveries from one open store: what is pending, what is under way, and what came of it.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::task::{Id, JoinError, JoinSet};

use super::{
    Callee, Parked, WRITE_AGAIN,
    attempt::{Ctx, Landed},
};
use crate::{
    events::lanes::{LaneId, Lanes, lane_of},
    outbox::{DeadReason, Failure, OutboxError, Outcome, Pending, Seq, Wall},
};

/// Pending events read in one turn of the writer.
const CHUNK: usize = 4096;
/// Deaths alone in flight after which an event is not tried again.
const DEATHS: u32 = 3;

/// The deliveries from one open store.
pub(super) struct Round<C> {
    pub(super) lanes: Lanes,
    pub(super) ctx: Rc<Ctx<C>>,
    pub(super) parked: Parked,
    pub(super) flights: JoinSet<(LaneId, Landed)>,
    pub(super) lane_of: HashMap<Id, (LaneId, u32)>,
    /// Everything up to here was read from the store.
    pub(super) read: Seq,
    /// Replays that were read there: their news come as well.
    pub(super) replays: HashSet<(Seq, u32)>,
    /// Where those wait that were under way at a death.
    pub(super) suspected: HashMap<Seq, LaneId>,
}

impl<C: Callee> Round<C> {
    /// Reads all that is pending. To be called with empty lanes, or behind [`Lanes::forget`].
    pub(super) async fn read_all(&mut self) {
        let mut after = Seq::START;
        loop {
            match self.ctx.store.pending(after, CHUNK).await {
                Ok(chunk) => {
                    let Some(last) = chunk.last() else { return };
                    after = last.seq;
                    self.read = self.read.max(after);
                    for pending in &chunk {
                        if pending.replays > 0 {
                            self.replays.insert((pending.seq, pending.replays));
                        }
                        if let Some(lane) = self.suspected.get_mut(&pending.seq) {
                            *lane = lane_of(pending);
                        }
                        if !self.lanes.is_flying(pending) {
                            self.take(pending);
                        }
                    }
                }
                Err(OutboxError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "pending events cannot be read now");
                    tokio::time::sleep(WRITE_AGAIN.1).await;
                }
            }
        }
    }

    pub(super) fn admit(&mut self, batch: &[Pending]) {
        for pending in batch {
            let known = match pending.replays {
                0 => pending.seq <= self.read,
                replays => {
                    self.ctx.metrics.dead.remove(pending.seq);
                    self.replays.remove(&(pending.seq, replays))
                }
            };
            if !known {
                self.take(pending);
            }
        }
    }

    fn take(&mut self, pending: &Pending) {
        let fresh = self.lanes.admit(pending, Instant::now(), Wall::now());
        if fresh && !self.ctx.callee.knows(&pending.upstream) {
            self.lanes.park(&pending.upstream, true);
            self.parked.are(self.lanes.parked());
        }
    }

    /// What was under way when a process died: one at a time, before all others.
    pub(super) async fn suspects(&mut self) {
        for suspect in self.ctx.store.suspects().to_vec() {
            let Some(lane) = self.suspected.get(&suspect.seq).copied() else {
                continue;
            };
            let Some(start) = self.lanes.start(lane) else {
                continue;
            };
            if start.seq != suspect.seq {
                self.lanes
                    .put_back(lane, Duration::ZERO, Instant::now(), Wall::now());
                continue;
            }
            let landed = match suspect.alone {
                DEATHS.. => {
                    let failure = Failure {
                        reason: DeadReason::Crash,
                        attempts: start.attempts,
                        status: None,
                        error: format!(
                            "the sidecar died {} times while this alone was under way",
                            suspect.alone
                        ),
                        excerpt: Bytes::new(),
                    };
                    self.ctx.bury(&start, failure).await;
                    Landed::Done { reached: false }
                }
                _ if !self.ctx.callee.knows(&start.upstream) => Landed::PutBack,
                _ => self.ctx.deliver(&start).await,
            };
            if let Landed::Waits | Landed::PutBack = landed {
                // It failed in an ordinary way: no suspect any more.
                let outcome = Outcome::Retry {
                    attempts: start.attempts,
                    due: Wall::now(),
                    error: "the callee was not reached".to_owned(),
                };
                self.ctx.write(start.seq, &outcome).await;
            }
            self.settle(lane, landed);
        }
    }

    /// Starts all that may go.
    pub(super) fn start(&mut self) {
        let (now, wall) = (Instant::now(), Wall::now());
        while let Some(start) = self.lanes.next(now, wall) {
            let (lane, attempts) = (start.lane, start.attempts);
            let ctx = self.ctx.clone();
            let task = self
                .flights
                .spawn_local(async move { (start.lane, ctx.deliver(&start).await) });
            self.lane_of.insert(task.id(), (lane, attempts));
        }
    }

    pub(super) fn land(&mut self, landed: Result<(Id, (LaneId, Landed)), JoinError>) {
        match landed {
            Ok((task, (lane, landed))) => {
                self.lane_of.remove(&task);
                self.settle(lane, landed);
            }
            Err(error) => {
                tracing::error!(%error, "a delivery broke off by a bug of ours");
                if let Some((lane, attempts)) = self.lane_of.remove(&error.id()) {
                    let (attempts, wait) = (attempts + 1, WRITE_AGAIN.1);
                    self.settle(lane, Landed::Later { attempts, wait });
                }
            }
        }
    }

    fn settle(&mut self, lane: LaneId, landed: Landed) {
        let now = Instant::now();
        match landed {
            Landed::Done { reached } => self.lanes.done(lane, reached, now, Wall::now()),
            Landed::Later { attempts, wait } => {
                self.lanes.later(lane, attempts, wait, now, Wall::now());
            }
            Landed::Waits => self.lanes.waits(lane, now),
            Landed::PutBack => self.lanes.put_back(lane, WRITE_AGAIN.1, now, Wall::now()),
        }
    }

    /// Waits for what is under way.
    pub(super) async fn finish(&mut self) {
        while let Some(landed) = self.flights.join_next_with_id().await {
            self.land(landed);
        }
    }
}

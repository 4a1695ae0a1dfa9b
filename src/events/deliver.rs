//! An event becomes the call that it was, until the callee has taken it or it is a dead letter.
//!
//! One task loads what is pending, follows what becomes so, and starts what `lanes` allows; each delivery is a task of
//! its own. What was under way when a process died goes first and alone. Stopping is not failing: a delivery that is
//! cut burns nothing and comes again.

mod attempt;
mod letters;
mod round;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::{sync::watch, task::JoinSet};

use super::{
    lanes::{LaneId, Lanes, Rules},
    metrics::Metrics,
    vault::{Access, Opened, Vault},
    verdict::Answer,
};
use crate::{
    drain::{Drain, Stage},
    fault::Fault,
    outbox::{Announcements, News, Seq, Store},
};
use attempt::Ctx;
use letters::{count_letters, follow_letters};
use round::Round;

/// How often a store that is held by another process is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Waits between writes that the store refuses.
const WRITE_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Makes calls: the upstreams, as delivery sees them.
pub trait Callee: 'static {
    /// Whether the routing file names this upstream.
    fn knows(&self, upstream: &str) -> bool;
    /// One try, its answer read to the end. Dropping the future cancels it.
    fn call(&self, upstream: &str, call: Call) -> impl Future<Output = Result<Answer, Fault>>;
}

/// A stored call, made again.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// With `Host` and without framing.
    pub headers: HeaderMap,
    pub body: Bytes,
    pub http2: bool,
    pub grpc: bool,
}

/// Upstreams with pending events that the routing file does not name.
#[derive(Clone, Default)]
pub struct Parked(Arc<Mutex<BTreeSet<Arc<str>>>>);

impl Parked {
    pub fn list(&self) -> Vec<Arc<str>> {
        let parked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parked.iter().cloned().collect()
    }

    fn are<'a>(&self, now: impl Iterator<Item = &'a Arc<str>>) {
        let mut parked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now: BTreeSet<Arc<str>> = now.cloned().collect();
        for upstream in now.difference(&parked) {
            tracing::error!(%upstream, "events for an upstream that the file no longer names are parked");
        }
        *parked = now;
    }
}

/// The delivery of one process. Runs on a local runtime.
pub struct Delivery<C> {
    pub vault: Vault,
    pub callee: Rc<C>,
    pub rules: watch::Receiver<Rules>,
    pub metrics: Metrics,
    pub parked: Parked,
    pub drain: Drain,
}

impl<C: Callee> Delivery<C> {
    /// Delivers until the drain is over: from `Draining` on nothing starts, at `Forced` what is under way is cut.
    pub async fn run(mut self) {
        let mut access = self.vault.follow();
        loop {
            let now = access.borrow_and_update().clone();
            if let Access::Open(store) = now {
                self.session(store).await;
                return;
            }
            tokio::select! {
                () = self.drain.reached(Stage::Draining) => return,
                changed = access.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(ASK_AGAIN) => {
                    if self.vault.is_awaited() && self.vault.open(true) == Opened::Yes {
                        tracing::info!("the outbox is free: deferred calls are taken again");
                    }
                }
            }
        }
    }

    async fn session(&mut self, store: Store) {
        let Some(mut news) = store.announcements() else {
            tracing::error!("somebody else delivers from this outbox");
            return;
        };
        let _hold = self.drain.hold();
        let suspected = store.suspects().iter();
        let suspected: HashMap<Seq, LaneId> = suspected
            .map(|suspect| (suspect.seq, LaneId::Alone(suspect.seq)))
            .collect();
        let ctx = Rc::new(Ctx {
            courier: store.courier(),
            store: store.clone(),
            callee: self.callee.clone(),
            metrics: self.metrics.clone(),
        });
        let mut round = Round {
            suspected,
            lanes: Lanes::new(self.rules.borrow_and_update().clone()),
            ctx,
            parked: self.parked.clone(),
            flights: JoinSet::new(),
            lane_of: HashMap::new(),
            read: Seq::START,
            replays: HashSet::new(),
        };
        let (drain, metrics) = (self.drain.clone(), self.metrics.clone());
        tokio::select! {
            () = drain.reached(Stage::Draining) => {}
            () = self.deliver(&mut round, &mut news) => {}
            () = follow_letters(&store, &metrics) => {}
        }
        tokio::select! {
            () = drain.reached(Stage::Forced) => {}
            () = round.finish() => {}
        }
    }

    async fn deliver(&mut self, round: &mut Round<C>, news: &mut Announcements) {
        count_letters(&round.ctx.store, &self.metrics).await;
        round.read_all().await;
        round.suspects().await;
        loop {
            round.start();
            let timer = round.lanes.wake_at();
            let timer = async {
                match timer {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(landed) = round.flights.join_next_with_id() => {
                    round.land(landed);
                    while let Some(landed) = round.flights.try_join_next_with_id() {
                        round.land(landed);
                    }
                }
                told = news.next() => match told {
                    Some(News::Batch(batch)) => round.admit(&batch),
                    Some(News::Gap) => {
                        round.lanes.forget();
                        round.read_all().await;
                    }
                    None => return,
                },
                () = timer => {}
                changed = self.rules.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let rules = self.rules.borrow_and_update().clone();
                    round.lanes.follow(rules, |upstream| self.callee.knows(upstream));
                    round.parked.are(round.lanes.parked());
                }
            }
        }
    }
}

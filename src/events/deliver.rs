//! An event becomes the call that it was, until the callee has taken it or it is a dead letter.
//!
//! One task loads what is pending, follows what becomes so, and starts what `lanes` allows; each delivery is a task of
//! its own. What was under way when a process died goes first and alone. Stopping is not failing: a delivery that is
//! cut burns nothing and comes again.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
};

use super::{
    event::Request,
    lanes::{LaneId, Lanes, Rules, Start, lane_of},
    metrics::Metrics,
    vault::{Access, Opened, Vault},
    verdict::{self, Answer, Verdict},
};
use crate::{
    drain::{Drain, Stage},
    fault::Fault,
    outbox::{
        Announcements, Courier, DeadReason, Event, Failure, LetterFilter, LetterState, News,
        OutboxError, Outcome, Pending, Seq, State, Store, Wall, crash,
    },
};

/// How often a store that is held by another process is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// How often the count of dead letters is compared with the ledger.
const COUNT_AGAIN: Duration = Duration::from_secs(2);
/// Pending events read in one turn of the writer.
const CHUNK: usize = 4096;
/// Deaths alone in flight after which an event is not tried again.
const DEATHS: u32 = 3;
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

/// What every delivery needs.
struct Ctx<C> {
    store: Store,
    courier: Courier,
    callee: Rc<C>,
    metrics: Metrics,
}

/// The deliveries from one open store.
struct Round<C> {
    lanes: Lanes,
    ctx: Rc<Ctx<C>>,
    parked: Parked,
    flights: JoinSet<(LaneId, Landed)>,
    lane_of: HashMap<Id, (LaneId, u32)>,
    /// Everything up to here was read from the store.
    read: Seq,
    /// Replays that were read there: their news come as well.
    replays: HashSet<(Seq, u32)>,
    /// Where those wait that were under way at a death.
    suspected: HashMap<Seq, LaneId>,
}

/// What came of one delivery.
#[derive(Debug)]
enum Landed {
    /// It is finished, and that is on disk.
    Done { reached: bool },
    /// It failed in a way that may pass.
    Later { attempts: u32, wait: Duration },
    /// The callee was not reached.
    Waits,
    /// Nothing was tried, for a reason of ours.
    PutBack,
}

impl<C: Callee> Round<C> {
    /// Reads all that is pending. To be called with empty lanes, or behind [`Lanes::forget`].
    async fn read_all(&mut self) {
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

    fn admit(&mut self, batch: &[Pending]) {
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
    async fn suspects(&mut self) {
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
    fn start(&mut self) {
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

    fn land(&mut self, landed: Result<(Id, (LaneId, Landed)), JoinError>) {
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
    async fn finish(&mut self) {
        while let Some(landed) = self.flights.join_next_with_id().await {
            self.land(landed);
        }
    }
}

impl<C: Callee> Ctx<C> {
    async fn deliver(&self, start: &Start) -> Landed {
        let event = match self.courier.load(start.seq).await {
            Ok(Some(event)) => event,
            Ok(None) => return Landed::Done { reached: false },
            Err(OutboxError::Damaged { .. }) => {
                let (route, seq) = (&start.route, start.seq);
                self.metrics.died(route, seq, DeadReason::Damaged);
                return Landed::Done { reached: false };
            }
            Err(_) => return Landed::PutBack,
        };
        let now = Wall::now();
        if start.expired || event.expiry.is_some_and(|expiry| expiry <= now) {
            return self.expire(start, &event).await;
        }
        let request = match Request::decode(&event.head) {
            Ok(request) => request,
            Err(error) => {
                let failure = failure(DeadReason::Damaged, start.attempts, error.to_string());
                self.bury(start, failure).await;
                return Landed::Done { reached: false };
            }
        };
        let (grpc, dropped) = (request.grpc, request.dropped.clone());
        let call = call(request, &event, start.attempts + 1);
        crash::point("before-delivery");
        let ticket = self.store.flight().depart(start.seq);
        crash::point("in-flight");
        let began = Instant::now();
        let tried = self.callee.call(&start.upstream, call);
        let answered = tokio::time::timeout(start.rule.timeout, tried).await;
        let (verdict, answer) = match &answered {
            Ok(Ok(answer)) => (verdict::of_answer(answer, grpc, &dropped), Some(answer)),
            Ok(Err(fault)) => (verdict::of_fault(fault), None),
            Err(_) => {
                let why = format!("no answer within {:?}", start.rule.timeout);
                (Verdict::Later { after: None, why }, None)
            }
        };
        drop(ticket);
        crash::point("after-answer");
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        self.conclude(start, &event, verdict, answer).await
    }

    /// Writes down what the verdict makes of the event.
    async fn conclude(
        &self,
        start: &Start,
        event: &Event,
        verdict: Verdict,
        answer: Option<&Answer>,
    ) -> Landed {
        let status = answer.map(|answer| answer.status);
        let attempts = start.attempts + 1;
        let count = |outcome| self.metrics.delivered(&start.route, outcome).inc();
        let dead = |reason, error| Failure {
            status,
            excerpt: answer
                .map(|answer| answer.excerpt.clone())
                .unwrap_or_default(),
            ..failure(reason, attempts, error)
        };
        match verdict {
            Verdict::Done => {
                let age = Wall::now().since(event.accepted);
                self.metrics.age.observe(age.as_secs_f64());
                let status = status.unwrap_or_default();
                self.write(start.seq, &Outcome::Delivered { attempts, status })
                    .await;
                count("done");
                Landed::Done { reached: true }
            }
            Verdict::Dead { why } => {
                self.bury(start, dead(DeadReason::Rejected, why)).await;
                Landed::Done { reached: true }
            }
            Verdict::Waits { why } => {
                count("waiting");
                tracing::debug!(id = %event.id, upstream = %start.upstream, %why, "the callee is not reached");
                Landed::Waits
            }
            Verdict::Later { after, .. } if start.probe => {
                count("waiting");
                let wait = start.rule.wait(start.attempts.max(1), after);
                let attempts = start.attempts;
                Landed::Later { attempts, wait }
            }
            Verdict::Later { why, .. } if attempts >= start.rule.attempts => {
                self.bury(start, dead(DeadReason::Exhausted, why)).await;
                Landed::Done { reached: false }
            }
            Verdict::Later { after, why } => {
                count("later");
                let wait = start.rule.wait(attempts, after);
                let due = Wall::now().after(wait);
                let error = why;
                let outcome = Outcome::Retry {
                    attempts,
                    due,
                    error,
                };
                self.write(start.seq, &outcome).await;
                Landed::Later { attempts, wait }
            }
        }
    }

    async fn expire(&self, start: &Start, event: &Event) -> Landed {
        let error = match &event.last_error {
            Some(last) => format!("its time ran out; last: {last}"),
            None => "its time ran out".to_owned(),
        };
        let failure = failure(DeadReason::Expired, start.attempts, error);
        self.bury(start, failure).await;
        Landed::Done { reached: false }
    }

    /// Makes a dead letter of it; returns once that is on disk.
    async fn bury(&self, start: &Start, failure: Failure) {
        let reason = failure.reason;
        tracing::warn!(route = %start.route, upstream = %start.upstream, reason = reason.word(), error = %failure.error, "a deferred call is a dead letter");
        if self.write(start.seq, &Outcome::Dead(failure)).await {
            self.metrics.died(&start.route, start.seq, reason);
            self.metrics.delivered(&start.route, "dead").inc();
        }
    }

    /// Records an outcome, as often as it takes: the key waits, because what is not on disk did not happen.
    async fn write(&self, seq: Seq, outcome: &Outcome) -> bool {
        let (mut wait, longest) = WRITE_AGAIN;
        loop {
            match self.courier.finish(seq, outcome.clone()).await {
                Ok(()) => return true,
                Err(OutboxError::Closed) => return false,
                Err(error) => {
                    tracing::error!(%error, "what came of a delivery cannot be written; its key waits");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(longest);
                }
            }
        }
    }
}

/// Counts the dead letters that wait, in pages.
async fn count_letters(store: &Store, metrics: &Metrics) {
    let mut after = Seq::START;
    while let Ok(page) = store.letters(LetterFilter::default(), after, 1000).await
        && let Some(last) = page.last()
    {
        after = last.id.seq();
        for letter in &page {
            if letter.state == LetterState::Pending {
                let dead = &metrics.dead;
                dead.add(&letter.route, letter.id.seq(), letter.last_failure);
            }
        }
    }
}

/// What people decided about dead letters is told by the ledger alone: where it says otherwise, they are counted anew.
async fn follow_letters(store: &Store, metrics: &Metrics) {
    let waiting = || {
        let ledger = store.figures().ledger;
        let waits = |state: &State| matches!(state, State::Dead | State::Expired);
        let counts = ledger.iter().filter(|(state, _)| waits(state));
        counts.map(|(_, count)| *count).sum::<u64>()
    };
    loop {
        tokio::time::sleep(COUNT_AGAIN).await;
        if waiting() != metrics.dead.count() {
            metrics.dead.clear();
            count_letters(store, metrics).await;
        }
    }
}

fn failure(reason: DeadReason, attempts: u32, error: String) -> Failure {
    Failure {
        reason,
        attempts,
        status: None,
        error,
        excerpt: Bytes::new(),
    }
}

/// The stored call with what says that it is one.
fn call(request: Request, event: &Event, attempt: u32) -> Call {
    let kind = request.event_type();
    let mut headers = request.headers;
    let text =
        |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    let id = text(&event.id.to_string());
    headers.insert(header::HOST, text(&request.authority));
    if request.grpc {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // A call that is an event already keeps its own name.
    let ce_id = HeaderName::from_static("ce-id");
    if !headers.contains_key(&ce_id) {
        headers.insert(ce_id, id.clone());
        headers.insert("ce-source", text(&request.source));
        headers.insert("ce-type", HeaderValue::from_static(kind));
        headers.insert("ce-specversion", HeaderValue::from_static("1.0"));
    }
    // After an edit: the event that this one took the place of.
    if let Some(cause) = &event.cause {
        headers.insert("ce-causationid", text(&cause.to_string()));
    }
    headers.insert("idempotency-key", id);
    headers.insert("x-weft-attempt", HeaderValue::from(attempt));
    Call {
        method: request.method,
        target: request.target,
        headers,
        body: event.body.clone(),
        http2: request.http2,
        grpc: request.grpc,
    }
}

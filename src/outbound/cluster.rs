//! One upstream as one worker sees it: choose an endpoint, get a connection, try, and perhaps try again.
//!
//! Estimates and connections are this worker's own; limits, budget and ejections are the process's (`Upstream`).
//! The way of a call that meets a warm connection and a good answer has no lock and no wait but the callee's.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, header};
use http_body::Body as _;
use tokio::sync::{Notify, watch};

use super::{
    Panic, Protocol,
    endpoint::{Endpoint, Try},
    upstream::{Members, Upstream},
};
use crate::{
    balance::{Picker, Policy as Balancing},
    fault::{Class, Fault, Reason, Side},
    http::{
        Body, RequestBody, Trail,
        body::{Peek, grpc_status},
        client::{self, Keeping, Landlord, Lease, Outgoing, Peer},
        replay::Record,
        tick::Tick,
    },
    net,
    resilience::{self, Deadline, Decision, Kept, Policy, Probe},
};

/// How long an idle HTTP/1.1 connection is kept: shorter than Node's 5 s, so that none is reused as it closes.
const IDLE: Duration = Duration::from_secs(3);
/// How long a call waits for a connection below `limits.connections`, where it has no deadline of its own.
const PENDING: Duration = Duration::from_secs(30);
/// How long a gRPC answer's head is held to see whether the trailers follow at once.
const PEEK: Duration = Duration::from_millis(100);
/// What is read of an answer that another try replaces, so that its connection can be kept.
const DRAIN: (usize, Duration) = (64 * 1024, Duration::from_secs(1));

pub struct Cluster {
    upstream: Arc<Upstream>,
    endpoints: RefCell<Rc<[Rc<Endpoint>]>>,
    picker: Picker,
    rng: RefCell<fastrand::Rng>,
    freed: Rc<Freed>,
    tick: Rc<Tick>,
    interim: prometheus::IntCounter,
    _watchers: RefCell<Vec<Owned>>,
}

/// Tells calls that wait for a connection that one is free.
struct Freed {
    upstream: Arc<Upstream>,
    notify: Notify,
    waiting: Cell<u32>,
    /// The last connection that both we and another worker wanted went to the other.
    gave: Cell<bool>,
    interim: prometheus::IntCounter,
}

impl Landlord for Freed {
    fn wants_back(&self) -> bool {
        let starving = self.upstream.breaker.connections().waiting();
        let own = self.waiting.get() as usize;
        if own == 0 || starving <= own {
            return starving > own;
        }
        // Calls wait here and elsewhere: every other connection goes to the others.
        !self.gave.replace(!self.gave.get())
    }

    fn freed(&self) {
        if self.waiting.get() > 0 {
            self.notify.notify_one();
        }
    }

    fn changed(&self) {
        self.notify.notify_waiters();
    }

    fn interim(&self, count: u16) {
        self.interim.inc_by(count.into());
    }
}

/// A task of the worker that ends with its owner.
struct Owned(tokio::task::JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A call as the cluster needs it.
pub struct Call<'a> {
    pub outgoing: Outgoing<'a>,
    pub body: RequestBody,
    /// The caller speaks HTTP/2; `protocol: auto` follows it.
    pub http2: bool,
    pub grpc: bool,
    pub retry: &'a Policy,
    /// One try's time.
    pub backend_request: Option<Duration>,
    pub deadline: Deadline,
    pub trail: &'a mut Trail,
}

impl Cluster {
    /// Must be called on the worker's runtime: it follows the upstream's endpoints by tasks of its own.
    pub fn new(
        upstream: &Arc<Upstream>,
        tick: &Rc<Tick>,
        interim: &prometheus::IntCounter,
    ) -> Rc<Self> {
        let freed = Rc::new(Freed {
            upstream: upstream.clone(),
            notify: Notify::new(),
            waiting: Cell::new(0),
            gave: Cell::new(false),
            interim: interim.clone(),
        });
        let cluster = Rc::new(Cluster {
            upstream: upstream.clone(),
            endpoints: RefCell::new(Rc::new([])),
            picker: Picker::new(upstream.settings.load_balancing.policy),
            rng: RefCell::new(fastrand::Rng::new()),
            freed,
            tick: tick.clone(),
            interim: interim.clone(),
            _watchers: RefCell::default(),
        });
        let mut members = upstream.members();
        cluster.follow(&members.borrow_and_update().clone());
        let hunger = upstream.breaker.connections().hunger();
        let tasks = [
            Owned(tokio::task::spawn_local(follow_members(
                Rc::downgrade(&cluster),
                members,
            ))),
            Owned(tokio::task::spawn_local(follow_hunger(
                Rc::downgrade(&cluster),
                hunger,
            ))),
        ];
        cluster._watchers.borrow_mut().extend(tasks);
        cluster
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    pub fn endpoints(&self) -> Rc<[Rc<Endpoint>]> {
        self.endpoints.borrow().clone()
    }

    /// Takes over a new set; what stays keeps its connections and estimates.
    fn follow(&self, members: &Members) {
        let before = self.endpoints();
        let landlord: Rc<dyn Landlord> = self.freed.clone();
        let keeping = Keeping {
            connect_timeout: self.connect_timeout(),
            idle: IDLE,
        };
        let now: Rc<[Rc<Endpoint>]> = members
            .list
            .iter()
            .map(|member| {
                let same = before.iter().find(|endpoint| {
                    endpoint.peer.address() == member.address
                        && Arc::ptr_eq(&endpoint.health, &member.health)
                });
                same.cloned().unwrap_or_else(|| {
                    let peer = Peer::new(member.address, keeping, landlord.clone(), &self.tick);
                    Endpoint::new(member, peer, &self.upstream)
                })
            })
            .collect();
        for gone in before
            .iter()
            .filter(|old| !now.iter().any(|new| Rc::ptr_eq(old, new)))
        {
            gone.peer.retire();
        }
        *self.endpoints.borrow_mut() = now;
        self.freed.changed();
    }

    /// Lets go of every connection that is not in use: this upstream is gone from the file.
    pub fn retire(&self) {
        for endpoint in self.endpoints().iter() {
            endpoint.peer.retire();
        }
    }

    fn connect_timeout(&self) -> Duration {
        self.upstream.settings.timeouts.connect.duration()
    }

    fn speaks_http2(&self, caller: bool) -> bool {
        match self.upstream.settings.protocol {
            Protocol::Auto => caller,
            Protocol::Http1 => false,
            Protocol::Http2 | Protocol::Grpc => true,
        }
    }

    /// The answer's head, its body still to come; or why there is none.
    ///
    /// Dropping the future cancels the try that is under way.
    pub async fn call(self: &Rc<Self>, mut call: Call<'_>) -> Result<Response<Body>, Fault> {
        let pass = self.upstream.breaker.request()?;
        let http2 = self.speaks_http2(call.http2);
        // Read once for the first try: routing it took microseconds.
        let mut now = Instant::now();
        self.upstream.budget.deposit(now);
        let mut body = std::mem::replace(&mut call.body, RequestBody::Empty);
        let mut record = None;
        if !body.is_empty() && call.retry.needs_replay_buffer(call.outgoing.method, http2) {
            let kept = Record::new(body);
            body = kept.again().unwrap_or(RequestBody::Empty);
            record = Some(kept);
        }
        let bodiless = body.is_empty();
        let mut avoid = None;
        loop {
            call.trail.tries += 1;
            let (endpoint, probe) = match self.choose(avoid.as_ref(), now) {
                Some(chosen) => chosen,
                None => {
                    let chosen = Box::pin(self.await_endpoint(call.deadline)).await?;
                    now = Instant::now();
                    chosen
                }
            };
            call.trail.endpoint = Some(endpoint.peer.address());
            let mut attempt = Try::new(endpoint.clone(), probe, call.deadline, now);
            let tried = match call.backend_request {
                None => {
                    self.once(&endpoint, http2, call.outgoing, body, call.deadline)
                        .await
                }
                Some(limit) => {
                    let once = self.once(&endpoint, http2, call.outgoing, body, call.deadline);
                    Box::pin(within(limit, once)).await
                }
            };
            let refused = match tried {
                Ok(response) => {
                    match self
                        .judge(
                            &mut attempt,
                            response,
                            &call,
                            bodiless || record.as_ref().is_some_and(Record::is_whole),
                        )
                        .await
                    {
                        Judged::Pass(mut response) => {
                            attempt.holds(pass);
                            response.body_mut().from(Box::new(attempt));
                            return Ok(response);
                        }
                        Judged::Again(after) => Refused { after, body: None },
                    }
                }
                Err(failed) => {
                    if failed.fault.class() == Class::Connect {
                        call.trail.unconnected += 1;
                    }
                    attempt.failed(&failed.fault);
                    self.decide(failed, &call, bodiless, record.as_ref())?
                }
            };
            self.upstream.meter.resilience.retries.inc();
            tracing::debug!(
                upstream = %self.upstream.name,
                endpoint = %endpoint.peer.address(),
                tries = call.trail.tries,
                wait_us = refused.after.as_micros() as u64,
                "trying again"
            );
            if !refused.after.is_zero() {
                Box::pin(tokio::time::sleep(refused.after)).await;
            }
            body = match (refused.body, &record) {
                (Some(untouched), _) => untouched,
                (None, Some(record)) => record.again().unwrap_or(RequestBody::Empty),
                (None, None) => RequestBody::Empty,
            };
            avoid = Some(endpoint);
            now = Instant::now();
        }
    }

    /// One try: a connection that is there, or a new one, and the exchange on it.
    async fn once(
        self: &Rc<Self>,
        endpoint: &Rc<Endpoint>,
        http2: bool,
        outgoing: Outgoing<'_>,
        body: RequestBody,
        deadline: Deadline,
    ) -> Result<Response<Body>, client::Failed> {
        let lease = match endpoint.peer.ready(http2) {
            Some(lease) => lease,
            None => match Box::pin(self.connect(endpoint, http2, deadline)).await {
                Ok(lease) => lease,
                Err(fault) => {
                    return Err(client::Failed {
                        fault,
                        body: Some(body),
                        stale: false,
                    });
                }
            },
        };
        client::send(lease, outgoing, body, &endpoint.peer).await
    }

    /// An endpoint that may be asked now, and whether this call is its probation.
    fn choose(
        &self,
        avoid: Option<&Rc<Endpoint>>,
        now: Instant,
    ) -> Option<(Rc<Endpoint>, Option<Probe>)> {
        let endpoints = self.endpoints.borrow();
        if let [only] = &**endpoints
            && only.health.is_usable()
        {
            return Some((only.clone(), None));
        }
        if let Some((at, probe)) =
            self.upstream
                .outlier
                .probe(endpoints.len(), |at| &endpoints[at].health, now)
        {
            return Some((endpoints[at].clone(), Some(probe)));
        }
        let load = |at: usize| match self.picker.policy() {
            Balancing::LeastRequest => f64::from(endpoints[at].ewma.in_flight()),
            _ => endpoints[at].ewma.load(now),
        };
        let avoided = |at: usize| avoid.is_some_and(|avoid| Rc::ptr_eq(avoid, &endpoints[at]));
        let usable = |at: usize| endpoints[at].health.is_usable();
        let chosen = self
            .picker
            .pick(endpoints.len(), load, usable, avoided)
            .or_else(|| {
                (self.upstream.settings.panic == Panic::RouteAll)
                    .then(|| self.picker.pick(endpoints.len(), load, |_| true, avoided))
                    .flatten()
            })?;
        Some((endpoints[chosen].clone(), None))
    }

    /// No endpoint was usable: waits for the source's first answer, at most the connect timeout, or says why.
    async fn await_endpoint(
        &self,
        deadline: Deadline,
    ) -> Result<(Rc<Endpoint>, Option<Probe>), Fault> {
        let mut members = self.upstream.members();
        if !members.borrow().known {
            let wait = deadline.of_try(Instant::now(), Some(self.connect_timeout()));
            let left = wait.left(Instant::now()).unwrap_or(self.connect_timeout());
            let _pending = self.upstream.breaker.pending()?;
            let known = async { members.wait_for(|members| members.known).await.is_ok() };
            let known = tokio::time::timeout(left, known).await.unwrap_or(false);
            if !known {
                return Err(Fault::new(
                    Reason::Unresolved,
                    format!(
                        "no address is known yet for {}: its name has not been resolved",
                        self.upstream.name
                    ),
                ));
            }
            let now = members.borrow().clone();
            self.follow(&now);
        }
        self.choose(None, Instant::now())
            .ok_or_else(|| self.nowhere())
    }

    #[cold]
    fn nowhere(&self) -> Fault {
        let members = self.upstream.members().borrow().clone();
        let name = &self.upstream.name;
        if members.list.is_empty() && !members.loops.is_empty() {
            return Fault::new(Reason::Loop, format!("{name} is this sidecar itself"))
                .inside(format!("{:?} are listeners of its own", members.loops));
        }
        let now = Instant::now();
        let count = |ejected: bool| {
            members
                .list
                .iter()
                .filter(|member| {
                    matches!(member.health.state(now), resilience::State::Healthy { .. }) != ejected
                })
                .count()
        };
        let words = format!(
            "no usable endpoint for {name}: {} known, {} ejected",
            members.list.len(),
            count(true)
        );
        Fault::new(Reason::NoEndpoint, words)
    }

    /// A connection below the limit: a new one, or the next that is free.
    async fn connect(
        self: &Rc<Self>,
        endpoint: &Rc<Endpoint>,
        http2: bool,
        deadline: Deadline,
    ) -> Result<Lease, Fault> {
        if !(http2 && endpoint.peer.is_dialling())
            && let Some(permit) = self.upstream.breaker.try_connection()
        {
            return self.dial(endpoint, http2, Box::new(permit)).await;
        }
        let _pending = self.upstream.breaker.pending()?;
        let end = deadline.of_try(Instant::now(), Some(PENDING));
        let left = end.left(Instant::now()).unwrap_or(PENDING);
        match tokio::time::timeout(left, self.queue(endpoint, http2)).await {
            Ok(lease) => lease,
            Err(_) => Err(Fault::new(
                Reason::PendingOverflow,
                format!(
                    "{} has {} connections open, its limit, and none was free in time",
                    self.upstream.name,
                    self.upstream.breaker.connections().count()
                ),
            )),
        }
    }

    /// Waits for whatever comes first: a free connection of this worker, or room for a new one.
    async fn queue(self: &Rc<Self>, endpoint: &Rc<Endpoint>, http2: bool) -> Result<Lease, Fault> {
        let _waiting = Waiting::new(&self.freed.waiting);
        let mut room = pin!(self.upstream.breaker.connections().open());
        loop {
            let mut freed = pin!(self.freed.notify.notified());
            freed.as_mut().enable();
            if let Some(lease) = endpoint.peer.ready(http2) {
                return Ok(lease);
            }
            if http2 && endpoint.peer.is_dialling() {
                freed.await;
                continue;
            }
            // An idle connection to another endpoint holds a place that we need.
            self.shed();
            tokio::select! {
                permit = &mut room => {
                    return match endpoint.peer.ready(http2) {
                        Some(lease) => Ok(lease),
                        None => self.dial(endpoint, http2, Box::new(permit)).await,
                    };
                }
                () = freed => {}
            }
        }
    }

    async fn dial(
        &self,
        endpoint: &Rc<Endpoint>,
        http2: bool,
        held: Box<dyn std::any::Any>,
    ) -> Result<Lease, Fault> {
        let lease = endpoint.peer.dial(http2, held).await;
        match &lease {
            Ok(_) => self.upstream.meter.dialled.inc(),
            Err(_) => self.upstream.meter.undialled.inc(),
        }
        lease
    }

    /// A raw connection for a tunnel.
    pub async fn tunnel(self: &Rc<Self>, deadline: Deadline) -> Result<net::Stream, Fault> {
        let (endpoint, probe) = match self.choose(None, Instant::now()) {
            Some(chosen) => chosen,
            None => self.await_endpoint(deadline).await?,
        };
        drop(probe);
        let Some(permit) = self.upstream.breaker.try_connection() else {
            let _pending = self.upstream.breaker.pending()?;
            let permit = self.upstream.breaker.connections().open();
            let Ok(permit) = tokio::time::timeout(self.connect_timeout(), permit).await else {
                let words = format!("{} has all its connections in use", self.upstream.name);
                return Err(Fault::new(Reason::PendingOverflow, words));
            };
            return endpoint.peer.dial_raw(Box::new(permit)).await;
        };
        endpoint.peer.dial_raw(Box::new(permit)).await
    }

    fn shed(&self) {
        for endpoint in self.endpoints().iter() {
            if endpoint.peer.shed() {
                return;
            }
        }
    }

    /// Whether an answer passes or another try replaces it.
    async fn judge(
        &self,
        attempt: &mut Try,
        mut response: Response<Body>,
        call: &Call<'_>,
        replayable: bool,
    ) -> Judged {
        let status = response.status().as_u16();
        let code = if call.grpc {
            Some(grpc_status(response.headers()))
        } else {
            None
        };
        let failure = match code {
            Some(Some(code)) if code != 0 => {
                Some(resilience::Failure::Grpc(u8::try_from(code).unwrap_or(2)))
            }
            _ if status >= 400 => Some(resilience::Failure::Status(status)),
            Some(None) if status == 200 && call.retry.wants_grpc_trailers() => {
                match Box::pin(tokio::time::timeout(PEEK, response.body_mut().peek())).await {
                    Ok(Peek::Trailers(Some(code))) if code != 0 => {
                        let code = u8::try_from(code).unwrap_or(2);
                        Some(resilience::Failure::Grpc(code))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        attempt.answered(status, code);
        let Some(failure) = failure else {
            return Judged::Pass(response);
        };
        let decision = self.ask(call, failure, replayable, retry_after(&response));
        match decision {
            Decision::Retry { after } => {
                if let (resilience::Failure::Grpc(code), Some(None)) = (failure, code) {
                    crate::http::body::Source::grpc_ended(attempt, code.into());
                }
                tokio::task::spawn_local(drain(response.into_body()));
                Judged::Again(after)
            }
            _ => Judged::Pass(response),
        }
    }

    /// What becomes of a call that got no answer: how to go on, or the fault that the caller is told.
    fn decide(
        &self,
        failed: client::Failed,
        call: &Call<'_>,
        bodiless: bool,
        record: Option<&Record>,
    ) -> Result<Refused, Fault> {
        let client::Failed { fault, body, stale } = failed;
        if fault.side() == Side::Client {
            return Err(fault);
        }
        let replayable = bodiless || body.is_some() || record.is_some_and(Record::is_whole);
        match self.ask(
            call,
            resilience::Failure::of(&fault, stale),
            replayable,
            None,
        ) {
            Decision::Retry { after } => Ok(Refused { after, body }),
            Decision::Pass | Decision::Keep(_) => Err(self.told(fault, call)),
        }
    }

    fn ask(
        &self,
        call: &Call<'_>,
        failure: resilience::Failure,
        replayable: bool,
        retry_after: Option<Duration>,
    ) -> Decision {
        let now = Instant::now();
        let facts = resilience::Call {
            method: call.outgoing.method,
            tries: call.trail.tries,
            retry_after,
            left: call.deadline.left(now),
            replayable,
        };
        let decision = call.retry.decide(
            failure,
            facts,
            &self.upstream.budget,
            now,
            &mut self.rng.borrow_mut(),
        );
        if let Decision::Keep(why) = decision {
            self.upstream.meter.resilience.kept(why).inc();
            if why == Kept::Replay {
                tracing::info!(upstream = %self.upstream.name, "retry given up: the body is longer than the replay buffer");
            }
        }
        decision
    }

    /// The last try's fault, with what was tried.
    #[cold]
    fn told(&self, fault: Fault, call: &Call<'_>) -> Fault {
        let tries = call.trail.tries;
        let name = &self.upstream.name;
        let members = self.upstream.members().borrow().clone();
        let out = self.upstream.outlier.out();
        let known = members.list.len();
        let public = match fault.class() {
            Class::Connect => {
                let how = match fault.reason() {
                    Reason::ConnectTimeout => "too slow to accept",
                    _ if fault.public_words().contains("refuses") => "refused",
                    _ => "unreachable",
                };
                let failed = call.trail.unconnected;
                format!(
                    "no usable endpoint for {name}: {known} known, {out} ejected, {failed} {how}"
                )
            }
            _ => format!("{name}: {} ({tries} tried)", fault.public_words()),
        };
        let last = fault.inside_words().map(|inside| format!("last: {inside}"));
        let told = Fault::new(fault.reason(), public).processed(if fault.is_unprocessed() {
            crate::fault::Processed::No
        } else {
            crate::fault::Processed::Perhaps
        });
        match last {
            Some(last) => told.inside(last),
            None => told,
        }
    }

    /// Interim answers that were dropped.
    pub fn interim(&self) -> &prometheus::IntCounter {
        &self.interim
    }
}

/// Counts a call that waits, however it stops.
struct Waiting<'a>(&'a Cell<u32>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct Refused {
    after: Duration,
    body: Option<RequestBody>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart in one poll; a box would cost every answer an allocation"
)]
enum Judged {
    Pass(Response<Body>),
    Again(Duration),
}

async fn within(
    limit: Duration,
    once: impl Future<Output = Result<Response<Body>, client::Failed>>,
) -> Result<Response<Body>, client::Failed> {
    match tokio::time::timeout(limit, once).await {
        Ok(tried) => tried,
        Err(_) => {
            let fault = Fault::new(
                Reason::TryTimeout,
                format!("no answer within {limit:?} (timeouts.backendRequest)"),
            );
            Err(client::Failed {
                fault,
                body: None,
                stale: false,
            })
        }
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
pub fn retry_after<T>(response: &Response<T>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(
        date.duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    )
}

/// Reads what is left of an answer that nobody wants, so that its connection can be used again.
async fn drain(mut body: Body) {
    let read = async {
        let mut left = DRAIN.0;
        while let Some(Ok(frame)) =
            std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
        {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, bytes::Bytes::len)) else {
                return;
            };
            left = rest;
        }
    };
    let _ = tokio::time::timeout(DRAIN.1, read).await;
}

async fn follow_members(cluster: Weak<Cluster>, mut members: watch::Receiver<Members>) {
    while members.changed().await.is_ok() {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        let now = members.borrow_and_update().clone();
        cluster.follow(&now);
    }
}

/// Another worker's call waits for a place: give up an idle connection of ours.
async fn follow_hunger(cluster: Weak<Cluster>, mut hunger: watch::Receiver<u64>) {
    while hunger.changed().await.is_ok() {
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        if cluster.upstream.breaker.connections().is_starving() {
            cluster.shed();
        }
    }
}

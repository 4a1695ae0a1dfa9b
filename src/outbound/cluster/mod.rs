//! One upstream as one worker sees it: choose an endpoint, get a connection, try, and perhaps try again.
//!
//! Estimates and connections are this worker's own; limits, budget and ejections are the process's (`Upstream`).
//! The way of a call that meets a warm connection and a good answer has no lock and no wait but the callee's.

mod choose;
mod connect;
mod judge;
mod switch;
mod tunnel;

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use http::Response;
use tokio::sync::watch;

use super::{
    Protocol,
    endpoint::{Endpoint, Try},
    upstream::{Members, Upstream},
};
use crate::{
    balance::Picker,
    fault::{Class, Fault},
    http::{
        Body, RequestBody, Trail,
        client::{self, Keeping, Landlord, Outgoing, Peer},
        dialer::Dialer,
        replay::Record,
        tick::Tick,
        upgrade::Wish,
    },
    resilience::{Deadline, Policy},
};
use connect::{Freed, follow_hunger};
use judge::{Refused, drain, within};

/// How long an idle HTTP/1.1 connection is kept: shorter than Node's 5 s, so that none is reused as it closes.
const IDLE: Duration = Duration::from_secs(3);

pub struct Cluster {
    upstream: Arc<Upstream>,
    endpoints: RefCell<Rc<[Rc<Endpoint>]>>,
    picker: Picker,
    rng: RefCell<fastrand::Rng>,
    freed: Rc<Freed>,
    dialer: Rc<dyn Dialer>,
    tick: Rc<Tick>,
    interim: prometheus::IntCounter,
    _watchers: RefCell<Vec<Owned>>,
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
    /// The protocol to switch to.
    pub wish: Option<&'a Wish>,
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
        let freed = Freed::new(upstream, interim);
        let cluster = Rc::new(Cluster {
            upstream: upstream.clone(),
            endpoints: RefCell::new(Rc::new([])),
            picker: Picker::new(upstream.settings.load_balancing.policy),
            rng: RefCell::new(fastrand::Rng::new()),
            freed,
            dialer: upstream.security.dialer(
                upstream.settings.protocol,
                upstream.settings.timeouts.connect.duration(),
                tick,
            ),
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
                    let peer = Peer::new(
                        member.address,
                        keeping,
                        landlord.clone(),
                        self.dialer.clone(),
                        &self.tick,
                    );
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
            Protocol::Auto | Protocol::Tcp => caller,
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
        let given_back = http2 || self.upstream.security.shows_identity();
        if !body.is_empty()
            && call
                .retry
                .needs_replay_buffer(call.outgoing.method, given_back)
        {
            let kept = Record::new(body);
            body = kept.again().unwrap_or(RequestBody::Empty);
            record = Some(kept);
        }
        let bodiless = body.is_empty();
        let mut avoid = None;
        loop {
            call.trail.tries += 1;
            let exactly = call.trail.exactly.and_then(|own| self.endpoint_at(own));
            let chosen = match exactly {
                None => self.choose(avoid.as_ref(), now),
                Some(endpoint) => Some((endpoint, None)),
            };
            let (endpoint, probe) = match chosen {
                Some(chosen) => chosen,
                None => {
                    let chosen = Box::pin(self.await_endpoint(call.deadline)).await?;
                    now = Instant::now();
                    chosen
                }
            };
            call.trail.endpoint = Some(endpoint.peer.address());
            let mut attempt = Try::new(endpoint.clone(), probe, call.deadline, now);
            let mut tried = if let Some(wish) = call.wish {
                Box::pin(self.switch(&endpoint, wish, &call)).await
            } else if let Some(limit) = call.backend_request {
                let once = self.once(&endpoint, http2, call.outgoing, body, call.deadline);
                Box::pin(within(limit, once)).await
            } else {
                self.once(&endpoint, http2, call.outgoing, body, call.deadline)
                    .await
            };
            // Judged where it lies: across an await a second place for it would be kept in every request's future.
            let again = match &mut tried {
                Ok(response) => {
                    let replayable = bodiless || record.as_ref().is_some_and(Record::is_whole);
                    let judged = self.judge(&mut attempt, response, &call, replayable);
                    judged.await
                }
                Err(_) => None,
            };
            let refused = match tried {
                Ok(mut response) => {
                    let Some(after) = again else {
                        attempt.holds(pass);
                        response.body_mut().from(Box::new(attempt));
                        return Ok(response);
                    };
                    tokio::task::spawn_local(drain(response.into_body()));
                    Refused { after, body: None }
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

    /// Interim answers that were dropped.
    pub fn interim(&self) -> &prometheus::IntCounter {
        &self.interim
    }
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

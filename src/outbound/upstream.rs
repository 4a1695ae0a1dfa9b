//! One upstream as the process sees it: its limits, budget and ejections, and who its endpoints are now.
//!
//! Made at load and shared by all workers; nothing in it is locked on a request's path. A worker's own view, with
//! estimates and connections, is its `Cluster`.

use std::{
    any::Any,
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::sync::watch;

use super::{ConnectTimeout, Panic, Protocol, UpstreamSettings, secure::Security};
use crate::{
    balance,
    resilience::{self, Breaker, Budget, Health, Outlier, UpstreamMetrics},
    tls::Towards,
    units::SpiffeId,
};

/// The metrics of this room.
#[derive(Clone)]
pub struct Metrics {
    resilience: resilience::Metrics,
    endpoints: IntGaugeVec,
    tries: IntCounterVec,
    dials: IntCounterVec,
}

impl Metrics {
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let endpoints = IntGaugeVec::new(
            Opts::new(
                "weft_endpoints",
                "Endpoints of an upstream, by state: healthy, ejected or probing.",
            ),
            &["upstream", "state"],
        )?;
        registry.register(Box::new(endpoints.clone()))?;
        let tries = IntCounterVec::new(
            Opts::new(
                "weft_upstream_tries_total",
                "Tries sent to an upstream, by how each ended.",
            ),
            &["upstream", "outcome"],
        )?;
        registry.register(Box::new(tries.clone()))?;
        let dials = IntCounterVec::new(
            Opts::new(
                "weft_upstream_dials_total",
                "Connections made to an upstream, by how they are secured and by result.",
            ),
            &["upstream", "tls", "result"],
        )?;
        registry.register(Box::new(dials.clone()))?;
        Ok(Metrics {
            resilience: resilience::Metrics::register(registry)?,
            endpoints,
            tries,
            dials,
        })
    }
}

/// Handles of one upstream.
pub struct Meter {
    pub answered: IntCounter,
    pub failed: IntCounter,
    pub dialled: IntCounter,
    pub undialled: IntCounter,
    pub resilience: Arc<UpstreamMetrics>,
}

/// An endpoint as the process sees it.
#[derive(Clone)]
pub struct Member {
    pub address: SocketAddr,
    pub health: Arc<Health>,
}

/// Who the endpoints are now.
#[derive(Clone, Default)]
pub struct Members {
    /// False until the source has answered once.
    pub known: bool,
    pub list: Arc<[Member]>,
    /// Addresses left out because they are our own listeners.
    pub loops: Arc<[SocketAddr]>,
}

/// What stays as it is while an upstream lives: with another of these it is another upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Fixed {
    pub protocol: Protocol,
    pub timeouts: ConnectTimeout,
    pub tls: Towards,
    pub identity: Option<SpiffeId>,
    pub load_balancing: balance::Settings,
    pub panic: Panic,
}

impl From<&UpstreamSettings> for Fixed {
    fn from(said: &UpstreamSettings) -> Self {
        Fixed {
            protocol: said.protocol,
            timeouts: said.timeouts,
            tls: said.tls.clone(),
            identity: said.identity.clone(),
            load_balancing: said.load_balancing,
            panic: said.panic,
        }
    }
}

pub struct Upstream {
    pub name: Arc<str>,
    pub settings: Fixed,
    pub security: Security,
    pub breaker: Breaker,
    pub budget: Budget,
    pub outlier: Arc<Outlier>,
    pub meter: Meter,
    members: watch::Sender<Members>,
    healths: Mutex<HashMap<SocketAddr, Arc<Health>>>,
    /// What lives as long as this upstream does.
    kept: Mutex<Option<Box<dyn Any + Send>>>,
    endpoints: IntGaugeVec,
}

impl Upstream {
    /// `label` is what metrics call it: a name from the file, never a caller's host.
    pub fn new(
        name: &str,
        label: &str,
        settings: &UpstreamSettings,
        security: Security,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let now = Instant::now();
        let resilience = Arc::new(metrics.resilience.of(label));
        let dials = |result| {
            let labels = [label, security.word(), result];
            metrics.dials.with_label_values(&labels)
        };
        Arc::new(Upstream {
            name: name.into(),
            breaker: Breaker::new(name, settings.limits, resilience.clone()),
            budget: Budget::new(now),
            outlier: Outlier::new(settings.outlier, resilience.clone(), now),
            meter: Meter {
                answered: metrics.tries.with_label_values(&[label, "answered"]),
                failed: metrics.tries.with_label_values(&[label, "failed"]),
                dialled: dials("connected"),
                undialled: dials("failed"),
                resilience,
            },
            members: watch::Sender::new(Members::default()),
            healths: Mutex::default(),
            kept: Mutex::default(),
            endpoints: metrics.endpoints.clone(),
            settings: settings.into(),
            security,
        })
    }

    /// Takes over the bounds of a changed file; what is inside them and who is ejected stays.
    pub fn retune(&self, said: &UpstreamSettings) {
        self.breaker.retune(said.limits);
        self.outlier.retune(said.outlier);
    }

    /// The source's latest answer; `is_ours` says which addresses are our own listeners.
    ///
    /// An address that was there before keeps its health.
    pub fn endpoints_are(&self, addresses: &[SocketAddr], is_ours: impl Fn(SocketAddr) -> bool) {
        let (loops, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
            addresses.iter().partition(|address| is_ours(**address));
        let list: Arc<[Member]> = {
            let mut healths = self.healths.lock().unwrap_or_else(PoisonError::into_inner);
            healths.retain(|address, _| others.contains(address));
            let member = |address: &SocketAddr| {
                let health = healths
                    .entry(*address)
                    .or_insert_with(|| Health::new(&self.outlier));
                Member {
                    address: *address,
                    health: health.clone(),
                }
            };
            others.iter().map(member).collect()
        };
        let healths: Vec<_> = list.iter().map(|member| member.health.clone()).collect();
        self.outlier.endpoints_are(&healths);
        self.members.send_replace(Members {
            known: true,
            list,
            loops: loops.into(),
        });
    }

    /// Begins with the endpoints that `before` knew: no call waits for a name that was just looked up.
    pub fn succeed(&self, before: &Upstream) {
        let known = before.members.borrow().clone();
        if known.known {
            let of_members = known.list.iter().map(|member| member.address);
            let addresses: Vec<_> = of_members.chain(known.loops.iter().copied()).collect();
            self.endpoints_are(&addresses, |address| known.loops.contains(&address));
        }
    }

    /// Keeps `held` until this upstream is gone.
    pub fn keep(&self, held: Box<dyn Any + Send>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    pub fn members(&self) -> watch::Receiver<Members> {
        self.members.subscribe()
    }

    /// Sets the gauges that are read off state.
    pub fn scrape(&self, now: Instant) {
        let members = self.members.borrow().clone();
        let mut states = [0i64; 3];
        for member in members.list.iter() {
            states[match member.health.state(now) {
                resilience::State::Healthy { .. } => 0,
                resilience::State::Ejected { .. } => 1,
                resilience::State::Probing { .. } => 2,
            }] += 1;
        }
        for (state, count) in ["healthy", "ejected", "probing"].into_iter().zip(states) {
            self.endpoints
                .with_label_values(&[&*self.name, state])
                .set(count);
        }
        self.meter
            .resilience
            .budget
            .set(self.budget.balance(now) as i64);
    }
}

//! Builds the rooms in order, reloads them, empties the house.
//!
//! `run` is the whole life of a sidecar. Requests are carried by `worker` threads; everything else, discovery,
//! admin, signals, reloads, runs on the calling thread's own runtime, so that none of it can delay a request.

mod callee;
mod files;
mod leave;
mod listeners;
mod panics;
mod reload;
mod upstreams;
mod worker;

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::Notify,
};

use crate::{
    admin,
    config::{self, Config, Loaded},
    discover,
    drain::{Drain, Stage},
    events::{
        self, Vault,
        capture::{Author, Taking},
    },
    http, inbound, outbound,
    telemetry::{AccessLog, Direction, Level, Logs, Registry},
    tls,
};
use callee::Deliverer;
use listeners::Listeners;
use upstreams::Upstreams;
use worker::{Order, Plans, Start, Worker};

/// Runs a sidecar until it is told to leave.
pub fn run(file: &Path, level: &str) -> anyhow::Result<()> {
    let loaded = Config::load(file)?;
    let logs = Logs::start(level)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let handle = runtime.handle().clone();
    runtime.block_on(live(file, loaded, logs.level(), handle))
}

async fn live(
    file: &Path,
    loaded: Loaded,
    level: Level,
    keeper: tokio::runtime::Handle,
) -> anyhow::Result<()> {
    for warning in loaded.warnings.iter() {
        tracing::warn!("{warning}");
    }
    let house = Rc::new(House::build(file, loaded, level, keeper)?);
    panics::watch(house.http.panics.clone());
    house.open()?;
    let mut tasks = house.serve_admin()?;
    tasks.push(tokio::task::spawn_local(reload::watch(house.clone())));
    house.announce()?;
    leave::when_told(&house).await;
    for task in tasks {
        task.abort();
    }
    house.end();
    house.vault.close().await;
    Ok(())
}

/// Everything a running sidecar is made of, on the keeper's thread.
pub struct House {
    file: PathBuf,
    loaded: RefCell<Loaded>,
    level: Level,
    registry: Registry,
    http: http::Metrics,
    authorization: inbound::authorize::Metrics,
    security: inbound::SecurityMetrics,
    habits: Arc<inbound::Habits>,
    access: AccessLog,
    /// Writes what is queued when it goes.
    _access_guard: tracing_appender::non_blocking::WorkerGuard,
    upstreams: Arc<Upstreams>,
    /// Who we are, and who keeps that fresh.
    store: tls::Store,
    source: RefCell<Option<tls::Source>>,
    workers: RefCell<Vec<Worker>>,
    listeners: RefCell<Listeners>,
    reloads: reload::Metrics,
    vault: Vault,
    taking: Taking,
    events: events::Metrics,
    parked: events::Parked,
    deliverer: RefCell<Option<Deliverer>>,
    outbox_drain: Drain,
    stage: Cell<Stage>,
    inbound_drain: Drain,
    outbound_drain: Drain,
    leave: Notify,
}

impl House {
    fn build(
        file: &Path,
        loaded: Loaded,
        level: Level,
        keeper: tokio::runtime::Handle,
    ) -> anyhow::Result<Self> {
        let registry = Registry::new(env!("CARGO_PKG_VERSION"))?;
        let (access, guard) = AccessLog::start(
            loaded.config.telemetry.access_log,
            &registry,
            std::io::stdout(),
        )?;
        let http = http::Metrics::new(registry.inner())?;
        let authorization = inbound::authorize::Metrics::new(registry.inner())?;
        let security = inbound::SecurityMetrics::new(registry.inner())?;
        let outbound = outbound::Metrics::new(registry.inner())?;
        let reloads = reload::Metrics::new(registry.inner())?;
        let events = events::Metrics::new(registry.inner())?;
        let outbox = &loaded.config.outbox;
        let vault = Vault::new(outbox.path.clone(), outbox.limits, events.outbox.clone());
        let system = discover::System::new(files::name_service())
            .context("the name servers of this machine")?;
        let discovery = discover::Shared::new(
            Arc::new(system),
            discover::Metrics::register(registry.inner())?,
        );
        let store = tls::Store::new(tls::Metrics::register(registry.inner())?);
        let upstreams = Upstreams::new(outbound, discovery, store.clone(), keeper);
        Ok(House {
            file: file.to_owned(),
            loaded: RefCell::new(loaded),
            level,
            registry,
            http,
            authorization,
            security,
            habits: Arc::default(),
            access,
            _access_guard: guard,
            upstreams,
            store,
            source: RefCell::default(),
            workers: RefCell::default(),
            listeners: RefCell::default(),
            reloads,
            vault,
            taking: Taking::default(),
            events,
            parked: events::Parked::default(),
            deliverer: RefCell::default(),
            outbox_drain: Drain::new(),
            stage: Cell::new(Stage::Serving),
            inbound_drain: Drain::new(),
            outbound_drain: Drain::new(),
            leave: Notify::new(),
        })
    }

    /// Listens everywhere, then starts the workers: a port that is taken stops us before a request is.
    fn open(&self) -> anyhow::Result<()> {
        let loaded = self.loaded.borrow();
        if let Some(said) = &loaded.config.identity {
            *self.source.borrow_mut() = Some(tls::Source::follow(said, &self.store));
        }
        let workers = files::workers(loaded.config.workers);
        let cap = files::raise()?;
        let opened = self
            .listeners
            .borrow_mut()
            .follow(&loaded.config, workers)?;
        self.upstreams
            .own(self.listeners.borrow().addresses().into());
        let plans = self.plans(&loaded.config)?;
        let cap = http::Cap::new(cap);
        self.open_outbox(&plans);
        for number in 0..workers {
            let start = Start {
                plans: plans.clone(),
                access: self.access.clone(),
                metrics: self.http.clone(),
                cap: cap.clone(),
                vault: self.vault.clone(),
                taking: self.taking.clone(),
                inbound_drain: self.inbound_drain.clone(),
                outbound_drain: self.outbound_drain.clone(),
            };
            self.workers
                .borrow_mut()
                .push(Worker::start(number, start)?);
        }
        *self.deliverer.borrow_mut() = Some(Deliverer::start(callee::Start {
            plan: plans.outbound.clone(),
            vault: self.vault.clone(),
            metrics: self.events.clone(),
            parked: self.parked.clone(),
            drain: self.outbox_drain.clone(),
            interim: self.http.dropped("interim"),
        })?);
        self.deal(opened);
        Ok(())
    }

    /// Opens the outbox where a route defers, or where one is that may hold what was accepted before.
    fn open_outbox(&self, plans: &Plans) {
        let mut routes = plans.outbound.routes.iter();
        let needed = routes.any(|route| route.is_deferred());
        if needed || self.vault.exists() {
            self.vault.open(needed);
        }
    }

    /// Gives each worker its socket of every new listener.
    fn deal(&self, opened: Vec<listeners::Opened>) {
        let workers = self.workers.borrow();
        for mut opened in opened {
            for worker in workers.iter() {
                if let Some(opening) = opened.opening() {
                    worker.give(Order::Open(opening));
                }
            }
        }
    }

    fn plans(&self, config: &Config) -> anyhow::Result<Plans> {
        let upstreams = self
            .upstreams
            .named(&config.upstreams, config.identity.is_some())?;
        let said = config.upstreams.values().cloned();
        let upstreams = upstreams.into_iter().zip(said).collect();
        let own: Arc<[_]> = self.listeners.borrow().addresses().into();
        let plan = outbound::Plan::compile(
            &config.outbound,
            upstreams,
            self.upstreams.clone(),
            own.clone(),
            &Author::new(
                &config.service.namespace,
                &config.service.name,
                &self.events,
            ),
            &self.http,
        );
        let plan = plan.map_err(|problems| {
            let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow!("{}", words.join("\n"))
        })?;
        Ok(Plans {
            inbound: Arc::new(inbound::Plan::compile(
                &config.inbound,
                own,
                config.identity.is_some().then(|| inbound::Trust {
                    store: self.store.clone(),
                    metrics: self.security.clone(),
                    habits: self.habits.clone(),
                }),
                &self.security,
                &inbound::authorize::Home::new(
                    config.service.trust_domain.as_str(),
                    Some(self.store.clone()),
                ),
                &self.http,
                &self.authorization,
            )?),
            outbound: Arc::new(plan),
            inbound_timers: config.inbound.timers,
            outbound_timers: config.outbound.timers,
        })
    }

    fn serve_admin(self: &Rc<Self>) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
        let mut tasks = Vec::new();
        for (port, socket) in self.listeners.borrow_mut().admin() {
            let house = self.clone();
            tasks.push(tokio::task::spawn_local(async move {
                if let Err(error) = admin::serve(socket, port, house).await {
                    tracing::error!(%error, "an admin port cannot be served");
                }
            }));
        }
        Ok(tasks)
    }

    /// Says where we listen: in the log, and in the file that `WEFT_READY_FILE` names.
    fn announce(&self) -> anyhow::Result<()> {
        let listeners = self.listeners.borrow().json();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            file = %self.file.display(),
            workers = self.workers.borrow().len(),
            %listeners,
            "weft runs"
        );
        if self.loaded.borrow().config.identity.is_none() {
            tracing::warn!(
                "there is no `identity`: everything is plaintext, and nobody proves who calls"
            );
        }
        if let Some(path) = std::env::var_os("WEFT_READY_FILE") {
            files::write_whole(Path::new(&path), listeners.to_string().as_bytes())
                .with_context(|| format!("WEFT_READY_FILE {}", Path::new(&path).display()))?;
        }
        Ok(())
    }

    fn enter(&self, direction: Direction, stage: Stage) {
        for worker in self.workers.borrow().iter() {
            worker.give(Order::Enter(direction, stage));
        }
    }

    fn end(&self) {
        self.outbox_drain.enter(Stage::Forced);
        if let Some(deliverer) = self.deliverer.take() {
            deliverer.end();
        }
        for worker in self.workers.take() {
            worker.end();
        }
    }
}

impl admin::House for House {
    fn metrics(&self) -> String {
        let now = Instant::now();
        for upstream in self.upstreams.all() {
            upstream.scrape(now);
        }
        self.registry
            .text()
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn ready(&self) -> Result<(), String> {
        let mesh = self.loaded.borrow().config.identity.is_some();
        match self.stage.get() {
            Stage::Serving if mesh && self.store.current().is_none() => {
                Err("no identity: none yet, or the last one has ended".to_owned())
            }
            Stage::Serving => Ok(()),
            _ => Err("leaving".to_owned()),
        }
    }

    fn listeners(&self) -> Value {
        self.listeners.borrow().json()
    }

    fn config(&self) -> Value {
        config::values(&self.loaded.borrow())
    }

    async fn reload(&self) -> Result<String, String> {
        let words = self.reload_now()?;
        self.workers_follow().await;
        Ok(words)
    }

    fn drain(&self) {
        self.leave.notify_one();
    }

    fn log(&self, level: &str) -> Result<(), String> {
        self.level.set(level).map_err(|error| error.to_string())
    }

    fn events(&self) -> events::Events {
        events::Events::new(&self.vault, &self.parked, &self.events)
    }

    async fn upstreams(&self) -> Value {
        let mut reports = Vec::new();
        let asked: Vec<_> = self
            .workers
            .borrow()
            .iter()
            .map(|worker| {
                let (to, from) = tokio::sync::oneshot::channel();
                worker.give(Order::Report(to));
                from
            })
            .collect();
        for from in asked {
            reports.push(from.await.unwrap_or_default());
        }
        let now = Instant::now();
        let upstreams = self.upstreams.all();
        json!(
            upstreams
                .iter()
                .map(|upstream| upstream_json(upstream, &reports, now))
                .collect::<Vec<_>>()
        )
    }
}

fn upstream_json(
    upstream: &outbound::Upstream,
    reports: &[Vec<worker::EndpointReport>],
    now: Instant,
) -> Value {
    let members = upstream.members().borrow().clone();
    let load = upstream.breaker.load();
    let endpoints: Vec<Value> = members
        .list
        .iter()
        .map(|member| {
            let seen: Vec<Value> = reports
                .iter()
                .enumerate()
                .flat_map(|(worker, reports)| reports.iter().map(move |report| (worker, report)))
                .filter(|(_, report)| report.upstream == upstream.name && report.address == member.address)
                .map(|(worker, report)| {
                    json!({
                        "worker": worker,
                        "ewmaMs": report.ewma_ms,
                        "inFlight": report.in_flight,
                        "idleConnections": report.idle,
                        "http2Connections": report.http2,
                    })
                })
                .collect();
            json!({ "address": member.address.to_string(), "state": state_json(&member.health, now), "workers": seen })
        })
        .collect();
    json!({
        "name": &*upstream.name,
        "resolved": members.known,
        "connections": load.connections,
        "pending": load.pending,
        "requests": load.requests,
        "endpoints": endpoints,
    })
}

fn state_json(health: &crate::resilience::Health, now: Instant) -> Value {
    use crate::resilience::State;
    match health.state(now) {
        State::Healthy { failures } => json!({ "is": "healthy", "failuresInARow": failures }),
        State::Ejected { left, times } => {
            json!({ "is": "ejected", "leftMs": left.as_millis() as u64, "times": times })
        }
        State::Probing { times } => json!({ "is": "probing", "times": times }),
    }
}

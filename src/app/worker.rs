//! A worker: one thread, one single-threaded runtime, its own listeners, connections and estimates.
//!
//! It hears of the rest of the house by a mailbox alone.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, thread::JoinHandle};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use crate::{
    drain::{Drain, Stage},
    events::{
        Vault,
        capture::{Capture, Taking},
    },
    http::{
        Cap, Desk, Door, Entrance, ListenerMeter, Metrics, Reception, Server, Timers, tick::Tick,
    },
    inbound, net, outbound,
    telemetry::{AccessLog, Direction},
};

/// What all workers follow.
#[derive(Clone)]
pub struct Plans {
    pub inbound: Arc<inbound::Plan>,
    pub outbound: Arc<outbound::Plan>,
    pub inbound_timers: Timers,
    pub outbound_timers: Timers,
}

/// A listening socket for one worker.
pub struct Opening {
    pub direction: Direction,
    pub door: Door,
    pub address: SocketAddr,
    pub socket: std::net::TcpListener,
}

pub enum Order {
    Follow(Plans),
    Open(Opening),
    /// Stops accepting there.
    Close(SocketAddr),
    Enter(Direction, Stage),
    /// Answers, and so says that what was ordered before is done.
    Answer(oneshot::Sender<()>),
    Report(oneshot::Sender<Vec<EndpointReport>>),
}

/// An endpoint as one worker sees it.
#[derive(Debug, Clone)]
pub struct EndpointReport {
    pub upstream: Arc<str>,
    pub address: SocketAddr,
    pub ewma_ms: f64,
    pub in_flight: u32,
    pub idle: usize,
    pub http2: usize,
}

/// What a worker is made with.
pub struct Start {
    pub plans: Plans,
    pub access: AccessLog,
    pub metrics: Metrics,
    pub cap: Arc<Cap>,
    pub vault: Vault,
    pub taking: Taking,
    pub inbound_drain: Drain,
    pub outbound_drain: Drain,
}

/// The house's end of a worker.
pub struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(number: usize, start: Start) -> std::io::Result<Self> {
        // Unbounded, but only the house writes: a few orders a reload.
        let (orders, mailbox) = mpsc::unbounded_channel();
        let (stands, standing) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("weft-worker-{number}"));
        let thread = thread.spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = stands.send(Err(error));
                    return;
                }
            };
            runtime.block_on(async {
                let room = Room::new(start);
                let _ = stands.send(Ok(()));
                room.run(mailbox).await;
            });
        })?;
        standing
            .recv()
            .map_err(|_| std::io::Error::other("a worker ended before it stood"))??;
        Ok(Worker {
            orders,
            thread: Some(thread),
        })
    }

    /// Gives an order; lost where the worker has ended.
    pub fn give(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// Hears once what was ordered before is done, or the worker has ended.
    pub fn done(&self) -> oneshot::Receiver<()> {
        let (to, done) = oneshot::channel();
        self.give(Order::Answer(to));
        done
    }

    /// Ends the worker and everything on it.
    pub fn end(mut self) {
        let (closed, _) = mpsc::unbounded_channel();
        self.orders = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A worker's own end.
struct Room {
    inbound: Rc<inbound::Stack>,
    outbound: Rc<outbound::Stack>,
    inbound_desk: Rc<Desk>,
    outbound_desk: Rc<Desk>,
    inbound_meter: ListenerMeter,
    outbound_meter: ListenerMeter,
    inbound_timers: Rc<Cell<Timers>>,
    outbound_timers: Rc<Cell<Timers>>,
    server: Rc<Server>,
    cap: Arc<Cap>,
    inbound_drain: Drain,
    outbound_drain: Drain,
    tick: Rc<Tick>,
    interim: prometheus::IntCounter,
    open: Vec<(SocketAddr, Direction, AbortHandle)>,
}

impl Room {
    fn new(start: Start) -> Self {
        let tick = Tick::new();
        let interim = start.metrics.dropped("interim");
        let desk = || Desk::new(tick.clone(), start.access.clone(), &start.metrics);
        Room {
            inbound: inbound::Stack::new(inbound::Local::empty(&tick, &interim)),
            outbound: outbound::Stack::new(
                outbound::Local::new(start.plans.outbound.clone(), None, &tick, &interim),
                Capture::new(&start.vault, start.taking),
            ),
            inbound_desk: desk(),
            outbound_desk: desk(),
            inbound_meter: start.metrics.listener(Direction::Inbound),
            outbound_meter: start.metrics.listener(Direction::Outbound),
            inbound_timers: Rc::new(Cell::new(start.plans.inbound_timers)),
            outbound_timers: Rc::new(Cell::new(start.plans.outbound_timers)),
            server: Rc::default(),
            cap: start.cap,
            inbound_drain: start.inbound_drain,
            outbound_drain: start.outbound_drain,
            tick,
            interim,
            open: Vec::new(),
        }
        .following(&start.plans)
    }

    fn following(self, plans: &Plans) -> Self {
        self.follow_inbound(plans);
        self
    }

    async fn run(mut self, mut mailbox: mpsc::UnboundedReceiver<Order>) {
        let tick = self.tick.clone();
        tokio::task::spawn_local(async move { tick.run().await });
        while let Some(order) = mailbox.recv().await {
            match order {
                Order::Follow(plans) => self.follow(&plans),
                Order::Open(opening) => self.open(opening),
                Order::Close(address) => self.close(|(own, _, _)| *own == address),
                Order::Enter(direction, stage) => self.enter(direction, stage),
                Order::Answer(to) => {
                    // An aborted task lets its listener go when its turn comes: before that of a task made now.
                    tokio::task::spawn_local(async move {
                        let _ = to.send(());
                    });
                }
                Order::Report(to) => {
                    let _ = to.send(self.report());
                }
            }
        }
    }

    fn follow(&self, plans: &Plans) {
        let before = self.outbound.local();
        let local = outbound::Local::new(
            plans.outbound.clone(),
            Some(&before),
            &self.tick,
            &self.interim,
        );
        self.outbound.follow(local);
        self.follow_inbound(plans);
    }

    fn follow_inbound(&self, plans: &Plans) {
        let before = self.inbound.local();
        self.inbound
            .follow(inbound::Local::new(&plans.inbound, &before));
        self.inbound_timers.set(plans.inbound_timers);
        self.outbound_timers.set(plans.outbound_timers);
    }

    fn open(&mut self, opening: Opening) {
        let incoming = match net::Incoming::new(opening.socket) {
            Ok(incoming) => incoming,
            Err(error) => {
                tracing::error!(address = %opening.address, %error, "a worker cannot accept");
                return;
            }
        };
        let (address, direction) = (opening.address, opening.direction);
        let task = match direction {
            Direction::Inbound => {
                self.accept(self.inbound.clone(), opening.door, direction, incoming)
            }
            Direction::Outbound => {
                self.accept(self.outbound.clone(), opening.door, direction, incoming)
            }
        };
        self.open.push((address, direction, task));
    }

    fn accept<R: Reception>(
        &self,
        reception: Rc<R>,
        door: Door,
        direction: Direction,
        incoming: net::Incoming,
    ) -> AbortHandle {
        let (desk, meter, timers, drain) = match direction {
            Direction::Inbound => (
                &self.inbound_desk,
                &self.inbound_meter,
                &self.inbound_timers,
                &self.inbound_drain,
            ),
            Direction::Outbound => (
                &self.outbound_desk,
                &self.outbound_meter,
                &self.outbound_timers,
                &self.outbound_drain,
            ),
        };
        let entrance = Entrance {
            door,
            server: self.server.clone(),
            desk: desk.clone(),
            meter: meter.clone(),
            timers: timers.clone(),
            cap: self.cap.clone(),
            drain: drain.clone(),
        };
        tokio::task::spawn_local(entrance.accept(incoming, reception)).abort_handle()
    }

    fn close(&mut self, which: impl Fn(&(SocketAddr, Direction, AbortHandle)) -> bool) {
        self.open.retain(|entry| {
            let closes = which(entry);
            if closes {
                entry.2.abort();
            }
            !closes
        });
    }

    fn enter(&mut self, direction: Direction, stage: Stage) {
        if stage >= Stage::Draining {
            self.close(|(_, own, _)| *own == direction);
        }
        match direction {
            Direction::Inbound => self.inbound_desk.enter(stage),
            Direction::Outbound => self.outbound_desk.enter(stage),
        }
    }

    fn report(&self) -> Vec<EndpointReport> {
        let now = std::time::Instant::now();
        let local = self.outbound.local();
        let mut reports = Vec::new();
        for cluster in local.clusters() {
            for endpoint in cluster.endpoints().iter() {
                let (idle, http2) = endpoint.peer.kept();
                reports.push(EndpointReport {
                    upstream: cluster.upstream().name.clone(),
                    address: endpoint.peer.address(),
                    ewma_ms: endpoint.ewma.estimate(now).as_secs_f64() * 1e3,
                    in_flight: endpoint.ewma.in_flight(),
                    idle,
                    http2,
                });
            }
        }
        reports
    }
}

//! One accepted connection: its facts, fixed when it is accepted, and the few cells its timers look at.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use super::{
    credential::{Credential, Standing},
    cut::Cut,
    frames::FrameWatch,
    meter::{ListenerMeter, Open, RouteMeter},
    pulse::Pace,
    settings::Timers,
    strand::Strand,
    tick::{Tick, Ticks, Timed, Watched},
    upgrade::Tunnel,
    watch::{self, Watch},
};
use crate::{
    drain::Stage,
    net,
    telemetry::{AccessLog, Direction},
    units::SpiffeId,
};

/// What the connections of one worker share.
pub struct Desk {
    pub tick: Rc<Tick>,
    pub access: AccessLog,
    stage: Cell<Stage>,
    unrouted: [Arc<RouteMeter>; 2],
    trailers_dropped: prometheus::IntCounter,
}

impl Desk {
    pub fn new(tick: Rc<Tick>, access: AccessLog, metrics: &super::Metrics) -> Rc<Self> {
        let meter = |direction| metrics.route(direction, "none");
        Rc::new(Desk {
            tick,
            access,
            stage: Cell::new(Stage::Serving),
            unrouted: [meter(Direction::Inbound), meter(Direction::Outbound)],
            trailers_dropped: metrics.dropped("trailers"),
        })
    }

    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Connections hear of it on the next tick.
    pub fn enter(&self, stage: Stage) {
        self.stage.set(stage);
    }

    /// An answer's trailers could not be passed to its caller.
    #[cold]
    pub fn trailers_dropped(&self) {
        self.trailers_dropped.inc();
    }

    /// The meter of requests that found no route.
    pub fn unrouted(&self, direction: Direction) -> &RouteMeter {
        &self.unrouted[direction as usize]
    }
}

/// Which of our addresses a connection came in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// The direction's own listener.
    Main,
    /// `inbound.ports.<n>`.
    Port(u16),
    /// An upstream's own `listen`.
    Upstream(Arc<str>),
}

/// What a connection was told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Serve,
    /// Nothing has moved for a while: let go of what only a busy connection needs.
    Rest,
    /// Finish what is in flight, take nothing new.
    Finish,
    /// Close now: this rule was broken.
    Close(&'static str),
}

/// What watches the bytes, once the protocol is known.
enum Eyes {
    Http1(Rc<Watch>),
    Http2(Rc<FrameWatch>),
}

/// What is known of a connection before its first request, and stays so.
pub struct Facts {
    pub peer: SocketAddr,
    /// Our end of it.
    pub local: SocketAddr,
    /// Where the caller meant to go, when the connection was redirected to us.
    pub original: Option<SocketAddr>,
    pub door: Door,
}

impl Facts {
    /// Of a connection as it was accepted: only to the main listeners are others redirected.
    pub fn of(accepted: &net::Accepted, door: &Door) -> Self {
        let original = match door {
            Door::Main => net::original_dst(&accepted.stream, accepted.local),
            Door::Port(_) | Door::Upstream(_) => None,
        };
        Facts {
            peer: accepted.peer,
            local: accepted.local,
            original,
            door: door.clone(),
        }
    }
}

pub struct Connection {
    facts: Facts,
    timers: Timers,
    desk: Rc<Desk>,
    meter: ListenerMeter,
    eyes: OnceCell<Eyes>,
    in_flight: Cell<u32>,
    served: Cell<u64>,
    phase: Cell<(Phase, u64, Ticks)>,
    stall: Cell<(u64, Ticks)>,
    order: Cell<Order>,
    forced: Cell<Option<Ticks>>,
    /// The next answer is the last.
    outdated: Cell<bool>,
    /// Its bytes are not ours to read: no timer of HTTP's runs.
    relayed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    tunnel: RefCell<Option<Tunnel>>,
    kept: RefCell<Option<Rc<dyn Any>>>,
    proof: OnceCell<Rc<Credential>>,
    /// Of HTTP/2: those that run, and the one whose turn it is.
    strands: RefCell<Vec<Rc<Strand>>>,
    turn: RefCell<Option<Rc<Strand>>>,
    _open: Open,
}

/// How long a connection must be idle until it lets go of hyper and its buffers: 16 KiB and the box of a request's
/// future. Making them anew costs a few allocations, once a rest.
const RESTS_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing, or part of a head.
    Head,
    Idle,
    Busy,
}

impl Connection {
    pub fn new(facts: Facts, timers: Timers, desk: &Rc<Desk>, meter: &ListenerMeter) -> Rc<Self> {
        let now = desk.tick.now();
        Rc::new(Connection {
            facts,
            timers,
            desk: desk.clone(),
            meter: meter.clone(),
            eyes: OnceCell::new(),
            in_flight: Cell::new(0),
            served: Cell::new(0),
            phase: Cell::new((Phase::Head, 0, now)),
            stall: Cell::new((0, now)),
            order: Cell::new(Order::Serve),
            forced: Cell::new(None),
            outdated: Cell::new(false),
            relayed: Cell::new(false),
            waker: RefCell::new(None),
            tunnel: RefCell::new(None),
            kept: RefCell::new(None),
            proof: OnceCell::new(),
            strands: RefCell::default(),
            turn: RefCell::default(),
            _open: meter.opened(),
        })
    }

    pub fn peer(&self) -> SocketAddr {
        self.facts.peer
    }

    pub fn local(&self) -> SocketAddr {
        self.facts.local
    }

    /// Where the caller meant to go, when the connection was redirected to us.
    pub fn original(&self) -> Option<SocketAddr> {
        self.facts.original
    }

    pub fn door(&self) -> &Door {
        &self.facts.door
    }

    /// The caller has proved who it is. Said once, before the first request.
    pub fn proves(&self, credential: Rc<Credential>) {
        let _ = self.proof.set(credential);
    }

    /// What the caller proved in its handshake.
    pub fn credential(&self) -> Option<&Credential> {
        self.proof.get().map(Rc::as_ref)
    }

    /// The caller's verified identity.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.credential().map(Credential::id)
    }

    pub fn desk(&self) -> &Rc<Desk> {
        &self.desk
    }

    pub fn meter(&self) -> &ListenerMeter {
        &self.meter
    }

    pub fn direction(&self) -> Direction {
        self.meter.direction()
    }

    pub fn pace(&self) -> Pace {
        let rate = self.timers.body_rate;
        Pace {
            bytes_per_second: rate.bytes_per_second,
            over: rate.over.duration(),
        }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.eyes.get(), Some(Eyes::Http2(_)))
    }

    /// The connection speaks HTTP/1.1; its guard writes into what is returned.
    pub(super) fn speaks_http1(&self) -> Rc<Watch> {
        let watch = Rc::<Watch>::default();
        let _ = self.eyes.set(Eyes::Http1(watch.clone()));
        watch
    }

    /// The connection speaks HTTP/2; its guard writes into what is returned.
    pub(super) fn speaks_http2(&self) -> Rc<FrameWatch> {
        let watch = Rc::<FrameWatch>::default();
        let _ = self.eyes.set(Eyes::Http2(watch.clone()));
        watch
    }

    /// The HTTP/1.1 guard's cells.
    pub fn watch(&self) -> Option<&Watch> {
        match self.eyes.get() {
            Some(Eyes::Http1(watch)) => Some(watch),
            _ => None,
        }
    }

    pub fn protocol(&self) -> &'static str {
        if self.is_http2() {
            "HTTP/2"
        } else {
            "HTTP/1.1"
        }
    }

    /// Whether the next answer is the connection's last.
    pub fn is_leaving(&self) -> bool {
        self.outdated.get() || self.desk.stage() >= Stage::LameDuck
    }

    /// A request began.
    pub(super) fn began(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.served.set(self.served.get() + 1);
        if let Some(Eyes::Http2(frames)) = self.eyes.get() {
            frames.stream_begins();
        }
    }

    /// A request is over.
    pub(super) fn ended(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        if let Some(Eyes::Http2(frames)) = self.eyes.get() {
            frames.stream_ends();
        }
    }

    /// Whether bytes are relayed, or may be at any moment: a relay may stand still for as long as its sides like.
    pub fn relays(&self, relayed: bool) {
        self.relayed.set(relayed);
        self.phase
            .set((Phase::Head, self.served.get(), self.desk.tick.now()));
    }

    /// Its place on the worker's clock: timers and orders reach it while this lives.
    pub fn timed(self: &Rc<Self>) -> Watched {
        let weak: Weak<dyn Timed> = Rc::downgrade(self) as Weak<dyn Timed>;
        self.desk.tick.watch(weak)
    }

    /// After its answer this connection relays bytes to and from `tunnel` (HTTP/1.1 only).
    pub(super) fn becomes(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    pub(super) fn tunnel(&self) -> Option<Tunnel> {
        self.tunnel.borrow_mut().take()
    }

    /// What its flow has worked out once for all requests of this connection.
    pub fn kept<T: 'static>(&self) -> Option<Rc<T>> {
        self.kept.borrow().clone()?.downcast().ok()
    }

    /// Keeps one such thing; the one before is forgotten.
    pub fn keep(&self, kept: Rc<dyn Any>) {
        *self.kept.borrow_mut() = Some(kept);
    }

    /// The stream whose task runs now; a new one has no task yet.
    pub(super) fn strand(&self) -> Option<Rc<Strand>> {
        self.turn.borrow().clone()
    }

    pub(super) fn opens_strand(&self) -> Rc<Strand> {
        let strand = Strand::new(&self.desk.tick);
        self.strands.borrow_mut().push(strand.clone());
        strand
    }

    /// Gives the turn to another stream, or to none; returns whose it was.
    pub(super) fn turns_to(&self, strand: Option<Rc<Strand>>) -> Option<Rc<Strand>> {
        self.turn.replace(strand)
    }

    /// Resets the streams whose callers take nothing, and forgets those that are over.
    fn look_at_strands(&self, now: Ticks) {
        let limit = self.timers.write_stall.duration();
        self.strands.borrow_mut().retain(|strand| {
            if strand.is_over(limit, now) {
                strand.stalls();
            }
            Rc::strong_count(strand) > 1
        });
    }

    /// What to do now; the task is woken when that changes.
    pub(super) fn order(&self, cx: &Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        self.order.get()
    }

    /// A connection at rest has something to do again.
    pub(super) fn wakes(&self) {
        if self.order.get() == Order::Rest {
            self.order.set(Order::Serve);
        }
    }

    fn give(&self, order: Order) {
        if self.order.get() == order || matches!(self.order.get(), Order::Close(_)) {
            return;
        }
        if let Order::Close(rule) = order {
            self.meter.closed_by_rule(rule);
        }
        self.order.set(order);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn phase(&self, now: Ticks) -> (Phase, Ticks) {
        let phase = match (self.in_flight.get(), self.eyes.get()) {
            _ if self.relayed.get() => Phase::Busy,
            (1.., _) => Phase::Busy,
            (_, None) => Phase::Head,
            (_, Some(Eyes::Http1(watch))) => match watch.phase() {
                watch::Phase::Fresh | watch::Phase::Head => Phase::Head,
                _ => Phase::Idle,
            },
            // The preface has come; until the first frame it is a handshake.
            (_, Some(Eyes::Http2(frames))) if frames.frames() == 0 => Phase::Head,
            (_, Some(Eyes::Http2(_))) => Phase::Idle,
        };
        // A request may begin and end between two ticks: what it was before is then over as well.
        let served = self.served.get();
        let (before, served_before, since) = self.phase.get();
        let same = phase == before && served == served_before;
        let since = if same { since } else { now };
        self.phase.set((phase, served, since));
        (phase, since)
    }

    /// Calls that were cut may still have to say so.
    fn has_last_words(&self, now: Ticks) -> bool {
        let forced = self.forced.get().unwrap_or(now);
        self.forced.set(Some(forced));
        self.is_http2() && self.in_flight.get() > 0 && now.since(forced) < Cut::GRACE
    }

    /// HTTP/1.1, between two requests, with nothing left to send: hyper holds nothing that matters.
    fn is_quiet(&self) -> bool {
        self.order.get() == Order::Serve
            && self
                .watch()
                .is_some_and(|watch| watch.phase() == watch::Phase::Idle && !watch.write_blocked())
    }

    fn is_stalled(&self, now: Ticks) -> bool {
        let (blocked, out) = match self.eyes.get() {
            None => return false,
            Some(Eyes::Http1(watch)) => (watch.write_blocked(), watch.bytes_out()),
            Some(Eyes::Http2(frames)) => (frames.write_blocked(), frames.bytes_out()),
        };
        let (bytes, since) = self.stall.get();
        if !blocked || out != bytes {
            self.stall.set((out, now));
            return false;
        }
        is_over(self.timers.write_stall.duration(), now, since)
    }
}

fn is_over(limit: Duration, now: Ticks, since: Ticks) -> bool {
    !limit.is_zero() && now.since(since) >= limit
}

impl Timed for Connection {
    fn tick(&self, now: Ticks) {
        match self.desk.stage() {
            Stage::Serving | Stage::LameDuck => {}
            Stage::Draining => self.give(Order::Finish),
            Stage::Forced if self.has_last_words(now) => self.give(Order::Finish),
            Stage::Forced => self.give(Order::Close("drain")),
        }
        match self.credential().map(Credential::standing) {
            None | Some(Standing::Valid) => {}
            // An idle HTTP/1.1 connection is not closed under a request that may be on its way.
            Some(Standing::Outdated) if !self.is_http2() => self.outdated.set(true),
            Some(Standing::Outdated) => self.give(Order::Finish),
            Some(Standing::Void) => return self.give(Order::Close("untrusted_peer")),
        }
        if let Some(Eyes::Http2(frames)) = self.eyes.get() {
            frames.tick();
            self.look_at_strands(now);
        }
        if self.is_stalled(now) {
            return self.give(Order::Close("write_stall"));
        }
        let (phase, since) = self.phase(now);
        match phase {
            Phase::Head if is_over(self.timers.head.duration(), now, since) => {
                self.give(Order::Close("head_timeout"))
            }
            Phase::Idle if is_over(self.timers.idle.duration(), now, since) => {
                self.give(Order::Finish)
            }
            Phase::Idle if is_over(RESTS_AFTER, now, since) && self.is_quiet() => {
                self.give(Order::Rest)
            }
            _ => {}
        }
    }
}

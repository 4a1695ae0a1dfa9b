//! A connection that is no HTTP: what is counted of it, and one record from its detection to its end.
//!
//! The record is made when it is clear that bytes will be relayed, or were to be, and spent when both sides are closed.
//! Dropping it counts the connection and hands its line to the access log, as an exchange does for a request.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{
    connection::{Connection, Order},
    exchange::Trail,
    hear::Word,
};
use crate::{
    fault::{Fault, Reason},
    net::{self, Broken, Count, Early, Side, Stream, Tally, detect::Kind},
    telemetry::{self, Direction, TcpLine},
};

/// The metrics of connections that are no HTTP, and of what connections turned out to be.
#[derive(Clone)]
pub struct TcpMetrics {
    detected: IntCounterVec,
    accepted: IntCounterVec,
    open: IntGaugeVec,
    closed: IntCounterVec,
    bytes: IntCounterVec,
}

impl TcpMetrics {
    /// Declares them in `registry`; an error means that a name is there already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters =
            |name, help, labels: &[&str]| telemetry::counters(registry, name, help, labels);
        let open = IntGaugeVec::new(
            Opts::new("weft_tcp_connections", "Connections relayed now."),
            &["direction", "upstream"],
        )?;
        registry.register(Box::new(open.clone()))?;
        Ok(TcpMetrics {
            detected: counters(
                "weft_detections_total",
                "Connections by what their first bytes were, or by what else decided.",
                &["direction", "detected"],
            )?,
            accepted: counters(
                "weft_tcp_connections_total",
                "Connections that were relayed, or were to be.",
                &["direction", "upstream"],
            )?,
            open,
            closed: counters(
                "weft_tcp_closed_total",
                "Relayed connections that are over, by how they ended.",
                &["direction", "upstream", "end"],
            )?,
            bytes: counters(
                "weft_tcp_bytes_total",
                "Bytes relayed, from the caller and to it.",
                &["direction", "upstream", "way"],
            )?,
        })
    }

    /// Handles of one direction and upstream; `upstream` is a name from the file or one of ours.
    pub fn meter(&self, direction: Direction, upstream: &str) -> Arc<TcpMeter> {
        let flow = [direction.word(), upstream];
        let way = |way| {
            self.bytes
                .with_label_values(&[direction.word(), upstream, way])
        };
        Arc::new(TcpMeter {
            upstream: upstream.into(),
            accepted: self.accepted.with_label_values(&flow),
            open: self.open.with_label_values(&flow),
            closed: self.closed.clone(),
            from_caller: way("from_caller"),
            to_caller: way("to_caller"),
        })
    }

    pub(super) fn detections(&self, direction: Direction) -> Arc<Detections> {
        let counter = |detected: &str| {
            self.detected
                .with_label_values(&[direction.word(), detected])
        };
        Arc::new(Detections {
            http1: counter("http1"),
            http2: counter("http2"),
            tls: counter("tls"),
            postgres: counter("postgres"),
            other: counter("other"),
            callee_first: counter("callee_first"),
            opaque: counter("opaque"),
            none: counter("none"),
        })
    }
}

/// What decided what a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    Http1,
    Http2,
    Tls,
    Postgres,
    Other,
    /// The caller was silent and the callee spoke.
    CalleeFirst,
    /// The file or the port says that nobody looks.
    Opaque,
    /// The caller left, or took too long, before it was clear.
    None,
}

impl Detected {
    pub const fn word(self) -> &'static str {
        match self {
            Detected::Http1 => "http1",
            Detected::Http2 => "http2",
            Detected::Tls => "tls",
            Detected::Postgres => "postgres",
            Detected::Other => "other",
            Detected::CalleeFirst => "callee_first",
            Detected::Opaque => "opaque",
            Detected::None => "none",
        }
    }
}

impl From<&Word> for Detected {
    fn from(word: &Word) -> Self {
        match word {
            Word::Caller(Kind::Http1) => Detected::Http1,
            Word::Caller(Kind::Http2) => Detected::Http2,
            Word::Caller(Kind::Tls(_)) => Detected::Tls,
            Word::Caller(Kind::Postgres) => Detected::Postgres,
            Word::Caller(Kind::Other) => Detected::Other,
            Word::Callee(_) => Detected::CalleeFirst,
        }
    }
}

/// Handles of one direction.
pub struct Detections {
    http1: IntCounter,
    http2: IntCounter,
    tls: IntCounter,
    postgres: IntCounter,
    other: IntCounter,
    callee_first: IntCounter,
    opaque: IntCounter,
    none: IntCounter,
}

impl Detections {
    pub fn count(&self, detected: Detected) {
        match detected {
            Detected::Http1 => &self.http1,
            Detected::Http2 => &self.http2,
            Detected::Tls => &self.tls,
            Detected::Postgres => &self.postgres,
            Detected::Other => &self.other,
            Detected::CalleeFirst => &self.callee_first,
            Detected::Opaque => &self.opaque,
            Detected::None => &self.none,
        }
        .inc();
    }
}

/// Handles of one direction and upstream.
pub struct TcpMeter {
    upstream: Box<str>,
    accepted: IntCounter,
    open: IntGauge,
    closed: IntCounterVec,
    from_caller: IntCounter,
    to_caller: IntCounter,
}

/// How a relayed connection ended.
enum End {
    /// Both sides said that they were done.
    Finished,
    CallerBroke(io::Error),
    CalleeBroke(io::Error),
    /// Nothing was relayed, or no longer may be.
    Failed(Fault),
    /// A rule of the connection closed it.
    Rule(&'static str),
    /// It was dropped while it was open: the process ends.
    Dropped,
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::CallerBroke(_) => "caller_broke",
            End::CalleeBroke(_) => "callee_broke",
            End::Failed(fault) => fault.reason().word(),
            End::Rule(rule) => rule,
            End::Dropped => "drain",
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            End::CallerBroke(error) | End::CalleeBroke(error) => Some(error.to_string()),
            End::Failed(fault) => Some(fault.to_string()),
            End::Finished | End::Rule(_) | End::Dropped => None,
        }
    }
}

/// The far end of a connection that is relayed.
pub struct Far {
    pub stream: Stream,
    /// How it was come by.
    pub trail: Trail,
}

/// The record of one connection.
pub struct Passage {
    pub trail: Trail,
    pub server_name: Option<Box<str>>,
    connection: Rc<Connection>,
    detected: Detected,
    meter: Arc<TcpMeter>,
    tally: Tally,
    started: Instant,
    end: End,
}

impl Passage {
    pub fn new(connection: &Rc<Connection>, detected: Detected, meter: &Arc<TcpMeter>) -> Self {
        meter.accepted.inc();
        meter.open.inc();
        Passage {
            trail: Trail::default(),
            server_name: None,
            connection: connection.clone(),
            detected,
            meter: meter.clone(),
            tally: Tally {
                from_near: Count::with(meter.from_caller.clone()),
                from_far: Count::with(meter.to_caller.clone()),
            },
            started: Instant::now(),
            end: End::Dropped,
        }
    }

    /// Relays until both sides have ended, one breaks, the connection is ordered to close or `until` ends; dropping
    /// the future closes both.
    pub async fn relay(
        mut self,
        mut near: Stream,
        far: Far,
        early: Early,
        until: impl Future<Output = Fault>,
    ) {
        let Far {
            stream: mut far,
            trail,
        } = far;
        let leash = far.leash();
        self.trail = trail;
        self.connection.relays(true);
        let _timed = self.connection.timed();
        net::be_patient(near.tcp());
        net::be_patient(far.tcp());
        let end = {
            let relayed = net::relay(&mut near, &mut far, early, &self.tally);
            let (mut relayed, mut until) = (pin!(relayed), pin!(until));
            poll_fn(|cx| {
                if let Order::Close(rule) = self.connection.order(cx) {
                    return Poll::Ready(End::Rule(rule));
                }
                if let Some(Poll::Ready(why)) = leash.as_ref().map(|leash| leash.poll_cut(cx)) {
                    return Poll::Ready(End::Failed(Fault::new(Reason::Reset, why)));
                }
                if let Poll::Ready(fault) = until.as_mut().poll(cx) {
                    return Poll::Ready(End::Failed(fault));
                }
                relayed.as_mut().poll(cx).map(End::from)
            })
            .await
        };
        if !matches!(end, End::Finished) {
            // An end in order would say that what came was all: both sides hear a reset instead.
            net::reset(near.tcp());
            net::reset(far.tcp());
        }
        self.end = end;
    }

    /// Nothing can be relayed: the caller hears a reset, as it would of a port where nobody listens.
    pub fn fail(mut self, near: Stream, fault: Fault) {
        net::reset(near.tcp());
        self.connection.meter().failed(fault.reason());
        self.end = End::Failed(fault);
    }
}

impl From<Result<(), Broken>> for End {
    fn from(relayed: Result<(), Broken>) -> Self {
        match relayed {
            Ok(()) => End::Finished,
            Err(Broken { side, error }) => match side {
                Side::Near => End::CallerBroke(error),
                Side::Far => End::CalleeBroke(error),
            },
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let direction = self.connection.direction();
        self.meter.open.dec();
        self.meter
            .closed
            .with_label_values(&[direction.word(), &self.meter.upstream, self.end.word()])
            .inc();
        let failed = !matches!(self.end, End::Finished);
        if self.connection.desk().access.wants(failed) {
            self.log(failed);
        }
    }
}

impl Passage {
    #[cold]
    fn log(&self, failed: bool) {
        let elapsed = self.started.elapsed();
        let detail = self.end.detail();
        let endpoint = self.trail.endpoint.map(|endpoint| endpoint.to_string());
        let original = self.connection.original();
        let original = original.map(|original| original.to_string());
        self.connection.desk().access.write_tcp(&TcpLine {
            ts: SystemTime::now().checked_sub(elapsed).unwrap_or(UNIX_EPOCH),
            direction: self.connection.direction(),
            detected: self.detected.word(),
            server_name: self.server_name.as_deref(),
            original: original.as_deref(),
            upstream: self.trail.upstream.as_deref(),
            endpoint: endpoint.as_deref(),
            reason: failed.then(|| self.end.word()),
            detail: detail.as_deref(),
            bytes_in: self.tally.from_near.bytes(),
            bytes_out: self.tally.from_far.bytes(),
            duration: elapsed,
            attempts: self.trail.tries,
            peer: &self.connection.peer().to_string(),
            identity: self.connection.identity().map(|id| id.as_str()),
        });
    }
}

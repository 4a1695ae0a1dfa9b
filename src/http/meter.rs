//! What is counted of exchanges and connections, and the handles that count it.
//!
//! Handles are resolved when a route or listener is built; a request only adds to them.

use std::sync::Arc;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::tcp::{Detected, Detections, TcpMetrics};
use crate::{
    fault::Reason,
    net,
    telemetry::{self, Direction},
};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The metrics of this room.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
    faults: IntCounterVec,
    dropped: IntCounterVec,
    upgrades: IntCounterVec,
    connections: IntGaugeVec,
    accepted: IntCounterVec,
    closed: IntCounterVec,
    pub panics: IntCounter,
    accept_errors: IntCounter,
    pub tcp: TcpMetrics,
}

impl Metrics {
    /// Declares them in `registry`; an error means that a name is there already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters =
            |name, help, labels: &[&str]| telemetry::counters(registry, name, help, labels);
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "weft_request_seconds",
                "Time from a request's head to the last byte of its answer.",
            )
            .buckets(BUCKETS.to_vec()),
            &["direction", "route"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let connections = IntGaugeVec::new(
            Opts::new(
                "weft_connections",
                "Connections open now, accepted from callers.",
            ),
            &["direction"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        let flow = ["direction", "route"];
        Ok(Metrics {
            requests: counters(
                "weft_requests_total",
                "Exchanges that ended, by class of status.",
                &["direction", "route", "status"],
            )?,
            seconds,
            request_bytes: counters(
                "weft_request_bytes_total",
                "Body bytes of requests read from callers.",
                &flow,
            )?,
            response_bytes: counters(
                "weft_response_bytes_total",
                "Body bytes of answers handed to callers.",
                &flow,
            )?,
            faults: counters(
                "weft_faults_total",
                "Exchanges that failed, by reason (the x-weft-reason header).",
                &["direction", "reason"],
            )?,
            dropped: counters(
                "weft_dropped_parts_total",
                "Parts of messages that cannot be passed on and were dropped: interim (1xx) answers, unannounced trailers.",
                &["part"],
            )?,
            upgrades: counters(
                "weft_upgrades_total",
                "Requests to switch protocols, by protocol and by what became of them: switched, declined by the callee, refused by us, failed.",
                &["direction", "protocol", "result"],
            )?,
            connections,
            accepted: counters(
                "weft_connections_total",
                "Connections accepted from callers.",
                &["direction"],
            )?,
            closed: counters(
                "weft_connections_closed_total",
                "Connections that this sidecar closed on a rule of its own, by rule.",
                &["direction", "rule"],
            )?,
            panics: counter(
                "weft_panics_total",
                "Bugs caught: each cost one connection or task, never the process.",
            )?,
            accept_errors: counter(
                "weft_accept_errors_total",
                "Times that accepting rested because the process had run out of something.",
            )?,
            tcp: TcpMetrics::new(registry)?,
        })
    }

    pub fn route(&self, direction: Direction, route: &str) -> Arc<RouteMeter> {
        let direction = direction.word();
        Arc::new(RouteMeter {
            name: route.into(),
            classes: CLASSES
                .map(|class| self.requests.with_label_values(&[direction, route, class])),
            seconds: self.seconds.with_label_values(&[direction, route]),
            request_bytes: self.request_bytes.with_label_values(&[direction, route]),
            response_bytes: self.response_bytes.with_label_values(&[direction, route]),
        })
    }

    pub fn listener(&self, direction: Direction) -> ListenerMeter {
        let word = direction.word();
        ListenerMeter {
            open: self.connections.with_label_values(&[word]),
            accepted: self.accepted.with_label_values(&[word]),
            closed: self.closed.clone(),
            faults: self.faults.clone(),
            upgrades: self.upgrades.clone(),
            accept_errors: self.accept_errors.clone(),
            detections: self.tcp.detections(direction),
            direction,
        }
    }

    /// The counter of one kind of dropped part.
    pub fn dropped(&self, part: &'static str) -> IntCounter {
        self.dropped.with_label_values(&[part])
    }
}

/// Handles of one route.
pub struct RouteMeter {
    name: Box<str>,
    classes: [IntCounter; 5],
    seconds: Histogram,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
}

impl RouteMeter {
    /// The route's, as labels and logs say it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For bytes that pass outside HTTP: they are counted as they pass.
    pub fn tally(&self) -> net::Tally {
        net::Tally {
            from_near: net::Count::with(self.request_bytes.clone()),
            from_far: net::Count::with(self.response_bytes.clone()),
        }
    }

    pub fn ended(&self, status: u16, seconds: f64, request_bytes: u64, response_bytes: u64) {
        let class = (status / 100).clamp(1, 5) as usize - 1;
        self.classes[class].inc();
        self.seconds.observe(seconds);
        if request_bytes > 0 {
            self.request_bytes.inc_by(request_bytes);
        }
        if response_bytes > 0 {
            self.response_bytes.inc_by(response_bytes);
        }
    }
}

/// Handles of one direction's listeners.
#[derive(Clone)]
pub struct ListenerMeter {
    open: IntGauge,
    accepted: IntCounter,
    closed: IntCounterVec,
    faults: IntCounterVec,
    upgrades: IntCounterVec,
    accept_errors: IntCounter,
    detections: Arc<Detections>,
    direction: Direction,
}

impl ListenerMeter {
    /// Counts a connection for as long as the guard lives.
    pub fn opened(&self) -> Open {
        self.open.inc();
        self.accepted.inc();
        Open(self.open.clone())
    }

    #[cold]
    pub fn closed_by_rule(&self, rule: &'static str) {
        self.closed
            .with_label_values(&[self.direction.word(), rule])
            .inc();
    }

    #[cold]
    pub fn failed(&self, reason: Reason) {
        self.faults
            .with_label_values(&[self.direction.word(), reason.word()])
            .inc();
    }

    /// A request to switch to this protocol ended so.
    #[cold]
    pub fn upgrade(&self, outcome: Option<(&str, &'static str)>) {
        if let Some((protocol, result)) = outcome {
            self.upgrades
                .with_label_values(&[self.direction.word(), protocol, result])
                .inc();
        }
    }

    #[cold]
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// What a connection turned out to be.
    pub fn detected(&self, detected: Detected) {
        self.detections.count(detected);
    }

    pub fn direction(&self) -> Direction {
        self.direction
    }
}

pub struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

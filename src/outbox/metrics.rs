//! `weft_outbox_*` and `weft_events_ledger`.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use prometheus::{
    Histogram, HistogramOpts, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    board::Figures,
    record::{State, Wall},
};

/// The store's metrics. Clones are the same ones; register them once.
#[derive(Clone)]
pub struct Metrics {
    events: IntGauge,
    bytes: IntGauge,
    pub(super) oldest: Oldest,
    pub(super) fsync: Histogram,
    ledger: IntGaugeVec,
    states: [IntGauge; State::COUNTED.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        let gauge = |name, help| IntGauge::new(name, help).expect("the name is valid");
        let ledger = IntGaugeVec::new(
            Opts::new(
                "weft_events_ledger",
                "Events ever accepted, by the state they are in now",
            ),
            &["state"],
        )
        .expect("the name is valid");
        let fsync = HistogramOpts::new(
            "weft_outbox_fsync_seconds",
            "Time of a group commit: its write and its fsync",
        )
        .buckets(vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
        ]);
        Metrics {
            events: gauge(
                "weft_outbox_events",
                "Pending events and dead letters in the outbox",
            ),
            bytes: gauge(
                "weft_outbox_bytes",
                "Bytes of pending events and dead letters",
            ),
            oldest: Oldest::new(),
            fsync: Histogram::with_opts(fsync).expect("the name is valid"),
            states: State::COUNTED.map(|state| ledger.with_label_values(&[state.word()])),
            ledger,
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.events.clone()))?;
        registry.register(Box::new(self.bytes.clone()))?;
        registry.register(Box::new(self.oldest.clone()))?;
        registry.register(Box::new(self.fsync.clone()))?;
        registry.register(Box::new(self.ledger.clone()))
    }

    pub(super) fn show(&self, figures: &Figures) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.events.set(number(figures.events));
        self.bytes.set(number(figures.bytes));
        for (gauge, (_, events)) in self.states.iter().zip(figures.ledger) {
            gauge.set(number(events));
        }
    }
}

/// The age of the oldest pending event, counted when it is read.
#[derive(Clone)]
pub(super) struct Oldest {
    gauge: prometheus::Gauge,
    since: Arc<AtomicI64>,
}

impl Oldest {
    const NONE: i64 = i64::MAX;

    fn new() -> Self {
        let gauge = prometheus::Gauge::new(
            "weft_outbox_oldest_age_seconds",
            "How long the oldest pending event has been waiting; 0 when none is",
        );
        Oldest {
            gauge: gauge.expect("the name is valid"),
            since: Arc::new(AtomicI64::new(Self::NONE)),
        }
    }

    pub(super) fn set(&self, oldest: Option<Wall>) {
        let since = oldest.map_or(Self::NONE, |wall| wall.0);
        self.since.store(since, Ordering::Relaxed);
    }
}

impl Collector for Oldest {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since = Wall(self.since.load(Ordering::Relaxed));
        self.gauge.set(Wall::now().since(since).as_secs_f64());
        self.gauge.collect()
    }
}

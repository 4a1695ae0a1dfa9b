//! What is counted of events. Label values are names of routes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    outbox::{self, DeadReason, Seq, Wall},
    telemetry,
};

/// The metrics of this room. Clones are the same ones.
#[derive(Clone)]
pub struct Metrics {
    pub outbox: outbox::Metrics,
    captured: IntCounterVec,
    delivered: IntCounterVec,
    pub(super) seconds: Histogram,
    pub(super) age: Histogram,
    added: IntCounterVec,
    pub(super) dead: DeadLetters,
}

impl Metrics {
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters =
            |name, help, labels: &[&str]| telemetry::counters(registry, name, help, labels);
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = Histogram::with_opts(opts)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let outbox = outbox::Metrics::default();
        outbox.register(registry)?;
        let dead = DeadLetters::new()?;
        registry.register(Box::new(dead.clone()))?;
        Ok(Metrics {
            outbox,
            captured: counters(
                "weft_events_captured_total",
                "Deferred calls stored, each once.",
                &["route"],
            )?,
            delivered: counters(
                "weft_events_delivered_total",
                "Attempts to deliver a stored event, by what came of each: done, later, waiting (no attempt burned), dead.",
                &["subscription", "outcome"],
            )?,
            seconds: histogram(
                "weft_event_delivery_seconds",
                "Time of one attempt to deliver, from its first byte to its judged answer.",
                &[
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
                    30.0,
                ],
            )?,
            age: histogram(
                "weft_event_age_seconds",
                "Age of events when they were delivered.",
                &[
                    0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0, 259200.0,
                ],
            )?,
            added: counters(
                "weft_dead_letters_added_total",
                "Events that became dead letters, by reason.",
                &["subscription", "reason"],
            )?,
            dead,
        })
    }

    /// The counter of a deferred route; its other metrics begin at zero.
    pub(super) fn captured(&self, route: &str) -> IntCounter {
        for outcome in ["done", "later", "waiting", "dead"] {
            self.delivered.with_label_values(&[route, outcome]);
        }
        for reason in DeadReason::ALL {
            self.added.with_label_values(&[route, reason.word()]);
        }
        self.dead.route(route);
        self.captured.with_label_values(&[route])
    }

    pub(super) fn delivered(&self, route: &str, outcome: &str) -> IntCounter {
        self.delivered.with_label_values(&[route, outcome])
    }

    pub(super) fn died(&self, route: &Arc<str>, seq: Seq, reason: DeadReason) {
        self.added.with_label_values(&[route, reason.word()]).inc();
        self.dead.add(route, seq, Wall::now());
    }
}

/// Since when letters wait, by route.
type Letters = HashMap<Arc<str>, HashMap<Seq, Wall>>;

/// Dead letters that wait for a person, counted when somebody asks.
#[derive(Clone)]
pub(super) struct DeadLetters {
    since: Arc<Mutex<Letters>>,
    count: IntGaugeVec,
    oldest: GaugeVec,
    average: GaugeVec,
}

impl DeadLetters {
    fn new() -> prometheus::Result<Self> {
        let ages = |name, help| GaugeVec::new(Opts::new(name, help), &["subscription"]);
        Ok(DeadLetters {
            since: Arc::default(),
            count: IntGaugeVec::new(
                Opts::new("weft_dead_letters", "Dead letters that wait for a person."),
                &["subscription"],
            )?,
            oldest: ages(
                "weft_dead_letter_oldest_age_seconds",
                "How long the oldest dead letter has been waiting.",
            )?,
            average: ages(
                "weft_dead_letter_age_seconds_avg",
                "How long dead letters have been waiting, on average.",
            )?,
        })
    }

    pub(super) fn add(&self, route: &Arc<str>, seq: Seq, at: Wall) {
        let mut since = self.lock();
        since.entry(route.clone()).or_default().insert(seq, at);
    }

    pub(super) fn remove(&self, seq: Seq) {
        for letters in self.lock().values_mut() {
            letters.remove(&seq);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.lock()
            .values()
            .map(|letters| letters.len() as u64)
            .sum()
    }

    /// Routes stay: what was counted once is zero now.
    pub(super) fn clear(&self) {
        self.lock().values_mut().for_each(HashMap::clear);
    }

    fn route(&self, route: &str) {
        self.lock().entry(route.into()).or_default();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Letters> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for DeadLetters {
    fn desc(&self) -> Vec<&Desc> {
        let ages = self.oldest.desc().into_iter().chain(self.average.desc());
        self.count.desc().into_iter().chain(ages).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = Wall::now();
        for (route, letters) in self.lock().iter() {
            let ages = || letters.values().map(|at| now.since(*at).as_secs_f64());
            let label = &[&**route];
            self.count
                .with_label_values(label)
                .set(letters.len() as i64);
            let oldest = ages().fold(0.0, f64::max);
            self.oldest.with_label_values(label).set(oldest);
            let average = ages().sum::<f64>() / letters.len().max(1) as f64;
            self.average.with_label_values(label).set(average);
        }
        let ages = self.oldest.collect().into_iter();
        let ages = ages.chain(self.average.collect());
        self.count.collect().into_iter().chain(ages).collect()
    }
}

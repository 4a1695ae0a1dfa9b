//! What this room counts: how long our identity lasts, its rotations, and handshakes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus::{
    Gauge, IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{failure::HandshakeError, generation::Generation};

/// The families of this room, registered once.
#[derive(Debug, Clone)]
pub struct Metrics {
    rotations: IntCounterVec,
    handshakes: IntCounterVec,
    ends: Ends,
}

/// Which side of a handshake we are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    const fn word(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// What came of a source's news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// It counts from now on.
    Accepted,
    /// It is no use; the last good one goes on.
    Refused,
    /// The source could not be reached.
    Unavailable,
}

impl Rotation {
    const fn word(self) -> &'static str {
        match self {
            Rotation::Accepted => "accepted",
            Rotation::Refused => "refused",
            Rotation::Unavailable => "unavailable",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let family = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
                .expect("the names and labels here are valid")
        };
        Metrics {
            rotations: family(
                "weft_identity_rotations_total",
                "News of our identity, its roots or its revocation lists, by what came of it: accepted, refused or unavailable.",
                &["result"],
            ),
            handshakes: family(
                "weft_tls_handshakes_total",
                "TLS handshakes, by direction, result (success or failure) and reason.",
                &["direction", "result", "reason"],
            ),
            ends: Ends::new(),
        }
    }
}

impl Metrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Metrics::default();
        registry.register(Box::new(metrics.rotations.clone()))?;
        registry.register(Box::new(metrics.handshakes.clone()))?;
        registry.register(Box::new(metrics.ends.clone()))?;
        Ok(metrics)
    }

    /// Counts a handshake that ended; a failure by its reason.
    pub fn handshake(&self, direction: Direction, failure: Option<&HandshakeError>) {
        let (result, reason) = match failure {
            None => ("success", ""),
            Some(error) => ("failure", error.word()),
        };
        self.handshakes
            .with_label_values(&[direction.word(), result, reason])
            .inc();
    }

    /// Counts a handshake that the caller gave up.
    pub fn handshake_timeout(&self, direction: Direction) {
        self.handshakes
            .with_label_values(&[direction.word(), "failure", "timeout"])
            .inc();
    }

    pub(super) fn rotation(&self, result: Rotation) {
        self.rotations.with_label_values(&[result.word()]).inc();
    }

    pub(super) fn follow(&self, generation: &Generation) {
        *self.ends.dates() = Dates {
            identity: Some(generation.identity().not_after()),
            lifetime: generation
                .identity()
                .not_after()
                .duration_since(generation.identity().not_before())
                .ok(),
            lists: generation.revocations().next_update(),
        };
    }
}

/// Gauges that count down: computed when they are asked for.
#[derive(Debug, Clone)]
struct Ends {
    dates: Arc<Mutex<Dates>>,
    identity: Gauge,
    lifetime: Gauge,
    lists: Gauge,
}

#[derive(Debug, Default)]
struct Dates {
    identity: Option<SystemTime>,
    lifetime: Option<Duration>,
    lists: Option<SystemTime>,
}

impl Ends {
    fn new() -> Self {
        let gauge =
            |name: &str, help: &str| Gauge::new(name, help).expect("the names here are valid");
        Ends {
            dates: Arc::default(),
            identity: gauge(
                "weft_identity_expiry_seconds",
                "Seconds until our certificate ends, negative afterwards; absent without one.",
            ),
            lifetime: gauge(
                "weft_identity_lifetime_seconds",
                "How long our certificate counts in all; absent without one.",
            ),
            lists: gauge(
                "weft_identity_crl_update_seconds",
                "Seconds until a revocation list should be replaced, negative afterwards; absent without one.",
            ),
        }
    }

    fn dates(&self) -> std::sync::MutexGuard<'_, Dates> {
        self.dates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Ends {
    fn desc(&self) -> Vec<&Desc> {
        [
            self.identity.desc(),
            self.lifetime.desc(),
            self.lists.desc(),
        ]
        .concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let dates = self.dates();
        let mut families = Vec::new();
        let values = [
            (&self.identity, dates.identity.map(seconds_until)),
            (
                &self.lifetime,
                dates.lifetime.map(|lifetime| lifetime.as_secs_f64()),
            ),
            (&self.lists, dates.lists.map(seconds_until)),
        ];
        for (gauge, value) in values {
            if let Some(value) = value {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

fn seconds_until(date: SystemTime) -> f64 {
    match date.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    }
}

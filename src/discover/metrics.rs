//! What this room counts, by upstream.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::answer::Heard;

/// The families of this room, registered once.
#[derive(Debug, Clone)]
pub struct Metrics {
    lookups: IntCounterVec,
    last_success: GaugeVec,
}

/// One upstream's handles.
#[derive(Debug)]
pub(super) struct UpstreamMetrics {
    found: IntCounter,
    none: IntCounter,
    failed: IntCounter,
    last_success: Gauge,
}

impl Metrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let lookups = IntCounterVec::new(
            Opts::new(
                "weft_dns_lookups_total",
                "Lookups of an upstream's name, by what came of them: found, none or failed.",
            ),
            &["upstream", "result"],
        )?;
        let last_success = GaugeVec::new(
            Opts::new(
                "weft_dns_last_success_timestamp_seconds",
                "When an upstream's name was last found, in seconds since 1970.",
            ),
            &["upstream"],
        )?;
        registry.register(Box::new(lookups.clone()))?;
        registry.register(Box::new(last_success.clone()))?;
        Ok(Metrics {
            lookups,
            last_success,
        })
    }

    pub(super) fn of(&self, upstream: &str) -> UpstreamMetrics {
        let result = |result: &str| self.lookups.with_label_values(&[upstream, result]);
        UpstreamMetrics {
            found: result("found"),
            none: result("none"),
            failed: result("failed"),
            last_success: self.last_success.with_label_values(&[upstream]),
        }
    }
}

impl UpstreamMetrics {
    pub(super) fn count(&self, heard: &Heard) {
        match heard {
            Heard::Found => {
                self.found.inc();
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                self.last_success.set(now.as_secs_f64());
            }
            Heard::None => self.none.inc(),
            Heard::Failed(_) => self.failed.inc(),
        }
    }
}

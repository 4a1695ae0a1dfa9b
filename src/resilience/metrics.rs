//! What this room counts, by upstream; the handles are resolved once, at load.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

use super::Kept;

/// The families of this room, registered once.
#[derive(Debug, Clone)]
pub struct Metrics {
    retries: IntCounterVec,
    kept: IntCounterVec,
    budget: IntGaugeVec,
    rejections: IntCounterVec,
    ejections: IntCounterVec,
}

/// One upstream's handles.
#[derive(Debug)]
pub struct UpstreamMetrics {
    pub retries: IntCounter,
    /// By the reason why an answer that could be retried was passed on.
    pub kept: [IntCounter; Kept::ALL.len()],
    /// Set when a scrape asks.
    pub budget: IntGauge,
    pub rejected_pending: IntCounter,
    pub rejected_requests: IntCounter,
    pub ejections: IntCounter,
}

impl Metrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registered(registry, family)
        };
        Ok(Metrics {
            retries: counter(
                "weft_retries_total",
                "Tries after the first that were sent to an upstream.",
                &["upstream"],
            )?,
            kept: counter(
                "weft_retries_withheld_total",
                "Failures that the policy would have tried again and that were passed on instead, by why.",
                &["upstream", "why"],
            )?,
            budget: registered(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "weft_retry_budget_balance",
                        "Retries that an upstream's budget would grant now.",
                    ),
                    &["upstream"],
                )?,
            )?,
            rejections: counter(
                "weft_breaker_rejections_total",
                "Calls refused at once because an upstream was at a limit.",
                &["upstream", "limit"],
            )?,
            ejections: counter(
                "weft_endpoint_ejections_total",
                "Endpoints taken out of balancing for their failures.",
                &["upstream"],
            )?,
        })
    }

    /// The handles of one upstream; the same ones again after a reload.
    pub fn of(&self, upstream: &str) -> UpstreamMetrics {
        let rejected = |limit: &str| self.rejections.with_label_values(&[upstream, limit]);
        UpstreamMetrics {
            retries: self.retries.with_label_values(&[upstream]),
            kept: Kept::ALL.map(|why| self.kept.with_label_values(&[upstream, why.word()])),
            budget: self.budget.with_label_values(&[upstream]),
            rejected_pending: rejected("pending"),
            rejected_requests: rejected("requests"),
            ejections: self.ejections.with_label_values(&[upstream]),
        }
    }
}

impl UpstreamMetrics {
    pub fn kept(&self, why: Kept) -> &IntCounter {
        &self.kept[why as usize]
    }
}

/// Handles that no registry knows: for tests and tools.
impl Default for UpstreamMetrics {
    fn default() -> Self {
        Metrics::register(&Registry::new())
            .expect("a fresh registry has no second family of a name")
            .of("none")
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    family: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_upstream_has_its_own_handles_and_a_reload_finds_them_again() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.of("a").retries.inc();
        metrics.of("a").retries.inc();
        metrics.of("b").kept(Kept::Budget).inc();
        assert_eq!(metrics.of("a").retries.get(), 2);
        assert_eq!(metrics.of("b").retries.get(), 0);
        assert_eq!(metrics.of("b").kept(Kept::Budget).get(), 1);
        assert_eq!(registry.gather().len(), 5);
    }
}

//! How a route's events are delivered, as its file says.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{events::DeliverSettings, resilience::Backoff};

/// How a route's events are delivered.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub attempts: u32,
    pub timeout: Duration,
    pub(super) concurrency: u32,
    pub(super) backoff: Backoff,
    retry_after_max: Duration,
}

impl From<&DeliverSettings> for Rule {
    fn from(said: &DeliverSettings) -> Self {
        Rule {
            attempts: said.attempts,
            timeout: said.timeout.into(),
            concurrency: said.concurrency,
            backoff: said.backoff.into(),
            retry_after_max: said.retry_after_max.into(),
        }
    }
}

impl Rule {
    /// The wait before the next attempt; what the callee asked for is the least.
    pub fn wait(&self, attempts: u32, asked: Option<Duration>) -> Duration {
        let asked = asked.unwrap_or_default().min(self.retry_after_max);
        let drawn = self.backoff.draw(attempts, &mut fastrand::Rng::new());
        drawn.max(asked)
    }
}

/// Rules by route; a route that is gone from the file has the default ones.
pub type Rules = HashMap<Arc<str>, Rule>;

/// The rule of this route.
pub(super) fn rule(rules: &Rules, route: &str) -> Rule {
    match rules.get(route) {
        Some(rule) => *rule,
        None => Rule::from(&DeliverSettings::default()),
    }
}

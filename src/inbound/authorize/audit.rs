//! What is told of decisions: a counter a rule, and a line for what was refused or would have been.
//!
//! Lines go to the log under the target `audit`. A rule writes at most 50 a second, so that a stranger cannot fill the
//! disk; how many were left out stands in the next one. The counters leave nothing out.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::{Caller, Says, Verdict, View, rule::Rule};
use crate::{inbound::settings::Action, units::ServiceName};

/// Lines of one rule in one second.
const LINES: u64 = 50;

/// The metrics of this room.
#[derive(Clone)]
pub struct Metrics {
    decisions: IntCounterVec,
}

impl Metrics {
    /// Declares them in `registry`; an error means that a name is there already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let decisions = IntCounterVec::new(
            Opts::new(
                "weft_authorization_total",
                "Requests and other connections, by the rule that decided and what it did or, in a dry run, would have done.",
            ),
            &["rule", "action"],
        )?;
        registry.register(Box::new(decisions.clone()))?;
        Ok(Metrics { decisions })
    }

    pub(super) fn tally(&self, rule: &ServiceName, action: Action, dry_run: bool) -> Tally {
        let action = word(action, dry_run);
        Tally {
            decisions: self.decisions.with_label_values(&[rule.as_str(), action]),
            second: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            omitted: AtomicU64::new(0),
        }
    }
}

fn word(action: Action, dry_run: bool) -> &'static str {
    match (action, dry_run) {
        (Action::Allow, false) => "allow",
        (Action::Deny, false) => "deny",
        (Action::Allow, true) => "would_allow",
        (Action::Deny, true) => "would_deny",
    }
}

/// What one rule has decided, and how much of it was told this second. All workers count here.
#[derive(Debug)]
pub(super) struct Tally {
    decisions: IntCounter,
    second: AtomicU64,
    lines: AtomicU64,
    omitted: AtomicU64,
}

impl Tally {
    /// Whether a line may be written, and how many were left out before it.
    ///
    /// Two workers that enter a second at once may write a few lines more.
    fn may_tell(&self, now: u64) -> Option<u64> {
        if self.second.swap(now, Relaxed) != now {
            self.lines.store(0, Relaxed);
        }
        match self.lines.fetch_add(1, Relaxed) < LINES {
            true => Some(self.omitted.swap(0, Relaxed)),
            false => {
                self.omitted.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

impl Verdict<'_> {
    /// Counts what was decided, and tells what was refused. An ambiguous path is a fault of its own, counted there.
    #[inline]
    pub(super) fn note(&self, caller: &Caller<'_>, view: Option<&View<'_>>) {
        if self.says != Says::Ambiguous {
            self.rule.tally.decisions.inc();
        }
        if self.says == Says::Refuse || !self.tried.is_empty() {
            self.tell(caller, view);
        }
    }

    #[cold]
    fn tell(&self, caller: &Caller<'_>, view: Option<&View<'_>>) {
        for rule in &self.tried {
            rule.tally.decisions.inc();
            line(rule, caller, view);
        }
        if self.says == Says::Refuse {
            line(self.rule, caller, view);
        }
    }
}

fn line(rule: &Rule, caller: &Caller<'_>, view: Option<&View<'_>>) {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    let Some(omitted) = rule.tally.may_tell(STARTED.elapsed().as_secs() + 1) else {
        return;
    };
    tracing::info!(
        target: "audit",
        action = word(rule.action, rule.dry_run),
        rule = rule.name.as_str(),
        identity = caller.identity.map_or("none", |id| id.as_str()),
        ip = %caller.ip.to_canonical(),
        port = caller.port,
        method = view.map(|view| view.method.as_str()),
        host = view.map(|view| view.host),
        path = view.map(|view| view.path),
        omitted = (omitted > 0).then_some(omitted),
        "authorization"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_tells_so_much_a_second_and_then_how_much_it_left_out() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let tally = metrics.tally(&"r".parse().unwrap(), Action::Deny, false);
        for _ in 0..LINES {
            assert_eq!(tally.may_tell(1), Some(0));
        }
        assert_eq!((tally.may_tell(1), tally.may_tell(1)), (None, None));
        assert_eq!(tally.may_tell(2), Some(2));
        assert_eq!(tally.may_tell(2), Some(0));
    }
}

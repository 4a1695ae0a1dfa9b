//! Values out of range, alone or against each other.

use super::Lint;
use crate::{
    config::tree::Steps,
    http::Timers,
    resilience::settings::Backoff,
    units::{ByteSize, Time},
};

/// No call may need more memory than this at once.
const LARGEST_EVENT: ByteSize = ByteSize::mib(256);

pub(super) fn check(lint: &mut Lint<'_>) {
    let config = lint.config;
    timers(
        lint,
        &Steps::of(&["inbound", "timers"]),
        &config.inbound.timers,
    );
    timers(
        lint,
        &Steps::of(&["outbound", "timers"]),
        &config.outbound.timers,
    );
    for index in 0..config.outbound.routes.len() {
        route(lint, index);
    }
    for (name, upstream) in &config.upstreams {
        let at = Steps::of(&["upstreams", name]);
        let penalty = at.key("outlier").key("penalty");
        longer_than_nothing(
            lint,
            &at.key("timeouts").key("connect"),
            upstream.timeouts.connect,
        );
        longer_than_nothing(lint, &penalty.key("min"), upstream.outlier.penalty.min);
        let bounds = upstream.outlier.penalty;
        in_order(lint, &penalty, ("min", bounds.min), ("max", bounds.max));
    }
    outbox(lint);
}

fn timers(lint: &mut Lint<'_>, at: &Steps, timers: &Timers) {
    longer_than_nothing(lint, &at.key("head"), timers.head);
    longer_than_nothing(lint, &at.key("idle"), timers.idle);
    longer_than_nothing(lint, &at.key("writeStall"), timers.write_stall);
    longer_than_nothing(lint, &at.key("bodyRate").key("over"), timers.body_rate.over);
}

fn route(lint: &mut Lint<'_>, index: usize) {
    let route = &lint.config.outbound.routes[index];
    let at = Steps::of(&["outbound", "routes"]).index(index);
    let attempts = at.key("retry").key("attempts");
    match route.retry.attempts {
        0 => {
            lint.error(&attempts, "no try at all; 1 is one try and no retry");
        }
        1..=100 => {}
        many => {
            lint.error(&attempts, format!("{many} tries; at most 100"));
        }
    }
    backoff(lint, &at.key("retry").key("backoff"), &route.retry.backoff);
    if let (Some(whole), Some(one)) = (route.timeouts.request, route.timeouts.backend_request)
        && one > whole
    {
        let words = format!("one try may take {one}, but the whole call only {whole}");
        lint.warning(&at.key("timeouts").key("backendRequest"), words);
    }
    for (nth, backend) in route.backends.iter().enumerate() {
        if backend.weight > 1_000_000 {
            let at = at.key("backends").index(nth).key("weight");
            lint.error(&at, format!("{} is over 1000000", backend.weight));
        }
    }
    let Some(defer) = &route.defer else { return };
    let at = at.key("defer");
    let deliver = at.key("deliver");
    if let Some(expiry) = defer.expiry
        && lint.is_whole(&at)
        && expiry <= defer.delay
    {
        let words = format!(
            "every call expires after {expiry}, before its delay of {} ends",
            defer.delay
        );
        lint.error(&at.key("expiry"), words);
    }
    if defer.deliver.attempts == 0 {
        lint.error(
            &deliver.key("attempts"),
            "no try at all: every call would be a dead letter",
        );
    }
    if !(1..=10_000).contains(&defer.deliver.concurrency) {
        let words = format!("{} is not from 1 to 10000", defer.deliver.concurrency);
        lint.error(&deliver.key("concurrency"), words);
    }
    longer_than_nothing(lint, &deliver.key("timeout"), defer.deliver.timeout);
    backoff(lint, &deliver.key("backoff"), &defer.deliver.backoff);
}

fn outbox(lint: &mut Lint<'_>) {
    let limits = &lint.config.outbox.limits;
    let at = Steps::of(&["outbox", "limits"]);
    for (key, nothing) in [
        ("bytes", limits.bytes.bytes() == 0),
        ("count", limits.count == 0),
        ("age", limits.age.is_zero()),
        ("event", limits.event.bytes() == 0),
        ("perUpstream", limits.per_upstream.share() == 0),
    ] {
        if nothing {
            lint.error(&at.key(key), "at 0 no call could be deferred");
        }
    }
    if limits.event > LARGEST_EVENT {
        let words = format!(
            "{} is over {LARGEST_EVENT}: a call is held whole in memory",
            limits.event
        );
        lint.error(&at.key("event"), words);
    }
    if limits.event > limits.bytes && lint.is_whole(&at) {
        let words = format!(
            "one call of {} does not fit in {}",
            limits.event, limits.bytes
        );
        lint.error(&at.key("event"), words);
    }
}

fn backoff(lint: &mut Lint<'_>, at: &Steps, backoff: &Backoff) {
    in_order(lint, at, ("base", backoff.base), ("max", backoff.max));
}

fn longer_than_nothing(lint: &mut Lint<'_>, at: &Steps, time: Time) {
    if time.is_zero() {
        lint.error(at, "must be longer than 0s");
    }
}

/// A lower bound is not over its upper bound. Points at the one that the file says.
fn in_order(lint: &mut Lint<'_>, at: &Steps, low: (&str, Time), high: (&str, Time)) {
    if low.1 > high.1 && lint.is_whole(at) {
        let low_at = at.key(low.0);
        let at = match lint.origins.node(&low_at) {
            Some(_) => low_at,
            None => at.key(high.0),
        };
        let words = format!("from {} up to {}: the bounds are swapped", low.1, high.1);
        lint.error(&at, words);
    }
}

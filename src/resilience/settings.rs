//! What a route and an upstream say of failure: timeouts, retries, limits, ejection.

mod condition;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::{Method, OrNone, Percent, Time, time_or_none};

pub use condition::{Condition, GrpcCode};

/// How long a call may take. A `grpc-timeout` always counts as well; streams have none unless it is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timeouts {
    /// The whole call, all tries and waits together.
    #[serde(with = "time_or_none")]
    #[schemars(with = "OrNone<Time>")]
    pub request: Option<Time>,
    /// One try.
    #[serde(with = "time_or_none")]
    #[schemars(with = "OrNone<Time>")]
    pub backend_request: Option<Time>,
}

/// Which failures are tried again, and how often. A budget an upstream (20 % over 10 s, at least 10 a second) bounds them all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Tries in all, the first one included; 1 = never again.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// What is tried again: connect, refused, reset, timeout, gateway (502 503 504), 5xx, a status, `grpc: [unavailable]`.
    pub conditions: Vec<Condition>,
    /// Methods that may be tried again where the call may have been processed. A written `grpc` condition needs none.
    pub methods: Vec<Method>,
    /// The wait before a next try.
    pub backoff: Backoff,
}

/// Waits that double, with full jitter: a random time up to `base`, then up to twice that, and so on to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    /// The longest first wait.
    pub base: Time,
    /// The longest wait.
    pub max: Time,
}

impl Backoff {
    /// Between tries of a call that someone waits for.
    pub fn retry() -> Self {
        Backoff {
            base: Time::millis(25),
            max: Time::millis(250),
        }
    }

    /// Between deliveries of a call that no one waits for.
    pub fn delivery() -> Self {
        Backoff {
            base: Time::millis(200),
            max: Time::seconds(30),
        }
    }

    /// Reads a backoff whose missing keys are those of `delivery`.
    pub fn read_delivery<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DeliveryBackoff::deserialize(deserializer)
    }
}

/// The keys of `Backoff` again, with the defaults of a delivery.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "DeliveryBackoff")]
#[serde(
    remote = "Backoff",
    rename_all = "camelCase",
    deny_unknown_fields,
    default = "Backoff::delivery"
)]
pub struct DeliveryBackoff {
    /// The longest first wait.
    base: Time,
    /// The longest wait.
    max: Time,
}

/// How much may be under way at once, over all workers; beyond it a call is answered 503. 0 = no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections.
    pub connections: u32,
    /// Calls that wait for a connection.
    pub pending: u32,
    /// Calls under way.
    pub requests: u32,
}

/// When an endpoint is left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Outlier {
    /// Failures in a row (5xx, failed connections, failing `grpc-status`) that eject an endpoint; 0 = never.
    pub consecutive_failures: u32,
    /// How long it is ejected: `min` the first time, doubling to `max`. Then one real request decides.
    pub penalty: Penalty,
    /// The share of an upstream's endpoints that may be ejected at once; never the last one.
    pub max_ejection: Percent,
}

/// How long an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Penalty {
    /// The first time.
    pub min: Time,
    /// At most.
    pub max: Time,
}

impl Default for Retry {
    fn default() -> Self {
        use http::Method as M;
        let idempotent = [M::GET, M::HEAD, M::OPTIONS, M::TRACE, M::PUT, M::DELETE];
        Retry {
            attempts: 2,
            conditions: vec![Condition::Connect, Condition::Refused],
            methods: idempotent.into_iter().map(Method).collect(),
            backoff: Backoff::retry(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::retry()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            pending: 1024,
            requests: 0,
        }
    }
}

impl Default for Outlier {
    fn default() -> Self {
        Outlier {
            consecutive_failures: 5,
            penalty: Penalty::default(),
            max_ejection: const { Percent::new(50).expect("50 is a share") },
        }
    }
}

impl Default for Penalty {
    fn default() -> Self {
        Penalty {
            min: Time::seconds(1),
            max: Time::seconds(60),
        }
    }
}

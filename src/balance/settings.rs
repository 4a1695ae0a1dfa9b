//! What `loadBalancing:` says: how an endpoint is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LoadBalancing")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The rule.
    pub policy: Policy,
}

/// The rule by which an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// Of two at random the one with less recent latency times load; failures count as latency.
    #[default]
    PeakEwma,
    /// Of two at random the one with fewer requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

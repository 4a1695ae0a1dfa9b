//! What `telemetry:` says: which requests get a line in the access log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is told about requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Telemetry")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Which requests get a line.
    pub access_log: AccessLog,
}

/// Which requests get a line in the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessLog {
    /// None.
    None,
    /// Those that failed: 5xx, a failing `grpc-status`, an answer of our own, a broken body.
    #[default]
    OnError,
    /// All.
    All,
}

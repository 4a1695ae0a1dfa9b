//! What `endpoints:` says: where an upstream's endpoints come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Address, SocketAddress};

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// Every A and AAAA record of a name, as long as its TTL says.
    Dns(Address),
    /// These addresses.
    Static(Vec<SocketAddress>),
}

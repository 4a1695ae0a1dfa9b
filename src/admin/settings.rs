//! What `admin:` says: where the operator asks, and where Prometheus scrapes.

use std::net::Ipv6Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::SocketAddress;

/// The operator's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Admin")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The admin API; loopback only.
    pub listen: SocketAddress,
    /// `/metrics`, `/live` and `/ready`.
    pub metrics: SocketAddress,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddress(([127, 0, 0, 1], 15000).into()),
            metrics: SocketAddress((Ipv6Addr::UNSPECIFIED, 15020).into()),
        }
    }
}

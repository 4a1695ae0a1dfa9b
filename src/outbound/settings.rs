//! What `outbound:` and `upstreams:` say: where the application's calls come in, how each is routed, and where to.

mod filter;
mod upstream;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    events::{DeferSettings, IdempotencySettings, ReplySettings},
    http::{OutboundTimers, Timers, upgrade::Upgrades},
    resilience::settings::{Retry, Timeouts},
    route::{HostPattern, Match},
    units::{Listen, ServiceName},
};

pub use filter::{
    Filter, HeaderModifier, PathRewrite, RedirectStatus, RequestRedirect, Scheme, UrlRewrite,
};
pub use upstream::{ConnectTimeout, Panic, Protocol, UpstreamSettings};

/// Calls of the application beside us.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Outbound")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Where the application connects: one address, several, or none.
    pub listen: Listen,
    /// What happens to a call that names no route and no upstream.
    pub unknown: Unknown,
    /// How long the application's connection may take for what.
    #[serde(deserialize_with = "Timers::read_outbound")]
    #[schemars(with = "OutboundTimers")]
    pub timers: Timers,
    /// Which call goes where and how. The most specific wins; the order of the file breaks ties.
    pub routes: Vec<RouteSettings>,
}

/// What happens to a call that names no route and no upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Unknown {
    /// It goes where its `Host` says.
    #[default]
    Passthrough,
    /// It is refused.
    Deny,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Route")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteSettings {
    /// The route's name, in metrics, logs and stored calls.
    pub name: ServiceName,
    /// Hosts it is for: exact names, `*.suffix` or `"*"`; with a port only where the port matters.
    #[serde(default = "HostPattern::any")]
    pub hosts: Vec<HostPattern>,
    /// A call must meet all of one of these; none listed = every call.
    #[serde(default)]
    pub matches: Vec<Match>,
    /// How long a call may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Which failures are tried again, and how often.
    #[serde(default)]
    pub retry: Retry,
    /// The protocols that a call may switch to; `[]` = none.
    #[serde(default)]
    pub upgrades: Upgrades,
    /// What is changed on the way, in this order.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where calls go, by weight; none listed = the upstream that the host names.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// Present = answered once the call is on disk, delivered later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defer: Option<DeferSettings>,
    /// Present = a deferred call that is sent again with the same key is kept once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<IdempotencySettings>,
    /// What the caller of a deferred call is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplySettings>,
}

/// One of the upstreams that a route's calls go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// The upstream's name.
    pub upstream: ServiceName,
    /// Its share, relative to the other weights.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: Listen::new([
                ([127, 0, 0, 1], 15001).into(),
                (std::net::Ipv6Addr::LOCALHOST, 15001).into(),
            ]),
            unknown: Unknown::default(),
            timers: Timers::outbound(),
            routes: Vec::new(),
        }
    }
}

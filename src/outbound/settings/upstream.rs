//! One entry of `upstreams:`: where its endpoints are and how they are guarded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    balance,
    discover::Source,
    resilience::settings::{Limits, Outlier},
    tls::Towards,
    units::{Listen, SocketAddress, SpiffeId, Time},
};

/// One upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Upstream")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Where its endpoints come from.
    pub endpoints: Source,
    /// A port of its own for this upstream, whatever `Host` says.
    #[serde(default)]
    pub listen: Listen,
    /// Addresses whose redirected connections go to any of its endpoints, as those of a virtual service.
    #[serde(default)]
    pub addresses: Vec<SocketAddress>,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// How long a connection may take.
    #[serde(default)]
    pub timeouts: ConnectTimeout,
    /// How connections to it are secured.
    #[serde(default)]
    pub tls: Towards,
    /// The identity that its endpoints must prove; with one, `tls: auto` is mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// How an endpoint is chosen.
    #[serde(default)]
    pub load_balancing: balance::Settings,
    /// How much may be under way at once.
    #[serde(default)]
    pub limits: Limits,
    /// When an endpoint is left alone for a while.
    #[serde(default)]
    pub outlier: Outlier,
    /// What happens when no endpoint is usable, for whatever reason.
    #[serde(default)]
    pub panic: Panic,
}

impl UpstreamSettings {
    /// An upstream of these endpoints and nothing but defaults.
    pub fn to(endpoints: Source) -> Self {
        UpstreamSettings {
            endpoints,
            listen: Listen::default(),
            addresses: Vec::new(),
            protocol: Protocol::default(),
            timeouts: ConnectTimeout::default(),
            tls: Towards::default(),
            identity: None,
            load_balancing: balance::Settings::default(),
            limits: Limits::default(),
            outlier: Outlier::default(),
            panic: Panic::default(),
        }
    }
}

/// What an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UpstreamProtocol")]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// The caller's own version of HTTP; what is no HTTP is passed on as bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, over HTTP/2 with prior knowledge.
    Grpc,
    /// Bytes: each connection goes to one endpoint, and nobody looks inside.
    Tcp,
}

/// The timeouts of an upstream's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConnectTimeout {
    /// From dialling to an open connection; and how long calls wait for the first DNS answer.
    pub connect: Time,
}

impl Default for ConnectTimeout {
    fn default() -> Self {
        ConnectTimeout {
            connect: Time::seconds(1),
        }
    }
}

/// What happens when no endpoint is usable. Ejection alone never leads there, because the last one stays: it is for
/// the moment in which the endpoints change, and for sources that take them all away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Panic {
    /// Every known endpoint is used, ejected or not.
    #[default]
    RouteAll,
    /// The call is answered 503 `no_endpoint`.
    Fail,
}

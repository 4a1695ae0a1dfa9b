//! What `inbound:` says: where callers come in, and the application they come for.

mod authorization;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    http::{Timers, upgrade::Upgrades},
    units::{Listen, OrNone, SocketAddress, UrlPath, distinct, or_none},
};

pub use authorization::*;

/// Calls to the application beside us.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Inbound")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Where callers connect: one address, several, or none.
    pub listen: Listen,
    /// The application's address; without it a call is answered 503 `no_app`.
    #[serde(with = "or_none")]
    #[schemars(with = "OrNone<SocketAddress>")]
    pub app: Option<SocketAddress>,
    /// Ports of the application, by number, that need a listener or a protocol of their own.
    #[serde(deserialize_with = "distinct")]
    pub ports: BTreeMap<u16, PortSettings>,
    /// How long a caller's connection may take for what.
    pub timers: Timers,
    /// Whether callers must prove who they are.
    pub tls: TlsSettings,
    /// Paths of the application's health that stay open in plaintext under `strict`.
    pub probes: Vec<Probe>,
    /// Who may call, and for what; without it everyone, for everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// The protocols that a request may switch to; `[]` = none.
    pub upgrades: Upgrades,
}

/// One more port of the application.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Port")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortSettings {
    /// Where callers of this port connect; without it only `protocol` is said of the port.
    pub listen: Listen,
    /// The application's address; default: this port on 127.0.0.1.
    #[serde(with = "or_none")]
    #[schemars(with = "OrNone<SocketAddress>")]
    pub app: Option<SocketAddress>,
    /// What the application speaks there.
    pub protocol: Protocol,
    /// Nobody looks at what is spoken: bytes are passed on, as with `protocol: tcp`.
    pub opaque: bool,
    /// Here another mode than `inbound.tls.mode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
}

/// Whether callers must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "InboundTls")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsSettings {
    /// For every port that says nothing else.
    pub mode: TlsMode,
}

/// Whether callers must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TlsMode {
    /// They may; plaintext is counted.
    #[default]
    Permissive,
    /// They must; plaintext is closed, but for `probes`.
    Strict,
}

/// A path of the application's health, open in plaintext under `strict`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The application's port.
    pub port: u16,
    /// The whole path, without a query.
    pub path: UrlPath,
}

/// What the application speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "InboundProtocol")]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// HTTP/1.1, whatever the caller speaks.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, over HTTP/2 with prior knowledge.
    Grpc,
    /// Bytes: nobody looks inside, and the application may speak first.
    Tcp,
    /// TLS of the application's own, passed on as it is.
    Tls,
    /// The caller's own version of HTTP; what is no HTTP is passed on as bytes.
    #[default]
    Auto,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: Listen::new([
                ([0, 0, 0, 0], 15006).into(),
                (std::net::Ipv6Addr::UNSPECIFIED, 15006).into(),
            ]),
            app: None,
            ports: BTreeMap::new(),
            timers: Timers::inbound(),
            tls: TlsSettings::default(),
            probes: Vec::new(),
            authorization: None,
            upgrades: Upgrades::default(),
        }
    }
}

impl Settings {
    /// Whether callers of a port of the application must prove who they are.
    pub fn mode(&self, port: u16) -> TlsMode {
        let said = self.ports.get(&port).and_then(|said| said.tls);
        said.unwrap_or(self.tls.mode)
    }

    /// Says the application's address of every port with a listener that has none: the same port on 127.0.0.1.
    pub fn name_apps(&mut self) {
        for (port, settings) in &mut self.ports {
            if !settings.listen.is_none() {
                let app = SocketAddress(([127, 0, 0, 1], *port).into());
                settings.app.get_or_insert(app);
            }
        }
    }
}

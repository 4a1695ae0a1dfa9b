//! The whole routing file: every room's settings, and those of the house.

use std::{collections::BTreeMap, env, fmt, num::NonZeroU32, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::tree::{Step, path};
use crate::{
    admin, inbound,
    outbound::{self, UpstreamSettings},
    outbox, telemetry, tls,
    units::{Hostname, ServiceName, Time},
};

/// One sidecar's routing file. Every key has a default; an empty file is a working pass-through sidecar.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The file's format.
    pub version: Version,
    /// A named bundle of limits and defaults.
    pub profile: Profile,
    /// Threads that carry requests: a number, or `auto`, the CPU limit rounded up (without one the affinity, at most 2).
    pub workers: Workers,
    /// Who we are, in events and metrics.
    pub service: Service,
    /// Our identity and whom we trust; without it everything is plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<tls::Settings>,
    /// Calls to the application beside us.
    pub inbound: inbound::Settings,
    /// Calls of the application beside us.
    pub outbound: outbound::Settings,
    /// Where calls go, by name, and how each is guarded.
    pub upstreams: BTreeMap<ServiceName, UpstreamSettings>,
    /// The durable store of deferred calls.
    pub outbox: outbox::Settings,
    /// What is told about requests.
    pub telemetry: telemetry::Settings,
    /// The operator's ports.
    pub admin: admin::Settings,
    /// How we leave.
    pub shutdown: Shutdown,
    /// What is dangerous and wanted all the same.
    pub allow_unsafe: Vec<Unsafe>,
}

/// The file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// The first.
    #[default]
    #[serde(rename = "weft/v1")]
    V1,
}

/// A named bundle of limits and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Profile {
    /// Callers and callees are services we know.
    #[default]
    Mesh,
}

/// Threads that carry requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workers {
    /// As many as the CPU limit allows.
    #[default]
    Auto,
    /// So many, at most 1,024.
    Count(NonZeroU32),
}

/// Who we are. The defaults come from the downward API's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Service {
    /// The service's name; default: $WEFT_SERVICE_NAME, else `unnamed`.
    pub name: ServiceName,
    /// Its namespace; default: $WEFT_NAMESPACE, else $POD_NAMESPACE, else `default`.
    pub namespace: ServiceName,
    /// Its trust domain; default: $WEFT_TRUST_DOMAIN, else `cluster.local`.
    pub trust_domain: Hostname,
}

/// How we leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Shutdown {
    /// After SIGTERM we are not ready but still serve, until callers have noticed.
    pub lame_duck: Time,
    /// Then calls under way may take this long.
    pub grace: Time,
}

/// What is dangerous and wanted all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Unsafe {
    /// `outbound.listen` off loopback with `unknown: passthrough`: anyone who reaches it may go anywhere.
    OpenProxy,
}

/// The environment variables that defaults are read from; the first that holds a valid value counts.
const NAME: &[&str] = &["WEFT_SERVICE_NAME"];
const NAMESPACE: &[&str] = &["WEFT_NAMESPACE", "POD_NAMESPACE"];
const TRUST_DOMAIN: &[&str] = &["WEFT_TRUST_DOMAIN"];

impl Default for Service {
    fn default() -> Self {
        Service {
            name: said(NAME, "unnamed"),
            namespace: said(NAMESPACE, "default"),
            trust_domain: said(TRUST_DOMAIN, "cluster.local"),
        }
    }
}

fn said<T: FromStr<Err: fmt::Debug>>(variables: &[&str], otherwise: &str) -> T {
    let values = variables.iter().filter_map(|name| env::var(name).ok());
    let mut valid = values.filter_map(|value| value.parse().ok());
    valid
        .next()
        .unwrap_or_else(|| otherwise.parse().expect("a constant that is valid"))
}

/// The environment variable that the default of a key was read from.
pub(super) fn environment_of(steps: &[Step]) -> Option<&'static str> {
    fn first<T: FromStr>(variables: &[&'static str]) -> Option<&'static str> {
        let valid = |name: &&&str| env::var(name).is_ok_and(|value| value.parse::<T>().is_ok());
        variables.iter().find(valid).copied()
    }
    match path(steps).as_str() {
        "service.name" => first::<ServiceName>(NAME),
        "service.namespace" => first::<ServiceName>(NAMESPACE),
        "service.trustDomain" => first::<Hostname>(TRUST_DOMAIN),
        "outbox.path" => outbox::Settings::default_path_variable(),
        _ => None,
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown {
            lame_duck: Time::seconds(5),
            grace: Time::seconds(25),
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Workers::Auto => serializer.serialize_str("auto"),
            Workers::Count(count) => count.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl de::Visitor<'_> for Number {
            type Value = Workers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto` or a number from 1 to 1024")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
                match text {
                    "auto" => Ok(Workers::Auto),
                    other => Err(E::unknown_variant(other, &["auto"])),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Workers, E> {
                let count = u32::try_from(number).ok().filter(|count| *count <= 1024);
                match count.and_then(NonZeroU32::new) {
                    Some(count) => Ok(Workers::Count(count)),
                    None => Err(E::custom(format!("{number} is not from 1 to 1024"))),
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 1024 }] })
    }
}

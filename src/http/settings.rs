//! The timers of a connection that someone else opened.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::Time;

/// How long a caller's connection may take for what. None of them applies while we hold the caller back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timers {
    /// From the first byte of a request to the end of its head; and from a new connection to its first byte.
    pub head: Time,
    /// How long a connection without a request stays open.
    pub idle: Time,
    /// The least a request's body must bring, else 408 and close; never applied to gRPC.
    pub body_rate: BodyRate,
    /// How long a peer may take none of an answer's bytes.
    pub write_stall: Time,
}

/// The least rate of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BodyRate {
    /// Bytes a second, on average over `over`; 0 = no least rate.
    pub bytes_per_second: u64,
    /// The time over which the rate is judged.
    pub over: Time,
}

impl Timers {
    /// Callers of the application: idle connections of theirs are kept for a minute.
    pub fn inbound() -> Self {
        Timers {
            head: Time::seconds(10),
            idle: Time::seconds(60),
            body_rate: BodyRate::default(),
            write_stall: Time::seconds(20),
        }
    }

    /// The application itself: longer, so that its pool's connections are not closed under it.
    pub fn outbound() -> Self {
        Timers {
            idle: Time::seconds(600),
            ..Self::inbound()
        }
    }

    /// Reads timers whose missing keys are those of `outbound`.
    pub fn read_outbound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OutboundTimers::deserialize(deserializer)
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::inbound()
    }
}

impl Default for BodyRate {
    fn default() -> Self {
        BodyRate {
            bytes_per_second: 64,
            over: Time::seconds(20),
        }
    }
}

/// The keys of `Timers` again, with the other side's defaults.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "OutboundTimers")]
#[serde(
    remote = "Timers",
    rename_all = "camelCase",
    deny_unknown_fields,
    default = "Timers::outbound"
)]
pub struct OutboundTimers {
    /// From the first byte of a request to the end of its head; and from a new connection to its first byte.
    head: Time,
    /// How long a connection without a request stays open.
    idle: Time,
    /// The least a request's body must bring, else 408 and close; never applied to gRPC.
    body_rate: BodyRate,
    /// How long a peer may take none of an answer's bytes.
    write_stall: Time,
}

//! What `defer`, `idempotency` and `reply` say: how a call is kept, delivered and answered.

mod expression;
mod message;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    resilience::settings::{Backoff, DeliveryBackoff},
    units::{FieldName, FieldValue, OrNone, Status, Time, message_fields, or_none, time_or_none},
};

pub use expression::Expression;
pub use message::Message;

/// How a call is kept, and delivered later.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Defer")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeferSettings {
    /// A CEL expression over `request`; order is kept among calls of the same key. None = no order.
    #[serde(with = "or_none")]
    #[schemars(with = "OrNone<Expression>")]
    pub key: Option<Expression>,
    /// Kept with the call, else dropped: `authorization`, `cookie`.
    pub keep_headers: Vec<FieldName>,
    /// A call older than this becomes a dead letter.
    #[serde(with = "time_or_none")]
    #[schemars(with = "OrNone<Time>")]
    pub expiry: Option<Time>,
    /// The least time between acceptance and delivery.
    pub delay: Time,
    /// How it is delivered.
    pub deliver: DeliverSettings,
}

/// How a kept call is delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Deliver")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeliverSettings {
    /// Tries that reached the callee; then it becomes a dead letter. A refused connection is none.
    #[schemars(range(min = 1))]
    pub attempts: u32,
    /// One try.
    pub timeout: Time,
    /// Deliveries of this route to one upstream under way at once; within a key always one.
    #[schemars(range(min = 1))]
    pub concurrency: u32,
    /// The wait before a next try.
    #[serde(deserialize_with = "Backoff::read_delivery")]
    #[schemars(with = "DeliveryBackoff")]
    pub backoff: Backoff,
    /// The longest `Retry-After` that is honoured; a longer one counts as this.
    pub retry_after_max: Time,
}

/// How a caller may send the same deferred call twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Idempotency")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IdempotencySettings {
    /// The header field that names the call.
    pub header: FieldName,
    /// Whether a call without it is answered 400.
    pub required: bool,
    /// How long a key is remembered.
    pub window: Time,
}

/// What the caller of a deferred call is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Reply")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReplySettings {
    /// When.
    pub mode: ReplyMode,
    /// The status; 2xx.
    pub status: Status,
    /// Header fields beside ours.
    #[serde(deserialize_with = "message_fields")]
    pub headers: BTreeMap<FieldName, FieldValue>,
    /// The body.
    pub body: String,
    /// What a gRPC caller gets with its OK: the message, encoded and in base64; empty = one without fields.
    pub message: Message,
}

/// When the caller of a deferred call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReplyMode {
    /// Once the call is stored.
    #[default]
    Accepted,
}

impl Default for DeliverSettings {
    fn default() -> Self {
        DeliverSettings {
            attempts: 5,
            timeout: Time::seconds(10),
            concurrency: 64,
            backoff: Backoff::delivery(),
            retry_after_max: Time::seconds(60),
        }
    }
}

impl Default for IdempotencySettings {
    fn default() -> Self {
        IdempotencySettings {
            header: FieldName(http::HeaderName::from_static("idempotency-key")),
            required: false,
            window: Time::seconds(24 * 3_600),
        }
    }
}

impl Default for ReplySettings {
    fn default() -> Self {
        ReplySettings {
            mode: ReplyMode::Accepted,
            status: Status::ACCEPTED,
            headers: BTreeMap::new(),
            body: String::new(),
            message: Message::default(),
        }
    }
}

//! What `outbox:` says: where deferred calls are kept, and how many of them.

use std::{env, path::PathBuf};

use rustix::process::geteuid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Percent, Time};

/// The durable store of deferred calls. It is opened only where a route defers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Outbox")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Its directory, made with mode 0700. Default for root: /var/lib/weft/outbox, else $XDG_STATE_HOME/weft/outbox.
    pub path: PathBuf,
    /// When a deferred call is acknowledged.
    pub ack_after: AckAfter,
    /// How much it holds.
    pub limits: Limits,
    /// What happens at a limit.
    pub overflow: Overflow,
}

/// When a deferred call is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AckAfter {
    /// Once it is synced to this machine's disk.
    #[default]
    Disk,
}

/// How much the outbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "OutboxLimits")]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of calls that wait.
    pub bytes: ByteSize,
    /// Calls that wait.
    pub count: u64,
    /// How long the oldest call may wait before new ones are refused.
    pub age: Time,
    /// One call with its headers and body; a larger one is answered 413.
    pub event: ByteSize,
    /// The share of the whole that the calls of one upstream may fill.
    pub per_upstream: Percent,
}

/// What happens at a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Overflow {
    /// A new call is answered 503 with `Retry-After`; what was accepted stays.
    #[default]
    Reject,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            path: default_path(),
            ack_after: AckAfter::default(),
            limits: Limits::default(),
            overflow: Overflow::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bytes: ByteSize::gib(4),
            count: 10_000_000,
            age: Time::seconds(72 * 3_600),
            event: ByteSize::mib(1),
            per_upstream: const { Percent::new(50).expect("50 is a share") },
        }
    }
}

impl Settings {
    /// The environment variable that the default of `path` is made of.
    pub fn default_path_variable() -> Option<&'static str> {
        let set = |name: &&str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let mut variables = ["XDG_STATE_HOME", "HOME"].into_iter();
        variables.find(|name| !geteuid().is_root() && set(name))
    }
}

/// Where the outbox is unless the file says: by the user's rights and the XDG base directories.
fn default_path() -> PathBuf {
    let variable = Settings::default_path_variable();
    match variable.map(|name| (name, env::var_os(name).unwrap_or_default())) {
        Some(("HOME", home)) => PathBuf::from(home).join(".local/state/weft/outbox"),
        Some((_, state)) => PathBuf::from(state).join("weft/outbox"),
        None => PathBuf::from("/var/lib/weft/outbox"),
    }
}

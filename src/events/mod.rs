//! A call becomes an event, and an event a call.
//!
//! The path: `capture` keeps a call in the outbox and answers it; `deliver` makes the call, in order within a key, until
//! the callee has taken it or it is a dead letter; `dead` is for people. The store behind them is the `vault`'s.

pub mod capture;
mod dead;
mod deliver;
mod event;
mod gate;
mod lanes;
mod metrics;
mod settings;
mod vault;
mod verdict;

pub use dead::{Edit, Events, Refused, Replay, Which};
pub use deliver::{Call, Callee, Delivery, Parked};
pub use event::{Request, Unreadable};
pub use lanes::{Rule, Rules};
pub use metrics::Metrics;
pub use settings::{
    DeferSettings, DeliverSettings, Expression, IdempotencySettings, Message, ReplyMode,
    ReplySettings,
};
pub use vault::{Access, Opened, Vault};
pub use verdict::{Answer, EXCERPT};

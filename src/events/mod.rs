//! A call becomes an event, and an event a call.

mod settings;

pub use settings::{
    DeferSettings, DeliverSettings, Expression, IdempotencySettings, Message, ReplyMode,
    ReplySettings,
};

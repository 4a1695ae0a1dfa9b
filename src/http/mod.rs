//! HTTP in and out: what hyper leaves to the proxy.

pub mod frames;
pub mod guard;
pub mod headers;
pub mod target;
pub mod watch;
mod settings;

pub use settings::{BodyRate, Timers};

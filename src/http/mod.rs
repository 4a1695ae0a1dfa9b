//! HTTP in and out: what hyper leaves to the proxy.

pub mod frames;
pub mod guard;
pub mod h2;
pub mod headers;
mod settings;
pub mod target;
pub mod watch;

pub use settings::{BodyRate, Timers};

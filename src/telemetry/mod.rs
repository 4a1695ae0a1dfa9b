//! What an operator sees: the registry and its text, the access log, our own logs.
//!
//! Knows neither the flows nor their metrics: each room declares what it moves and hands it to the `Registry`.

mod access;
mod logs;
mod registry;
pub mod settings;

pub use access::{AccessLog, Direction, Line, TcpLine, fails_the_server, rfc3339};
pub use logs::{Level, LogError, Logs};
pub use prometheus;
pub use registry::{Registry, counters};
pub use settings::Settings;

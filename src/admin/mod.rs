//! The operator's HTTP API, and what Prometheus scrapes.

mod settings;

pub use settings::Settings;

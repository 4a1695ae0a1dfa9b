//! Endpoints in, the next one out.

mod settings;

pub use settings::{Policy, Settings};

//! Registry and text format, access-log writer.

mod settings;

pub use settings::{AccessLog, Settings};

//! YAML in, a checked `Config` or every diagnostic at once out.

mod settings;

pub use settings::{Config, Profile, Service, Shutdown, Unsafe, Version, Workers};

//! From a peer to the application beside us.

mod settings;

pub use settings::{PortSettings, Protocol, Settings};

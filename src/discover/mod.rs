//! A source of endpoints as a watch: fixed addresses or DNS.

mod settings;

pub use settings::Source;

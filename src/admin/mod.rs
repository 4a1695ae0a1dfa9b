//! The operator's HTTP API, and what Prometheus scrapes.
//!
//! Two listeners: the API on loopback, and `/metrics`, `/live`, `/ready` for the scraper and the kubelet. Neither
//! shares a port with traffic. What they show and do is the house's, behind the trait `House`; what each page is
//! for stands in `docs/admin.md`.

mod answer;
mod guard;
mod pages;
mod serve;
mod settings;
pub mod store;

pub use pages::PAGES;
pub use serve::{Port, serve};
pub use settings::*;

use serde_json::Value;

use crate::events::Events;

/// What the operator may ask of the house. Called on the keeper's thread.
pub trait House: 'static {
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// Whether new work is welcome; else why not.
    fn ready(&self) -> Result<(), String>;
    /// The addresses that are listened on.
    fn listeners(&self) -> Value;
    /// The effective configuration, secrets hidden.
    fn config(&self) -> Value;
    /// Reads the file again, and returns once it is in force; the words say what changed, or why nothing did.
    fn reload(&self) -> impl Future<Output = Result<String, String>>;
    /// Begins to leave, as SIGTERM does.
    fn drain(&self);
    /// Changes how much is logged.
    fn log(&self, level: &str) -> Result<(), String>;
    /// Every upstream with its endpoints.
    fn upstreams(&self) -> impl Future<Output = Value>;
    /// The deferred calls.
    fn events(&self) -> Events;
}

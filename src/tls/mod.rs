//! Who we are and whom we believe: mutual TLS by SPIFFE identity, and certificates that rotate under load.
//!
//! A `Source` fills the `Store` with generations; every handshake takes the current one whole. `server` and `client`
//! shake hands and say who the peer is; what may be done with a peer is others' business. Key material is never shown.

mod alpn;
mod bundles;
mod client;
mod failure;
mod generation;
mod identity;
pub mod issue;
mod leaf;
mod metrics;
mod ordinary;
mod papers;
mod pem;
mod provider;
mod server;
mod sessions;
pub mod settings;
pub mod show;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod trust;
mod verify;

pub use alpn::Alpn;
pub use bundles::{BundleError, Bundles, Revocations};
pub use client::{Connected, Connector};
pub use failure::HandshakeError;
pub use generation::{Expected, Generation, GenerationError};
pub use identity::{Identity, IdentityError};
pub use leaf::LeafError;
pub use metrics::{Direction, Metrics};
pub use ordinary::{OrdinaryError, Setup};
pub use pem::PemError;
pub use server::{Accepted, accept};
pub use settings::{Ordinary, Settings, Towards};
pub use source::{ApiError, Source, SourceError};
pub use store::Store;
pub use trust::{Peer, Untrusted};

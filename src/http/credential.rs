//! What a connection's peer proved in its handshake, and whether it still holds.
//!
//! HTTP asks; who the peer is and what voids it is for the flows to say. Asked once a tick for a connection, never
//! for a request.

use std::rc::Rc;

use http::HeaderValue;

use crate::units::SpiffeId;

/// A verified peer.
pub trait Credential {
    fn id(&self) -> &SpiffeId;

    /// The element of `x-forwarded-client-cert` that says so to the application.
    fn header(&self) -> &HeaderValue;

    fn standing(&self) -> Standing;
}

/// What a credential is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Valid,
    /// Our identity or trust was renewed, or the peer's certificate ended: what goes on may go on, the next
    /// request takes a new connection.
    Outdated,
    /// Nothing more may pass: the rule that says so, as metrics have it.
    Void(&'static str),
}

/// None where the peer proved nothing.
pub type Proof = Option<Rc<dyn Credential>>;

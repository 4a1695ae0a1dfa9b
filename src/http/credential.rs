//! What a connection's peer proved in its handshake, and whether it still holds.
//!
//! Judged again when our identity or trust changes, and when the peer's certificate ends: once a generation, not once
//! a request. The connection's stream keeps it, and what is void ends the stream within a tick, whatever it carries.

use std::{
    cell::{Cell, OnceCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::SystemTime,
};

use http::HeaderValue;
use prometheus::IntCounter;

use super::tick::{Tick, Ticks, Timed, Watched};
use crate::{
    net::{Bond, Leash, Warrant},
    tls::{Peer, Store},
    units::SpiffeId,
};

/// A verified peer.
pub struct Credential {
    peer: Arc<Peer>,
    store: Store,
    /// The element of `x-forwarded-client-cert` that tells the application.
    header: HeaderValue,
    /// Requests of this identity.
    calls: Option<IntCounter>,
    /// The generation that judged last, and what it said.
    judged: Cell<(u64, Standing)>,
    leash: Rc<Leash>,
    place: OnceCell<Watched>,
}

/// What a credential is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Valid,
    /// Our identity or trust was renewed, or the peer's certificate ended: what goes on may go on, the next
    /// request takes a new connection.
    Outdated,
    /// Nothing more may pass: its root is gone, or it was revoked.
    Void,
}

impl Credential {
    pub fn new(
        peer: Arc<Peer>,
        store: &Store,
        calls: Option<IntCounter>,
        tick: &Rc<Tick>,
    ) -> Rc<Self> {
        let credential = Rc::new(Credential {
            judged: Cell::new((peer.generation, Standing::Valid)),
            header: forwarded(&peer, store),
            peer,
            store: store.clone(),
            calls,
            leash: Rc::default(),
            place: OnceCell::new(),
        });
        let weak: Weak<dyn Timed> = Rc::downgrade(&credential) as Weak<dyn Timed>;
        let _ = credential.place.set(tick.watch(weak));
        credential
    }

    /// Ends the peer's connection once nothing it proved holds any more.
    pub fn bond(self: &Rc<Self>) -> Bond {
        Bond {
            leash: self.leash.clone(),
            warrant: self.clone(),
        }
    }

    pub fn id(&self) -> &SpiffeId {
        &self.peer.id
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// A request of this peer began.
    pub fn called(&self) {
        if let Some(calls) = &self.calls {
            calls.inc();
        }
    }

    /// The peer's certificate has ended.
    pub fn has_ended(&self) -> bool {
        self.peer.not_after < SystemTime::now()
    }

    pub fn standing(&self) -> Standing {
        let number = self.store.number();
        let (judge, standing) = self.judged.get();
        let standing = if judge == number {
            standing
        } else {
            self.judge(number)
        };
        match standing {
            Standing::Valid if self.has_ended() => Standing::Outdated,
            standing => standing,
        }
    }

    #[cold]
    fn judge(&self, number: u64) -> Standing {
        let standing = match self.store.last() {
            Some(generation) => match generation.still_trusts(&self.peer) {
                Ok(()) => Standing::Outdated,
                Err(why) => {
                    tracing::warn!(identity = %self.peer.id, "a peer lost our trust: {why}");
                    Standing::Void
                }
            },
            None => Standing::Outdated,
        };
        self.judged.set((number, standing));
        standing
    }
}

impl Warrant for Credential {
    fn holds(&self) -> bool {
        self.standing() == Standing::Valid
    }
}

impl Timed for Credential {
    fn tick(&self, _: Ticks) {
        match self.standing() {
            Standing::Void => self
                .leash
                .cut("what the peer proved does not hold any more"),
            Standing::Outdated if self.store.cuts_at_expiry() && self.has_ended() => {
                self.leash.cut("the peer's certificate has ended");
            }
            Standing::Valid | Standing::Outdated => {}
        }
    }
}

/// `By`, `Hash` and `URI`, as Envoy writes them.
fn forwarded(peer: &Peer, store: &Store) -> HeaderValue {
    let mut text = String::new();
    if let Some(ours) = store.last() {
        text.push_str(&format!("By={};", ours.identity().id()));
    }
    if let Some(leaf) = peer.chain().first() {
        text.push_str("Hash=");
        for byte in <sha2::Sha256 as sha2::Digest>::digest(leaf) {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push(';');
    }
    text.push_str(&format!("URI={}", peer.id));
    // A SPIFFE id has letters, digits and five signs: always a header's value.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

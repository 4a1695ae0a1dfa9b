//! One address as one worker sees it: its connections, those that lie idle and those that are shared.
//!
//! HTTP/1.1 connections are pooled last in, first out, and go back by themselves when an answer is over; HTTP/2
//! connections are shared. Which address, how often and how many connections are others' to decide.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
};

use super::{Lease, faults::unopened};
use crate::{
    fault::Fault,
    http::{
        dialer::{Dialer, Dialled, Speak},
        h2,
        tick::{Tick, Ticks, Timed, Watched},
    },
    net::{Stream, Warrant},
    wire,
};

/// Who gives out connections: told when one is free again.
pub trait Landlord {
    /// True when a connection should rather be closed than pooled: another worker waits for its place.
    fn wants_back(&self) -> bool;
    /// A connection, or a stream of one, became free: one waiter can go on.
    fn freed(&self);
    /// A connection was made, failed or closed: every waiter looks again.
    fn changed(&self);
    /// So many interim (1xx) answers were dropped.
    fn interim(&self, count: u16);
}

/// How a peer's connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// How long a peer that is connected may take to open HTTP/2.
    pub connect_timeout: Duration,
    /// How long an HTTP/1.1 connection may lie idle before we close it.
    pub idle: Duration,
}

pub struct Peer {
    address: SocketAddr,
    keeping: Keeping,
    landlord: Rc<dyn Landlord>,
    dialer: Rc<dyn Dialer>,
    tick: Rc<Tick>,
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Shared>>,
    /// The peer was asked for HTTP/2 and agreed to HTTP/1.1 only.
    only_http1: Cell<bool>,
    dialling: Cell<u32>,
    gone: Cell<bool>,
    place: OnceCell<Watched>,
}

struct Idle {
    connection: wire::Connection<Stream>,
    since: Ticks,
}

struct Shared {
    connection: h2::Connection,
    warrant: Option<Rc<dyn Warrant>>,
    scheme: &'static str,
}

/// Whether another request may go by a connection that was made with this.
fn holds(warrant: Option<&Rc<dyn Warrant>>) -> bool {
    warrant.is_none_or(|warrant| warrant.holds())
}

impl Peer {
    pub fn new(
        address: SocketAddr,
        keeping: Keeping,
        landlord: Rc<dyn Landlord>,
        dialer: Rc<dyn Dialer>,
        tick: &Rc<Tick>,
    ) -> Rc<Self> {
        Rc::new(Peer {
            address,
            keeping,
            landlord,
            dialer,
            tick: tick.clone(),
            idle: RefCell::default(),
            http2: RefCell::default(),
            only_http1: Cell::new(false),
            dialling: Cell::new(0),
            gone: Cell::new(false),
            place: OnceCell::new(),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// So many interim answers of its were dropped.
    pub(in crate::http) fn interim(&self, count: u16) {
        if count > 0 {
            self.landlord.interim(count);
        }
    }

    /// Connections that lie idle or are shared now.
    pub fn kept(&self) -> (usize, usize) {
        (self.idle.borrow().len(), self.http2.borrow().len())
    }

    /// A connection that is there already.
    pub fn ready(&self, http2: bool) -> Option<Lease> {
        if http2 && !self.only_http1.get() {
            let mut connections = self.http2.borrow_mut();
            connections.retain(|shared| !shared.connection.is_leaving());
            let shared = connections
                .iter()
                .find(|shared| shared.connection.is_usable() && holds(shared.warrant.as_ref()))?;
            return Some(Lease::Http2 {
                connection: shared.connection.clone(),
                scheme: shared.scheme,
            });
        }
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if holds(idle.connection.io().warrant()) && idle.connection.is_reusable() {
                return Some(Lease::Http1 {
                    connection: idle.connection,
                    reused: true,
                });
            }
        }
    }

    /// True while an HTTP/2 connection is being made: others may wait for it (`Landlord::freed`).
    pub fn is_dialling(&self) -> bool {
        self.dialling.get() > 0
    }

    /// A new connection; `held` goes when it closes.
    pub async fn dial(self: &Rc<Self>, http2: bool, held: Box<dyn Any>) -> Result<Lease, Fault> {
        let _dialling = http2.then(|| OnTheWay::new(self.clone()));
        let speak = if http2 { Speak::Http2 } else { Speak::Http1 };
        let dialled = self.dialer.dial(self.address, speak, held).await?;
        let Dialled {
            stream,
            speaks,
            scheme,
        } = dialled;
        self.only_http1.set(http2 && speaks == Speak::Http1);
        if speaks != Speak::Http2 {
            let connection = wire::Connection::new(stream, wire::Limits::default());
            return Ok(Lease::Http1 {
                connection,
                reused: false,
            });
        }
        let warrant = stream.warrant().cloned();
        let options = h2::Options::default();
        let shaken = tokio::time::timeout(
            self.keeping.connect_timeout,
            h2::handshake(stream, &options, Rc::new(Ear(Rc::downgrade(self)))),
        );
        let connection = match shaken.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failure)) => return Err(unopened(Some(failure), self.address)),
            Err(_) => return Err(unopened(None, self.address)),
        };
        if !self.gone.get() {
            self.timed();
            self.http2.borrow_mut().push(Shared {
                connection: connection.clone(),
                warrant,
                scheme,
            });
        }
        Ok(Lease::Http2 { connection, scheme })
    }

    /// A raw connection, for bytes that are not HTTP.
    pub async fn dial_raw(&self, held: Box<dyn Any>) -> Result<Dialled, Fault> {
        self.dialer.dial(self.address, Speak::Tcp, held).await
    }

    /// Closes one idle connection; false when there is none.
    pub fn shed(&self) -> bool {
        if self.idle.borrow_mut().pop().is_some() {
            return true;
        }
        let mut connections = self.http2.borrow_mut();
        let Some(at) = connections
            .iter()
            .position(|shared| shared.connection.active() == 0)
        else {
            return false;
        };
        connections.swap_remove(at).connection.close_gracefully();
        true
    }

    /// This address left the set: what is in flight ends, nothing is pooled any more.
    pub fn retire(&self) {
        self.gone.set(true);
        self.idle.borrow_mut().clear();
        for shared in self.http2.borrow_mut().drain(..) {
            shared.connection.close_gracefully();
        }
    }

    /// From the first connection that is kept: it may have to be let go of.
    fn timed(self: &Rc<Self>) {
        self.place.get_or_init(|| {
            let weak: Weak<dyn Timed> = Rc::downgrade(self) as Weak<dyn Timed>;
            self.tick.watch(weak)
        });
    }

    fn park(self: &Rc<Self>, connection: wire::Connection<Stream>) {
        if self.gone.get()
            || self.keeping.idle.is_zero()
            || !holds(connection.io().warrant())
            || self.landlord.wants_back()
        {
            return drop(connection);
        }
        self.timed();
        self.idle.borrow_mut().push(Idle {
            connection,
            since: self.tick.now(),
        });
        self.landlord.freed();
    }
}

impl Timed for Peer {
    fn tick(&self, now: Ticks) {
        // Oldest first: the pool is a stack.
        let mut idle = self.idle.borrow_mut();
        let old = idle
            .iter()
            .take_while(|idle| now.since(idle.since) >= self.keeping.idle)
            .count();
        idle.drain(..old);
        if idle.is_empty() && idle.capacity() > 64 {
            idle.shrink_to_fit();
        }
        self.http2.borrow_mut().retain(|shared| {
            let holds = holds(shared.warrant.as_ref());
            if !holds {
                // Calls under way end by themselves, or with their stream; the next one shakes hands anew.
                shared.connection.close_gracefully();
            }
            holds
        });
    }
}

/// Hears what an HTTP/2 connection tells its peer.
struct Ear(Weak<Peer>);

impl h2::Observer for Ear {
    fn informational(&self) {
        if let Some(peer) = self.0.upgrade() {
            peer.landlord.interim(1);
        }
    }

    fn freed(&self) {
        if let Some(peer) = self.0.upgrade() {
            peer.landlord.freed();
        }
    }

    fn leaving(&self) {
        self.forget();
    }

    fn closed(&self, _: h2::Kind) {
        self.forget();
    }
}

impl Ear {
    fn forget(&self) {
        if let Some(peer) = self.0.upgrade() {
            peer.http2
                .borrow_mut()
                .retain(|shared| !shared.connection.is_leaving());
            peer.landlord.freed();
        }
    }
}

/// Counts an HTTP/2 connection that is being made.
struct OnTheWay(Rc<Peer>);

impl OnTheWay {
    fn new(peer: Rc<Peer>) -> Self {
        peer.dialling.set(peer.dialling.get() + 1);
        OnTheWay(peer)
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.0.dialling.set(self.0.dialling.get() - 1);
        self.0.landlord.changed();
    }
}

/// Takes an HTTP/1.1 connection back to its peer's pool.
pub struct Parking(pub(in crate::http) Rc<Peer>);

impl wire::Home<Stream> for Parking {
    fn keep(self, connection: wire::Connection<Stream>) {
        self.0.park(connection);
    }
}

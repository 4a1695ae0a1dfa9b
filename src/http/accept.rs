//! The loop that accepts a listener's connections and gives each a task of its own.
//!
//! What a connection meets before it is served is its flow's to say (`Reception`).

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    connection::{Connection, Desk, Door, Facts},
    meter::ListenerMeter,
    serve::Server,
    settings::Timers,
};
use crate::{drain::Drain, net};

/// How many connections the process may have accepted at once: a share of its file descriptors.
pub struct Cap {
    most: usize,
    open: AtomicUsize,
}

impl Cap {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Cap {
            most,
            open: AtomicUsize::new(0),
        })
    }

    fn enter(self: &Arc<Self>) -> Option<Entered> {
        let entered = Entered(self.clone());
        (self.open.fetch_add(1, Ordering::AcqRel) < self.most).then_some(entered)
    }
}

struct Entered(Arc<Cap>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A flow's part of a connection's path: from accept to its end.
pub trait Reception: 'static {
    /// Dropping the future closes the connection.
    fn receive(
        self: Rc<Self>,
        accepted: net::Accepted,
        entrance: Rc<Entrance>,
    ) -> impl Future<Output = ()> + 'static;
}

/// What the connections of one listener get.
pub struct Entrance {
    pub door: Door,
    pub server: Rc<Server>,
    pub desk: Rc<Desk>,
    pub meter: ListenerMeter,
    /// A reload may change them; connections keep those they began with.
    pub timers: Rc<Cell<Timers>>,
    pub cap: Arc<Cap>,
    pub drain: Drain,
}

impl Entrance {
    /// The record of an accepted connection.
    pub fn connection(&self, facts: Facts) -> Rc<Connection> {
        Connection::new(facts, self.timers.get(), &self.desk, &self.meter)
    }

    /// Accepts for ever; dropping the future closes the listener and leaves its connections alone.
    pub async fn accept<R: Reception>(self, incoming: net::Incoming, reception: Rc<R>) {
        let entrance = Rc::new(self);
        let this = &*entrance;
        let mut told = false;
        loop {
            let exhausted = |error: &std::io::Error| {
                this.meter.accept_failed();
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "cannot accept connections; trying again every 50 ms");
                }
            };
            let accepted = incoming.next(exhausted).await;
            told = false;
            let Some(entered) = this.cap.enter() else {
                // Closed at once: a queue in the kernel would make callers wait for nothing.
                this.meter.closed_by_rule("too_many_connections");
                continue;
            };
            let hold = this.drain.hold();
            let received = reception.clone().receive(accepted, entrance.clone());
            tokio::task::spawn_local(async move {
                received.await;
                drop((hold, entered));
            });
        }
    }
}

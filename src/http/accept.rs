//! The loop that accepts a listener's connections and serves each in a task of its own.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    connection::{Connection, Desk, Door},
    meter::ListenerMeter,
    serve::{Handler, Server},
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

/// What the connections of one listener get.
pub struct Entrance<H> {
    pub door: Door,
    pub handler: Rc<H>,
    pub server: Rc<Server>,
    pub desk: Rc<Desk>,
    pub meter: ListenerMeter,
    /// A reload may change them; connections keep those they began with.
    pub timers: Rc<Cell<Timers>>,
    pub cap: Arc<Cap>,
    pub drain: Drain,
}

impl<H: Handler> Entrance<H> {
    /// Accepts for ever; dropping the future closes the listener and leaves its connections alone.
    pub async fn accept(self, incoming: net::Incoming) {
        let mut told = false;
        loop {
            let exhausted = |error: &std::io::Error| {
                self.meter.accept_failed();
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "cannot accept connections; trying again every 50 ms");
                }
            };
            let accepted = incoming.next(exhausted).await;
            told = false;
            let Some(entered) = self.cap.enter() else {
                // Closed at once: a queue in the kernel would make callers wait for nothing.
                self.meter.closed_by_rule("too_many_connections");
                continue;
            };
            let connection = Connection::new(
                &accepted,
                self.door.clone(),
                self.timers.get(),
                &self.desk,
                &self.meter,
            );
            let hold = self.drain.hold();
            let server = self.server.clone();
            let handler = self.handler.clone();
            tokio::task::spawn_local(async move {
                server.serve(accepted.stream, connection, handler).await;
                drop((hold, entered));
            });
        }
    }
}

//! The loop that accepts a listener's connections and gives each a task of its own.
//!
//! What a connection meets before it is served is its flow's to say (`Reception`).

use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use super::{
    connection::{Connection, Desk, Door, Facts},
    meter::ListenerMeter,
    serve::Server,
    settings::Timers,
};
use crate::{drain::Drain, net};

/// How long accepting rests after a bug of ours, so that one that comes back at once does not fill the log.
const REST: Duration = Duration::from_millis(50);

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
    pub fn connection(&self, accepted: &net::Accepted) -> Rc<Connection> {
        let facts = Facts::of(accepted, &self.door);
        Connection::new(facts, self.timers.get(), &self.desk, &self.meter)
    }

    /// Accepts for ever; dropping the future closes the listener and leaves its connections alone.
    ///
    /// A panic costs the connection that was being accepted, never the listener.
    pub async fn accept<R: Reception>(self, incoming: net::Incoming, reception: Rc<R>) {
        let entrance = Rc::new(self);
        loop {
            let mut accepting = pin!(entrance.clone().accept_all(&incoming, &reception));
            poll_fn(|cx| {
                let polled = catch_unwind(AssertUnwindSafe(|| accepting.as_mut().poll(cx)));
                polled.map_or(Poll::Ready(()), |pending| {
                    pending.map(|never| match never {})
                })
            })
            .await;
            // The panic itself was counted and told where it happened.
            tracing::error!(door = ?entrance.door, "a bug ended the accepting of connections; it goes on");
            tokio::time::sleep(REST).await;
        }
    }

    async fn accept_all<R: Reception>(
        self: Rc<Self>,
        incoming: &net::Incoming,
        reception: &Rc<R>,
    ) -> Infallible {
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
            let hold = self.drain.hold();
            let received = reception.clone().receive(accepted, self.clone());
            tokio::task::spawn_local(async move {
                received.await;
                drop((hold, entered));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        net::TcpStream,
        runtime::{Builder, LocalOptions},
    };

    use super::*;
    use crate::{
        http::{Metrics, tick::Tick},
        telemetry::{self, AccessLog, Direction},
    };

    /// Has a bug that the first connection meets.
    struct BreaksOnce(Cell<bool>);

    impl Reception for BreaksOnce {
        fn receive(
            self: Rc<Self>,
            accepted: net::Accepted,
            _: Rc<Entrance>,
        ) -> impl Future<Output = ()> + 'static {
            assert!(self.0.replace(true), "a bug");
            async move {
                let _ = accepted.stream.try_write(b"received");
            }
        }
    }

    fn entrance() -> Entrance {
        let registry = telemetry::Registry::new("test").unwrap();
        let metrics = Metrics::new(registry.inner()).unwrap();
        let wanted = telemetry::settings::AccessLog::None;
        let (access, _) = AccessLog::start(wanted, &registry, std::io::sink()).unwrap();
        Entrance {
            door: Door::Main,
            server: Rc::default(),
            desk: Desk::new(Tick::new(), access, &metrics),
            meter: metrics.listener(Direction::Inbound),
            timers: Rc::new(Cell::new(Timers::inbound())),
            cap: Cap::new(1),
            drain: Drain::new(),
        }
    }

    #[test]
    fn a_bug_costs_one_connection_and_not_the_listener() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let address = "127.0.0.1:0".parse().unwrap();
            let mut listener = net::Listener::bind(address, 1, net::Family::Own).unwrap();
            let incoming = net::Incoming::new(listener.take().unwrap()).unwrap();
            let broken = Rc::new(BreaksOnce(Cell::new(false)));
            tokio::task::spawn_local(entrance().accept(incoming, broken));
            let mut answers = Vec::new();
            for _ in 0..2 {
                let mut caller = TcpStream::connect(listener.address).await.unwrap();
                let mut answer = String::new();
                let _ = caller.read_to_string(&mut answer).await;
                answers.push(answer);
            }
            assert_eq!(answers, ["", "received"]);
        });
    }
}

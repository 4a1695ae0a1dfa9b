//! One connection: its handle, the task that drives it, and its pulse.
//!
//! The handle is cheap to clone. When the last handle and the last exchange are gone, the connection closes itself.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Request;
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Instant, Sleep, sleep},
};

use super::{
    Failure, Kind, Options, Sending,
    failure::{large_head, of_connection},
    observe::{Ledger, Observed},
};

/// Streams assumed allowed until the peer's SETTINGS are applied; `handshake` waits for them, so it hardly matters.
const UNSETTLED_STREAMS: usize = 1;

/// What a connection tells its owner. Called between polls: it may call the connection.
pub trait Observer {
    /// An informational answer (100, 103 …) was dropped.
    fn informational(&self) {}
    /// A stream ended: there is room for another.
    fn freed(&self) {}
    /// The peer takes no new streams; the running ones go on.
    fn leaving(&self) {}
    /// The connection is over.
    fn closed(&self, _why: Kind) {}
}

impl Observer for () {}

/// Starts HTTP/2 on `io` and waits for the peer's SETTINGS: only then is it known to speak HTTP/2, and how many
/// streams it allows.
///
/// Fails with an `unprocessed` failure. Bounded in time by the caller alone; dropped, it closes the connection.
pub async fn handshake<IO>(
    io: IO,
    options: &Options,
    observer: Rc<dyn Observer>,
) -> Result<Connection, Failure>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let ledger = Rc::new(Ledger::new());
    let (sender, mut connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .initial_max_send_streams(UNSETTLED_STREAMS)
        .max_header_list_size(options.max_head)
        .max_send_buffer_size(options.max_send_buffer)
        .max_local_error_reset_streams(Some(options.max_broken_answers))
        .max_concurrent_reset_streams(options.max_cancelled)
        .handshake::<_, Bytes>(Observed::new(io, ledger.clone()))
        .await
        .map_err(|error| Failure::before(of_connection(&error)))?;

    let shared = Rc::new(Shared {
        ledger,
        observer,
        active: Cell::new(0),
        leaving: Cell::new(false),
        end: Cell::new(None),
        large_head: large_head(options),
        changed: Notify::new(),
    });
    let pulse = connection
        .ping_pong()
        .map(|pings| Pulse::new(pings, options));
    tokio::task::spawn_local(Driver {
        connection,
        pulse,
        shared: shared.clone(),
    });

    let connection = Connection(Rc::new(Handle {
        sender: RefCell::new(Some(sender)),
        shared,
    }));
    connection.0.shared.settled().await?;
    Ok(connection)
}

/// A connection on which requests can be sent.
#[derive(Clone)]
pub struct Connection(Rc<Handle>);

struct Handle {
    /// `h2` closes the connection once this is dropped and no stream is left.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    shared: Rc<Shared>,
}

impl Connection {
    /// Exchanges that are running.
    pub fn active(&self) -> usize {
        self.0.shared.active.get()
    }

    /// Streams the peer allows at once, now.
    pub fn max_streams(&self) -> usize {
        match &*self.0.sender.borrow() {
            Some(sender) => sender.current_max_send_streams(),
            None => 0,
        }
    }

    /// True while a request sent now would leave at once: not closed, not leaving, room for a stream.
    pub fn is_usable(&self) -> bool {
        self.obstacle().is_none()
    }

    /// True once no new request will ever be taken.
    pub fn is_leaving(&self) -> bool {
        let shared = &self.0.shared;
        shared.leaving.get() || shared.end.get().is_some()
    }

    /// Resolves once the connection is over.
    pub fn closed(&self) -> impl Future<Output = ()> + 'static + use<> {
        let shared = self.0.shared.clone();
        async move { shared.wait(|shared| shared.end.get().is_some()).await }
    }

    /// Takes no new requests; closes once the running ones are done.
    pub fn close_gracefully(&self) {
        self.0.shared.leaving.set(true);
        let sender = self.0.sender.borrow_mut().take();
        drop(sender);
    }

    /// Sends a request. The stream is opened by this call; the future waits for the answer's head.
    ///
    /// The head's URI has scheme and authority. Where no stream can be had, head and body come back untouched and
    /// unprocessed; nothing is queued. Dropping the future cancels the exchange.
    pub fn send<B>(&self, head: Request<()>, body: B) -> Sending<B>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        match self.obstacle() {
            Some(kind) => Sending::rejected(Failure::before(kind), Some(head), body),
            None => Sending::open(self, head, body),
        }
    }

    pub(super) fn obstacle(&self) -> Option<Kind> {
        let shared = &self.0.shared;
        if let Some(end) = shared.end.get() {
            return Some(end);
        }
        if shared.leaving.get() {
            return Some(Kind::GoAway(h2::Reason::NO_ERROR));
        }
        (shared.active.get() >= self.max_streams()).then_some(Kind::Full)
    }

    /// A sender of one request: a sender that once filled the connection holds on to the stream that did.
    pub(super) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.0.sender.borrow().clone()
    }

    pub(super) fn slot(&self) -> Slot {
        let shared = self.0.shared.clone();
        shared.active.set(shared.active.get() + 1);
        Slot(shared)
    }

    /// No stream can be opened any more.
    pub(super) fn exhausted(&self) {
        self.0.shared.leave();
    }
}

/// What the handles, the exchanges and the driver of a connection all see.
pub(super) struct Shared {
    ledger: Rc<Ledger>,
    observer: Rc<dyn Observer>,
    active: Cell<usize>,
    leaving: Cell<bool>,
    end: Cell<Option<Kind>>,
    large_head: u32,
    /// Woken when the connection is settled and when it ends.
    changed: Notify,
}

impl Shared {
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    /// Why the connection ended, once it has.
    pub(super) fn end(&self) -> Option<Kind> {
        self.end.get()
    }

    pub(super) fn large_head(&self) -> u32 {
        self.large_head
    }

    async fn settled(&self) -> Result<(), Failure> {
        self.wait(|shared| shared.ledger.settled() || shared.end.get().is_some())
            .await;
        match self.end.get() {
            Some(end) => Err(Failure::before(end)),
            None => Ok(()),
        }
    }

    async fn wait(&self, until: impl Fn(&Shared) -> bool) {
        loop {
            let changed = self.changed.notified();
            if until(self) {
                return;
            }
            changed.await;
        }
    }

    fn leave(&self) {
        if !self.leaving.replace(true) {
            self.observer.leaving();
        }
    }

    fn finish(&self, why: Kind) {
        if self.end.get().is_none() {
            self.end.set(Some(why));
            self.changed.notify_waiters();
            self.observer.closed(why);
        }
    }
}

/// A running exchange's place among the streams the peer allows.
pub(super) struct Slot(Rc<Shared>);

impl Slot {
    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.observer.freed();
    }
}

/// The task of a connection.
struct Driver<IO> {
    connection: h2::client::Connection<Observed<IO>, Bytes>,
    pulse: Option<Pulse>,
    shared: Rc<Shared>,
}

impl<IO> Future for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let settled = this.shared.ledger.settled();
        let polled = Pin::new(&mut this.connection).poll(cx);
        if this.shared.ledger.leaving() {
            this.shared.leave();
        }
        if let Poll::Ready(result) = polled {
            let why = match this.shared.ledger().flood() {
                Some(_) => Kind::Malformed,
                None if this.shared.ledger.refused() => Kind::RefusedIdentity,
                None => result.err().map_or(Kind::Closed, |e| of_connection(&e)),
            };
            this.shared.finish(why);
            return Poll::Ready(());
        }
        if !settled && this.shared.ledger.settled() {
            this.shared.changed.notify_waiters();
        }
        if let Some(pulse) = &mut this.pulse
            && pulse.poll_stopped(cx, &this.shared.ledger).is_ready()
        {
            this.shared.finish(Kind::Silent);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<IO> Drop for Driver<IO> {
    /// Before `h2`'s connection is dropped and tells its streams, so that they can say why.
    fn drop(&mut self) {
        self.shared.finish(Kind::Closed);
    }
}

/// Asks the peer whether it is there.
struct Pulse {
    pings: h2::PingPong,
    timer: Pin<Box<Sleep>>,
    /// Frames that had come when the open PING was sent.
    asked: Option<u64>,
    every: Duration,
    patience: Duration,
}

impl Pulse {
    fn new(pings: h2::PingPong, options: &Options) -> Self {
        Pulse {
            pings,
            timer: Box::pin(sleep(options.ping_every)),
            asked: None,
            every: options.ping_every,
            patience: options.ping_patience,
        }
    }

    /// Ready once the peer has been silent for too long.
    ///
    /// Any frame is a sign of life: an answer to PING may have to wait behind a megabyte of DATA.
    fn poll_stopped(&mut self, cx: &mut Context<'_>, ledger: &Ledger) -> Poll<()> {
        loop {
            if self.asked.is_some() && self.pings.poll_pong(cx).is_ready() {
                self.asked = None;
                self.rearm(self.every);
            }
            ready!(self.timer.as_mut().poll(cx));
            let frames = ledger.frames();
            match self.asked {
                Some(then) if then == frames => return Poll::Ready(()),
                Some(_) => self.asked = Some(frames),
                // An error means that the connection is closing; its own poll says so.
                None if self.pings.send_ping(h2::Ping::opaque()).is_err() => {
                    self.rearm(self.every);
                    continue;
                }
                None => self.asked = Some(frames),
            }
            self.rearm(self.patience);
        }
    }

    fn rearm(&mut self, wait: Duration) {
        self.timer.as_mut().reset(Instant::now() + wait);
    }
}

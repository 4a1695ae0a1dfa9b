//! An HTTP origin that keeps what it is asked, in order, and answers what it is told. HTTP/1.1 and HTTP/2.
//!
//! For what an application would do. Where the bytes themselves matter, `RawOrigin` and `H2Peer` are the tools.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use super::wait_for;

/// One request as it came, whole.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// The request target: path and query, or the whole URI over HTTP/2.
    pub target: String,
    pub version: http::Version,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// On which connection it came, from 0.
    pub connection: usize,
    pub at: Instant,
}

impl Seen {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn path(&self) -> &str {
        let path = self
            .target
            .split_once("://")
            .map_or(&self.target[..], |(_, rest)| {
                rest.find('/').map_or("/", |at| &rest[at..])
            });
        path.split('?').next().unwrap_or(path)
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    delay: Duration,
    broken: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            delay: Duration::ZERO,
            broken: false,
        }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Reply::status(200).body(body)
    }

    /// A gRPC answer with one message; `code` other than 0 goes into the trailers as well.
    pub fn grpc(message: &[u8], code: u16) -> Self {
        Reply::ok(super::grpc_message(message))
            .header("content-type", "application/grpc")
            .trailer("grpc-status", &code.to_string())
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How long the origin thinks before its answer's head.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The body breaks off: the connection (HTTP/2: the stream) dies behind its last byte.
    pub fn broken(mut self) -> Self {
        self.broken = true;
        self
    }
}

type Answering = Box<dyn FnMut(&Seen) -> Reply + Send>;

struct Book {
    seen: Vec<Seen>,
    next: VecDeque<Reply>,
    otherwise: Answering,
}

/// The running origin. Dropping it closes every connection.
pub struct Origin {
    address: SocketAddr,
    /// Bound to the address and deaf: nobody else gets it while the origin is stopped.
    held: Option<Socket>,
    book: Arc<Mutex<Book>>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    running: Option<Running>,
}

struct Running {
    listener: Socket,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Origin {
    /// Answers 200 with the body `ok` to everything.
    pub fn start() -> Self {
        Origin::answering(|_| Reply::ok("ok"))
    }

    /// Answers what the closure says.
    pub fn answering(answer: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let mut origin = Origin {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            held: None,
            book: Arc::new(Mutex::new(Book {
                seen: Vec::new(),
                next: VecDeque::new(),
                otherwise: Box::new(answer),
            })),
            accepted: Arc::default(),
            open: Arc::default(),
            running: None,
        };
        origin.start_again();
        origin
    }

    /// The same on an address of the test's choice: another loopback address, the port of another origin.
    pub fn at(address: SocketAddr, answer: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let mut origin = Origin::answering(answer);
        origin.stop();
        (origin.address, origin.held) = (address, None);
        origin.start_again();
        origin
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Answers the next requests with these, one each; then as before.
    pub fn next(&self, replies: impl IntoIterator<Item = Reply>) {
        self.book
            .lock()
            .expect("no panic here")
            .next
            .extend(replies);
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: impl FnMut(&Seen) -> Reply + Send + 'static) {
        self.book.lock().expect("no panic here").otherwise = Box::new(answer);
    }

    /// The requests that came whole, in order.
    pub fn requests(&self) -> Vec<Seen> {
        self.book.lock().expect("no panic here").seen.clone()
    }

    pub fn count(&self) -> usize {
        self.book.lock().expect("no panic here").seen.len()
    }

    /// Waits until at least so many requests came, and returns all.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) -> Vec<Seen> {
        wait_for(&format!("{count} requests at the origin"), || {
            Some(self.requests()).filter(|seen| seen.len() >= count)
        })
    }

    /// How many connections were ever accepted.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Closes the listener and every connection; what was seen is kept. Returns when it is done.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            // Closed, it would listen on in a process that another test has forked and that is not yet itself.
            running
                .listener
                .shutdown(Shutdown::Both)
                .expect("it listens");
            // The thread may have ended by itself for that.
            let _ = running.stop.send(());
            running.thread.join().expect("the origin did not panic");
        }
    }

    /// Listens again on the same address.
    pub fn start_again(&mut self) {
        self.stop();
        let held = self.held.take();
        let held = held.unwrap_or_else(|| bind(self.address).expect("the address is free"));
        let address = held.local_addr().expect("bound").as_socket();
        self.address = address.expect("an address of IP");
        self.held = Some(held);
        let listener = bind(self.address).expect("we hold the address");
        listener.listen(1024).expect("nobody else listens");
        listener.set_nonblocking(true).expect("a socket");
        let own = listener.try_clone().expect("a socket");
        let (stop, stopped) = oneshot::channel();
        let (book, accepted, open) = (
            Arc::clone(&self.book),
            Arc::clone(&self.accepted),
            Arc::clone(&self.open),
        );
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(own.into()).expect("a socket");
                tokio::select! {
                    () = accept(listener, book, accepted, open) => {}
                    _ = stopped => {}
                }
            });
        });
        self.running = Some(Running {
            listener,
            stop,
            thread,
        });
    }
}

/// Two sockets may have one address where both say so and one of them never listens.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// An origin whose answers wait until the test lets them go: by a word each, or all once the sender is dropped; and how
/// many it was asked for.
pub fn gated() -> (Origin, mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (gate, told) = mpsc::channel();
    let told = Mutex::new(told);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let origin = Origin::answering(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        // Gone means that all may go.
        let _ = told.lock().expect("no panic here").recv();
        Reply::ok("late")
    });
    (origin, gate, asked)
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(
    listener: TcpListener,
    book: Arc<Mutex<Book>>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
) {
    // Dropping the set ends the connections.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = accepted.fetch_add(1, Ordering::SeqCst);
        let (book, open) = (Arc::clone(&book), Open::new(&stream, &open));
        connections.spawn(async move {
            let _open = open;
            let service = service_fn(|request| answer(request, number, Arc::clone(&book)));
            let mut first = [0; 4];
            let h2 = loop {
                match stream.peek(&mut first).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) if first[..count] != b"PRI "[..count] => break false,
                    Ok(4) => break true,
                    Ok(_) => tokio::task::yield_now().await,
                }
            };
            let io = TokioIo::new(stream);
            // A peer that goes away is no error of ours.
            let _ = if h2 {
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .serve_connection(io, service)
                    .await
            } else {
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(io, service)
                    .await
            };
        });
    }
}

/// One open connection; dropping it ends it for certain, as [`Origin::stop`] does, and counts it off.
struct Open {
    socket: Socket,
    count: Arc<AtomicUsize>,
}

impl Open {
    fn new(stream: &TcpStream, count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Open {
            socket: SockRef::from(stream).try_clone().expect("a socket"),
            count: Arc::clone(count),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

type Outgoing = UnsyncBoxBody<Bytes, std::io::Error>;

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    book: Arc<Mutex<Book>>,
) -> Result<Response<Outgoing>, std::io::Error> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let collected = body.collect().await.map_err(std::io::Error::other)?;
    let seen = Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        version: head.version,
        headers: fields(&head.headers),
        trailers: collected.trailers().map(fields).unwrap_or_default(),
        body: collected.to_bytes().to_vec(),
        connection,
        at,
    };
    let reply = {
        let mut book = book.lock().expect("an answering closure did not panic");
        let reply = book.next.pop_front();
        let reply = reply.unwrap_or_else(|| (book.otherwise)(&seen));
        book.seen.push(seen);
        reply
    };
    tokio::time::sleep(reply.delay).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    response
        .body(outgoing(reply))
        .map_err(std::io::Error::other)
}

fn outgoing(reply: Reply) -> Outgoing {
    if reply.trailers.is_empty() && !reply.broken {
        let whole = Full::new(Bytes::from(reply.body));
        return whole
            .map_err(|never: Infallible| match never {})
            .boxed_unsync();
    }
    let mut frames = vec![Ok(Frame::data(Bytes::from(reply.body)))];
    if reply.broken {
        frames.push(Err(std::io::Error::other("broken on purpose")));
    } else {
        let mut trailers = HeaderMap::new();
        for (name, value) in reply.trailers {
            let name: http::HeaderName = name.parse().expect("a trailer's name");
            trailers.append(name, value.parse().expect("a trailer's value"));
        }
        frames.push(Ok(Frame::trailers(trailers)));
    }
    Frames(frames.into()).boxed_unsync()
}

/// A body of these frames, an error among them perhaps.
struct Frames(VecDeque<Result<Frame<Bytes>, std::io::Error>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

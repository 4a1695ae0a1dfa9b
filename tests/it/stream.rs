//! Bodies of any length pass through little memory: who reads slowly holds the writer back, not us.
//!
//! `WEFT_TEST_BODY=2GiB` runs the whole; by default it is less, to be quick.

use std::{
    convert::Infallible,
    env,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::{http1 as client1, http2 as client2},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::Weft;

/// What passes may add to the peak of our resident memory.
const MOST: u64 = 32 * 1024 * 1024;
const MIB: u64 = 1024 * 1024;
/// What the slow side reads a second: a tenth of what the other side writes at the least.
const PACE: u64 = 64 * MIB;
const PIECE: &[u8] = &[b'x'; 64 * 1024];

fn amount() -> u64 {
    let text = env::var("WEFT_TEST_BODY").unwrap_or_else(|_| "192MiB".into());
    let (number, unit) = match text.strip_suffix("GiB") {
        Some(number) => (number, 1024 * MIB),
        None => (text.trim_end_matches("MiB"), MIB),
    };
    number
        .parse::<u64>()
        .expect("WEFT_TEST_BODY is 256MiB or 2GiB")
        * unit
}

/// So many bytes, as fast as they are taken.
struct Plenty(u64);

impl Body for Plenty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.min(PIECE.len() as u64);
        self.0 -= piece;
        let frame = || Ok(Frame::data(Bytes::from_static(&PIECE[..piece as usize])));
        Poll::Ready((piece > 0).then(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

/// Reads a body at `PACE`, and says how long it was.
async fn read_slowly(mut body: Incoming) -> u64 {
    let begin = Instant::now();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.expect("a whole body");
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        let due = Duration::from_secs_f64(read as f64 / PACE as f64);
        if let Some(early) = due.checked_sub(begin.elapsed()) {
            tokio::time::sleep(early).await;
        }
    }
    read
}

/// `POST` is read slowly and answered with its length; `GET /<length>` is answered with so many bytes.
async fn serve(request: Request<Incoming>) -> Result<Response<Plenty>, Infallible> {
    let length = match request.uri().path()[1..].parse() {
        Ok(length) => length,
        Err(_) => read_slowly(request.into_body()).await % 1000,
    };
    Ok(Response::new(Plenty(length)))
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// An origin on a thread that ends with the test.
fn origin(h2: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    listener.set_nonblocking(true).expect("a socket");
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket");
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    // A connection that breaks shows at the other end.
                    let _ = if h2 {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(io, service_fn(serve)).await
                    } else {
                        let builder = http1::Builder::new();
                        builder.serve_connection(io, service_fn(serve)).await
                    };
                });
            }
        });
    });
    address
}

async fn call(address: &str, h2: bool, request: Request<Plenty>) -> Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("weft listens");
    stream.set_nodelay(true).expect("a socket");
    let io = TokioIo::new(stream);
    if h2 {
        let (mut sender, connection) = client2::handshake(TokioExecutor::new(), io)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("an answer")
    } else {
        let (mut sender, connection) = client1::handshake(io).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("an answer")
    }
}

/// How many bytes passed; 0..1000 of them for an upload, whose answer is as long as its length is beyond thousands.
fn pass(weft: &Weft, h2: bool, up: bool, amount: u64) -> u64 {
    let target = match up {
        true => "http://payments/up".to_owned(),
        false => format!("http://payments/{amount}"),
    };
    let request = match h2 {
        true => Request::builder().uri(target),
        false => Request::builder()
            .uri(target.trim_start_matches("http://payments"))
            .header("host", "payments"),
    };
    let request = match up {
        true => request.method("POST").body(Plenty(amount)),
        false => request.body(Plenty(0)),
    };
    runtime().block_on(async {
        let answer = call(&weft.outbound(), h2, request.expect("a request")).await;
        assert_eq!(answer.status(), 200);
        read_slowly(answer.into_body()).await
    })
}

fn streams_through_little_memory(h2: bool, up: bool) {
    let weft = Weft::start(&format!(
        "
         workers: 1
         upstreams: {{ payments: {{ endpoints: {{ static: [\"{}\"] }} }} }}",
        origin(h2)
    ));
    pass(&weft, h2, up, 1_000);
    let (before, amount) = (weft.peak_memory(), amount());
    let passed = pass(&weft, h2, up, amount);
    assert_eq!(passed, if up { amount % 1000 } else { amount });
    let added = weft.peak_memory() - before;
    println!(
        "{} MiB passed, {} KiB added to the peak",
        amount / MIB,
        added / 1024
    );
    assert!(added < MOST, "{added} bytes added to the peak");
}

#[test]
fn a_long_answer_over_http1_adds_little() {
    streams_through_little_memory(false, false);
}

#[test]
fn a_long_upload_over_http1_adds_little() {
    streams_through_little_memory(false, true);
}

#[test]
fn a_long_answer_over_http2_adds_little() {
    streams_through_little_memory(true, false);
}

#[test]
fn a_long_upload_over_http2_adds_little() {
    streams_through_little_memory(true, true);
}

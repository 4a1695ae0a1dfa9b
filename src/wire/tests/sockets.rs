//! Over loopback TCP, against hyper's server and against a peer that sends what it is told.

use super::*;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

async fn reads_until(peer: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        assert_ne!(peer.read_buf(&mut text).await.unwrap(), 0, "closed early");
    }
    String::from_utf8(text).unwrap()
}

/// Gives every kind of body back that it was given.
async fn echo(
    request: http::Request<hyper::body::Incoming>,
) -> Result<Response<hyper::body::Incoming>, Infallible> {
    Ok(Response::new(request.into_body()))
}

#[tokio::test]
async fn hyper_gives_back_what_it_was_sent() {
    let (ours, theirs) = pair().await;
    let server = tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), hyper::service::service_fn(echo)),
    );
    let shelf = Shelf::new();
    let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("a"))]);
    let method = Method::POST;
    let mut connection = Connection::new(ours, Limits::default());
    for size in [0usize, 1, 2047, 2049, 70_000, 3_000_000] {
        for known in [true, false] {
            let bytes = Bytes::from_iter((0..size).map(|at| at as u8));
            let frames = bytes.chunks(50_000).map(|part| data(part.to_vec()));
            let mut body = Steps::new(frames);
            body.exact = known.then_some(size as u64);
            let answer = connection
                .send(request(&method, &headers), body, shelf.clone())
                .await;
            let body = answer.unwrap().into_body().collect().await.unwrap();
            assert!(body.to_bytes() == bytes, "{size} {known}");
            connection = shelf.take();
            assert!(connection.is_reusable());
        }
    }
    drop(connection);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_connection_that_closed_is_not_reusable() {
    let (ours, theirs) = pair().await;
    let mut connection = Connection::new(ours, Limits::default());
    assert!(connection.is_reusable());
    drop(theirs);
    connection.io.readable().await.unwrap();
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn an_idle_connection_that_spoke_is_not_reusable() {
    let (ours, mut theirs) = pair().await;
    let mut connection = Connection::new(ours, Limits::default());
    theirs
        .write_all(b"HTTP/1.1 408 Timeout\r\n\r\n")
        .await
        .unwrap();
    connection.io.readable().await.unwrap();
    assert!(!connection.is_reusable());
}

#[tokio::test]
async fn a_task_without_budget_still_sees_the_close() {
    let (ours, theirs) = pair().await;
    let mut connection = Connection::new(ours, Limits::default());
    drop(theirs);
    connection.io.readable().await.unwrap();
    let reusable = std::future::poll_fn(|cx| {
        while pin!(tokio::task::coop::consume_budget())
            .poll(cx)
            .is_ready()
        {}
        Poll::Ready(connection.is_reusable())
    })
    .await;
    assert!(!reusable);
}

#[tokio::test]
async fn a_dropped_answer_closes_the_connection() {
    let (ours, mut theirs) = pair().await;
    let headers = HeaderMap::new();
    let shelf = Shelf::new();
    let mut answer =
        Connection::new(ours, Limits::default()).send(get(&headers), Empty::new(), shelf.clone());
    let request = tokio::select! {
        _ = &mut answer => panic!("nobody answered"),
        request = reads_until(&mut theirs, "\r\n\r\n") => request,
    };
    assert_eq!(request, "GET / HTTP/1.1\r\n\r\n");
    drop(answer);
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(!shelf.kept());
}

#[tokio::test]
async fn a_dropped_body_closes_the_connection() {
    let (ours, mut theirs) = pair().await;
    let headers = HeaderMap::new();
    let shelf = Shelf::new();
    let answer =
        Connection::new(ours, Limits::default()).send(get(&headers), Empty::new(), shelf.clone());
    theirs
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal")
        .await
        .unwrap();
    let mut body = answer.await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    reads_until(&mut theirs, "\r\n\r\n").await;
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(!shelf.kept());
}

#[tokio::test]
async fn an_early_answer_overtakes_a_request_the_peer_does_not_read() {
    let (ours, mut theirs) = pair().await;
    let headers = HeaderMap::new();
    let shelf = Shelf::new();
    let answer = Connection::new(ours, Limits::default()).send(
        get(&headers),
        Full::new(Bytes::from(vec![0; 32 << 20])),
        shelf.clone(),
    );
    theirs
        .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        .await
        .unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no");
    assert!(!shelf.kept());
}

/// A body that is fed from outside.
struct Fed(tokio::sync::mpsc::Receiver<Bytes>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

#[tokio::test]
async fn an_echo_runs_while_both_sides_are_open() {
    let (ours, mut theirs) = pair().await;
    let headers = HeaderMap::new();
    let (frames, body) = tokio::sync::mpsc::channel(1);
    let body = Fed(body);
    let answer = Connection::new(ours, Limits::default()).send(get(&headers), body, Shelf::new());
    theirs
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut body = answer.await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        frames.send(Bytes::from(word)).await.unwrap();
        let line = format!("{:x}\r\n{word}\r\n", word.len());
        let echo = async {
            reads_until(&mut theirs, &line).await;
            theirs.write_all(line.as_bytes()).await.unwrap();
            std::future::pending::<()>().await
        };
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = echo => None,
        };
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), word);
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_peer() {
    let (ours, mut theirs) = pair().await;
    let headers = HeaderMap::new();
    let answer =
        Connection::new(ours, Limits::default()).send(get(&headers), Empty::new(), Shelf::new());
    theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let mut body = answer.await.unwrap().into_body();
    reads_until(&mut theirs, "\r\n\r\n").await;
    // Until the kernel's buffers are full: nothing is read that nobody asked for.
    let mut written = 0;
    while let Ok(now) = theirs.try_write(&[0; 65_536]) {
        written += now;
    }
    drop(theirs);
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() <= 65_536);
        read += data.len();
    }
    assert_eq!(read, written);
}

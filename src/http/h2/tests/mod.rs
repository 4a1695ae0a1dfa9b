//! The client against real peers: frames written by hand, `h2`'s server, nghttpd.

mod flow;
mod life;
mod limits;
mod peer;
mod proof;

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::{net::TcpStream, sync::mpsc};

use super::{send::tidy, *};

pub type NoBody = Empty<Bytes>;

pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://callee.test{path}"))
        .body(())
        .unwrap()
}

pub fn post(path: &str) -> Request<()> {
    let mut head = get(path);
    *head.method_mut() = Method::POST;
    head
}

pub async fn connect(to: SocketAddr) -> Connection {
    connect_with(to, &Options::default(), Rc::new(())).await
}

pub async fn connect_with(
    to: SocketAddr,
    options: &Options,
    observer: Rc<dyn Observer>,
) -> Connection {
    let io = TcpStream::connect(to).await.unwrap();
    handshake(io, options, observer).await.unwrap()
}

/// The failure of a request that found no answer.
pub fn failure<B: Body>(result: Result<Response<AnswerBody>, Rejected<B>>) -> Failure {
    match result {
        Err(Rejected::Upstream { failure, .. }) => failure,
        Err(Rejected::Body(_)) => panic!("the body failed"),
        Ok(answer) => panic!("answered {}", answer.status()),
    }
}

/// A body whose frames come from a test.
pub struct Fed {
    frames: mpsc::Receiver<Result<Frame<Bytes>, &'static str>>,
    pub taken: Rc<Cell<usize>>,
}

pub type Feed = mpsc::Sender<Result<Frame<Bytes>, &'static str>>;

pub fn fed() -> (Feed, Fed) {
    let (feed, frames) = mpsc::channel(1);
    let taken = Rc::default();
    (feed, Fed { frames, taken })
}

pub fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(bytes.into()))
}

pub fn trailers(name: &'static str, value: &'static str) -> Result<Frame<Bytes>, &'static str> {
    let mut map = HeaderMap::new();
    map.insert(name, HeaderValue::from_static(value));
    Ok(Frame::trailers(map))
}

impl Body for Fed {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let frame = self.frames.poll_recv(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.taken.set(self.taken.get() + bytes);
        }
        frame
    }
}

#[test]
fn futures_are_small() {
    assert!(
        size_of::<Sending<NoBody>>() <= 160,
        "{}",
        size_of::<Sending<NoBody>>()
    );
    assert!(
        size_of::<Sending<Full<Bytes>>>() <= 224,
        "{}",
        size_of::<Sending<Full<Bytes>>>()
    );
    assert!(size_of::<AnswerBody>() <= 64, "{}", size_of::<AnswerBody>());
}

#[test]
fn fields_of_one_hop_are_taken_out() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "keep-alive"),
        ("keep-alive", "5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("proxy-connection", "close"),
        ("http2-settings", "AAM"),
        ("host", "a"),
        ("te", "gzip, Trailers"),
        ("te", "deflate"),
        ("x-kept", "1"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    tidy(&mut headers);
    assert_eq!(headers.len(), 2);
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["x-kept"], "1");
}

#[test]
fn te_without_trailers_is_taken_out() {
    let mut headers = HeaderMap::new();
    headers.insert("te", HeaderValue::from_static("gzip"));
    tidy(&mut headers);
    assert!(headers.is_empty());
}

/// Reads a body to its end: its bytes and its trailers.
pub async fn whole(body: AnswerBody) -> Result<(Bytes, Option<HeaderMap>), Failure> {
    let all = body.collect().await?;
    let trailers = all.trailers().cloned();
    Ok((all.to_bytes(), trailers))
}

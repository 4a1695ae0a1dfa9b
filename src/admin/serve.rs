//! The admin listeners, on hyper, with the guards that keep strangers and web pages out.

use std::{convert::Infallible, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;

use super::House;

/// Which of the two listeners a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Admin,
    Metrics,
}

/// Serves one of the two listeners for ever. Dropping the future closes it.
pub async fn serve<H: House>(
    listener: std::net::TcpListener,
    port: Port,
    house: Rc<H>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let house = house.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let house = house.clone();
                async move { Ok::<_, Infallible>(answer(&*house, port, peer, request).await) }
            });
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer<H: House>(
    house: &H,
    port: Port,
    _peer: SocketAddr,
    request: Request<Incoming>,
) -> Answer {
    let path = request.uri().path();
    match (port, request.method(), path) {
        (_, &Method::GET, "/live") => text(StatusCode::OK, "live\n"),
        (_, &Method::GET, "/ready") => match house.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
        },
        (_, &Method::GET, "/metrics") => text(StatusCode::OK, &house.metrics()),
        (Port::Admin, &Method::GET, "/listeners") => json(StatusCode::OK, &house.listeners()),
        (Port::Admin, &Method::GET, "/config") => json(StatusCode::OK, &house.config()),
        (Port::Admin, &Method::GET, "/upstreams") => json(StatusCode::OK, &house.upstreams().await),
        (Port::Admin, &Method::POST, "/reload") => match house.reload() {
            Ok(words) => text(StatusCode::OK, &format!("{words}\n")),
            Err(why) => text(StatusCode::UNPROCESSABLE_ENTITY, &format!("{why}\n")),
        },
        (Port::Admin, &Method::POST, "/drain") => {
            house.drain();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

fn text(status: StatusCode, words: &str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(words.as_bytes())));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn json(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string() + "\n")));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

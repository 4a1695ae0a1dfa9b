//! The demo's service: charges customers, knows nothing of weft.
//!
//! `POST /charge` with a body of `customer number amount` is answered 200, 422 where the amount is no number, and 503
//! while the file `fails` beside it exists. Each charge is one line on standard output.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const MOST: usize = 64 * 1024;

/// Serves until it is killed.
pub fn serve(replica: usize, address: SocketAddr, fails: PathBuf) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(address).await?;
        println!("listening {replica} {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let fails = fails.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(replica, fails.clone(), request));
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

async fn answer(
    replica: usize,
    fails: PathBuf,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/health" {
        return Ok(said(StatusCode::OK, "well\n"));
    }
    if request.method() != Method::POST || request.uri().path() != "/charge" {
        return Ok(said(StatusCode::NOT_FOUND, "POST /charge\n"));
    }
    if fails.exists() {
        return Ok(said(
            StatusCode::SERVICE_UNAVAILABLE,
            "this replica is unwell\n",
        ));
    }
    let Ok(body) = Limited::new(request.into_body(), MOST).collect().await else {
        return Ok(said(StatusCode::BAD_REQUEST, "the body broke off\n"));
    };
    let body = body.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let mut words = text.trim().splitn(3, ' ');
    let (Some(customer), Some(number), Some(amount)) = (words.next(), words.next(), words.next())
    else {
        return Ok(said(
            StatusCode::UNPROCESSABLE_ENTITY,
            "customer, number and amount, please\n",
        ));
    };
    if amount.parse::<u64>().is_err() {
        return Ok(said(
            StatusCode::UNPROCESSABLE_ENTITY,
            "that amount is no number\n",
        ));
    }
    println!("charged {replica} {customer} {number}");
    Ok(said(StatusCode::OK, "charged\n"))
}

fn said(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(words.as_bytes())));
    *response.status_mut() = status;
    response
}

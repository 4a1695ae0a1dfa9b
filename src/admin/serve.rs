//! The admin listeners: connections within bounds, each request through a small stack of layers.
//!
//! Bounds: 64 connections a port, 10 s for a head, 5 min a connection, 16 requests at once, 30 s a request.

use std::{convert::Infallible, rc::Rc, sync::Arc, time::Duration};

use http::{Request, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};
use tower::{
    BoxError, Service, ServiceBuilder, ServiceExt, layer::layer_fn, load_shed::error::Overloaded,
};

use super::{
    House,
    answer::{self, Answer},
    guard::Guard,
    pages,
};
use crate::net::Incoming as Accepting;

const CONNECTIONS: usize = 64;
const HEAD: Duration = Duration::from_secs(10);
/// Then a connection ends after its request: 64 that stand still must not keep the scraper out for ever.
const LIFE: Duration = Duration::from_secs(300);
/// And so long later whatever it does.
const LAST: Duration = Duration::from_secs(30);
const REQUESTS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);

/// Which of the two listeners a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Admin,
    /// `/metrics`, `/live` and `/ready` only.
    Metrics,
}

/// Serves one of the two listeners for ever. Dropping the future closes it and its connections.
pub async fn serve<H: House>(
    listener: std::net::TcpListener,
    port: Port,
    house: Rc<H>,
) -> std::io::Result<()> {
    let listener = Accepting::new(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let stack = stack(port, house);
    let mut connections = JoinSet::new();
    loop {
        // Beyond the places, connections wait in the kernel.
        let Ok(place) = places.clone().acquire_owned().await else {
            return Ok(());
        };
        let accepted = listener
            .next(|error| tracing::warn!(%error, "the admin port cannot accept"))
            .await;
        let stack = stack.clone();
        connections.spawn_local(async move {
            converse(accepted.stream, stack).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The path of a request, outermost first.
fn stack<H: House>(
    port: Port,
    house: Rc<H>,
) -> impl Service<Request<Incoming>, Response = Answer, Error = BoxError> + Clone {
    ServiceBuilder::new()
        // Before a place is taken: who may not ask costs nothing.
        .layer(layer_fn(move |inner| Guard { port, inner }))
        // Beyond the limit the answer is 503 at once; waiting would hide that something hangs.
        .load_shed()
        // The keeper's thread also runs discovery and delivery: pages must not crowd it.
        .concurrency_limit(REQUESTS)
        // Inside the limit, so that a hanging page gives its place back.
        .timeout(PATIENCE)
        .service_fn(move |request| {
            let house = house.clone();
            async move { Ok::<_, Infallible>(pages::answer(&*house, port, request).await) }
        })
}

/// What the layers give up on is answered all the same.
fn in_words(error: BoxError) -> Answer {
    if error.is::<Overloaded>() {
        let words = format!("{REQUESTS} admin requests are under way; try again");
        return answer::words(StatusCode::SERVICE_UNAVAILABLE, &words);
    }
    let patience = PATIENCE.as_secs();
    let words = format!("no answer within {patience} s; what was asked may still happen");
    answer::words(StatusCode::GATEWAY_TIMEOUT, &words)
}

async fn converse<S>(stream: TcpStream, stack: S)
where
    S: Service<Request<Incoming>, Response = Answer, Error = BoxError> + Clone,
{
    let service = service_fn(move |request| {
        let answered = stack.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answered.await.unwrap_or_else(in_words)) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service)
    );
    // An error is the caller's: it went away or spoke no HTTP.
    if let Ok(_ended) = tokio::time::timeout(LIFE, connection.as_mut()).await {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST, connection).await;
}

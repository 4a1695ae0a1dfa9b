//! A running sidecar as commands see it: its admin port, asked one question at a time.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

const CONNECT: Duration = Duration::from_secs(2);
/// Longer than the admin port takes for anything.
const ANSWER: Duration = Duration::from_secs(40);
/// The largest page is a dead letter with its body.
const LARGEST: usize = 1 << 30;

/// The admin port of a sidecar.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sidecar {
    pub address: SocketAddr,
}

/// Why a sidecar did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody listens there: it may be stopped.
    #[error("no sidecar answers at {address}")]
    Absent {
        address: SocketAddr,
        #[source]
        cause: std::io::Error,
    },
    /// It answered, and said no.
    #[error("{words}")]
    Refused { status: StatusCode, words: String },
    #[error("the sidecar at {address} broke off")]
    Broken {
        address: SocketAddr,
        #[source]
        cause: anyhow::Error,
    },
}

impl Sidecar {
    /// Asks for a page of JSON.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// Asks for a change that is answered in JSON.
    pub async fn post(&self, path: &str, body: Bytes) -> Result<Value, Failure> {
        self.json(Method::POST, path, body).await
    }

    async fn json(&self, method: Method, path: &str, body: Bytes) -> Result<Value, Failure> {
        let text = self.ask(method, path, body).await?;
        let read = serde_json::from_slice(&text).context("its answer is not JSON");
        read.map_err(|cause| self.broken(cause))
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let absent = |cause| Failure::Absent {
            address: self.address,
            cause,
        };
        let stream = timeout(CONNECT, TcpStream::connect(self.address))
            .await
            .map_err(|_| absent(std::io::ErrorKind::TimedOut.into()))?
            .map_err(absent)?;
        let talk = timeout(ANSWER, self.talk(stream, method, path, body)).await;
        let (status, text) = talk
            .context("no answer in time")
            .and_then(|answer| answer)
            .map_err(|cause| self.broken(cause))?;
        if status.is_success() {
            return Ok(text);
        }
        let words = String::from_utf8_lossy(&text).trim().to_owned();
        Err(Failure::Refused { status, words })
    }

    async fn talk(
        &self,
        stream: TcpStream,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .body(Full::new(body))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let whole = Limited::new(body, LARGEST).collect().await;
            let whole = whole.map_err(|error| anyhow::anyhow!(error))?;
            Ok((head.status, whole.to_bytes()))
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            // The connection may end with the answer still in its hands.
            _ = connection => answer.await,
        }
    }

    fn broken(&self, cause: anyhow::Error) -> Failure {
        Failure::Broken {
            address: self.address,
            cause,
        }
    }
}

/// Runs a command's questions to their end.
pub(super) fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    // A local runtime, because that is what the store's handles run on.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    Ok(runtime.block_on(future))
}

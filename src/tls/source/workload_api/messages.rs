//! The stream on which an agent tells: gRPC over a Unix socket, by `h2` alone, one call and its messages.
//!
//! What a message says is not known here.

use std::{io, path::Path, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, client};
use http::{HeaderMap, Request, StatusCode};
use tokio::{net::UnixStream, time::timeout};

const FETCH: &str = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID";
/// For the socket and HTTP/2's first frames. The answer itself may take as long as it takes to be known to the agent.
const CONNECT: Duration = Duration::from_secs(5);
/// One message may have this many bytes: some thousand certificates.
const LONGEST_MESSAGE: usize = 4 << 20;

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no connection within 5 s")]
    Slow,
    #[error("the stream broke: {0}")]
    Stream(#[from] h2::Error),
    #[error("the answer is HTTP {0}, no gRPC")]
    Status(StatusCode),
    #[error("the agent says {code}: {words}")]
    Grpc { code: String, words: String },
    #[error("a message has {0} bytes, more than 4 MiB")]
    TooLong(usize),
    #[error("a message is compressed, which was not asked for")]
    Compressed,
    #[error("a message cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("the stream ended")]
    Ended,
}

/// The messages of one stream.
pub(super) struct Messages {
    body: RecvStream,
    bytes: BytesMut,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Messages {
    pub async fn open(socket: &Path) -> Result<Self, ApiError> {
        let connect = async {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(ApiError::Connect)?;
            Ok::<_, ApiError>(client::handshake(stream).await?)
        };
        let (requests, connection) = timeout(CONNECT, connect)
            .await
            .map_err(|_| ApiError::Slow)??;
        // What ends the connection ends its streams, and is told there.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let opened = Self::fetch(requests).await;
        match opened {
            Ok(body) => Ok(Messages {
                body,
                bytes: BytesMut::new(),
                connection,
            }),
            Err(error) => {
                connection.abort();
                Err(error)
            }
        }
    }

    async fn fetch(requests: client::SendRequest<Bytes>) -> Result<RecvStream, ApiError> {
        let request = Request::post(FETCH)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // Without it an agent answers nobody: a browser cannot be made to send it.
            .header("workload.spiffe.io", "true")
            .body(())
            .expect("every part is a constant that is valid");
        let (answer, mut body) = requests.ready().await?.send_request(request, false)?;
        // One message of no bytes, not compressed.
        body.send_data(Bytes::from_static(&[0; 5]), true)?;
        let answer = answer.await?;
        if answer.status() != StatusCode::OK {
            return Err(ApiError::Status(answer.status()));
        }
        grpc_status(answer.headers())?;
        Ok(answer.into_body())
    }

    /// The next message. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Bytes, ApiError> {
        const PREFIX: usize = 5;
        loop {
            if let Some((&[compressed, a, b, c, d], _)) = self.bytes.split_first_chunk::<PREFIX>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if compressed != 0 {
                    return Err(ApiError::Compressed);
                }
                if length > LONGEST_MESSAGE {
                    return Err(ApiError::TooLong(length));
                }
                if self.bytes.len() >= PREFIX + length {
                    self.bytes.advance(PREFIX);
                    return Ok(self.bytes.split_to(length).freeze());
                }
            }
            match self.body.data().await {
                Some(data) => {
                    let data = data?;
                    self.bytes.extend_from_slice(&data);
                    self.body.flow_control().release_capacity(data.len())?;
                }
                None => {
                    if let Some(trailers) = self.body.trailers().await? {
                        grpc_status(&trailers)?;
                    }
                    return Err(ApiError::Ended);
                }
            }
        }
    }
}

/// An error where the headers or trailers say that the call failed.
fn grpc_status(fields: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: &str| {
        fields
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status") {
        Some(code) if code != "0" => {
            let code = match &*code {
                "3" => "INVALID_ARGUMENT".to_owned(),
                "7" => "PERMISSION_DENIED".to_owned(),
                "12" => "UNIMPLEMENTED".to_owned(),
                "14" => "UNAVAILABLE".to_owned(),
                other => other.to_owned(),
            };
            Err(ApiError::Grpc {
                code,
                words: text("grpc-message").unwrap_or_default(),
            })
        }
        _ => Ok(()),
    }
}

//! What the admin pages answer with, and how they read a body.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

pub(super) type Answer = Response<Full<Bytes>>;

/// One line for a person.
pub(super) fn words(status: StatusCode, words: &str) -> Answer {
    let line = format!("{}\n", words.trim_end());
    of(status, "text/plain; charset=utf-8", line)
}

pub(super) fn json(value: &Value) -> Answer {
    of(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

pub(super) fn of(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // What is true now is not to be shown tomorrow.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body of at most `limit` bytes; else the answer that says so.
pub(super) async fn read(body: Incoming, limit: usize) -> Result<Bytes, Answer> {
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(words(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body may have {limit} bytes here"),
        )),
        Err(error) => Err(words(
            StatusCode::BAD_REQUEST,
            &format!("the body broke off: {error}"),
        )),
    }
}

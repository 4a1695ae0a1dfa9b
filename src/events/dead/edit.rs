//! A person's changes to the call of a dead letter.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;

use super::Refused;
use crate::events::{Message, Request};

/// What an edited copy says otherwise than the letter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edit {
    pub method: Option<String>,
    pub authority: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// Set; `null` removes.
    pub headers: BTreeMap<String, Option<String>>,
    pub body: Option<String>,
    /// A body that is no text.
    pub body_base64: Option<Message>,
}

/// The call with its changes in it.
pub(super) fn edited(
    mut request: Request,
    body: Bytes,
    edit: &Edit,
) -> Result<(Request, Bytes), Refused> {
    let bad = |what: &str, text: &str| Refused::Bad(format!("`{text}` is no {what}"));
    if let Some(method) = &edit.method {
        request.method =
            Method::from_bytes(method.as_bytes()).map_err(|_| bad("method", method))?;
    }
    if let Some(authority) = &edit.authority {
        let known = authority.parse::<http::uri::Authority>();
        request.authority = known.map_err(|_| bad("host", authority))?.to_string();
    }
    if let Some(path) = &edit.path {
        let known = path.parse::<http::uri::PathAndQuery>();
        let known = known.ok().filter(|_| path.starts_with('/'));
        request.target = known.ok_or_else(|| bad("path", path))?.to_string();
    }
    for (name, value) in &edit.headers {
        let known = HeaderName::from_bytes(name.as_bytes());
        let known = known.map_err(|_| bad("header name", name))?;
        match value {
            None => drop(request.headers.remove(&known)),
            Some(value) => {
                let value = HeaderValue::from_str(value).map_err(|_| bad("header value", value))?;
                request.dropped.retain(|dropped| dropped != known.as_str());
                request.headers.insert(known, value);
            }
        }
    }
    let body = match (&edit.body, &edit.body_base64) {
        (Some(_), Some(_)) => {
            return Err(Refused::Bad(
                "body and bodyBase64 are two bodies".to_owned(),
            ));
        }
        (Some(text), None) => Bytes::from(text.clone()),
        (None, Some(message)) => message.0.clone(),
        (None, None) => body,
    };
    Ok((request, body))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::outbox::Wall;

    fn request() -> Request {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("1"));
        Request {
            grpc: false,
            http2: false,
            time: Wall(0),
            source: "/n/s/r".into(),
            method: Method::POST,
            authority: "email".into(),
            target: "/a".into(),
            headers,
            dropped: vec!["authorization".into()],
        }
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_else() {
        let edit = r#"{ "path": "/b?c", "headers": { "x-a": null, "authorization": "s" }, "body": "new" }"#;
        let edit: Edit = serde_json::from_str(edit).unwrap();
        let (changed, body) = edited(request(), Bytes::from("old"), &edit).unwrap();
        assert_eq!((changed.target.as_str(), &body[..]), ("/b?c", &b"new"[..]));
        assert_eq!(changed.headers.len(), 1);
        assert_eq!(changed.headers["authorization"], "s");
        assert!(changed.dropped.is_empty());
        assert_eq!(changed.authority, "email");
    }

    #[test]
    fn an_edit_that_makes_no_request_is_refused() {
        for edit in [
            r#"{ "path": "b" }"#,
            r#"{ "method": "A B" }"#,
            r#"{ "headers": { "a b": "c" } }"#,
        ] {
            let edit: Edit = serde_json::from_str(edit).unwrap();
            assert!(edited(request(), Bytes::new(), &edit).is_err(), "{edit:?}");
        }
        assert!(serde_json::from_str::<Edit>(r#"{ "pth": "/" }"#).is_err());
    }
}

//! A dead letter as JSON, and a person's changes to one.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Refused, moment::moment};
use crate::{
    events::{Message, Request},
    outbox::{Letter, LetterState},
};

/// What a list shows of it.
pub(super) fn line(letter: &Letter) -> Value {
    let failure = &letter.failure;
    let edited_as = match letter.state {
        LetterState::EditedAs(id) => Some(id.to_string()),
        _ => None,
    };
    json!({
        "id": letter.id.to_string(),
        "state": letter.state.word(),
        "reason": failure.reason.word(),
        "status": failure.status,
        "error": failure.error,
        "attempts": failure.attempts,
        "route": &*letter.route,
        "upstream": &*letter.upstream,
        "key": letter.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned()),
        "accepted": moment(letter.accepted),
        "firstFailure": moment(letter.first_failure),
        "lastFailure": moment(letter.last_failure),
        "resolved": letter.resolved.map(moment),
        "expiry": letter.expiry.map(moment),
        "replays": letter.replays,
        "causationid": letter.cause.map(|id| id.to_string()),
        "editedAs": edited_as,
        "damaged": letter.damaged,
        "bytes": letter.size,
    })
}

/// All of it: the call as it was made, and what the application said.
pub(super) fn whole(letter: &Letter) -> Value {
    let mut page = line(letter);
    let request = match Request::decode(&letter.head) {
        Ok(request) => request_json(&request),
        Err(error) => json!({ "unreadable": error.to_string() }),
    };
    page["request"] = request;
    put_bytes(&mut page, "body", &letter.body);
    put_bytes(&mut page, "answer", &letter.failure.excerpt);
    page
}

fn request_json(request: &Request) -> Value {
    json!({
        "type": request.event_type(),
        "source": request.source,
        "time": moment(request.time),
        "method": request.method.as_str(),
        "authority": request.authority,
        "target": request.target,
        "headers": headers_json(&request.headers),
        "notKept": request.dropped,
    })
}

/// Values by name, several as a list; credentials are not shown.
fn headers_json(headers: &HeaderMap) -> Value {
    let value = |name: &HeaderName, value: &HeaderValue| match *name {
        header::AUTHORIZATION | header::COOKIE | header::PROXY_AUTHORIZATION => json!("***"),
        _ => json!(String::from_utf8_lossy(value.as_bytes())),
    };
    let mut all = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|one| value(name, one))
            .collect();
        let value = match values.len() {
            1 => values.remove(0),
            _ => Value::Array(values),
        };
        all.insert(name.as_str().to_owned(), value);
    }
    Value::Object(all)
}

/// Text as it is, other bytes in base64 under the name's own.
fn put_bytes(page: &mut Value, name: &str, bytes: &Bytes) {
    match std::str::from_utf8(bytes) {
        Ok(text) => page[name] = json!(text),
        Err(_) => page[format!("{name}Base64")] = json!(Message(bytes.clone()).to_string()),
    }
}

/// What is changed of a dead letter's call; what is left out stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Edit {
    method: Option<String>,
    /// Path and query.
    target: Option<String>,
    /// Header fields that are set, in place of those of the same name.
    set: BTreeMap<String, String>,
    remove: Vec<String>,
    body: Option<String>,
    body_base64: Option<Message>,
}

/// The head and body of a letter with a person's changes in them.
pub(super) fn edited(letter: &Letter, changes: &[u8]) -> Result<(Bytes, Bytes), Refused> {
    let wrong = |words: String| Refused::Wrong(words);
    let edit: Edit = serde_json::from_slice(changes)
        .map_err(|error| wrong(format!("the changes cannot be read: {error}")))?;
    if letter.damaged {
        let words = format!(
            "{} is damaged: it can be shown and discarded only",
            letter.id
        );
        return Err(Refused::Conflict(words));
    }
    let mut request =
        Request::decode(&letter.head).map_err(|error| Refused::Conflict(error.to_string()))?;
    if let Some(method) = &edit.method {
        request.method = Method::from_bytes(method.as_bytes())
            .map_err(|_| wrong(format!("`{}` is no method", method.escape_debug())))?;
    }
    if let Some(target) = edit.target {
        let is_path = target.starts_with('/') && target.parse::<http::uri::PathAndQuery>().is_ok();
        if !is_path {
            return Err(wrong(format!(
                "`{}` is no path and query",
                target.escape_debug()
            )));
        }
        request.target = target;
    }
    let name = |name: &str| {
        let read: Result<HeaderName, _> = name.parse();
        read.map_err(|_| wrong(format!("`{}` is no header field", name.escape_debug())))
    };
    for gone in &edit.remove {
        request.headers.remove(name(gone)?);
    }
    for (field, value) in &edit.set {
        let value = HeaderValue::from_str(value)
            .map_err(|_| wrong(format!("`{field}` cannot have this value")))?;
        request.headers.insert(name(field)?, value);
    }
    let body = match (edit.body, edit.body_base64) {
        (Some(_), Some(_)) => return Err(wrong("body and bodyBase64 are two bodies".into())),
        (Some(text), None) => Bytes::from(text),
        (None, Some(message)) => message.0,
        (None, None) => letter.body.clone(),
    };
    // What delivers it writes the length anew.
    request.headers.remove(header::CONTENT_LENGTH);
    Ok((request.encode(), body))
}

//! Events and dead letters as JSON.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use super::moment::moment;
use crate::{
    events::{Message, Request, verdict},
    outbox::{DeadReason, Letter, LetterState, Pending, Standing, Store},
};

/// A pending event.
pub(super) fn row(store: &Store, pending: &Pending, parked: bool) -> Value {
    json!({
        "id": store.name(pending.seq).to_string(),
        "state": if parked { "parked" } else { "pending" },
        "route": &*pending.route,
        "upstream": &*pending.upstream,
        "accepted": moment(pending.accepted),
        "due": moment(pending.due),
        "expiry": pending.expiry.map(moment),
        "attempts": pending.attempts,
        "replays": pending.replays,
        "bytes": pending.size,
        "error": null,
    })
}

/// Where an event stands.
pub(super) fn standing(standing: &Standing) -> Value {
    json!({
        "id": standing.id.to_string(),
        "state": standing.state.word(),
        "route": &*standing.route,
        "upstream": &*standing.upstream,
        "accepted": moment(standing.accepted),
        "due": standing.due.map(moment),
        "finished": standing.finished.map(moment),
        "attempts": standing.attempts,
        "status": standing.status,
        "reason": standing.reason.map(DeadReason::word),
        "error": standing.error,
    })
}

/// A dead letter as a list shows it.
pub(super) fn letter(letter: &Letter) -> Value {
    let failure = &letter.failure;
    let edited_as = match letter.state {
        LetterState::EditedAs(id) => Some(id.to_string()),
        _ => None,
    };
    json!({
        "id": letter.id.to_string(),
        "state": letter.state.word(),
        "editedAs": edited_as,
        "reason": failure.reason.word(),
        "error": failure.error,
        "status": failure.status,
        "attempts": failure.attempts,
        "route": &*letter.route,
        "upstream": &*letter.upstream,
        "key": letter.key.as_deref().map(verdict::text),
        "accepted": moment(letter.accepted),
        "firstFailure": moment(letter.first_failure),
        "lastFailure": moment(letter.last_failure),
        "resolved": letter.resolved.map(moment),
        "replays": letter.replays,
        "causationid": letter.cause.map(|id| id.to_string()),
        "damaged": letter.damaged,
        "bytes": letter.size,
    })
}

/// A letter with its request and the application's answer.
pub(super) fn whole(letter: &Letter) -> Value {
    let mut said = self::letter(letter);
    let request = match Request::decode(&letter.head) {
        Ok(request) => request_json(&request, &letter.body),
        Err(error) => json!({ "unreadable": error.to_string() }),
    };
    said["request"] = request;
    said["answer"] = verdict::text(&letter.failure.excerpt).into();
    said
}

fn request_json(request: &Request, body: &[u8]) -> Value {
    let headers: Vec<Value> = request
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), value_text(name, value)]))
        .collect();
    let mut said = json!({
        "type": request.event_type(),
        "source": request.source,
        "time": moment(request.time),
        "method": request.method.as_str(),
        "authority": request.authority,
        "path": request.target,
        "headers": headers,
        "notKept": request.dropped,
    });
    match std::str::from_utf8(body) {
        Ok(text) => said["body"] = text.into(),
        Err(_) => {
            let bytes = Message(Bytes::copy_from_slice(body));
            said["bodyBase64"] = bytes.to_string().into();
        }
    }
    said
}

/// A field's value; credentials that were kept are delivered, not shown.
fn value_text<'v>(name: &HeaderName, value: &'v HeaderValue) -> Cow<'v, str> {
    match *name {
        header::AUTHORIZATION | header::PROXY_AUTHORIZATION | header::COOKIE => "***".into(),
        _ => verdict::text(value.as_bytes()),
    }
}

//! `GET /.weft/events/<id>`: what became of a deferred call.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{COME_AGAIN, Capture, EVENTS, refused};
use crate::{
    fault::{Fault, Reason},
    http::{Body, respond::REASON_HEADER},
    outbox::{EventId, Standing, State, Store, Wall},
};

/// How long a caller that polls is asked to wait, at most.
const PATIENCE: Duration = Duration::from_secs(60);

impl Capture {
    /// Answers for one event by the path that `Location` named.
    pub async fn standing(&self, path: &str) -> Result<Response<Body>, Fault> {
        let (store, _) = self.access()?;
        let id: Option<EventId> = path.strip_prefix(EVENTS).and_then(|id| id.parse().ok());
        let Some(id) = id else {
            return Err(unknown());
        };
        match store.standing(id).await.map_err(refused)? {
            Some(standing) if standing.state == State::Forgotten => Err(gone(id)),
            Some(standing) => Ok(answer(&standing)),
            None if was_ours(&store, id) => Err(gone(id)),
            None => Err(unknown()),
        }
    }
}

/// Places are given in order, so one below the number of accepted events was given away once.
fn was_ours(store: &Store, id: EventId) -> bool {
    let ours = format!("{}-", store.id());
    id.to_string().starts_with(&ours) && id.seq().number() <= store.figures().accepted
}

fn answer(standing: &Standing) -> Response<Body> {
    let seconds = |wall: Wall| wall.0 / 1000;
    let said = json!({
        "id": standing.id.to_string(),
        "state": standing.state.word(),
        "route": &*standing.route,
        "upstream": &*standing.upstream,
        "acceptedAt": seconds(standing.accepted),
        "dueAt": standing.due.map(seconds),
        "finishedAt": standing.finished.map(seconds),
        "attempts": standing.attempts,
        "status": standing.status,
        "reason": standing.reason.map(|reason| reason.word()),
        "error": standing.error,
    });
    let mut response = Response::new(Body::whole(Bytes::from(said.to_string() + "\n")));
    if standing.state == State::Expired {
        *response.status_mut() = StatusCode::GONE;
        let word = HeaderValue::from_static(Reason::EventExpired.word());
        response.headers_mut().insert(REASON_HEADER, word);
    }
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if standing.state == State::Pending {
        let due = standing.due.map(|due| due.since(Wall::now()));
        let wait = due.unwrap_or_default().clamp(COME_AGAIN, PATIENCE);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
    response
}

#[cold]
fn unknown() -> Fault {
    Fault::new(Reason::EventUnknown, "no event of that id is known here")
}

#[cold]
fn gone(id: EventId) -> Fault {
    Fault::new(
        Reason::EventExpired,
        format!("{id} is finished; how is no longer known"),
    )
}

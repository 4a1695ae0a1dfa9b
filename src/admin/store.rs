//! The pages about deferred calls: what waits, what is dead, and what a person decides about it.
//!
//! Asked by the admin port of a running sidecar, and by commands on the store of a stopped one: both say the same.

mod filter;
mod letter;
mod moment;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use self::{filter::Query, moment::moment};
use crate::outbox::{EventId, Health, OutboxError, Pending, Seq, State, Store, Wall};

/// Events and dead letters on one page, unless `limit` says less or more.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
/// An edited dead letter: JSON around a body that the outbox may bound at 256 MiB.
pub const LARGEST_EDIT: usize = 512 << 20;

/// Why a page about deferred calls has nothing to show, or a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Wrong(String),
    /// The dead letter's state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The store cannot be used now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<OutboxError> for Refused {
    fn from(error: OutboxError) -> Self {
        let words = error.to_string();
        match error {
            OutboxError::Unknown { .. } => Refused::Unknown(words),
            OutboxError::NotWaiting { .. } | OutboxError::Damaged { .. } => {
                Refused::Conflict(words)
            }
            OutboxError::TooLarge { .. } => Refused::Wrong(words),
            _ => Refused::Unavailable(words),
        }
    }
}

/// Whether a path is one of these pages.
pub fn is_page(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next();
    matches!(first, Some("outbox" | "deadletters"))
}

/// Answers a page. `target` is its path, with the query if there is one.
pub async fn ask(
    store: &Store,
    method: &Method,
    target: &str,
    body: &[u8],
) -> Result<Value, Refused> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = Query::read(query);
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        (&Method::GET, ["outbox"]) => outbox(store, &query).await,
        (&Method::GET, ["outbox", id]) => standing(store, &event(id)?).await,
        (&Method::GET, ["deadletters"]) => letters(store, &query).await,
        (&Method::GET, ["deadletters", id]) => {
            let id = event(id)?;
            let found = store.letter(id).await?;
            let letter = found
                .ok_or_else(|| Refused::Unknown(format!("no dead letter {id} in this store")))?;
            Ok(letter::whole(&letter))
        }
        (&Method::POST, ["deadletters", id, action]) => {
            decide(store, event(id)?, action, &query, body).await
        }
        _ => Err(Refused::Unknown(format!("no page {}", path.escape_debug()))),
    }
}

fn event(text: &str) -> Result<EventId, Refused> {
    text.parse()
        .map_err(|error| Refused::Wrong(format!("`{}` is {error}", text.escape_debug())))
}

/// The sums, and a page of what waits in the order of its acceptance.
async fn outbox(store: &Store, query: &Query) -> Result<Value, Refused> {
    let figures = store.figures();
    let health = match store.health() {
        Health::Open => json!("open"),
        Health::DiskFull => json!("disk full: nothing new is taken, what is stored is delivered"),
        Health::Recovering => json!("recovering from a failed sync: nothing new is taken"),
        Health::ReadOnly(why) => json!(format!("read-only until a restart: {why}")),
    };
    let ledger: serde_json::Map<_, _> = figures
        .ledger
        .iter()
        .map(|(state, count)| (state.word().to_owned(), json!(count)))
        .collect();
    let limit = query.limit()?;
    let page = store.pending(query.after()?, limit).await?;
    let next = (page.len() == limit).then(|| page.last()).flatten();
    let next = next.map(|last| store.id().event(last.seq).to_string());
    let mut pending = Vec::new();
    for one in &page {
        pending.push(waiting(store, one).await?);
    }
    Ok(json!({
        "path": store.path().display().to_string(),
        "store": store.id().to_string(),
        "health": health,
        "events": figures.events,
        "bytes": figures.bytes,
        "oldest": figures.oldest.map(moment),
        "oldestAgeSeconds": figures.oldest.map(|oldest| Wall::now().since(oldest).as_secs()),
        "accepted": figures.accepted,
        "limits": store.limits(),
        "ledger": ledger,
        "pending": pending,
        "next": next,
    }))
}

async fn waiting(store: &Store, one: &Pending) -> Result<Value, Refused> {
    let id = store.id().event(one.seq);
    let standing = store.standing(id).await?;
    let error = standing.and_then(|standing| standing.error);
    Ok(json!({
        "id": id.to_string(),
        "route": &*one.route,
        "upstream": &*one.upstream,
        "accepted": moment(one.accepted),
        "due": moment(one.due),
        "expiry": one.expiry.map(moment),
        "attempts": one.attempts,
        "replays": one.replays,
        "bytes": one.size,
        "error": error,
    }))
}

/// Where one event stands, whatever became of it.
async fn standing(store: &Store, id: &EventId) -> Result<Value, Refused> {
    let found = store.standing(*id).await?;
    let found = found.ok_or_else(|| Refused::Unknown(format!("no event {id} in this store")))?;
    if found.state == State::Forgotten {
        return Err(Refused::Unknown(format!(
            "{id} finished too long ago; how is no longer known"
        )));
    }
    Ok(json!({
        "id": found.id.to_string(),
        "state": found.state.word(),
        "route": &*found.route,
        "upstream": &*found.upstream,
        "accepted": moment(found.accepted),
        "due": found.due.map(moment),
        "finished": found.finished.map(moment),
        "attempts": found.attempts,
        "status": found.status,
        "reason": found.reason.map(|reason| reason.word()),
        "error": found.error,
    }))
}

async fn letters(store: &Store, query: &Query) -> Result<Value, Refused> {
    let limit = query.limit()?;
    let page = store
        .letters(query.filter()?, query.after()?, limit)
        .await?;
    let next = (page.len() == limit).then(|| page.last()).flatten();
    Ok(json!({
        "letters": page.iter().map(letter::line).collect::<Vec<_>>(),
        "next": next.map(|last| last.id.to_string()),
    }))
}

async fn decide(
    store: &Store,
    id: EventId,
    action: &str,
    query: &Query,
    body: &[u8],
) -> Result<Value, Refused> {
    let who = query.value("who").unwrap_or("admin");
    match action {
        "replay" => {
            store.replay(id, who).await?;
            Ok(json!({ "id": id.to_string(), "state": "replaying" }))
        }
        "discard" => {
            store.discard(id, who).await?;
            Ok(json!({ "id": id.to_string(), "state": "discarded" }))
        }
        "edit" => {
            let found = store.letter(id).await?;
            let found = found.ok_or(OutboxError::Unknown { id })?;
            let (head, body) = letter::edited(&found, body)?;
            let receipt = store.edit(id, head, body, who).await?;
            Ok(json!({
                "id": receipt.id.to_string(),
                "causationid": id.to_string(),
                "state": "pending",
            }))
        }
        _ => Err(Refused::Unknown(format!(
            "`{}` is nothing a dead letter takes: replay, edit or discard",
            action.escape_debug()
        ))),
    }
}

/// Words for how long ago something was: `90s` is one and a half minutes.
fn ago(text: &str) -> Option<Duration> {
    text.parse::<crate::units::Time>().ok().map(Duration::from)
}

impl Query {
    fn limit(&self) -> Result<usize, Refused> {
        match self.value("limit") {
            None => Ok(PAGE),
            Some(text) => match text.parse() {
                Ok(limit @ 1..=LARGEST_PAGE) => Ok(limit),
                _ => Err(Refused::Wrong(format!(
                    "limit is from 1 to {LARGEST_PAGE}, not `{}`",
                    text.escape_debug()
                ))),
            },
        }
    }

    /// The event that the page before ended with.
    fn after(&self) -> Result<Seq, Refused> {
        match self.value("after") {
            None => Ok(Seq::START),
            Some(id) => event(id).map(EventId::seq),
        }
    }
}

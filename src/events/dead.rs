//! What people see of events and do about dead letters, on a running sidecar and on the store of a stopped one.
//!
//! Values are JSON as admin and command line show it. Every change leaves a line in the audit trail, with who asked.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    deliver::Parked,
    event::Request,
    metrics::Metrics,
    vault::{Access, Vault},
    verdict,
};
use crate::outbox::{
    DeadReason, EventId, Health, Letter, LetterFilter, LetterState, OutboxError, Pending, Seq,
    Standing, Store, Wall,
};

/// Letters read in one turn.
const PAGE: usize = 500;

/// The events of one store. Clones are the same one.
#[derive(Clone)]
pub struct Events {
    vault: Vault,
    parked: Parked,
    /// None where nobody scrapes: the store of a stopped sidecar.
    metrics: Option<Metrics>,
}

/// Why something could not be done, in words.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the outbox is not available: {0}")]
    Shut(String),
    #[error("`{0}` is not an event id")]
    NotAnId(String),
    #[error("{0}")]
    Bad(String),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

impl Refused {
    /// True where nothing is known by that id.
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Refused::NotAnId(_) | Refused::Outbox(OutboxError::Unknown { .. })
        )
    }

    /// True where asking again may help.
    pub fn is_unavailable(&self) -> bool {
        use OutboxError::{Closed, Full, Poisoned, Unavailable};
        matches!(
            self,
            Refused::Shut(_)
                | Refused::Outbox(Closed | Full { .. } | Poisoned { .. } | Unavailable { .. })
        )
    }
}

/// Which dead letters. What is absent does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Which {
    /// Those that are dealt with as well.
    pub all: bool,
    /// `rejected`, `exhausted`, `expired`, `crash`, `damaged`.
    pub reason: Option<String>,
    /// The last answer's status.
    pub status: Option<u16>,
    /// Last failure so many seconds ago, at most.
    pub newer_than: Option<u64>,
    /// And at least.
    pub older_than: Option<u64>,
    pub key: Option<String>,
    pub upstream: Option<String>,
    pub route: Option<String>,
    /// `dev.weft.http.request.v1` or `dev.weft.grpc.request.v1`.
    pub r#type: Option<String>,
    /// Only the event of this id and those behind it.
    pub after: Option<String>,
    /// At most so many; 100 unless said.
    pub limit: Option<usize>,
}

/// What an edited copy says otherwise than the letter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edit {
    pub method: Option<String>,
    pub authority: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// Set; `null` removes.
    pub headers: std::collections::BTreeMap<String, Option<String>>,
    pub body: Option<String>,
}

/// How dead letters are replayed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Replay {
    /// Only says which.
    pub dry_run: bool,
    /// Letters a second; as fast as it goes unless said.
    pub rate: Option<f64>,
}

impl Events {
    /// Of a running sidecar.
    pub fn new(vault: &Vault, parked: &Parked, metrics: &Metrics) -> Self {
        Events {
            vault: vault.clone(),
            parked: parked.clone(),
            metrics: Some(metrics.clone()),
        }
    }

    /// Of a stopped one: its store, opened by the caller, who closes it as well.
    pub fn over(store: Store) -> Self {
        Events {
            vault: Vault::over(store),
            parked: Parked::default(),
            metrics: None,
        }
    }

    fn store(&self) -> Result<Store, Refused> {
        match self.vault.access() {
            Access::Open(store) => Ok(store),
            Access::Shut(why) => Err(Refused::Shut(why.to_string())),
        }
    }

    /// The outbox as a whole: health, sums, ledger, parked upstreams.
    pub fn outbox(&self) -> Value {
        let store = match self.vault.access() {
            Access::Open(store) => store,
            Access::Shut(why) => return json!({ "open": false, "why": &*why }),
        };
        let figures = store.figures();
        let (health, why) = match store.health() {
            Health::Open => ("open", None),
            Health::DiskFull => ("diskFull", None),
            Health::Recovering => ("recovering", None),
            Health::ReadOnly(why) => ("readOnly", Some(why)),
        };
        let ledger: Map<String, Value> = figures
            .ledger
            .iter()
            .map(|(state, count)| (state.word().to_owned(), (*count).into()))
            .collect();
        let parked: Vec<String> = self.parked.list().iter().map(|u| u.to_string()).collect();
        json!({
            "open": true,
            "health": health,
            "why": why,
            "path": store.path().display().to_string(),
            "id": store.id().to_string(),
            "events": figures.events,
            "bytes": figures.bytes,
            "accepted": figures.accepted,
            "oldest": figures.oldest.map(time),
            "ledger": ledger,
            "parkedUpstreams": parked,
        })
    }

    /// Pending events in the order they came, at most `limit`, those after `after` if it is said.
    pub async fn pending(&self, after: Option<&str>, limit: usize) -> Result<Vec<Value>, Refused> {
        let store = self.store()?;
        let mut from = after_seq(after)?;
        let parked = self.parked.list();
        let mut all = Vec::new();
        while all.len() < limit {
            let page = store.pending(from, limit - all.len()).await?;
            let Some(last) = page.last() else { break };
            from = last.seq;
            for pending in &page {
                let is_parked = parked.contains(&pending.upstream);
                all.push(row(&store, pending, is_parked));
            }
        }
        Ok(all)
    }

    /// One event, wherever it stands; a dead letter whole.
    pub async fn show(&self, id: &str) -> Result<Value, Refused> {
        let (store, id) = (self.store()?, parsed(id)?);
        if let Some(letter) = store.letter(id).await? {
            return Ok(whole(&letter));
        }
        let standing = store.standing(id).await?;
        let standing = standing.ok_or(OutboxError::Unknown { id })?;
        Ok(standing_json(&standing))
    }

    /// Dead letters, oldest event first.
    pub async fn letters(&self, which: &Which) -> Result<Vec<Value>, Refused> {
        let store = self.store()?;
        let found = find(&store, which).await?;
        Ok(found.iter().map(letter_json).collect())
    }

    /// A changed copy under a new id takes the letter's place; its `causationid` is the old one.
    pub async fn edit(&self, id: &str, edit: &Edit, who: &str) -> Result<Value, Refused> {
        let (store, id) = (self.store()?, parsed(id)?);
        let letter = store.letter(id).await?;
        let letter = letter.ok_or(OutboxError::Unknown { id })?;
        let request = Request::decode(&letter.head);
        let request = request.map_err(|error| Refused::Bad(error.to_string()))?;
        let (request, body) = edited(request, letter.body, edit)?;
        let receipt = store.edit(id, request.encode(), body, who).await?;
        self.settled(id);
        Ok(json!({ "id": receipt.id.to_string(), "causationid": id.to_string() }))
    }

    /// Makes dead letters pending again; those that cannot be are told with why.
    pub async fn replay(
        &self,
        which: &Which,
        ids: &[String],
        how: &Replay,
        who: &str,
    ) -> Result<Value, Refused> {
        let store = self.store()?;
        let ids = self.chosen(&store, which, ids).await?;
        let told: Vec<String> = ids.iter().map(EventId::to_string).collect();
        if how.dry_run {
            return Ok(json!({ "dryRun": true, "count": told.len(), "ids": told }));
        }
        let between = match how.rate {
            Some(rate) if rate.is_finite() && rate > 0.0 => Duration::from_secs_f64(1.0 / rate),
            Some(_) => return Err(Refused::Bad("the rate must be more than 0".to_owned())),
            None => Duration::ZERO,
        };
        let (mut replayed, mut refused) = (Vec::new(), Vec::new());
        for (nth, id) in ids.iter().enumerate() {
            if nth > 0 && !between.is_zero() {
                tokio::time::sleep(between).await;
            }
            match store.replay(*id, who).await {
                Ok(_) => {
                    self.settled(*id);
                    replayed.push(id.to_string());
                }
                Err(error) => {
                    refused.push(json!({ "id": id.to_string(), "why": error.to_string() }));
                }
            }
        }
        Ok(json!({ "count": replayed.len(), "ids": replayed, "refused": refused }))
    }

    /// Gives dead letters up.
    pub async fn discard(
        &self,
        which: &Which,
        ids: &[String],
        who: &str,
    ) -> Result<Value, Refused> {
        let store = self.store()?;
        let (mut discarded, mut refused) = (Vec::new(), Vec::new());
        for id in self.chosen(&store, which, ids).await? {
            match store.discard(id, who).await {
                Ok(()) => {
                    self.settled(id);
                    discarded.push(id.to_string());
                }
                Err(error) => {
                    refused.push(json!({ "id": id.to_string(), "why": error.to_string() }));
                }
            }
        }
        Ok(json!({ "count": discarded.len(), "ids": discarded, "refused": refused }))
    }

    /// What people did, newest first.
    pub async fn audit(&self, limit: usize) -> Result<Vec<Value>, Refused> {
        let lines = self.store()?.audit(limit).await?;
        let line = lines.iter().map(|line| {
            json!({
                "at": time(line.at),
                "who": line.who,
                "what": line.what,
                "id": line.id.to_string(),
                "note": line.note,
            })
        });
        Ok(line.collect())
    }

    /// Those named, or else those that the filter finds and that wait.
    async fn chosen(
        &self,
        store: &Store,
        which: &Which,
        ids: &[String],
    ) -> Result<Vec<EventId>, Refused> {
        if !ids.is_empty() {
            return ids.iter().map(|id| parsed(id)).collect();
        }
        let which = Which {
            all: false,
            limit: Some(which.limit.unwrap_or(usize::MAX)),
            ..which.clone()
        };
        let found = find(store, &which).await?;
        let waiting = found
            .iter()
            .filter(|letter| letter.state == LetterState::Pending);
        Ok(waiting.map(|letter| letter.id).collect())
    }

    fn settled(&self, id: EventId) {
        if let Some(metrics) = &self.metrics {
            metrics.dead.remove(id.seq());
        }
    }
}

async fn find(store: &Store, which: &Which) -> Result<Vec<Letter>, Refused> {
    let reason = match &which.reason {
        None => None,
        Some(word) => Some(DeadReason::from_word(word).ok_or_else(|| {
            let known = DeadReason::ALL.map(DeadReason::word).join(", ");
            Refused::Bad(format!("`{word}` is no reason: {known}"))
        })?),
    };
    let ago = |seconds: Option<u64>| {
        seconds.map(|seconds| Wall::now().before(Duration::from_secs(seconds)))
    };
    let filter = LetterFilter {
        all: which.all,
        reason,
        status: which.status,
        since: ago(which.newer_than),
        until: ago(which.older_than),
        key: which.key.clone().map(Bytes::from),
        upstream: which.upstream.clone(),
        route: which.route.clone(),
    };
    let limit = which.limit.unwrap_or(100);
    let (mut found, mut from) = (Vec::new(), after_seq(which.after.as_deref())?);
    while found.len() < limit {
        let page = store.letters(filter.clone(), from, PAGE).await?;
        let Some(last) = page.last() else { break };
        from = last.id.seq();
        for letter in page {
            if of_type(store, &letter, which.r#type.as_deref()).await? && found.len() < limit {
                found.push(letter);
            }
        }
    }
    Ok(found)
}

/// The type stands in the head, which lists leave out.
async fn of_type(store: &Store, letter: &Letter, wanted: Option<&str>) -> Result<bool, Refused> {
    let Some(wanted) = wanted else {
        return Ok(true);
    };
    let whole = store.letter(letter.id).await?;
    let request = whole.and_then(|letter| Request::decode(&letter.head).ok());
    Ok(request.is_some_and(|request| request.event_type() == wanted))
}

fn edited(mut request: Request, body: Bytes, edit: &Edit) -> Result<(Request, Bytes), Refused> {
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
    let body = edit.body.clone().map_or(body, Bytes::from);
    Ok((request, body))
}

fn parsed(id: &str) -> Result<EventId, Refused> {
    id.parse().map_err(|_| Refused::NotAnId(id.to_owned()))
}

fn after_seq(after: Option<&str>) -> Result<Seq, Refused> {
    match after {
        Some(id) => Ok(parsed(id)?.seq()),
        None => Ok(Seq::START),
    }
}

/// A moment as people and programs read it.
fn time(wall: Wall) -> String {
    let since = Duration::from_millis(u64::try_from(wall.0).unwrap_or(0));
    httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH + since)
}

fn row(store: &Store, pending: &Pending, parked: bool) -> Value {
    json!({
        "id": store.name(pending.seq).to_string(),
        "state": if parked { "parked" } else { "pending" },
        "route": &*pending.route,
        "upstream": &*pending.upstream,
        "accepted": time(pending.accepted),
        "due": time(pending.due),
        "expiry": pending.expiry.map(time),
        "attempts": pending.attempts,
        "replays": pending.replays,
        "bytes": pending.size,
    })
}

fn standing_json(standing: &Standing) -> Value {
    json!({
        "id": standing.id.to_string(),
        "state": standing.state.word(),
        "route": &*standing.route,
        "upstream": &*standing.upstream,
        "accepted": time(standing.accepted),
        "due": standing.due.map(time),
        "finished": standing.finished.map(time),
        "attempts": standing.attempts,
        "status": standing.status,
        "reason": standing.reason.map(DeadReason::word),
        "error": standing.error,
    })
}

fn letter_json(letter: &Letter) -> Value {
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
        "accepted": time(letter.accepted),
        "firstFailure": time(letter.first_failure),
        "lastFailure": time(letter.last_failure),
        "resolved": letter.resolved.map(time),
        "replays": letter.replays,
        "causationid": letter.cause.map(|id| id.to_string()),
        "damaged": letter.damaged,
        "bytes": letter.size,
    })
}

/// A letter with its request and the application's answer.
fn whole(letter: &Letter) -> Value {
    let mut said = letter_json(letter);
    let request = match Request::decode(&letter.head) {
        Ok(request) => request_json(&request, &letter.body),
        Err(error) => json!({ "unreadable": error.to_string() }),
    };
    if let Value::Object(fields) = &mut said {
        let answer = verdict::text(&letter.failure.excerpt);
        fields.insert("answer".to_owned(), answer.into());
        fields.insert("request".to_owned(), request);
    }
    said
}

fn request_json(request: &Request, body: &[u8]) -> Value {
    let headers: Vec<Value> = request
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), verdict::text(value.as_bytes())]))
        .collect();
    json!({
        "type": request.event_type(),
        "source": request.source,
        "time": time(request.time),
        "method": request.method.as_str(),
        "authority": request.authority,
        "path": request.target,
        "headers": headers,
        "notKept": request.dropped,
        "body": verdict::text(body),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

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

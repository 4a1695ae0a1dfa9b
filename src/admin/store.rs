//! The pages about deferred calls: what waits, what is dead, and what a person decides about it.
//!
//! Asked by the admin port of a running sidecar, and by commands on the store of a stopped one: both say the same.

use http::Method;
use serde_json::Value;

use super::pages::unescaped;
use crate::{
    events::{self, Edit, Events, Replay, Which},
    outbox::OutboxError,
};

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

impl From<events::Refused> for Refused {
    fn from(error: events::Refused) -> Self {
        use OutboxError::{Damaged, NotWaiting};
        let words = error.to_string();
        match error {
            _ if error.is_unknown() => Refused::Unknown(words),
            _ if error.is_unavailable() => Refused::Unavailable(words),
            events::Refused::Outbox(NotWaiting { .. } | Damaged { .. }) => Refused::Conflict(words),
            _ => Refused::Wrong(words),
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
    events: &Events,
    method: &Method,
    target: &str,
    body: &[u8],
) -> Result<Value, Refused> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = Query::read(query);
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        (&Method::GET, ["outbox"]) => {
            let mut page = events.outbox();
            if page["open"] == true {
                let limit = query.limit()?;
                let pending = events.pending(query.value("after"), limit).await?;
                page["next"] = next(&pending, limit);
                page["pending"] = pending.into();
            }
            Ok(page)
        }
        (&Method::GET, ["outbox", id]) => Ok(events.show(id).await?),
        (&Method::GET, ["deadletters"]) => {
            let which = query.which()?;
            let letters = events.letters(&which).await?;
            let next = next(&letters, which.limit.unwrap_or(PAGE));
            Ok(serde_json::json!({ "letters": letters, "next": next }))
        }
        (&Method::GET, ["deadletters", id]) => letter(events, id).await,
        (&Method::POST, ["deadletters", id, action]) => {
            decide(
                events,
                id,
                action,
                query.value("who").unwrap_or("admin"),
                body,
            )
            .await
        }
        _ => Err(Refused::Unknown(format!("no page {}", path.escape_debug()))),
    }
}

/// The last id of a full page: where the next one begins.
fn next(page: &[Value], limit: usize) -> Value {
    let last = page.last().filter(|_| page.len() == limit);
    last.map_or(Value::Null, |last| last["id"].clone())
}

async fn letter(events: &Events, id: &str) -> Result<Value, Refused> {
    let page = events.show(id).await?;
    match page.get("request") {
        Some(_) => Ok(page),
        None => Err(Refused::Unknown(format!(
            "{id} is no dead letter: it is {}",
            page["state"].as_str().unwrap_or("unknown")
        ))),
    }
}

async fn decide(
    events: &Events,
    id: &str,
    action: &str,
    who: &str,
    body: &[u8],
) -> Result<Value, Refused> {
    if !matches!(action, "replay" | "edit" | "discard") {
        return Err(Refused::Unknown(format!(
            "`{}` is nothing a dead letter takes: replay, edit or discard",
            action.escape_debug()
        )));
    }
    letter(events, id).await?;
    let ids = [id.to_owned()];
    let done = match action {
        "replay" => {
            let how = Replay::default();
            events.replay(&Which::default(), &ids, &how, who).await?
        }
        "discard" => events.discard(&Which::default(), &ids, who).await?,
        _ => {
            let edit: Edit = serde_json::from_slice(body)
                .map_err(|error| Refused::Wrong(format!("the changes cannot be read: {error}")))?;
            return Ok(events.edit(id, &edit, who).await?);
        }
    };
    match done["refused"][0]["why"].as_str() {
        Some(why) => Err(Refused::Conflict(why.to_owned())),
        None => Ok(events.show(id).await?),
    }
}

/// A query's names and values, unescaped.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            (unescaped(name), unescaped(value))
        };
        Query(pairs.map(pair).collect())
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    fn limit(&self) -> Result<usize, Refused> {
        match self.value("limit").map(str::parse) {
            None => Ok(PAGE),
            Some(Ok(limit @ 1..=LARGEST_PAGE)) => Ok(limit),
            Some(_) => Err(Refused::Wrong(format!("limit is from 1 to {LARGEST_PAGE}"))),
        }
    }

    /// A misspelt filter would match everything, and a replay of everything is no small mistake: it is refused.
    fn which(&self) -> Result<Which, Refused> {
        let mut which = Which {
            limit: Some(self.limit()?),
            ..Which::default()
        };
        for (name, value) in &self.0 {
            let text = Some(value.clone());
            match name.as_str() {
                "all" => which.all = value == "true",
                "reason" => which.reason = text,
                "status" => {
                    let status = value.parse().map_err(|_| {
                        Refused::Wrong(format!("`{}` is no HTTP status", value.escape_debug()))
                    });
                    which.status = Some(status?);
                }
                "since" => which.since = text,
                "until" => which.until = text,
                "key" => which.key = text,
                "route" => which.route = text,
                "upstream" => which.upstream = text,
                "type" => which.r#type = text,
                "after" => which.after = text,
                "limit" => {}
                other => {
                    return Err(Refused::Wrong(format!(
                        "`{}` is no filter: reason, status, since, until, key, route, upstream, type, all",
                        other.escape_debug()
                    )));
                }
            }
        }
        Ok(which)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_whole_or_refused() {
        let which = Query::read("reason=exhausted&status=500&key=a%26b&route=notify&all").which();
        let which = which.unwrap();
        assert_eq!(which.reason.as_deref(), Some("exhausted"));
        assert_eq!((which.status, which.all), (Some(500), true));
        assert_eq!(which.key.as_deref(), Some("a&b"));
        for wrong in ["reson=exhausted", "status=many", "limit=0", "limit=1001"] {
            assert!(Query::read(wrong).which().is_err(), "{wrong}");
        }
    }
}

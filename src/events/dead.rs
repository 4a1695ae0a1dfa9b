//! What people see of events and do about dead letters, on a running sidecar and on the store of a stopped one.
//!
//! Values are JSON as admin and command line show it. Every change leaves a line in the audit trail, with who asked.

mod edit;
mod moment;
mod shown;

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    deliver::Parked,
    event::Request,
    metrics::Metrics,
    vault::{Access, Vault},
};
use crate::outbox::{
    DeadReason, EventId, Health, Letter, LetterFilter, LetterState, OutboxError, Seq, Store,
};

pub use edit::Edit;

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
    /// Last failure at or after: `2026-11-21T13:00:00Z`, or how long ago, `90m`.
    pub since: Option<String>,
    /// Last failure before.
    pub until: Option<String>,
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
            "oldest": figures.oldest.map(moment::moment),
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
                let mut row = shown::row(&store, pending, is_parked);
                if pending.attempts > 0 {
                    let standing = store.standing(store.name(pending.seq)).await?;
                    row["error"] = standing.and_then(|standing| standing.error).into();
                }
                all.push(row);
            }
        }
        Ok(all)
    }

    /// One event, wherever it stands; a dead letter whole.
    pub async fn show(&self, id: &str) -> Result<Value, Refused> {
        let (store, id) = (self.store()?, parsed(id)?);
        if let Some(letter) = store.letter(id).await? {
            return Ok(shown::whole(&letter));
        }
        let standing = store.standing(id).await?;
        let standing = standing.ok_or(OutboxError::Unknown { id })?;
        Ok(shown::standing(&standing))
    }

    /// Dead letters, oldest event first.
    pub async fn letters(&self, which: &Which) -> Result<Vec<Value>, Refused> {
        let store = self.store()?;
        let found = find(&store, which).await?;
        Ok(found.iter().map(shown::letter).collect())
    }

    /// A changed copy under a new id takes the letter's place; its `causationid` is the old one.
    pub async fn edit(&self, id: &str, edit: &Edit, who: &str) -> Result<Value, Refused> {
        let (store, id) = (self.store()?, parsed(id)?);
        let letter = store.letter(id).await?;
        let letter = letter.ok_or(OutboxError::Unknown { id })?;
        let request = Request::decode(&letter.head);
        let request = request.map_err(|error| Refused::Bad(error.to_string()))?;
        let (request, body) = edit::edited(request, letter.body, edit)?;
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
                "at": moment::moment(line.at),
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
    let moment = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match moment::read(text) {
            Some(at) => Ok(Some(at)),
            None => Err(Refused::Bad(format!(
                "`{text}` is no time: write 2026-11-21T13:00:00Z, or how long ago, like 90m"
            ))),
        },
    };
    let filter = LetterFilter {
        all: which.all,
        reason,
        status: which.status,
        since: moment(&which.since)?,
        until: moment(&which.until)?,
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

fn parsed(id: &str) -> Result<EventId, Refused> {
    id.parse().map_err(|_| Refused::NotAnId(id.to_owned()))
}

fn after_seq(after: Option<&str>) -> Result<Seq, Refused> {
    match after {
        Some(id) => Ok(parsed(id)?.seq()),
        None => Ok(Seq::START),
    }
}

//! Dead letters: what failed for good, and what a person did about it. The letter never changes, its state does.
//!
//! Every change by a person leaves a line in the audit trail, in the same commit.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};

use super::{
    desk::Desk,
    error::OutboxError,
    id::{Seq, StoreId},
    record::{
        DeadReason, Failure, Letter, LetterFilter, LetterState, Receipt, Standing, State, Wall,
    },
    row::Fields,
    store::AuditLine,
};

/// Letters looked at in one turn of the writer: what a filter that matches nothing may cost the others.
const LOOKED_AT: usize = 1000;
/// Lines of the audit trail that are kept.
const TRAIL: i64 = 100_000;

/// The letter's columns; those of its event come first, as `Fields` reads them.
const COLUMNS: &str = "upstream, route, key, accepted, due, expiry, cause, replays, size, head, body, checksum, seq, \
                       state, edited_as, reason, attempts, status, first_failure, last_failure, error, excerpt, resolved";

/// What a look at some letters found.
pub(super) struct Page {
    pub letters: Vec<Letter>,
    /// Where the next look starts; `None` at the end.
    pub next: Option<Seq>,
}

impl Desk {
    /// Letters after `after` that pass the filter, at most `limit`, among the next thousand.
    pub(super) fn letters(
        &self,
        filter: &LetterFilter,
        after: Seq,
        limit: usize,
    ) -> rusqlite::Result<Page> {
        let sql = format!("SELECT {COLUMNS} FROM letter WHERE seq > ? ORDER BY seq LIMIT ?");
        let mut rows = self.db.prepare_cached(&sql)?;
        let mut rows = rows.query(params![after.0, LOOKED_AT as i64])?;
        let (mut letters, mut last, mut seen) = (Vec::new(), after, 0);
        while letters.len() < limit
            && let Some(row) = rows.next()?
        {
            last = Seq(row.get(12)?);
            seen += 1;
            let letter = read(self.store, row, false)?;
            if filter.passes(&letter) {
                letters.push(letter);
            }
        }
        let more = seen == LOOKED_AT || letters.len() == limit;
        Ok(Page {
            letters,
            next: more.then_some(last),
        })
    }

    /// One letter, with its bytes if they are wanted.
    pub(super) fn letter(&self, seq: Seq, whole: bool) -> rusqlite::Result<Option<Letter>> {
        let sql = format!("SELECT {COLUMNS} FROM letter WHERE seq = ?");
        self.db
            .prepare_cached(&sql)?
            .query_row([seq.0], |row| read(self.store, row, whole))
            .optional()
    }

    /// The letter, if a person may decide about it.
    fn waiting(&self, seq: Seq) -> rusqlite::Result<Result<Letter, OutboxError>> {
        let id = self.store.event(seq);
        Ok(match self.letter(seq, true)? {
            None => Err(OutboxError::Unknown { id }),
            Some(letter) if letter.state != LetterState::Pending => Err(OutboxError::NotWaiting {
                id,
                state: letter.state.word(),
            }),
            Some(letter) => Ok(letter),
        })
    }

    /// Makes the letter's event pending again: same id, due now, never expiring, its attempts given back.
    pub(super) fn replay(
        &mut self,
        seq: Seq,
        who: &str,
        now: Wall,
    ) -> rusqlite::Result<Result<Receipt, OutboxError>> {
        let letter = match self.waiting(seq)? {
            Ok(letter) if letter.damaged => {
                let id = letter.id;
                return Ok(Err(OutboxError::Damaged { id }));
            }
            Ok(letter) => letter,
            Err(refused) => return Ok(Err(refused)),
        };
        let replays = letter.replays + 1;
        let cause = letter.cause.map(|id| id.to_string());
        let row = Fields {
            due: now,
            expiry: None,
            replays,
            cause: cause.as_deref(),
            ..fields(&letter)
        };
        self.insert(seq, &row)?;
        // The letter's own row keeps the checksum of what it holds.
        let kept = Fields {
            replays,
            due: letter.due,
            expiry: letter.expiry,
            cause: cause.as_deref(),
            ..fields(&letter)
        };
        self.db.execute(
            "UPDATE letter SET state = 1, replays = ?, checksum = ? WHERE seq = ?",
            params![replays, kept.checksum(seq), seq.0],
        )?;
        let lane = self.tally.lane(&letter.upstream);
        self.tally.turn(
            lane,
            letter.weight,
            letter.failure.reason.state(),
            State::Pending,
        );
        self.announce(seq, lane, &row);
        self.note(who, "replay", seq, &format!("replay {replays}"), now)?;
        Ok(Ok(self.receipt(seq)))
    }

    /// Appends a changed copy under a new id, and says in the letter which.
    pub(super) fn edit(
        &mut self,
        seq: Seq,
        head: &[u8],
        body: &[u8],
        who: &str,
        now: Wall,
    ) -> rusqlite::Result<Result<Receipt, OutboxError>> {
        let letter = match self.waiting(seq)? {
            Ok(letter) => letter,
            Err(refused) => return Ok(Err(refused)),
        };
        let limit = self.tally.limits().event.bytes();
        let bytes = (head.len() + body.len()) as u64;
        if bytes > limit {
            return Ok(Err(OutboxError::TooLarge { size: bytes, limit }));
        }
        let cause = letter.id.to_string();
        let row = Fields {
            accepted: now,
            due: now,
            expiry: None,
            cause: Some(&cause),
            replays: 0,
            size: letter.weight.saturating_sub(letter.size) + bytes,
            head,
            body,
            ..fields(&letter)
        };
        let fresh = self.next();
        self.insert(fresh, &row)?;
        let lane = self.tally.lane(&letter.upstream);
        self.tally.accept(lane, row.size);
        self.db.execute(
            "UPDATE letter SET state = 4, edited_as = ?, resolved = ? WHERE seq = ?",
            [fresh.0, now.0, seq.0],
        )?;
        self.tally.turn(
            lane,
            letter.weight,
            letter.failure.reason.state(),
            State::Edited,
        );
        self.announce(fresh, lane, &row);
        let receipt = self.receipt(fresh);
        self.note(who, "edit", seq, &format!("as {}", receipt.id), now)?;
        Ok(Ok(receipt))
    }

    /// Gives the letter up.
    pub(super) fn discard(
        &mut self,
        seq: Seq,
        who: &str,
        now: Wall,
    ) -> rusqlite::Result<Result<(), OutboxError>> {
        let letter = match self.waiting(seq)? {
            Ok(letter) => letter,
            Err(refused) => return Ok(Err(refused)),
        };
        self.db.execute(
            "UPDATE letter SET state = 3, resolved = ? WHERE seq = ?",
            [now.0, seq.0],
        )?;
        let lane = self.tally.lane(&letter.upstream);
        self.tally.turn(
            lane,
            letter.weight,
            letter.failure.reason.state(),
            State::Discarded,
        );
        self.note(who, "discard", seq, "", now)?;
        Ok(Ok(()))
    }

    fn note(&self, who: &str, what: &str, seq: Seq, note: &str, now: Wall) -> rusqlite::Result<()> {
        self.db.execute(
            "INSERT INTO audit (at, who, what, seq, note) VALUES (?, ?, ?, ?, ?)",
            params![now.0, who, what, seq.0, note],
        )?;
        let newest = self.db.last_insert_rowid();
        self.db
            .execute("DELETE FROM audit WHERE line <= ?", [newest - TRAIL])?;
        Ok(())
    }

    /// The newest lines of the audit trail, newest first.
    pub(super) fn audit(&self, limit: usize) -> rusqlite::Result<Vec<AuditLine>> {
        self.db
            .prepare_cached(
                "SELECT at, who, what, seq, note FROM audit ORDER BY line DESC LIMIT ?",
            )?
            .query_map([limit as i64], |row| {
                Ok(AuditLine {
                    at: Wall(row.get(0)?),
                    who: row.get(1)?,
                    what: row.get(2)?,
                    id: self.store.event(Seq(row.get(3)?)),
                    note: row.get(4)?,
                })
            })?
            .collect()
    }
}

fn read(store: StoreId, row: &Row<'_>, whole: bool) -> rusqlite::Result<Letter> {
    let event = Fields::read(row)?;
    let seq = Seq(row.get(12)?);
    let bytes = |bytes: &[u8]| match whole {
        true => Bytes::copy_from_slice(bytes),
        false => Bytes::new(),
    };
    let edited: Option<i64> = row.get(14)?;
    let state = match (row.get::<_, i64>(13)?, edited) {
        (1, _) => LetterState::Replaying,
        (2, _) => LetterState::Replayed,
        (3, _) => LetterState::Discarded,
        (4, Some(seq)) => LetterState::EditedAs(store.event(Seq(seq))),
        _ => LetterState::Pending,
    };
    let reason = DeadReason::from_word(row.get_ref(15)?.as_str()?);
    let damaged = event.checksum(seq) != row.get::<_, i64>(11)?;
    Ok(Letter {
        id: store.event(seq),
        state,
        upstream: event.upstream.into(),
        route: event.route.into(),
        key: event.key.map(Bytes::copy_from_slice),
        accepted: event.accepted,
        due: event.due,
        expiry: event.expiry,
        first_failure: Wall(row.get(18)?),
        last_failure: Wall(row.get(19)?),
        resolved: row.get::<_, Option<i64>>(22)?.map(Wall),
        failure: Failure {
            reason: reason.unwrap_or(DeadReason::Damaged),
            attempts: row.get(16)?,
            status: row.get(17)?,
            error: row.get(20)?,
            excerpt: Bytes::copy_from_slice(row.get_ref(21)?.as_blob()?),
        },
        replays: event.replays,
        cause: event.cause.and_then(|id| id.parse().ok()),
        damaged,
        size: (event.head.len() + event.body.len()) as u64,
        weight: event.size,
        head: bytes(event.head),
        body: bytes(event.body),
    })
}

fn fields(letter: &Letter) -> Fields<'_> {
    Fields {
        upstream: &letter.upstream,
        route: &letter.route,
        key: letter.key.as_deref(),
        accepted: letter.accepted,
        due: letter.due,
        expiry: letter.expiry,
        cause: None,
        replays: letter.replays,
        size: letter.weight,
        head: &letter.head,
        body: &letter.body,
    }
}

impl Letter {
    /// Where the letter's event stands.
    pub(super) fn standing(self) -> Standing {
        let dead = self.failure.reason.state();
        let state = match self.state {
            LetterState::Pending => dead,
            LetterState::Replaying => State::Pending,
            LetterState::Replayed => State::Delivered,
            LetterState::Discarded => State::Discarded,
            LetterState::EditedAs(_) => State::Edited,
        };
        Standing {
            id: self.id,
            state,
            upstream: self.upstream,
            route: self.route,
            accepted: self.accepted,
            due: None,
            finished: Some(self.resolved.unwrap_or(self.last_failure)),
            attempts: self.failure.attempts,
            status: self.failure.status,
            reason: Some(self.failure.reason),
            error: Some(self.failure.error),
        }
    }
}

impl LetterFilter {
    fn passes(&self, letter: &Letter) -> bool {
        let open = matches!(letter.state, LetterState::Pending | LetterState::Replaying);
        let same = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|w| w == name);
        (self.all || open)
            && self
                .reason
                .is_none_or(|reason| reason == letter.failure.reason)
            && self
                .status
                .is_none_or(|status| Some(status) == letter.failure.status)
            && self.since.is_none_or(|since| letter.last_failure >= since)
            && self.until.is_none_or(|until| letter.last_failure < until)
            && self
                .key
                .as_ref()
                .is_none_or(|key| letter.key.as_ref() == Some(key))
            && same(&self.upstream, &letter.upstream)
            && same(&self.route, &letter.route)
    }
}

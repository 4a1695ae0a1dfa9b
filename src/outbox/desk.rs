//! Events in the database: in, out, and on their way. Runs on the writer's thread, inside its transactions.
//!
//! An SQL error ends the whole transaction; what is refused without one comes back as the inner result.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    error::OutboxError,
    id::{Seq, StoreId},
    record::{
        Appended, DeadReason, Failure, Idempotency, KeyHash, Outcome, Pending, Receipt, Record,
        State, Wall,
    },
    row::{Fields, size},
    tally::{LaneId, Tally},
};

/// Names of routes that are shared in memory; beyond it they are copied.
const SHARED_NAMES: usize = 4096;

/// The writer's desk: the database and what it knows by heart of it.
pub(super) struct Desk {
    pub(super) db: Connection,
    pub(super) store: StoreId,
    pub(super) tally: Tally,
    /// The last place given away; never given again, not even after a rollback.
    pub(super) last: Seq,
    /// What the open transaction made pending, for whoever delivers; `None` when nobody listens.
    pub(super) news: Option<Vec<Pending>>,
    /// Those that were in flight when a process died.
    pub(super) suspects: HashSet<Seq>,
    /// Found by a look to be damaged: for the writer to bury.
    pub(super) damaged: Vec<Seq>,
    /// What the open transaction holds, for whoever tests crashes.
    pub(super) appended: bool,
    pub(super) buried: bool,
    pub(super) keys: Keys,
    pub(super) names: Names,
}

/// Hashes keys. Seeded at random, so that callers cannot choose keys that meet.
#[derive(Default)]
pub(super) struct Keys(RandomState);

impl Keys {
    /// Order holds among events of one route with one key.
    pub(super) fn hash(&self, route: &str, key: Option<&[u8]>) -> Option<KeyHash> {
        let key = key.filter(|key| !key.is_empty())?;
        Some(KeyHash::new(self.0.hash_one((route, key))).unwrap_or(KeyHash::MIN))
    }
}

/// Names that many events share, held once.
#[derive(Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    pub(super) fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(name) = self.0.get(name) {
            return name.clone();
        }
        let name: Arc<str> = name.into();
        if self.0.len() < SHARED_NAMES {
            self.0.insert(name.clone());
        }
        name
    }
}

/// What finishing an event needs of it.
struct Held {
    lane: LaneId,
    route: Arc<str>,
    accepted: Wall,
    replays: u32,
    size: u64,
}

impl Desk {
    pub(super) fn new(db: Connection, store: StoreId, tally: Tally) -> rusqlite::Result<Self> {
        // The newest row of each table outlives its time for this: places are never used twice.
        let last: i64 = db.query_row(
            "SELECT max(ifnull((SELECT max(seq) FROM event), 0),
                        ifnull((SELECT max(seq) FROM finished), 0),
                        ifnull((SELECT max(seq) FROM letter), 0))",
            [],
            |row| row.get(0),
        )?;
        let suspects = db
            .prepare("SELECT seq FROM suspect")?
            .query_map([], |row| row.get(0).map(Seq))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Desk {
            db,
            store,
            tally,
            last: Seq(last),
            news: None,
            suspects,
            damaged: Vec::new(),
            appended: false,
            buried: false,
            keys: Keys::default(),
            names: Names::default(),
        })
    }

    /// The transaction was committed. Returns what it made pending, if somebody listens.
    pub(super) fn keep(&mut self) -> Vec<Pending> {
        self.tally.keep();
        (self.appended, self.buried) = (false, false);
        self.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The transaction was rolled back.
    pub(super) fn forget(&mut self) {
        self.tally.forget();
        (self.appended, self.buried) = (false, false);
        if let Some(news) = &mut self.news {
            news.clear();
        }
    }

    /// Adds one event to the open transaction, unless it is known or does not fit.
    pub(super) fn append(
        &mut self,
        record: &Record,
        now: Wall,
    ) -> rusqlite::Result<Result<Appended, OutboxError>> {
        if let Some(wanted) = &record.idempotency
            && let Some(known) = self.known(wanted, now)?
        {
            return Ok(known);
        }
        let size = size(record);
        let lane = self.tally.lane(&record.upstream);
        if let Err(bound) = self.tally.admit(lane, size) {
            return Ok(Err(OutboxError::Full { bound }));
        }
        let seq = self.next();
        let row = Fields {
            upstream: &record.upstream,
            route: &record.route,
            key: record.key.as_deref(),
            accepted: now,
            due: record.due,
            expiry: record.expiry,
            cause: None,
            replays: 0,
            size,
            head: &record.head,
            body: &record.body,
        };
        self.insert(seq, &row)?;
        self.tally.accept(lane, size);
        self.appended = true;
        if let Some(wanted) = &record.idempotency {
            self.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO idempotency (scope, key, fingerprint, seq, until) VALUES (?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    &*wanted.scope,
                    &*wanted.key,
                    wanted.fingerprint,
                    seq.0,
                    now.after(wanted.window).0
                ])?;
        }
        self.announce(seq, lane, &row);
        Ok(Ok(Appended::New(self.receipt(seq))))
    }

    pub(super) fn next(&mut self) -> Seq {
        self.last = Seq(self.last.0 + 1);
        self.last
    }

    pub(super) fn receipt(&self, seq: Seq) -> Receipt {
        Receipt {
            seq,
            id: self.store.event(seq),
        }
    }

    /// The event that an idempotency key stands for, if its window is open.
    fn known(
        &self,
        wanted: &Idempotency,
        now: Wall,
    ) -> rusqlite::Result<Option<Result<Appended, OutboxError>>> {
        let known = self
            .db
            .prepare_cached(
                "SELECT seq, fingerprint = ? FROM idempotency WHERE scope = ? AND key = ? AND until > ?",
            )?
            .query_row(
                params![wanted.fingerprint, &*wanted.scope, &*wanted.key, now.0],
                |row| Ok((Seq(row.get(0)?), row.get::<_, bool>(1)?)),
            )
            .optional()?;
        let Some((seq, same)) = known else {
            return Ok(None);
        };
        let receipt = self.receipt(seq);
        if !same {
            return Ok(Some(Err(OutboxError::Mismatch { id: receipt.id })));
        }
        let state = self.standing(seq)?.map_or(State::Forgotten, |s| s.state);
        Ok(Some(Ok(Appended::Existing(receipt, state))))
    }

    /// Writes an event's row, checksum and all.
    pub(super) fn insert(&self, seq: Seq, row: &Fields<'_>) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO event (seq, upstream, route, key, accepted, due, expiry, cause, replays, size, checksum,
                                    head, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                seq.0,
                row.upstream,
                row.route,
                row.key,
                row.accepted.0,
                row.due.0,
                row.expiry.map(|e| e.0),
                row.cause,
                row.replays,
                row.size as i64,
                row.checksum(seq),
                row.head,
                row.body
            ])?;
        Ok(())
    }

    /// Tells the deliverer, once the transaction is committed.
    pub(super) fn announce(&mut self, seq: Seq, lane: LaneId, row: &Fields<'_>) {
        if self.news.is_none() {
            return;
        }
        let pending = Pending {
            seq,
            upstream: self.tally.name(lane),
            route: self.names.shared(row.route),
            key: self.keys.hash(row.route, row.key),
            accepted: row.accepted,
            due: row.due,
            expiry: row.expiry,
            attempts: 0,
            replays: row.replays,
            size: u32::try_from(row.size).unwrap_or(u32::MAX),
        };
        self.news.get_or_insert_default().push(pending);
    }

    /// Records in the open transaction what delivery came to. An event that is not pending is left as it is.
    pub(super) fn finish(
        &mut self,
        seq: Seq,
        outcome: &Outcome,
        now: Wall,
    ) -> rusqlite::Result<()> {
        let Some(held) = self.held(seq)? else {
            return Ok(());
        };
        if self.suspects.contains(&seq) {
            self.db
                .execute("DELETE FROM suspect WHERE seq = ?", [seq.0])?;
        }
        match outcome {
            Outcome::Retry {
                attempts,
                due,
                error,
            } => {
                self.db
                    .prepare_cached(
                        "INSERT INTO attempt (seq, attempts, due, first_failure, error) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT DO UPDATE SET attempts = ?2, due = ?3, error = ?5",
                    )?
                    .execute(params![seq.0, attempts, due.0, now.0, clipped(error, ERROR)])?;
                Ok(())
            }
            Outcome::Delivered { attempts, status } => {
                self.deliver(seq, &held, *attempts, *status, now)
            }
            Outcome::Dead(failure) => {
                self.bury(seq, held.lane, held.size, held.replays, failure, now)
            }
        }
    }

    fn deliver(
        &mut self,
        seq: Seq,
        held: &Held,
        attempts: u32,
        status: u16,
        now: Wall,
    ) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO finished (seq, upstream, route, accepted, finished, attempts, status)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                seq.0,
                &*self.tally.name(held.lane),
                &*held.route,
                held.accepted.0,
                now.0,
                attempts,
                status
            ])?;
        if held.replays > 0 {
            self.db.execute(
                "UPDATE letter SET state = 2, resolved = ? WHERE seq = ?",
                [now.0, seq.0],
            )?;
        }
        self.remove(seq)?;
        self.tally
            .turn(held.lane, held.size, State::Pending, State::Delivered);
        Ok(())
    }

    /// Makes a dead letter of a pending event: written before, and in the same commit as, its end.
    fn bury(
        &mut self,
        seq: Seq,
        lane: LaneId,
        size: u64,
        replays: u32,
        failure: &Failure,
        now: Wall,
    ) -> rusqlite::Result<()> {
        let first: Option<i64> = self
            .db
            .query_row(
                "SELECT first_failure FROM attempt WHERE seq = ?",
                [seq.0],
                |row| row.get(0),
            )
            .optional()?;
        let excerpt = &failure.excerpt[..failure.excerpt.len().min(EXCERPT)];
        let why = params![
            seq.0,
            failure.reason.word(),
            failure.attempts,
            failure.status,
            first.unwrap_or(now.0),
            now.0,
            clipped(&failure.error, ERROR),
            excerpt,
        ];
        if replays > 0 {
            self.db
                .prepare_cached(
                    "UPDATE letter SET state = 0, reason = ?2, attempts = ?3, status = ?4,
                        first_failure = min(first_failure, ?5), last_failure = ?6, error = ?7, excerpt = ?8
                     WHERE seq = ?1",
                )?
                .execute(why)?;
        } else {
            self.db
                .prepare_cached(
                    "INSERT INTO letter (seq, state, reason, attempts, status, first_failure, last_failure, error,
                        excerpt, upstream, route, key, accepted, due, expiry, cause, replays, size, checksum, head, body)
                     SELECT ?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, upstream, route, key, accepted, due, expiry, cause,
                        replays, size, checksum, head, body FROM event WHERE seq = ?1",
                )?
                .execute(why)?;
        }
        self.remove(seq)?;
        self.buried = true;
        self.tally
            .turn(lane, size, State::Pending, failure.reason.state());
        Ok(())
    }

    fn remove(&self, seq: Seq) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("DELETE FROM event WHERE seq = ?")?
            .execute([seq.0])?;
        self.db
            .prepare_cached("DELETE FROM attempt WHERE seq = ?")?
            .execute([seq.0])?;
        Ok(())
    }

    fn held(&mut self, seq: Seq) -> rusqlite::Result<Option<Held>> {
        let found = self
            .db
            .prepare_cached(
                "SELECT upstream, route, accepted, replays, size FROM event WHERE seq = ?",
            )?
            .query_row([seq.0], |row| {
                Ok((
                    Arc::<str>::from(row.get_ref(0)?.as_str()?),
                    Arc::<str>::from(row.get_ref(1)?.as_str()?),
                    Wall(row.get(2)?),
                    row.get(3)?,
                    row.get::<_, i64>(4)? as u64,
                ))
            })
            .optional()?;
        Ok(
            found.map(|(upstream, route, accepted, replays, size)| Held {
                lane: self.tally.lane(&upstream),
                route,
                accepted,
                replays,
                size,
            }),
        )
    }

    /// Buries an event whose checksum is wrong; its bytes are kept as they are.
    pub(super) fn quarantine(&mut self, seq: Seq, now: Wall) -> rusqlite::Result<()> {
        let failure = Failure {
            reason: DeadReason::Damaged,
            attempts: 0,
            status: None,
            error: "the stored record's checksum is wrong".to_owned(),
            excerpt: Bytes::new(),
        };
        self.finish(seq, &Outcome::Dead(failure), now)
    }
}

/// The most that is kept of an error's words and of an answer's excerpt.
const ERROR: usize = 1024;
const EXCERPT: usize = 4096;

fn clipped(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

//! What can be read of events: whole for delivery, in rows for its index, by id for whoever asks.

use bytes::Bytes;
use rusqlite::{OptionalExtension, params};

use super::{
    desk::Desk,
    id::Seq,
    record::{Event, Pending, Standing, State, Wall},
    row::{Damaged, Fields},
};

impl Desk {
    /// A pending event, whole. `Err` when its checksum is wrong: then it must be buried as damaged.
    pub(super) fn load(&self, seq: Seq) -> rusqlite::Result<Option<Result<Event, Damaged>>> {
        self.db
            .prepare_cached(
                "SELECT e.upstream, e.route, e.key, e.accepted, e.due, e.expiry, e.cause, e.replays, e.size, e.head,
                        e.body, e.checksum, a.attempts, a.due, a.first_failure, a.error
                 FROM event e LEFT JOIN attempt a ON a.seq = e.seq WHERE e.seq = ?",
            )?
            .query_row([seq.0], |row| {
                let fields = Fields::read(row)?;
                if fields.checksum(seq) != row.get::<_, i64>(11)? {
                    return Ok(Err(Damaged));
                }
                Ok(Ok(Event {
                    id: self.store.event(seq),
                    upstream: fields.upstream.into(),
                    route: fields.route.into(),
                    key: fields.key.map(Bytes::copy_from_slice),
                    accepted: fields.accepted,
                    due: row.get::<_, Option<i64>>(13)?.map_or(fields.due, Wall),
                    expiry: fields.expiry,
                    attempts: row.get::<_, Option<u32>>(12)?.unwrap_or(0),
                    replays: fields.replays,
                    first_failure: row.get::<_, Option<i64>>(14)?.map(Wall),
                    last_error: row.get(15)?,
                    cause: fields.cause.and_then(|id| id.parse().ok()),
                    head: Bytes::copy_from_slice(fields.head),
                    body: Bytes::copy_from_slice(fields.body),
                }))
            })
            .optional()
    }

    /// Pending events after `after`, in order, without their bytes.
    pub(super) fn pending(&mut self, after: Seq, limit: usize) -> rusqlite::Result<Vec<Pending>> {
        let (names, keys) = (&mut self.names, &self.keys);
        self.db
            .prepare_cached(
                "SELECT e.seq, e.upstream, e.route, e.key, e.accepted, ifnull(a.due, e.due), e.expiry,
                        ifnull(a.attempts, 0), e.replays, e.size
                 FROM event e LEFT JOIN attempt a ON a.seq = e.seq WHERE e.seq > ? ORDER BY e.seq LIMIT ?",
            )?
            .query_map(params![after.0, limit as i64], |row| {
                let route = row.get_ref(2)?.as_str()?;
                Ok(Pending {
                    seq: Seq(row.get(0)?),
                    upstream: names.shared(row.get_ref(1)?.as_str()?),
                    route: names.shared(route),
                    key: keys.hash(route, row.get_ref(3)?.as_blob_or_null()?),
                    accepted: Wall(row.get(4)?),
                    due: Wall(row.get(5)?),
                    expiry: row.get::<_, Option<i64>>(6)?.map(Wall),
                    attempts: row.get(7)?,
                    replays: row.get(8)?,
                    size: u32::try_from(row.get::<_, i64>(9)?).unwrap_or(u32::MAX),
                })
            })?
            .collect()
    }

    /// Where an event stands, by its place.
    pub(super) fn standing(&self, seq: Seq) -> rusqlite::Result<Option<Standing>> {
        let id = self.store.event(seq);
        let pending = self
            .db
            .prepare_cached(
                "SELECT e.upstream, e.route, e.accepted, ifnull(a.due, e.due), ifnull(a.attempts, 0), a.error
                 FROM event e LEFT JOIN attempt a ON a.seq = e.seq WHERE e.seq = ?",
            )?
            .query_row([seq.0], |row| {
                Ok(Standing {
                    id,
                    state: State::Pending,
                    upstream: row.get(0)?,
                    route: row.get(1)?,
                    accepted: Wall(row.get(2)?),
                    due: Some(Wall(row.get(3)?)),
                    finished: None,
                    attempts: row.get(4)?,
                    status: None,
                    reason: None,
                    error: row.get(5)?,
                })
            })
            .optional()?;
        if pending.is_some() {
            return Ok(pending);
        }
        let delivered = self
            .db
            .prepare_cached(
                "SELECT upstream, route, accepted, finished, attempts, status FROM finished WHERE seq = ?",
            )?
            .query_row([seq.0], |row| {
                Ok(Standing {
                    id,
                    state: State::Delivered,
                    upstream: row.get(0)?,
                    route: row.get(1)?,
                    accepted: Wall(row.get(2)?),
                    due: None,
                    finished: Some(Wall(row.get(3)?)),
                    attempts: row.get(4)?,
                    status: Some(row.get(5)?),
                    reason: None,
                    error: None,
                })
            })
            .optional()?;
        if delivered.is_some() {
            return Ok(delivered);
        }
        let letter = self.letter(seq, false)?;
        Ok(letter.map(|letter| letter.standing()))
    }
}

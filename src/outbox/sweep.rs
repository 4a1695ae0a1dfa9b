//! Housekeeping: forgets what is finished, in small batches, and finds upstreams whose events wait too long.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{
    desk::Desk,
    id::Seq,
    record::{State, Wall},
    tally::LaneId,
};

/// Finished records are known for at most this many events back.
const KNOWN: i64 = 200_000;
/// Events looked at in one turn for the age of what waits.
const AGED: i64 = 10_000;

/// A walk over the oldest pending events that finds whose are older than `limits.age`.
#[derive(Default)]
pub(super) struct Ages {
    at: Seq,
    found: Vec<LaneId>,
}

impl Desk {
    /// Removes at most `quota` each of finished events, resolved dead letters and idempotency keys whose time is over.
    /// Returns how many. The newest event's record stays, so that its place is never given away again.
    pub(super) fn sweep(
        &mut self,
        now: Wall,
        keep: Duration,
        quota: usize,
    ) -> rusqlite::Result<usize> {
        let (cutoff, quota) = (now.before(keep), quota as i64);
        let finished = self
            .db
            .prepare_cached(
                "DELETE FROM finished WHERE seq IN (SELECT seq FROM finished WHERE seq < ? ORDER BY seq LIMIT ?)
                 AND (finished < ? OR seq < ?)",
            )?
            .execute(params![self.last.0, quota, cutoff.0, self.last.0 - KNOWN])?;
        let letters = self
            .db
            .prepare_cached(
                "DELETE FROM letter WHERE seq IN (SELECT seq FROM letter WHERE resolved < ? ORDER BY resolved LIMIT ?)
                 AND seq < ?",
            )?
            .execute(params![cutoff.0, quota, self.last.0])?;
        let keys = self
            .db
            .prepare_cached(
                "DELETE FROM idempotency WHERE (scope, key) IN
                 (SELECT scope, key FROM idempotency WHERE until < ? ORDER BY until LIMIT ?)",
            )?
            .execute(params![now.0, quota])?;
        Ok(finished + letters + keys)
    }

    /// Since when the oldest pending event waits; a delayed or replayed one, since it is due.
    pub(super) fn oldest(&self) -> rusqlite::Result<Option<Wall>> {
        self.db
            .prepare_cached("SELECT max(accepted, due) FROM event ORDER BY seq LIMIT 1")?
            .query_row([], |row| row.get(0).map(Wall))
            .optional()
    }

    /// Goes on with the walk; at its end says which upstreams are refused for their age.
    pub(super) fn judge_ages(&mut self, ages: &mut Ages, now: Wall) -> rusqlite::Result<()> {
        let cutoff = now.before(self.tally.limits().age.duration());
        let mut ended = true;
        {
            let mut rows = self.db.prepare_cached(
                "SELECT seq, upstream, accepted, max(accepted, due) FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
            )?;
            let mut rows = rows.query(params![ages.at.0, AGED])?;
            let mut seen = 0;
            while let Some(row) = rows.next()? {
                if Wall(row.get(2)?) >= cutoff {
                    seen = 0;
                    break;
                }
                seen += 1;
                ages.at = Seq(row.get(0)?);
                if Wall(row.get(3)?) < cutoff {
                    let lane = self
                        .tally
                        .lane(&self.names.shared(row.get_ref(1)?.as_str()?));
                    if !ages.found.contains(&lane) {
                        ages.found.push(lane);
                    }
                }
            }
            if seen == AGED {
                ended = false;
            }
        }
        if ended {
            self.tally.mark_stale(&ages.found);
            *ages = Ages::default();
        }
        Ok(())
    }
}

impl Desk {
    /// Counts what is there and says where the tally differs.
    pub(super) fn recount(&self) -> rusqlite::Result<Vec<String>> {
        let mut wrong = Vec::new();
        let mut compare = |what: &str, counted: (i64, i64), said: (u64, u64)| {
            if (counted.0 as u64, counted.1 as u64) != said {
                wrong.push(format!(
                    "{what}: {counted:?} are there, the ledger says {said:?}"
                ));
            }
        };
        let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let holding = "SELECT upstream, size FROM event UNION ALL SELECT upstream, size FROM letter WHERE state = 0";
        let sums = "SELECT count(*), ifnull(sum(size), 0)";
        let whole = self
            .db
            .query_row(&format!("{sums} FROM ({holding})"), [], pair)?;
        let said = self.tally.whole();
        compare("the whole", whole, (said.events, said.bytes));
        for (name, said) in self.tally.shares() {
            let sql = format!("{sums} FROM ({holding}) WHERE upstream = ?");
            let share = self.db.query_row(&sql, [&**name], pair)?;
            compare(name, share, (said.events, said.bytes));
        }
        let ledger = self.tally.ledger();
        let pending: i64 = self
            .db
            .query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
        compare("pending", (pending, 0), (ledger[0].1, 0));
        let sum: u64 = ledger.iter().map(|(_, events)| events).sum();
        let accepted = self.tally.accepted().events;
        compare("the states' sum", (sum as i64, 0), (accepted, 0));
        for (state, reasons) in [(State::Dead, "<>"), (State::Expired, "=")] {
            let sql = format!(
                "SELECT count(*) FROM letter WHERE state = 0 AND reason {reasons} 'expired'"
            );
            let letters: i64 = self.db.query_row(&sql, [], |row| row.get(0))?;
            let said = ledger
                .iter()
                .find(|(s, _)| *s == state)
                .map_or(0, |(_, n)| *n);
            compare(state.word(), (letters, 0), (said, 0));
        }
        Ok(wrong)
    }
}

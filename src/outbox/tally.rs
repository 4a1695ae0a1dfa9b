//! What the store holds, counted: the ledger of states, and each upstream's share against the limits.
//!
//! Changes belong to the open transaction: `save` writes them with it, `keep` or `forget` follows its end. So memory
//! and disk say the same, and the sums hold across restarts.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, params};

use super::{error::Bound, record::State, settings::Limits};

const LEDGER: i64 = 0;
const UPSTREAM: i64 = 1;
const ACCEPTED: &str = "accepted";

/// Events and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    pub events: u64,
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, size: u64) {
        self.events += 1;
        self.bytes += size;
    }

    fn take(&mut self, size: u64) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
    }
}

/// A count with what the open transaction would make of it.
#[derive(Debug, Clone, Copy, Default)]
struct Draft {
    kept: Amount,
    now: Amount,
}

struct Lane {
    name: Arc<str>,
    amount: Draft,
    touched: bool,
    /// Its oldest pending event is older than `limits.age`.
    stale: bool,
}

/// An upstream's place in the tally; valid as long as the tally is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneId(usize);

pub(super) struct Tally {
    limits: Limits,
    lanes: Vec<Lane>,
    by_name: HashMap<Arc<str>, LaneId>,
    touched: Vec<LaneId>,
    whole: Draft,
    ledger: [Draft; State::COUNTED.len()],
    accepted: Draft,
}

impl Tally {
    pub(super) fn load(db: &Connection, limits: Limits) -> rusqlite::Result<Self> {
        let mut tally = Tally {
            limits,
            lanes: Vec::new(),
            by_name: HashMap::new(),
            touched: Vec::new(),
            whole: Draft::default(),
            ledger: Default::default(),
            accepted: Draft::default(),
        };
        db.execute(
            "DELETE FROM tally WHERE kind = ? AND events = 0",
            [UPSTREAM],
        )?;
        let mut rows = db.prepare("SELECT kind, name, events, bytes FROM tally")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            let amount = Amount {
                events: row.get::<_, i64>(2)?.max(0) as u64,
                bytes: row.get::<_, i64>(3)?.max(0) as u64,
            };
            let draft = Draft {
                kept: amount,
                now: amount,
            };
            if row.get::<_, i64>(0)? == UPSTREAM {
                let lane = tally.lane(&name.into());
                tally.lanes[lane.0].amount = draft;
                tally.whole.now.events += amount.events;
                tally.whole.now.bytes += amount.bytes;
            } else if name == ACCEPTED {
                tally.accepted = draft;
            } else if let Some(at) = State::COUNTED.iter().position(|s| s.word() == name) {
                tally.ledger[at] = draft;
            }
        }
        tally.whole.kept = tally.whole.now;
        Ok(tally)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn retune(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The upstream's place, made if it is new. Names come from configuration, so there are few.
    pub(super) fn lane(&mut self, name: &Arc<str>) -> LaneId {
        if let Some(lane) = self.by_name.get(name) {
            return *lane;
        }
        let lane = LaneId(self.lanes.len());
        self.lanes.push(Lane {
            name: name.clone(),
            amount: Draft::default(),
            touched: false,
            stale: false,
        });
        self.by_name.insert(name.clone(), lane);
        lane
    }

    pub(super) fn name(&self, lane: LaneId) -> Arc<str> {
        self.lanes[lane.0].name.clone()
    }

    /// Whether one more event of `size` fits, and if not, what is in its way.
    pub(super) fn admit(&self, lane: LaneId, size: u64) -> Result<(), Bound> {
        let Limits {
            bytes,
            count,
            per_upstream,
            ..
        } = &self.limits;
        let (whole, lane) = (self.whole.now, &self.lanes[lane.0]);
        let share = lane.amount.now;
        if whole.bytes + size > bytes.bytes() {
            Err(Bound::Bytes)
        } else if whole.events + 1 > *count {
            Err(Bound::Count)
        } else if share.bytes + size > per_upstream.of(bytes.bytes())
            || share.events + 1 > per_upstream.of(*count)
        {
            Err(Bound::PerUpstream)
        } else if lane.stale {
            Err(Bound::Age)
        } else {
            Ok(())
        }
    }

    /// A new event, pending.
    pub(super) fn accept(&mut self, lane: LaneId, size: u64) {
        self.hold(lane).add(size);
        self.whole.now.add(size);
        self.accepted.now.add(size);
        self.state(State::Pending).add(size);
    }

    /// An event of `size` changes its state; it is held while it is pending, dead or expired.
    pub(super) fn turn(&mut self, lane: LaneId, size: u64, from: State, to: State) {
        let held = |state| matches!(state, State::Pending | State::Dead | State::Expired);
        self.state(from).take(size);
        self.state(to).add(size);
        match (held(from), held(to)) {
            (true, false) => {
                self.hold(lane).take(size);
                self.whole.now.take(size);
            }
            (false, true) => {
                self.hold(lane).add(size);
                self.whole.now.add(size);
            }
            _ => {}
        }
    }

    fn state(&mut self, state: State) -> &mut Amount {
        let at = State::COUNTED.iter().position(|s| *s == state);
        &mut self.ledger[at.expect("events turn only into what the ledger counts")].now
    }

    fn hold(&mut self, lane: LaneId) -> &mut Amount {
        let place = &mut self.lanes[lane.0];
        if !place.touched {
            place.touched = true;
            self.touched.push(lane);
        }
        &mut place.amount.now
    }

    /// Writes what the open transaction changed.
    pub(super) fn save(&self, db: &Connection) -> rusqlite::Result<()> {
        let mut put = db.prepare_cached(
            "INSERT INTO tally (kind, name, events, bytes) VALUES (?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET events = excluded.events, bytes = excluded.bytes",
        )?;
        let mut write = |kind: i64, name: &str, draft: &Draft| {
            if draft.now == draft.kept {
                return Ok(0);
            }
            put.execute(params![
                kind,
                name,
                draft.now.events as i64,
                draft.now.bytes as i64
            ])
        };
        for lane in &self.touched {
            let lane = &self.lanes[lane.0];
            write(UPSTREAM, &lane.name, &lane.amount)?;
        }
        for (state, draft) in State::COUNTED.iter().zip(&self.ledger) {
            write(LEDGER, state.word(), draft)?;
        }
        write(LEDGER, ACCEPTED, &self.accepted)?;
        Ok(())
    }

    /// The transaction was committed.
    pub(super) fn keep(&mut self) {
        self.end(|draft| draft.kept = draft.now);
    }

    /// The transaction was rolled back.
    pub(super) fn forget(&mut self) {
        self.end(|draft| draft.now = draft.kept);
    }

    fn end(&mut self, each: impl Fn(&mut Draft)) {
        for lane in self.touched.drain(..) {
            let lane = &mut self.lanes[lane.0];
            lane.touched = false;
            each(&mut lane.amount);
        }
        self.ledger.iter_mut().for_each(&each);
        each(&mut self.whole);
        each(&mut self.accepted);
    }

    /// Names the upstreams whose oldest pending event is too old, and no others.
    pub(super) fn mark_stale(&mut self, stale: &[LaneId]) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            lane.stale = stale.contains(&LaneId(at));
        }
    }

    /// What is pending or a waiting dead letter, as of the last commit.
    pub(super) fn whole(&self) -> Amount {
        self.whole.kept
    }

    pub(super) fn accepted(&self) -> Amount {
        self.accepted.kept
    }

    pub(super) fn ledger(&self) -> [(State, u64); State::COUNTED.len()] {
        std::array::from_fn(|at| (State::COUNTED[at], self.ledger[at].kept.events))
    }

    /// What each upstream holds, as of the last commit.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&Arc<str>, Amount)> {
        self.lanes.iter().map(|lane| (&lane.name, lane.amount.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ByteSize, Percent};

    fn tally(limits: Limits) -> (Connection, Tally) {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE tally (kind INTEGER, name TEXT, events INTEGER, bytes INTEGER, PRIMARY KEY (kind, name))",
        )
        .unwrap();
        let tally = Tally::load(&db, limits).unwrap();
        (db, tally)
    }

    fn small() -> Limits {
        Limits {
            bytes: ByteSize::kib(1),
            count: 10,
            per_upstream: Percent::new(50).unwrap(),
            ..Limits::default()
        }
    }

    #[test]
    fn one_upstream_fills_its_share_and_no_more() {
        let (_db, mut tally) = tally(small());
        let (a, b) = (tally.lane(&"a".into()), tally.lane(&"b".into()));
        for _ in 0..5 {
            tally.admit(a, 10).unwrap();
            tally.accept(a, 10);
        }
        assert_eq!(tally.admit(a, 10), Err(Bound::PerUpstream));
        assert_eq!(tally.admit(b, 10), Ok(()));
        assert_eq!(tally.admit(b, 513), Err(Bound::PerUpstream));
        assert_eq!(tally.admit(b, 1000), Err(Bound::Bytes));
    }

    #[test]
    fn what_was_rolled_back_was_never_counted() {
        let (db, mut tally) = tally(small());
        let a = tally.lane(&"a".into());
        tally.accept(a, 100);
        tally.save(&db).unwrap();
        tally.keep();
        tally.accept(a, 100);
        tally.turn(a, 100, State::Pending, State::Dead);
        tally.forget();
        assert_eq!(tally.admit(a, 412), Ok(()));
        assert_eq!(
            tally.whole(),
            Amount {
                events: 1,
                bytes: 100
            }
        );
        assert_eq!(tally.ledger()[0], (State::Pending, 1));
    }

    #[test]
    fn a_tally_comes_back_as_it_was_saved() {
        let (db, mut tally) = tally(small());
        let a = tally.lane(&"a".into());
        tally.accept(a, 100);
        tally.accept(a, 50);
        tally.turn(a, 100, State::Pending, State::Delivered);
        tally.save(&db).unwrap();
        tally.keep();
        let again = Tally::load(&db, small()).unwrap();
        assert_eq!(
            again.whole(),
            Amount {
                events: 1,
                bytes: 50
            }
        );
        assert_eq!(again.accepted().events, 2);
        assert_eq!(again.ledger(), tally.ledger());
    }

    #[test]
    fn a_stale_upstream_is_refused_and_only_it() {
        let (_db, mut tally) = tally(small());
        let (a, b) = (tally.lane(&"a".into()), tally.lane(&"b".into()));
        tally.mark_stale(&[a]);
        assert_eq!(
            (tally.admit(a, 1), tally.admit(b, 1)),
            (Err(Bound::Age), Ok(()))
        );
        tally.mark_stale(&[]);
        assert_eq!(tally.admit(a, 1), Ok(()));
    }
}

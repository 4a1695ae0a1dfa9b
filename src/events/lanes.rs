//! Which event may be delivered next: order within a key, and nobody held up by anybody else.
//!
//! Each key is a lane, each event without one a lane of its own. A lane has at most its first event under way; a retry
//! keeps its place. An upstream that is not reached rests, and one event probes it again. Knows no store and no
//! callee; time is given. Memory: 100 to 200 bytes a pending event.

mod rule;
mod wait;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::gate::Gate;
use crate::outbox::{KeyHash, Pending, Seq, Wall};
use rule::rule;

pub use rule::{Rule, Rules};

/// Deliveries under way at once, over all routes.
const FLYING: usize = 1024;
/// And their bytes.
const FLYING_BYTES: u64 = 64 << 20;

/// Where an event waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneId {
    Key(KeyHash),
    Alone(Seq),
}

/// An event to deliver now.
#[derive(Debug, Clone)]
pub struct Start {
    pub lane: LaneId,
    pub seq: Seq,
    pub route: Arc<str>,
    pub upstream: Arc<str>,
    /// Burned so far.
    pub attempts: u32,
    pub rule: Rule,
    /// Asks whether the upstream is back: burns nothing unless it is.
    pub probe: bool,
    /// Its time is over: there is nothing to deliver.
    pub expired: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: Seq,
    due: Wall,
    expiry: Option<Wall>,
    group: usize,
    attempts: u32,
    size: u32,
}

struct Lane {
    first: Entry,
    more: VecDeque<Entry>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Ready,
    Resting(Instant),
    Urgent,
    Flying { probe: bool },
}

/// The events of one route for one upstream.
struct Group {
    route: Arc<str>,
    upstream: usize,
    rule: Rule,
    ready: VecDeque<LaneId>,
    flying: u32,
}

struct Upstream {
    name: Arc<str>,
    gate: Gate,
    /// Gone from the file: its events stay.
    parked: bool,
}

#[derive(Default)]
pub struct Lanes {
    lanes: HashMap<LaneId, Lane>,
    groups: Vec<Group>,
    group_of: HashMap<(Arc<str>, Arc<str>), usize>,
    upstreams: Vec<Upstream>,
    rules: Rules,
    timers: BinaryHeap<Reverse<(Instant, LaneId)>>,
    urgent: VecDeque<LaneId>,
    turn: usize,
    flying: usize,
    flying_bytes: u64,
}

impl Lanes {
    pub fn new(rules: Rules) -> Self {
        Lanes {
            rules,
            ..Lanes::default()
        }
    }

    /// New rules; `knows` says which upstreams are in the file.
    pub fn follow(&mut self, rules: Rules, knows: impl Fn(&str) -> bool) {
        self.rules = rules;
        for group in &mut self.groups {
            group.rule = rule(&self.rules, &group.route);
        }
        for upstream in &mut self.upstreams {
            upstream.parked = !knows(&upstream.name);
        }
    }

    /// Upstreams whose events cannot be delivered because the file does not name them.
    pub fn parked(&self) -> impl Iterator<Item = &Arc<str>> {
        let parked = self.upstreams.iter().filter(|upstream| upstream.parked);
        parked.map(|upstream| &upstream.name)
    }

    /// Adds an event behind those of its key. True where its upstream is new here: say if it is known.
    pub fn admit(&mut self, pending: &Pending, now: Instant, wall: Wall) -> bool {
        let (group, fresh) = self.group(&pending.route, &pending.upstream);
        let entry = Entry {
            seq: pending.seq,
            due: pending.due,
            expiry: pending.expiry,
            group,
            attempts: pending.attempts,
            size: pending.size,
        };
        let id = lane_of(pending);
        match self.lanes.get_mut(&id) {
            Some(lane) => lane.more.push_back(entry),
            None => {
                let lane = Lane {
                    first: entry,
                    more: VecDeque::new(),
                    place: Place::Ready,
                };
                self.lanes.insert(id, lane);
                self.settle(id, now, wall);
            }
        }
        fresh
    }

    /// Parks an upstream, or takes it up again.
    pub fn park(&mut self, name: &str, parked: bool) {
        let found = self.upstreams.iter_mut().find(|u| &*u.name == name);
        if let Some(upstream) = found {
            upstream.parked = parked;
        }
    }

    /// The next event that may go, if one may.
    pub fn next(&mut self, now: Instant, wall: Wall) -> Option<Start> {
        self.wake(now, wall);
        while let Some(id) = self.urgent.pop_front() {
            if self
                .lanes
                .get(&id)
                .is_some_and(|l| l.place == Place::Urgent)
            {
                return self.fly(id, false, true);
            }
        }
        if self.flying >= FLYING || self.flying_bytes >= FLYING_BYTES {
            return None;
        }
        for _ in 0..self.groups.len() {
            self.turn = (self.turn + 1) % self.groups.len();
            let group = &mut self.groups[self.turn];
            let upstream = &mut self.upstreams[group.upstream];
            if group.flying >= group.rule.concurrency || upstream.parked {
                continue;
            }
            while let Some(id) = group.ready.front().copied() {
                let ready = |lane: &Lane| lane.place == Place::Ready;
                if !self.lanes.get(&id).is_some_and(ready) {
                    group.ready.pop_front();
                    continue;
                }
                let Some(probe) = upstream.gate.pass(now) else {
                    break;
                };
                group.ready.pop_front();
                return self.fly(id, probe, false);
            }
        }
        None
    }

    /// Starts a lane's first event whatever its turn.
    pub fn start(&mut self, id: LaneId) -> Option<Start> {
        let lane = self.lanes.get(&id)?;
        match lane.place {
            Place::Flying { .. } => None,
            _ => self.fly(id, false, false),
        }
    }

    /// The lane's first event is finished; `reached`: the callee took or refused it.
    pub fn done(&mut self, id: LaneId, reached: bool, now: Instant, wall: Wall) {
        let Some((group, probe)) = self.land(id) else {
            return;
        };
        let gate = &mut self.upstreams[self.groups[group].upstream].gate;
        match (reached, probe) {
            (true, _) => gate.reached(),
            (false, true) => gate.unasked(now),
            (false, false) => {}
        }
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        match lane.more.pop_front() {
            Some(next) => {
                lane.first = next;
                self.settle(id, now, wall);
            }
            None => {
                self.lanes.remove(&id);
            }
        }
    }

    /// The attempt failed: the event waits at its place.
    ///
    /// Where everything fails the upstream rests, and the attempts that showed it are given back.
    pub fn later(&mut self, id: LaneId, attempts: u32, wait: Duration, now: Instant, wall: Wall) {
        let Some((group, probe)) = self.land(id) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        if !probe {
            lane.first.attempts = attempts;
        }
        let seq = lane.first.seq;
        self.rest(id, wait, now, wall);
        let group = &self.groups[group];
        let gate = &mut self.upstreams[group.upstream].gate;
        for (id, seq, failures) in gate.failed(id, seq, now, &group.rule.backoff) {
            if let Some(lane) = self.lanes.get_mut(&id)
                && lane.first.seq == seq
            {
                lane.first.attempts = lane.first.attempts.saturating_sub(failures);
            }
        }
    }

    /// The callee was not reached: the event keeps its turn, its upstream rests.
    pub fn waits(&mut self, id: LaneId, now: Instant) {
        let Some((group, _)) = self.land(id) else {
            return;
        };
        let group = &mut self.groups[group];
        let gate = &mut self.upstreams[group.upstream].gate;
        gate.unreached(now, &group.rule.backoff);
        group.ready.push_front(id);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.place = Place::Ready;
            if lane.first.expiry.is_some() {
                self.timers.push(Reverse((now, id)));
            }
        }
    }

    /// The event was not tried for a reason of ours; it waits.
    pub fn put_back(&mut self, id: LaneId, wait: Duration, now: Instant, wall: Wall) {
        let Some((group, probe)) = self.land(id) else {
            return;
        };
        if probe {
            self.upstreams[self.groups[group].upstream]
                .gate
                .unasked(now);
        }
        self.rest(id, wait, now, wall);
    }

    /// Forgets all but what is under way: everything pending is read again.
    pub fn forget(&mut self) {
        self.lanes.retain(|_, lane| {
            lane.more.clear();
            matches!(lane.place, Place::Flying { .. })
        });
        self.timers.clear();
        self.urgent.clear();
        for group in &mut self.groups {
            group.ready.clear();
        }
    }

    /// Whether this very event is under way.
    pub fn is_flying(&self, pending: &Pending) -> bool {
        let lane = self.lanes.get(&lane_of(pending));
        lane.is_some_and(|lane| {
            lane.first.seq == pending.seq && matches!(lane.place, Place::Flying { .. })
        })
    }

    fn group(&mut self, route: &Arc<str>, upstream: &Arc<str>) -> (usize, bool) {
        if let Some(group) = self.group_of.get(&(route.clone(), upstream.clone())) {
            return (*group, false);
        }
        let known = self.upstreams.iter().position(|u| u.name == *upstream);
        let at = known.unwrap_or_else(|| {
            self.upstreams.push(Upstream {
                name: upstream.clone(),
                gate: Gate::default(),
                parked: false,
            });
            self.upstreams.len() - 1
        });
        self.groups.push(Group {
            route: route.clone(),
            upstream: at,
            rule: rule(&self.rules, route),
            ready: VecDeque::new(),
            flying: 0,
        });
        let group = self.groups.len() - 1;
        self.group_of
            .insert((route.clone(), upstream.clone()), group);
        (group, known.is_none())
    }

    fn fly(&mut self, id: LaneId, probe: bool, expired: bool) -> Option<Start> {
        let lane = self.lanes.get_mut(&id)?;
        lane.place = Place::Flying { probe };
        let first = lane.first;
        let group = &mut self.groups[first.group];
        group.flying += 1;
        self.flying += 1;
        self.flying_bytes += u64::from(first.size);
        Some(Start {
            lane: id,
            seq: first.seq,
            route: group.route.clone(),
            upstream: self.upstreams[group.upstream].name.clone(),
            attempts: first.attempts,
            rule: group.rule,
            probe,
            expired,
        })
    }

    /// Counts a flight off; its group, and whether it was a probe.
    fn land(&mut self, id: LaneId) -> Option<(usize, bool)> {
        let lane = self.lanes.get_mut(&id)?;
        let Place::Flying { probe } = lane.place else {
            return None;
        };
        let first = lane.first;
        self.groups[first.group].flying -= 1;
        self.flying -= 1;
        self.flying_bytes -= u64::from(first.size);
        Some((first.group, probe))
    }
}

/// The lane of an event. One that is replayed comes out of its order by definition, and alone.
pub fn lane_of(pending: &Pending) -> LaneId {
    match pending.key {
        Some(key) if pending.replays == 0 => LaneId::Key(key),
        _ => LaneId::Alone(pending.seq),
    }
}

#[cfg(test)]
mod tests;

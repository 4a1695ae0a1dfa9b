//! Lanes that wait: for a due time, an expiry or the end of a backoff, and when to look at them again.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use super::{Entry, LaneId, Lanes, Place};
use crate::outbox::Wall;

/// A wait by the wall clock is looked at again after this long, because that clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Lanes {
    /// When to ask for the next event again, if nothing else happens.
    pub fn wake_at(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let waiting = |upstream: &usize| {
            let mut groups = self.groups.iter();
            groups.any(|group| group.upstream == *upstream && !group.ready.is_empty())
        };
        let gates = (0..self.upstreams.len())
            .filter(|at| !self.upstreams[*at].parked)
            .filter_map(|at| Some((at, self.upstreams[at].gate.opens_at()?)))
            .filter(|(at, _)| waiting(at))
            .map(|(_, opens)| opens);
        timer.into_iter().chain(gates).min()
    }

    /// Puts a lane where its first event belongs now.
    pub(super) fn settle(&mut self, id: LaneId, now: Instant, wall: Wall) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let Entry {
            due, expiry, group, ..
        } = lane.first;
        if expiry.is_some_and(|expiry| expiry <= wall) {
            lane.place = Place::Urgent;
            self.urgent.push_back(id);
            return;
        }
        let left = expiry.map(|expiry| expiry.since(wall).min(LOOK_AGAIN));
        if due > wall {
            let wait = due.since(wall).min(LOOK_AGAIN);
            lane.place = Place::Resting(now + wait);
            let wait = left.map_or(wait, |left| left.min(wait));
            self.timers.push(Reverse((now + wait, id)));
            return;
        }
        lane.place = Place::Ready;
        self.groups[group].ready.push_back(id);
        if let Some(left) = left {
            self.timers.push(Reverse((now + left, id)));
        }
    }

    pub(super) fn rest(&mut self, id: LaneId, wait: Duration, now: Instant, wall: Wall) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            // The wait that was drawn counts, not the wall clock's.
            lane.first.due = Wall(0);
            lane.place = Place::Resting(now + wait);
            let expiry = lane.first.expiry;
            let left = expiry.map_or(wait, |expiry| expiry.since(wall).min(wait));
            self.timers.push(Reverse((now + left, id)));
        }
    }

    /// Looks at every lane whose timer has run out.
    pub(super) fn wake(&mut self, now: Instant, wall: Wall) {
        while let Some(Reverse((at, id))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(lane) = self.lanes.get_mut(&id) else {
                continue;
            };
            let expired = lane.first.expiry.is_some_and(|expiry| expiry <= wall);
            match lane.place {
                Place::Resting(until) if until <= now || expired => self.settle(id, now, wall),
                Place::Resting(until) => self.timers.push(Reverse((until, id))),
                Place::Ready if expired => {
                    lane.place = Place::Urgent;
                    self.urgent.push_back(id);
                }
                Place::Ready => {
                    if let Some(expiry) = lane.first.expiry {
                        let left = expiry.since(wall).min(LOOK_AGAIN);
                        self.timers.push(Reverse((now + left, id)));
                    }
                }
                Place::Urgent | Place::Flying { .. } => {}
            }
        }
    }
}

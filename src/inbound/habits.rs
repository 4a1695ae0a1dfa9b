//! How callers have begun lately, by their addresses; what one worker has seen all of them know.
//!
//! A port whose server speaks first cannot wait for a caller's first byte, and a caller of the mesh whose first packet
//! was lost is as silent as one that waits to be greeted. So who came with mutual TLS before is never greeted in
//! plaintext, a stranger only once a lost packet would have come again, and who came in plaintext before at once.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::http::{Connection, SILENCE};

/// As long as a lost packet takes to come again twice (RFC 6298: 200 ms at least, doubling, on Linux).
const LOST: Duration = Duration::from_secs(1);
/// What was long ago may be another's address now.
const FORGET: Duration = Duration::from_secs(300);
/// Places, 8 bytes each; an address has one of them, and is a stranger again once another has taken it.
const PLACES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    Plain,
    Mesh,
}

/// Places are written and read by whoever comes; the last one counts.
pub struct Habits {
    /// The address' mark in the upper half; below it the second, and the habit in the lowest bit. Zero: nobody.
    places: Box<[AtomicU64]>,
    /// Who does not know them cannot choose addresses that meet in one place.
    marks: RandomState,
    begin: Instant,
}

impl Default for Habits {
    fn default() -> Self {
        Habits {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            marks: RandomState::new(),
            begin: Instant::now(),
        }
    }
}

impl Habits {
    pub(super) fn spoke(&self, connection: &Connection, habit: Habit) {
        let ip = connection.peer().ip().to_canonical();
        self.note(ip, habit, Instant::now());
    }

    /// How long this caller may be silent before it is greeted in plaintext; none: it never is.
    pub(super) fn silence(&self, connection: &Connection) -> Option<Duration> {
        let ip = connection.peer().ip().to_canonical();
        self.patience(ip, Instant::now())
    }

    fn note(&self, ip: IpAddr, habit: Habit, now: Instant) {
        let (place, mark) = self.place(ip);
        let noted = mark | self.second(now) << 1 | u64::from(habit == Habit::Mesh);
        place.store(noted, Ordering::Relaxed);
    }

    fn patience(&self, ip: IpAddr, now: Instant) -> Option<Duration> {
        let (place, mark) = self.place(ip);
        let noted = place.load(Ordering::Relaxed);
        let at = (noted ^ mark) >> 1;
        if at > u64::from(u32::MAX >> 1) || at == 0 {
            return Some(LOST);
        }
        match self.second(now).saturating_sub(at) < FORGET.as_secs() {
            true if noted & 1 == 1 => None,
            true => Some(SILENCE),
            false => Some(LOST),
        }
    }

    fn place(&self, ip: IpAddr) -> (&AtomicU64, u64) {
        let hash = self.marks.hash_one(ip);
        let place = &self.places[hash as usize % PLACES];
        (place, hash & !u64::from(u32::MAX))
    }

    /// Never 0, and less than 31 bits for 68 years.
    fn second(&self, now: Instant) -> u64 {
        1 + now.saturating_duration_since(self.begin).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_came_in_plaintext_is_greeted_at_once() {
        let (habits, now) = (Habits::default(), Instant::now());
        let ip: IpAddr = [10, 0, 0, 7].into();
        assert_eq!(habits.patience(ip, now), Some(LOST));
        habits.note(ip, Habit::Plain, now);
        assert_eq!(habits.patience(ip, now), Some(SILENCE));
        habits.note(ip, Habit::Mesh, now);
        assert_eq!(habits.patience(ip, now), None);
        assert_eq!(habits.patience(ip, now + FORGET), Some(LOST));
    }

    #[test]
    fn a_stranger_has_no_habit_of_anothers() {
        let (habits, now) = (Habits::default(), Instant::now());
        let ip = |n: u32| IpAddr::V4(n.into());
        for n in 0..10 * PLACES as u32 {
            habits.note(ip(n), Habit::Mesh, now);
        }
        for n in 0..PLACES as u32 {
            assert_eq!(habits.patience(ip(1 << 24 | n), now), Some(LOST));
        }
        let known = (0..10 * PLACES as u32).filter(|n| habits.patience(ip(*n), now).is_none());
        assert!(known.count() <= PLACES);
    }
}
